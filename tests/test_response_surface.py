"""Effects of the response surface are those of least squares; its intervals hold together."""

import math
from itertools import combinations, product

import numpy as np
import pytest
from benchmarks.response_surface import Cell, estimate, minus_shared_bottom, surface
from scipy import stats

from cvrbench.report.differences import Influence, Rows

LEVELS = {"width": (16, 64), "density": (0.1, 0.5), "share": (1.0, 0.1), "overlap": (1.0, 0.0)}
CELLS = [
    Cell("overlap", width, share, density, overlap)
    for width, density, share, overlap in product((16, 64), (0.1, 0.5), (1.0, 0.1), (0, 0.5, 1))
]
WHOLE = [Cell("shared_bottom", width, share) for width, share in product((16, 64), (1.0, 0.1))]


def made_up(seeds: int, seed: int, *, of_rows: float) -> dict[Cell, dict[int, Influence]]:
    """Runs whose values are drawn, and what rows do to them."""
    rng = np.random.default_rng(seed)
    rows = Rows(b"", np.array([0, 1] * 10), None, None, math.inf)

    def one() -> Influence:
        return Influence("", "auc", rng.normal(), rows, of_rows * rng.normal(size=20), np.empty(0))

    return {cell: {s: one() for s in range(seeds)} for cell in (*CELLS, *WHOLE)}


def test_effects_are_those_of_least_squares_on_coded_factors():
    found = made_up(4, 0, of_rows=0.02)
    mean = {cell: np.mean([one.value for one in of.values()]) for cell, of in found.items()}
    gain = {c: mean[c] - mean[Cell("shared_bottom", c.width, c.share)] for c in CELLS}
    corners = [cell for cell in CELLS if cell.overlap != 0.5]
    signs = [
        [1 if getattr(c, name) == high else -1 for c in corners]
        for name, (_, high) in LEVELS.items()
    ]
    products = [np.multiply(*both) for both in combinations(signs, 2)]
    design = np.array([np.ones(len(corners)), *signs, *products]).T
    beta, *_ = np.linalg.lstsq(design, np.array([gain[c] for c in corners]), rcond=None)
    got = {words: one.mean for words, one in estimate(surface(CELLS), found).items()}
    half = got.pop("half overlap, less the mean of both ends")
    assert [*got.values()] == pytest.approx([beta[0], *(2 * beta[1:])])
    inner = [gain[c] for c in CELLS if c.overlap == 0.5]
    assert half == pytest.approx(np.mean(inner) - beta[0])


def test_intervals_are_as_wide_as_all_values_of_a_table_need():
    found = made_up(5, 1, of_rows=0.0)  # so that Student's law is left, over the seeds
    table = {str(c): minus_shared_bottom({c: 1.0}) for c in CELLS}
    for (cell, one), of in zip(estimate(table, found).items(), table.values(), strict=True):
        values = [sum(w * found[c][s].value for c, w in of.items()) for s in range(5)]
        student = stats.t.ppf(1 - 0.025 / len(CELLS), 4)
        wanted = student * np.std(values, ddof=1) / math.sqrt(5)
        assert one.half_width == pytest.approx(wanted, rel=1e-2), cell
