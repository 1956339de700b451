"""Neuron-connection sharing (NCS): each task trains its own masked part of one trunk.

NCS4CVR, arXiv 2008.09872:

    logit_t = h_t( f(e(x); theta * M_t) ),    M_t in {0, 1}^|theta|

A mask search (`strategies.ncs`) finds the M_t; then the survivors are set back to the weights
that the search started from, which the lottery-ticket hypothesis needs (Frankle and Carbin, ICLR
2019; per task: Sun et al., AAAI 2020), and all tasks are trained together:

    joint        one step on the sum of all losses: the gradient of theta is the sum of the masked
                 gradients, and a connection outside every mask never moves
    alternate    one step per task and batch, through its own mask: the published way

Differs from the published code: an alternating step is strict, so that a weight outside the task's
mask stays where it is; `masked_step="legacy"` moves it on stale momentum, as published.

Embeddings, biases and towers are not masked unless asked for.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cvrbench.config.ncs import NCSConfig
from cvrbench.data.batches import Features
from cvrbench.data.schema import Schema
from cvrbench.errors import RunError
from cvrbench.masks.mask_set import MaskSet
from cvrbench.nn import (
    FeatureEncoder,
    Output,
    ParallelMLP,
    Towers,
    glorot,
    parallel_mlp,
    select_networks,
)
from cvrbench.strategies.base import PretrainContext, SharingStrategy, UpdateMask, UpdateStep


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a mask search ends with."""

    masks: MaskSet
    rounds: Sequence[Mapping[str, Any]] = field(default=())
    """Plain facts about every candidate on the way, sparser ones later."""
    own_weights: bool = False
    """Whether every task gets trunk weights of its own: sparsity without sharing."""


MaskSearch = Callable[["NCS", PretrainContext], SearchResult]
"""Finds masks and leaves in the network the weights that the final training starts from."""


