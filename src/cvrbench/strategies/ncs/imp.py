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

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cvrbench.config.ncs import ImpSearch, Magnitude, OneShotSearch
from cvrbench.data.batches import Features
from cvrbench.masks.mask_set import MaskSet
from cvrbench.masks.ranking import keep_best
from cvrbench.nn import Output
from cvrbench.strategies.base import PretrainContext, SharingStrategy, Training, UpdateMask
from cvrbench.strategies.ncs import NCS, SingleTaskView
from cvrbench.strategies.ncs.candidates import (
    Candidate,
    schedule,
    settings_of,
)

LOOK_EVERY = 16
"""Steps between two looks at the mask that would be cut."""


def imp(ncs: NCS, context: PretrainContext, settings: ImpSearch) -> list[Candidate]:
    """Prune in rounds; one candidate per round."""
    return _rounds(ncs, context, settings, schedule(settings), settings.epochs / settings.rounds)


def one_shot(ncs: NCS, context: PretrainContext, settings: OneShotSearch) -> list[Candidate]:
    """Train once and prune once (Han et al. 2015)."""
    return _rounds(ncs, context, settings, [settings.density], settings.epochs)


def _rounds(
    ncs: NCS,
    context: PretrainContext,
    settings: Magnitude,
    densities: Sequence[float],
    epochs: float,
) -> list[Candidate]:
    if settings.together:
        return _prune(_Search(ncs.untied(), None), context, settings, densities, epochs)
    per_task = [
        _prune(_Search(ncs.copy(), task), context, settings, densities, epochs)
        for task in range(len(ncs.tasks))
    ]
    return [_merge(ncs.tasks, found) for found in zip(*per_task, strict=True)]


class _Search:
    """A search for all tasks in one pass, or for one."""

    def __init__(self, network: NCS, task: int | None) -> None:
        self.network, self.task = network, task
        self.tasks = network.tasks if task is None else (network.tasks[task],)
        self.start = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        self.among = network.masks
        self.candidates: list[Candidate] = []

    def rewound(self, density: float | None, settings: Magnitude) -> "EarlyBird":
        """Set what is left of the network back, and say what a round trains."""
        self.network.load_state_dict(self.start)
        self.network.set_masks(self.among)
        alone = self.network if self.task is None else SingleTaskView(self.network, self.task)
        return EarlyBird(alone, self.network, self.task, density, settings)

    def cut(self, density: float | None, scores: Mapping[str, float], settings: Magnitude) -> None:
        """Go on to the next candidate from what a round's training learned."""
        scores = {name: scores[name] for name in self.tasks}
        if self.candidates and not _scored_before(settings):
            last = self.candidates[-1]
            scored = Candidate(density=last.density, masks=last.masks, scores=scores)
            self.candidates[-1] = scored
        if density is not None:
            self.among = _cut(self.network, density, settings)
            before = scores if _scored_before(settings) else {}
            self.candidates.append(Candidate(density=density, masks=self.among, scores=before))


def _prune(
    search: _Search,
    context: PretrainContext,
    settings: Magnitude,
    densities: Sequence[float],
    epochs: float,
) -> list[Candidate]:
    """Train, prune, rewind, in rounds."""
    # A candidate scored by the network trained under it needs one training after the last cut.
    extra = isinstance(settings, ImpSearch) and settings.choice == "validation"
    rounds = [*densities, *([None] if extra and len(densities) > 1 else [])]
    for number, density in enumerate(rounds, start=1):
        training = Training(
            search.rewound(density, settings),
            label=f"search {' '.join(search.tasks)} {number}/{len(rounds)}",
            epochs=epochs,
            tasks=search.tasks,
            per_task=True,
            depends=settings_of(search.network, **_settling(settings, density)),
        )
        search.cut(density, context.train(training).scores, settings)
    return search.candidates


def _scored_before(settings: Magnitude) -> bool:
    """Whether a candidate is judged by the network that it was cut from."""
    return isinstance(settings, ImpSearch) and settings.choice == "validation_before"


def _settling(settings: Magnitude, density: float | None) -> dict[str, object]:
    """What may end a round's training early."""
    if settings.early_bird is None or density is None:
        return {}
    return {"early_bird": settings.early_bird, "scope": settings.scope, "cut": density}


def _cut(network: NCS, density: float, settings: Magnitude) -> MaskSet:
    """Keep the largest of the kept weights down to a density."""
    magnitudes = {name: weight.detach().abs() for name, weight in network.masked().items()}
    return keep_best(magnitudes, network.masks, density, settings.scope)


def _merge(tasks: tuple[str, ...], found: Sequence[Candidate]) -> Candidate:
    """Put together the masks that every task found alone, for one density."""
    masks = MaskSet.of_tasks(tasks, [one.masks for one in found])
    scores = {task: auc for one in found for task, auc in one.scores.items()}
    return Candidate(density=found[0].density, masks=masks, scores=scores)


class EarlyBird(SharingStrategy):
    """A search's network, whose training may end when the mask to be cut stops changing."""

    stackable = True
    last: Tensor
    looked: Tensor

    def __init__(
        self,
        network: SharingStrategy,
        ncs: NCS,
        task: int | None,
        density: float | None,
        settings: Magnitude,
    ) -> None:
        super().__init__()
        self.network = network
        self.ncs = (ncs,)  # in a tuple, so that its weights are not counted twice
        self.tasks = slice(None) if task is None else slice(task, task + 1)
        self.density, self.settings = density, settings
        self.register_buffer("last", ncs.masks.flat()[self.tasks])
        self.register_buffer("looked", torch.zeros((), dtype=torch.bool))

    def forward(self, features: Features) -> Output:
        """Return the network's output, `[batch, tasks]`."""
        output: Output = self.network(features)
        return output

    def update_mask(self) -> UpdateMask:
        """As the network."""
        return self.network.update_mask()

    def after_step(self, step: int) -> bool:
        """Compare the mask that would be cut now with that of the last look."""
        if self.settings.early_bird is None or self.density is None or step % LOOK_EVERY:
            return False
        (ncs,) = self.ncs
        now = _cut(ncs, self.density, self.settings).flat()[self.tasks]
        changed = (now != self.last).double().mean().item()
        first = not self.looked
        self.last.copy_(now)
        self.looked.fill_(value=True)
        # Before the first look there was the round's old mask, which differs by what is cut.
        return not first and changed < self.settings.early_bird
