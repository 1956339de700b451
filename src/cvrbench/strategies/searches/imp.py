"""Iterative magnitude pruning with rewinding, per task: the search of the papers.

    M_t = 1
    for r = 1..R:   train f(.; theta * M_t), h_t on task t from theta0
                    drop the kept weights of smallest absolute value down to the round's density
                    rewind theta = theta0

(Frankle and Carbin, ICLR 2019; per task Sun et al., AAAI 2020, algorithm 1; arXiv 2008.09872.)

`together` trains all tasks in one pass over the data, each with trunk weights of its own and all
with common embeddings, which is also how the masks will be used; otherwise each task trains alone,
embeddings included, as published. A round ends early when the mask that would be cut has stopped
changing (early-bird tickets: You et al., ICLR 2020).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cvrbench.config.ncs import NCSConfig
from cvrbench.data.batches import Features
from cvrbench.masks.mask_set import MaskSet
from cvrbench.masks.ranking import keep_best
from cvrbench.strategies.base import Lab, Moving, SharingStrategy
from cvrbench.strategies.ncs import NCS, TaskAlone
from cvrbench.strategies.searches.candidates import (
    Candidate,
    epochs_of_round,
    schedule,
    settings_of,
)

LOOK_EVERY = 16
"""Steps between two looks at the mask that would be cut."""


def imp(ncs: NCS, lab: Lab, config: NCSConfig) -> list[Candidate]:
    """Prune in rounds; one candidate per round."""
    return _rounds(ncs, lab, config, schedule(config), epochs_of_round(config))


def one_shot(ncs: NCS, lab: Lab, config: NCSConfig) -> list[Candidate]:
    """Train once and prune once, to the last density (Han et al. 2015)."""
    return _rounds(ncs, lab, config, schedule(config)[-1:], config.search_epochs)


def _rounds(
    ncs: NCS, lab: Lab, config: NCSConfig, densities: Sequence[float], epochs: float
) -> list[Candidate]:
    if config.together:
        return _prune(ncs.apart(), None, lab, config, densities, epochs)
    start = {name: tensor.clone() for name, tensor in ncs.state_dict().items()}
    per_task = []
    for t in range(len(ncs.tasks)):
        ncs.load_state_dict(start)
        per_task.append(_prune(ncs, t, lab, config, densities, epochs))
    return [_merge(ncs.tasks, found) for found in zip(*per_task, strict=True)]


def _prune(
    network: NCS,
    task: int | None,
    lab: Lab,
    config: NCSConfig,
    densities: Sequence[float],
    epochs: float,
) -> list[Candidate]:
    """Train, prune, rewind; of all tasks together, or of one."""
    start = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    tasks = network.tasks if task is None else (network.tasks[task],)
    among = network.masks
    candidates: list[Candidate] = []
    # A candidate scored by the network trained under it needs one training after the last cut.
    extra = config.take is None and config.choice == "validation" and config.scored == "under"
    extra = extra and len(densities) > 1
    for number in range(len(densities) + extra):
        network.load_state_dict(start)
        network.set_masks(among)
        density = densities[number] if number < len(densities) else None
        stage = f"search {' '.join(tasks)} {number + 1}/{len(densities) + extra}"
        alone: SharingStrategy = network if task is None else TaskAlone(network, task)
        watched = Settling(alone, network, task, density, config)
        result = lab.train(
            watched,
            label=stage,
            epochs=epochs,
            tasks=tasks,
            apart=True,
            depends=settings_of(config, **_settling(config, density)),
        )
        scores = {name: result.scores[name] for name in tasks}
        if config.scored == "under" and candidates:
            last = candidates[-1]
            candidates[-1] = Candidate(density=last.density, masks=last.masks, scores=scores)
        if density is not None:
            among = _cut(network, density, config)
            before = scores if config.scored == "before" else {}
            candidates.append(Candidate(density=density, masks=among, scores=before))
    return candidates


def _settling(config: NCSConfig, density: float | None) -> dict[str, object]:
    """What may end a round's training early."""
    if config.early_bird is None or density is None:
        return {}
    return {"early_bird": config.early_bird, "scope": config.scope, "cut": density}


def _cut(network: NCS, density: float, config: NCSConfig) -> MaskSet:
    """Keep the largest of the kept weights down to a density."""
    magnitudes = {name: weight.detach().abs() for name, weight in network.masked().items()}
    return keep_best(magnitudes, network.masks, density, config.scope)


def _merge(tasks: tuple[str, ...], found: Sequence[Candidate]) -> Candidate:
    """Put together the masks that every task found alone, for one density."""
    masks = MaskSet.of_tasks(tasks, [one.masks for one in found])
    scores = {task: auc for one in found for task, auc in one.scores.items()}
    return Candidate(density=found[0].density, masks=masks, scores=scores)


class Settling(SharingStrategy):
    """A search's network, whose training may end when the mask to be cut stops changing."""

    last: Tensor
    looked: Tensor

    def __init__(
        self,
        network: SharingStrategy,
        ncs: NCS,
        task: int | None,
        density: float | None,
        config: NCSConfig,
    ) -> None:
        super().__init__()
        self.network = network
        self.ncs = (ncs,)  # in a tuple, so that its weights are not counted twice
        self.tasks = slice(None) if task is None else slice(task, task + 1)
        self.density, self.config = density, config
        self.register_buffer("last", ncs.masks.flat()[self.tasks])
        self.register_buffer("looked", torch.zeros((), dtype=torch.bool))

    def forward(self, features: Features) -> Tensor:
        """Give the network's logits `[batch, tasks]`."""
        logits: Tensor = self.network(features)
        return logits

    def moving(self) -> Moving:
        """As the network."""
        return self.network.moving()

    def after_step(self, step: int) -> bool:
        """Compare the mask that would be cut now with that of the last look."""
        if self.config.early_bird is None or self.density is None or step % LOOK_EVERY:
            return False
        (ncs,) = self.ncs
        now = _cut(ncs, self.density, self.config).flat()[self.tasks]
        changed = (now != self.last).double().mean().item()
        first = not self.looked
        self.last.copy_(now)
        self.looked.fill_(value=True)
        # Before the first look there was the round's old mask, which differs by what is cut.
        return not first and changed < self.config.early_bird
