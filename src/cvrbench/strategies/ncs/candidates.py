"""What a mask search yields, and the densities it visits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from cvrbench.config.ncs import ImpSearch, Ranked
from cvrbench.masks.mask_set import MaskSet
from cvrbench.masks.ranking import keep_best, keep_rates
from cvrbench.strategies.ncs import NCS


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


def schedule(search: Ranked | ImpSearch) -> list[float]:
    """Return the densities of the candidates, sparser ones later."""
    return keep_rates(search.density, search.rounds)


def settings_of(ncs: NCS, **more: object) -> dict[str, object]:
    """Return the settings that a training under given masks depends on, and some more."""
    plain = {"dropout": ncs.trunk.dropout, "step": ncs.step, "masked_step": ncs.masked_step}
    return plain | more


def ranked(scores: Mapping[str, Tensor], among: MaskSet, search: Ranked) -> list[Candidate]:
    """Return one candidate per density, each the best by `scores` of what `among` keeps."""
    return [
        Candidate(density=density, masks=keep_best(scores, among, density, search.scope))
        for density in schedule(search)
    ]
