"""Neuron-connection sharing (NCS): each task trains its own masked part of one trunk.

NCS4CVR, arXiv 2008.09872:

    logit_t = h_t( f(e(x); theta * M_t) ),    M_t in {0, 1}^|theta|

The masks are found per task by iterative magnitude pruning with rewinding (Sun et al., AAAI
2020; Frankle and Carbin, ICLR 2019): train on task t alone, drop the smallest weights, set the
survivors back to their initial values, repeat. All searches and the final training start from
the same initial weights, which the lottery-ticket hypothesis needs.

Embeddings, biases and towers are shared or owned as in shared-bottom and never masked.

Differs from the published code: a candidate mask is scored by the network trained *under* it,
not by the network it was cut from, at the price of one more training per task; and both masked
networks are trained in one joint step, in which the gradient of theta is the sum of the masked
gradients, so that a connection outside every mask never moves.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from cvrbench.data.batches import Features
from cvrbench.data.schema import Schema
from cvrbench.masks.magnitude import keep_rates, prune
from cvrbench.masks.mask_set import MaskSet
from cvrbench.nn import FeatureEncoder, ParallelMLP, Towers, parallel_mlp
from cvrbench.strategies.base import Fit, SharingStrategy


class NCS(SharingStrategy):
    """One trunk, a mask and a tower per task."""

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: int,
        hidden: Sequence[int],
        tower: Sequence[int],
        dropout: float,
        density: float,
        rounds: int,
        scope: Literal["global", "layer"],
        search_epochs: int,
        choice: Literal["validation", "last"],
    ) -> None:
        super().__init__()
        self.tasks = tuple(task.name for task in schema.tasks)
        self.encoder = FeatureEncoder(schema, embedding_dim)
        self.trunk = ParallelMLP(1, self.encoder.width, hidden, dropout=dropout)
        self.towers = Towers(len(self.tasks), self.trunk.n_out, tower, dropout=dropout)
        for layer, weight in enumerate(self.trunk.weights):
            ones = torch.ones(len(self.tasks), *weight.shape[1:], dtype=torch.bool)
            self.register_buffer(f"keep_{layer}", ones)
        self.densities = keep_rates(density, rounds)
        self.scope: Literal["global", "layer"] = scope
        self.search_epochs = search_epochs
        self.choice = choice
        self.candidates: dict[str, list[dict[str, float]]] = {}

    @property
    def keep(self) -> list[Tensor]:
        """The masks, per layer `[tasks, in, out]`."""
        return [self.get_buffer(f"keep_{layer}") for layer in range(len(self.trunk.weights))]

    @property
    def masks(self) -> MaskSet:
        """The masks as a set of their own."""
        return MaskSet(self.tasks, tuple(keep.clone() for keep in self.keep))

    def forward(self, features: Features) -> Tensor:
        """Give the logits `[batch, tasks]`, all masked networks in one pass."""
        encoded = self.encoder(features)  # [batch, width]
        weights = [w * keep for w, keep in zip(self.trunk.weights, self.keep, strict=True)]
        dropout = self.trunk.dropout if self.training else 0.0
        hidden = parallel_mlp(encoded, weights, list(self.trunk.biases), dropout=dropout)
        logits: Tensor = self.towers(hidden)  # hidden: [tasks, batch, out]
        return logits

    def prepare(self, fit: Fit) -> None:
        """Find each task's mask, then rewind to the initial weights."""
        initial = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        chosen = [self._search(t, initial, fit) for t in range(len(self.tasks))]
        self.load_state_dict(initial)
        for t, layers in enumerate(chosen):
            self._set_keep(t, layers)

    def moving(self) -> dict[nn.Parameter, Tensor]:
        """A trunk weight may move where at least one task keeps it."""
        pairs = zip(self.trunk.weights, self.keep, strict=True)
        return {weight: keep.any(dim=0, keepdim=True) for weight, keep in pairs}

    def diagnostics(self) -> dict[str, object]:
        """Give density, overlap and dead units of the masks, and every candidate's score."""
        masks = self.masks
        return {
            "density": masks.density(),
            "union_density": masks.union_density(),
            "overlap": masks.overlap().tolist(),
            "dead_units": masks.dead_units(),
            "candidates": self.candidates,
        }

    def _search(self, t: int, initial: dict[str, Tensor], fit: Fit) -> list[Tensor]:
        """Train, prune, rewind: one candidate mask per round; give the chosen one."""
        task = self.tasks[t]
        found: list[tuple[float, list[Tensor]]] = []
        keep = [layer[t] for layer in self.keep]
        n_trainings = len(self.densities) + (self.choice == "validation")
        for training in range(n_trainings):
            self.load_state_dict(initial)
            self._set_keep(t, keep)
            label = f"search {task} {training + 1}/{n_trainings}"
            result = fit(TaskAlone(self, t), task=task, label=label, epochs=self.search_epochs)
            found.append((result.score, keep))
            if training < len(self.densities):
                weights = [weight[0] for weight in self.trunk.weights]
                keep = prune(weights, keep, self.densities[training], self.scope)
        if self.choice == "last":
            return keep
        # found[0] was trained dense: it is where the first mask was cut from, no candidate.
        candidates = found[1:]
        self.candidates[task] = [
            {"density": density, "score": score}
            for density, (score, _) in zip(self.densities, candidates, strict=True)
        ]
        return max(candidates, key=lambda candidate: candidate[0])[1]

    def _set_keep(self, t: int, layers: Sequence[Tensor]) -> None:
        for keep, layer in zip(self.keep, layers, strict=True):
            keep[t] = layer


class TaskAlone(SharingStrategy):
    """One task's masked network: the same weights, without the other tasks' passes."""

    def __init__(self, ncs: NCS, task: int) -> None:
        super().__init__()
        self.ncs = ncs
        self.task = task

    def forward(self, features: Features) -> Tensor:
        """Give the logits `[batch, tasks]`; those of the other tasks are 0."""
        ncs, t = self.ncs, self.task
        encoded = ncs.encoder(features)
        weights = [w * k[t] for w, k in zip(ncs.trunk.weights, ncs.keep, strict=True)]
        dropout = ncs.trunk.dropout if self.training else 0.0
        hidden = parallel_mlp(encoded, weights, list(ncs.trunk.biases), dropout=dropout)[0]
        logit = ncs.towers(hidden)[:, t]
        others = logit.new_zeros(len(logit), len(ncs.tasks) - 1)
        return torch.cat([others[:, :t], logit[:, None], others[:, t:]], dim=1)

    def moving(self) -> dict[nn.Parameter, Tensor]:
        """A trunk weight may move where this task keeps it."""
        pairs = zip(self.ncs.trunk.weights, self.ncs.keep, strict=True)
        return {weight: keep[self.task : self.task + 1] for weight, keep in pairs}
