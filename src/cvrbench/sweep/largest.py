"""The largest configurations of a study's space, which its workers may try at the same time."""

from cvrbench.config.compose import Composed, compose
from cvrbench.config.space import Condition, Dimension, Numbers
from cvrbench.config.study import Study
from cvrbench.data.dataset import Dataset
from cvrbench.errors import ConfigError
from cvrbench.footprint import rough_bound


def largest_cells(study: Study, dataset: Dataset) -> list[Composed]:
    """Compose the corners of a study's space at which a run is largest.

    Key by key a dimension takes that of its ends, or of its choices, at which the rough bound of a
    run (`footprint.rough_bound`) is largest, such as the widest network; a number that the bound
    does not see, its largest value. What else it does not see, such as searches and optimisers,
    takes its choices in turn, all such keys at a time.

    Returns:
        A few, or the configuration before tuning where no corner can be composed.
    """
    found = [
        cell
        for condition in (None, *study.space.when)
        for cell in _corners(study, dataset, condition)
    ]
    return found or [study.base]


def _corners(study: Study, dataset: Dataset, condition: Condition | None) -> list[Composed]:
    """Give those corners where a condition holds, or none is asked for."""
    words = list(study.words) if condition is None else [*study.words, condition.word]
    others = () if condition is None else condition.dimensions
    unseen: list[list[str]] = []
    for dimension in (*study.space.always, *others):
        if condition is not None and dimension.key == condition.key:
            continue
        ends, are_numbers = _ends(dimension)
        tried = [_composed([*words, end]) for end in ends]
        bounds = {
            end: rough_bound(cell.config, dataset)
            for end, cell in zip(ends, tried, strict=True)
            if cell is not None
        }
        if are_numbers or len(set(bounds.values())) > 1:
            words += [end for end, bound in bounds.items() if bound == max(bounds.values())][-1:]
        elif bounds:
            unseen.append(list(bounds))
    corners = [
        _composed([*words, *(ends[min(number, len(ends) - 1)] for ends in unseen)])
        for number in range(max(map(len, unseen), default=1))
    ]
    return [corner for corner in corners if corner is not None]


def _ends(dimension: Dimension) -> tuple[list[str], bool]:
    """Give the ends of a dimension, and whether they are numbers, which then ascend."""
    if isinstance(dimension, Numbers):
        return dimension.ends(), True
    are_numbers = all(type(value) in (int, float) for value in dimension.plain)
    pairs = list(zip(dimension.plain, dimension.words, strict=True))
    return [word for _, word in (sorted(pairs) if are_numbers else pairs)], are_numbers


def _composed(words: list[str]) -> Composed | None:
    try:
        return compose(words)
    except ConfigError:  # values that cannot be together; such a trial fails by itself
        return None
