"""A number over training, brought together over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A number over training: mean, least and greatest over the seeds at every common epoch."""

    epochs: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def over_seeds(seeds: Sequence[Mapping[float, float]]) -> Curve | None:
    """Bring seeds together at the epochs that all of them reached; None where there is none.

    Past the end of the first seed to stop, the mean would be that of the lucky others.

    Args:
        seeds: Epoch -> value, of each.
    """
    common = sorted(set.intersection(*map(set, seeds))) if seeds else []
    if not common:
        return None
    values = [[seed[epoch] for seed in seeds] for epoch in common]
    return Curve(
        epochs=tuple(common),
        mean=tuple(sum(at) / len(at) for at in values),
        low=tuple(map(min, values)),
        high=tuple(map(max, values)),
    )