class NCS(SharingStrategy):
    """One trunk, a mask and a tower per task."""

    stackable = True

    def __init__(
        self,
        config: NCSConfig,
        schema: Schema,
        encoder: FeatureEncoder,
        heads: Sequence[str],
        search: MaskSearch,
    ) -> None:
        super().__init__()
        self.tasks = tuple(task.name for task in schema.tasks)
        self.encoder = encoder
        self.trunk = ParallelMLP(1, encoder.width, config.hidden, dropout=config.dropout)
        self.towers = Towers(
            len(self.tasks), self.trunk.n_out, config.tower, dropout=config.dropout, heads=heads
        )
        self.step, self.masked_step = config.step, config.masked_step
        self.search = search
        self.parts = config.masked
        self.keep = nn.Module()
        for name, parameter in self.masked().items():
            shape = parameter.shape if name == "embedding" else parameter.shape[1:]
            ones = torch.ones(len(self.tasks), *shape, dtype=torch.bool)
            self.keep.register_buffer(name, ones)
        self.rounds: Sequence[Mapping[str, Any]] = ()

    @property
    def own_weights(self) -> bool:
        """Whether every task has trunk weights of its own."""
        return self.trunk.n > 1 or len(self.tasks) == 1

    @property
    def masks(self) -> MaskSet:
        """The masks as a set of their own."""
        return MaskSet(self.tasks, {name: keep.clone() for name, keep in self._keep().items()})

    def masked(self) -> dict[str, nn.Parameter]:
        """The layers that have a mask, in a fixed order."""
        trunk, towers = self.trunk, self.towers.network
        found = [(f"trunk_{i}", w) for i, w in enumerate(trunk.weights) if "trunk" in self.parts]
        if "biases" in self.parts:
            found += [(f"trunk_{i}_bias", b) for i, b in enumerate(trunk.biases)]
            found += [(f"tower_{i}_bias", b) for i, b in enumerate(towers.biases)]
        if "towers" in self.parts:
            found += [(f"tower_{i}", w) for i, w in enumerate(towers.weights)]
            found.append(("tower_head", self.towers.head))
        if "embeddings" in self.parts:
            found.append(("embedding", self.encoder.table))
        return dict(found)

    def forward(self, features: Features) -> Output:
        """Return the logits `[batch, tasks]`, all masked networks in one pass."""
        return self.through(features, self.effective())

    def effective(self) -> dict[str, Tensor]:
        """What the tasks compute with, layer -> `[tasks, ...]`; the table's mask itself."""
        keep = self._keep()
        layers = {name: p * keep[name] for name, p in self.masked().items() if name != "embedding"}
        return layers | {name: keep[name] for name in keep if name == "embedding"}

    def through(self, features: Features, effective: Mapping[str, Tensor]) -> Output:
        """Return the logits `[batch, tasks]` under other effective weights than the own ones."""
        encoded = self.encoder(features, keep=effective.get("embedding"))  # [(tasks,) batch, width]
        weights = [effective.get(f"trunk_{i}", w) for i, w in enumerate(self.trunk.weights)]
        biases = [effective.get(f"trunk_{i}_bias", b) for i, b in enumerate(self.trunk.biases)]
        dropout = self.trunk.dropout if self.training else 0.0
        hidden = parallel_mlp(encoded, weights, biases, dropout=dropout)  # [tasks, batch, out]
        replaced = {_tower_parameter(n): w for n, w in effective.items() if n.startswith("tower_")}
        output: Output = functional_call(self.towers, replaced, (hidden,))
        # Under masks over the table every task reads a representation of its own.
        return output._replace(shared=() if "embedding" in effective else (encoded,))

    def prepare(self, context: PretrainContext) -> None:
        """Find the masks; the search leaves the weights to start from."""
        found = self.search(self, context)
        if (broken := found.masks.severed()) is not None:
            task, layer = broken
            raise RunError(
                f"the mask of task {task!r} leaves no way from the input to its logit: in layer "
                f"{layer} nothing is kept that is connected; raise model.search.density, or set "
                "model.search.scope=layer"
            )
        if found.own_weights:
            self.split()
        self.set_masks(found.masks)
        self.rounds = found.rounds

    def set_masks(self, masks: MaskSet) -> None:
        """Take over the masks of a set."""
        for name, keep in self._keep().items():
            keep.copy_(masks.keep[name])

    @torch.no_grad()
    def redraw(self, seed: int) -> None:
        """Draw the weights of trunk and towers anew; embeddings stay."""
        networks = (self.trunk, self.towers.network)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            for weight in [*(w for part in networks for w in part.weights), self.towers.head]:
                weight.copy_(glorot(*weight.shape))
        for bias in [*(b for part in networks for b in part.biases), self.towers.bias]:
            bias.zero_()

    def split(self) -> None:
        """Replace the trunk by one per task, equal ones for now."""
        n = len(self.tasks)
        for parameters in (self.trunk.weights, self.trunk.biases):
            for number, parameter in enumerate(parameters):
                own = parameter.detach().expand(n, *parameter.shape[1:]).clone()
                parameters[number] = nn.Parameter(own)
        self.trunk.n = n

    def copy(self) -> "NCS":
        """Copy the network as it is."""
        return copy.deepcopy(self)

    def only(self, task: int) -> "NCS":
        """Return a copy without the other tasks' masks, towers and trunks of their own."""
        own = self.copy()
        own.tasks = (self.tasks[task],)
        for name, keep in own._keep().items():
            setattr(own.keep, name, keep[task : task + 1].clone())
        if own.trunk.n > 1:
            select_networks(own.trunk, [task])
        select_networks(own.towers, [task])
        return own

    def untied(self) -> "NCS":
        """Copy the network, every task with trunk weights of its own, embeddings in common."""
        twin = self.copy()
        twin.split()
        return twin

    def update_mask(self) -> UpdateMask:
        """A weight may move where at least one of the tasks that use it keeps it."""
        keep = self._keep()
        return {p: _somewhere(keep[name], p) for name, p in self.masked().items()}

    def update_steps(self) -> tuple[UpdateStep, ...]:
        """One step per task and batch, if so trained."""
        if self.step == "joint" or len(self.tasks) == 1:
            return ()
        if self.masked_step == "legacy":
            return tuple(UpdateStep(t, None) for t in range(len(self.tasks)))
        return tuple(UpdateStep(t, self.update_mask_of(t)) for t in range(len(self.tasks)))

    def update_mask_of(self, task: int) -> UpdateMask:
        """Where one task may move what it uses: its own parts, and its mask's of common ones."""
        keep = self._keep()
        names = {id(p): name for name, p in self.masked().items()}
        owned = [*self.towers.parameters(), *(self.trunk.parameters() if self.trunk.n > 1 else ())]
        own = torch.arange(len(self.tasks), device=self.encoder.table.device) == task
        update_mask: dict[nn.Parameter, Tensor] = {}
        for parameter in owned:
            mask = own.view(-1, *[1] * (parameter.dim() - 1))
            name = names.get(id(parameter))
            update_mask[parameter] = mask if name is None else mask & keep[name]
        for name, parameter in self.masked().items():
            if parameter not in update_mask:
                mask = keep[name][task]
                update_mask[parameter] = mask if name == "embedding" else mask[None]
        return update_mask

    def diagnostics(self) -> dict[str, object]:
        """Return density, overlap and dead units of the masks, and the way to them."""
        masks = self.masks
        return {
            "density": masks.density(),
            "union_density": masks.union_density(),
            "overlap": masks.overlap().tolist(),
            "dead_units": masks.dead_units(),
            "own_weights": self.own_weights,
            "layers": masks.facts(),
            "rounds": [dict(facts) for facts in self.rounds],
        }

    def _keep(self) -> dict[str, Tensor]:
        return dict(self.keep.named_buffers())


