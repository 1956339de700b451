"""Which of width, density, overlap and scarcity carries the gain of masks, with its intervals.

    cvrbench run experiment=when_masks_matter
    python -m benchmarks.response_surface results --figure surface.png

A gain is that of an NCS over shared_bottom of its own trunk and share of labels. Of the random
masks of prescribed overlap, a factor's effect is the mean gain at its second level less that at its
first, over all levels of the others; an interaction is half the difference of an effect at the two
levels of another factor (Box, Hunter and Hunter, Statistics for Experimenters, chapter 5). Every
value is a contrast of runs of one seed on one test split, and is tested as a difference in a
report: over seeds and over redrawn users. Intervals hold for all values of a table at once, with
95 % confidence (Bonferroni: each has 1 - 0.05 / their number).
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cvrbench.data.schema import Task
from cvrbench.report.differences import Influence, InfluenceReader
from cvrbench.report.figures.style import FAINT, INK, look, save, styled
from cvrbench.runs.record import RunRecord
from cvrbench.runs.store import ResultStore
from cvrbench.stats.difference import CONFIDENCE, Difference, difference
from cvrbench.stats.influence import common_row_variance


class Cell(NamedTuple):
    """What a run is, apart from its seed."""

    kind: str
    """A strategy, or a mask search."""
    width: int
    share: float
    """Of conversion labels."""
    density: float = 1.0
    overlap: float | None = None


Contrast = Mapping[Cell, float]
"""Weight of every cell's mean."""
Found = Mapping[Cell, Mapping[int, Influence]]
"""Cell -> seed -> metric, and how test rows move it."""
FACTORS = {
    "width": "wider trunk",
    "density": "denser masks",
    "share": "fewer labels",
    "overlap": "masks apart",
}
"""Field of a cell -> its effect in words, from the first level to the second."""
FALLING = ("share", "overlap")
"""Factors whose second level is the smaller one."""


def cell_of(record: RunRecord) -> Cell:
    """Return what a run of the experiment is."""
    model, share = record.config["model"], record.config["protocol"]["label_share"]
    search = model.get("search", {})
    density = search.get("base", search).get("density", 1.0)
    kind = search.get("kind", model["kind"])
    return Cell(kind, model["hidden"][0], share, density, search.get("overlap"))


def minus_shared_bottom(weights: Contrast) -> Contrast:
    """Turn a contrast of values into one of gains."""
    whole = defaultdict(float, weights)
    for cell, weight in weights.items():
        whole[Cell("shared_bottom", cell.width, cell.share)] -= weight
    return whole


def surface(cells: Sequence[Cell]) -> dict[str, Contrast]:
    """Return the mean gain, each factor's effect and each two factors' interaction.

    Args:
        cells: Of a full design. Overlap may have a middle level, which is compared with both ends.
    """
    levels = {f: sorted({getattr(c, f) for c in cells}, reverse=f in FALLING) for f in FACTORS}
    ends = {f: (found[0], found[-1]) for f, found in levels.items()}
    corners = [c for c in cells if all(getattr(c, f) in ends[f] for f in FACTORS)]
    inner = [c for c in cells if c not in corners]

    def effect(names: Sequence[str]) -> Contrast:
        """Weights of the product of some factors' signs."""
        signs = {
            c: math.prod(1 if getattr(c, n) == ends[n][1] else -1 for n in names) for c in corners
        }
        return {c: sign * 2 / len(corners) for c, sign in signs.items()}

    found: dict[str, Contrast] = {"mean gain": {c: 1 / len(corners) for c in corners}}
    found |= {words: effect([name]) for name, words in FACTORS.items()}
    if 2 * len(inner) == len(corners):  # a level that was run in part says nothing of a mean
        middle = {c: 1 / len(inner) for c in inner}
        found["half overlap, less the mean of both ends"] = {
            **middle,
            **{c: -1 / len(corners) for c in corners},
        }
    pairs = combinations(FACTORS, 2)
    found |= {f"{FACTORS[a]} x {FACTORS[b]}": effect([a, b]) for a, b in pairs}
    return {words: minus_shared_bottom(weights) for words, weights in found.items()}


def estimate(contrasts: Mapping[str, Contrast], found: Found) -> dict[str, Difference]:
    """Test contrasts with intervals that hold together."""
    confidence = 1 - (1 - CONFIDENCE) / len(contrasts)
    return {words: _tested(weights, found, confidence) for words, weights in contrasts.items()}


def _tested(weights: Contrast, found: Found, confidence: float) -> Difference:
    seeds = sorted(set.intersection(*(set(found[cell]) for cell in weights)))
    runs = [[(weight, found[cell][seed]) for cell, weight in weights.items()] for seed in seeds]
    values = [sum(weight * run.value for weight, run in of_seed) for of_seed in runs]
    moved = np.array([sum(weight * run.influence for weight, run in one) for one in runs])
    one = runs[0][0][1]
    variance = common_row_variance(moved, one.strata)
    return difference(values, variance, one.rows.freedom, confidence)


