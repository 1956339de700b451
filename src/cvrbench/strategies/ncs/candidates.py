"""What a mask search yields, and the densities it visits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from cvrbench.config.ncs import NCSConfig
from cvrbench.masks.mask_set import MaskSet
from cvrbench.masks.ranking import keep_best, keep_rates


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One mask per task, all of about one density."""

    density: float
    masks: MaskSet
    scores: Mapping[str, float] = field(default_factory=dict)
    """Task -> validation AUC that speaks for its mask; empty where none was measured."""

    def facts(self) -> dict[str, Any]:
        """Plain values for the record."""
        return {
            "density": self.density,
            "scores": dict(self.scores),
            "layers": self.masks.facts(),
            "dead_units": self.masks.dead_units(),
        }


def schedule(config: NCSConfig) -> list[float]:
    """Densities of the candidates, sparser ones later."""
    if config.rate is not None:
        return [(1 - config.rate) ** r for r in range(1, config.rounds + 1)]
    return keep_rates(config.density, config.rounds)


def epochs_of_round(config: NCSConfig) -> float:
    """Epochs of one of several trainings that share the search's."""
    return config.search_epochs / config.rounds


def settings_of(config: NCSConfig, **more: object) -> dict[str, object]:
    """Settings that a training of the network under given masks depends on, and some more."""
    plain = {"dropout": config.dropout, "step": config.step, "masked_step": config.masked_step}
    return plain | more


def ranked(
    scores: Mapping[str, Tensor], among: MaskSet, config: NCSConfig, densities: Sequence[float]
) -> list[Candidate]:
    """One candidate per density, each the best by `scores` of what `among` keeps."""
    return [
        Candidate(density=density, masks=keep_best(scores, among, density, config.scope))
        for density in densities
    ]