class SingleTaskView(SharingStrategy):
    """One task's masked network: the same weights, without the other tasks' passes."""

    stackable = True
    is_own: Tensor

    def __init__(self, ncs: NCS, task: int) -> None:
        super().__init__()
        self.ncs = ncs
        self.task = task
        device = ncs.encoder.table.device
        is_own = torch.arange(len(ncs.tasks), device=device) == task
        self.register_buffer("is_own", is_own, persistent=False)

    def forward(self, features: Features) -> Output:
        """Return the logits `[batch, tasks]`; those of the other tasks are 0."""
        effective = self.ncs.effective()
        own = {name: self._own(name, weight) for name, weight in effective.items()}
        output = self.ncs.through(features, own)
        extra = {name: torch.where(self.is_own, v, 0.0) for name, v in output.extra.items()}
        return Output(torch.where(self.is_own, output.logits, 0.0), extra)

    def _own(self, name: str, weight: Tensor) -> Tensor:
        """What this task reads of a layer, `[1, ...]`; the towers go all, being read by one."""
        return weight if name.startswith("tower_") else weight[self.task : self.task + 1]

    def update_mask(self) -> UpdateMask:
        """A weight may move where this task keeps it."""
        return self.ncs.update_mask_of(self.task)


def _somewhere(keep: Tensor, parameter: nn.Parameter) -> Tensor:
    """Where a parameter may move: as `keep` where each task has its own, else where any keeps."""
    if keep.shape == parameter.shape:
        return keep
    anywhere = keep.any(dim=0)
    return anywhere if anywhere.shape == parameter.shape else anywhere[None]


def _tower_parameter(layer: str) -> str:
    """`tower_0` -> `network.weights.0`: a masked layer's name within `Towers`."""
    if layer == "tower_head":
        return "head"
    number, _, bias = layer.removeprefix("tower_").partition("_")
    return f"network.{'biases' if bias else 'weights'}.{number}"