def read(results: Path, metric: str) -> dict[Cell, dict[int, Influence]]:
    """Read the finished runs of a folder."""
    store, found = ResultStore(results), defaultdict[Cell, dict[int, Influence]](dict)
    records = store.records()
    reader = InfluenceReader([Task(**task) for task in records[0].tasks])
    for record in records:
        influences = reader.read(record, store.predictions(record.run_id))
        found[cell_of(record)][record.seed] = influences[metric]
    return dict(found)


def tables(found: Found) -> dict[str, dict[str, Difference]]:
    """Test everything that the experiment was made for."""
    random = [cell for cell in found if cell.kind == "overlap"]
    searched = [c for c in found if c.kind == "one_shot" and c._replace(kind="shuffled") in found]
    shared = [cell for cell in found if cell.kind == "shared_embedding"]
    against = {_words(c): {c: 1.0, c._replace(kind="shuffled"): -1.0} for c in searched}
    mean: dict[Cell, float] = defaultdict(float)
    for weights in against.values():
        for cell, weight in weights.items():
            mean[cell] += weight / len(against)
    apart = {
        f"{c.kind} {_words(c)}": {c: 1.0, Cell("shared_embedding", c.width, c.share): -1.0}
        for c in (*(r for r in random if r.overlap == 0), *searched)
    }
    return {
        "effects on the gain of random masks": estimate(surface(random), found),
        "gain over shared_bottom": estimate(
            {
                f"{c.kind} {_words(c)}": minus_shared_bottom({c: 1.0})
                for c in (*sorted(random, key=str), *shared)
            },
            found,
        ),
        "one_shot less its own masks shuffled": estimate({"mean": mean, **against}, found),
        "gain over shared_embedding": estimate(apart, found),
    }


def _words(cell: Cell) -> str:
    density = "" if cell.density == 1 else f", density {cell.density:g}"
    overlap = "" if cell.overlap is None else f", J {cell.overlap:g}"
    return f"width {cell.width}{density}{overlap}, labels {cell.share:g}"


def draw(found: Found, tested: Mapping[str, Mapping[str, Difference]]) -> Figure:
    """Draw the surface, the effects, and what the search adds to its overlap."""
    effects, gains, search, _ = tested.values()
    with styled():
        figure = Figure(figsize=(9.5, 7.0), layout="constrained")
        above, below = figure.subplots(2, 2)
        above[1].sharey(above[0])
        shares = sorted({cell.share for cell in found}, reverse=True)
        for axis, share in zip(above, shares, strict=True):
            _over_overlap(axis, found, gains, share)
        key = above[0].get_legend_handles_labels()
        figure.legend(*key, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
        for axis, named, words in ((below[0], effects, "effect"), (below[1], search, "difference")):
            _forest(axis, named, f"{words} (AUC)")
    return figure


def _over_overlap(axis: Axes, found: Found, gains: Mapping[str, Difference], share: float) -> None:
    cells = [c for c in found if c.kind == "overlap" and c.share == share]
    lines = sorted({(c.width, c.density) for c in cells})
    for number, (width, density) in enumerate(lines):
        own = sorted(c for c in cells if (c.width, c.density) == (width, density))
        drawn = [gains[f"overlap {_words(c)}"] for c in own]
        style = look(number)
        axis.errorbar(
            [c.overlap + 0.012 * (number - 1.5) for c in own if c.overlap is not None],
            [d.mean for d in drawn],
            yerr=[d.half_width for d in drawn],
            color=style.color, marker=style.marker, linestyle=style.line, capsize=2,
            label=f"width {width}, density {density:g}",
        )  # fmt: skip
    axis.axhline(0, color=FAINT, linewidth=0.8)
    axis.set_xlabel("Jaccard index of the tasks' random masks")
    axis.set_ylabel("gain over shared_bottom (AUC)")
    axis.set_title(f"share of conversion labels {share:g}")


def _forest(axis: Axes, named: Mapping[str, Difference], words: str) -> None:
    for place, one in enumerate(named.values()):
        shown = abs(one.mean) > one.half_width
        axis.errorbar(
            one.mean, place, xerr=one.half_width, marker="o", capsize=2, color=INK,
            markerfacecolor=INK if shown else "white",
        )  # fmt: skip
    axis.axvline(0, color=FAINT, linewidth=0.8)
    axis.set_yticks(range(len(named)), [*named], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel(words)


def main() -> None:
    """Print the tables as Markdown; draw them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--metric", default="cvr_auc")
    parser.add_argument("--figure", type=Path, help="picture to write")
    options = parser.parse_args()
    found = read(options.results, options.metric)
    tested = tables(found)
    for title, named in tested.items():
        print(f"\n| {options.metric}: {title} | difference | p, alone |\n|---|---:|---:|")
        for words, one in named.items():
            cell = f"{one.mean:+.4f} ± {one.half_width:.4f}"
            shown = f"**{cell}**" if abs(one.mean) > one.half_width else cell
            print(f"| {words} | {shown} | {one.p:.3f} |")
    if options.figure:
        save(draw(found, tested), options.figure)


if __name__ == "__main__":
    main()
