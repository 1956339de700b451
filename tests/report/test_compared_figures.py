"""Figures of a comparison: what they show, and that anything can be drawn."""

import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from cvrbench.report.comparison import compare
from cvrbench.report.dataset_report import build, with_curves
from cvrbench.report.differences import Differences, Method, Verdict
from cvrbench.report.figures import ACROSS, COMPARED
from cvrbench.report.figures.across import across_figures, scarcity_figure
from cvrbench.report.figures.comparison import (
    compared_figures,
    cost_figure,
    density_figure,
    forest_figure,
    seesaw_figure,
)
from cvrbench.report.figures.style import mark, row_name, rows_of, save, side_by_side
from cvrbench.report.page import across_figures as across_html
from cvrbench.report.page import compared_figures as compared_html
from cvrbench.runs.store import ResultStore
from cvrbench.stats.difference import Difference, t_interval
from tests.report.drawable import keep, part_of
from tests.report.mask_records import masked_record
from tests.report.test_comparison import run

DOCS = Path(__file__).parents[2] / "docs" / "how-to" / "read-a-report.md"
HOSTILE = "a_b $x^{ [bold] \\frac \x1b[31m\u202e <b>\n" + "long " * 30
SHARED = ("single_task", "shared_bottom", "ple")


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    """Three strategies of three seeds."""
    folder = tmp_path_factory.mktemp("results")
    keep(folder, SHARED)
    return part_of(folder)


def drawn(part):
    found = {kind: draw() for kind, draw in compared_figures(part).items()}
    return {kind: figure for kind, figure in found.items() if figure is not None}


def words_of(figure):
    return figure.get_label()


@pytest.mark.parametrize(
    ("n_models", "seeds", "n_tasks", "rate", "hostile"),
    [
        (1, 1, 1, 0.5, True),
        (2, 1, 2, 0.5, False),
        (3, 2, 3, 0.04, True),
        pytest.param(20, 2, 2, 0.3, True, marks=pytest.mark.slow),
    ],
)
def test_anything_can_be_drawn(tmp_path, n_models, seeds, n_tasks, rate, hostile):
    usual = ["single_task", "shared_bottom", "mmoe", "ple"]
    models = [*usual, *(f"model {n}" for n in range(16))][:n_models]
    if hostile:
        models = [models[0], *(f"{n}{HOSTILE}{n}" for n in range(n_models - 1))]
    keep(tmp_path, models, seeds=seeds, n_tasks=n_tasks, rate=rate)
    figures = drawn(part_of(tmp_path))
    wanted = {"comparison", "cost", "learning", "calibration"}
    wanted |= {"seesaw"} if n_tasks > 1 else set()
    wanted |= {"forest"} if n_models > 1 and seeds > 1 else set()
    assert wanted <= set(figures)
    for kind, figure in figures.items():
        assert "<svg" in save(figure, tmp_path / f"{kind}.svg").read_text()
        assert max(figure.get_size_inches()) < 25


def test_figures_are_bitmaps_too(part, tmp_path):
    for kind, figure in drawn(part).items():
        file = save(figure, tmp_path / f"{kind}.png")
        assert file.read_bytes().startswith(b"\x89PNG")


def test_runs_without_a_metric_or_a_baseline_leave_gaps(tmp_path):
    (comparison,) = compare([run("mmoe", 0, None), run("ple", 0, 0.7), run("ple", 1, None)])
    figure = cost_figure(comparison)
    assert len(figure.axes[0].containers) == 1
    save(figure, tmp_path / "cost.svg")
    (nothing,) = compare([run("mmoe", 0, None)])
    assert seesaw_figure(nothing) is None
    save(cost_figure(nothing), tmp_path / "nothing.svg")


def test_predictions_are_read_once_for_tests_and_calibration(tmp_path, monkeypatch):
    keep(tmp_path, ("single_task", "mmoe", "ple"))
    store, read = ResultStore(tmp_path), []
    (alone,) = build(store.records(), store)
    whole = ResultStore.predictions
    monkeypatch.setattr(
        ResultStore, "predictions", lambda self, run_id: read.append(run_id) or whole(self, run_id)
    )
    (part,) = build(store.records(), store, curves=True)
    curves = with_curves(part, store).calibrations
    assert sorted(read) == sorted(record.run_id for record in store.records())
    for one, other in zip(curves, with_curves(alone, store).calibrations, strict=True):
        for label, found in one.variants.items():
            np.testing.assert_array_equal(found.observed, other.variants[label].observed)
            np.testing.assert_array_equal(found.mass, other.variants[label].mass)


def test_every_figure_has_words_and_a_line_in_the_docs(part):
    told = set(re.findall(r"^\| `([a-z]+)` \|", DOCS.read_text(), re.MULTILINE))
    assert set(compared_figures(part)) == set(COMPARED)
    assert set(COMPARED) | set(ACROSS) <= told
    assert all(reading.endswith(".") for _, reading in [*COMPARED.values(), *ACROSS.values()])


def test_the_page_shows_what_files_show(part):
    shown = compared_html(part, "x")
    assert [one.ident for one in shown] == [f"x-{kind}" for kind in drawn(part)]
    assert all(one.drawing.startswith("<svg") for one in shown)
    assert across_html([part], "x") == []


def verdict(mean, half_width, *, real, equivalent):
    return Verdict(
        difference=Difference(mean, half_width, 0.5, 3, 0.005, 0.0, 0.0),
        adjusted_p=0.01 if real else 0.5,
        equivalence_p=0.01 if equivalent else 0.5,
    )


def test_what_is_shown_is_filled_and_what_is_equivalent_is_square():
    models = ("shared_bottom", "a", "b", "c", "d", "e")
    (comparison,) = compare([run(model, 0, 0.7) for model in models])
    both = {(r, e): verdict(0.01, 0.02, real=r, equivalent=e) for r in (0, 1) for e in (0, 1)}
    verdicts = {"ctr_auc": dict(zip("abcd", both.values(), strict=True))}
    found = Differences(
        baseline="shared_bottom", verdicts=verdicts, clustered=False, how=Method(margin=0.005)
    )
    first, second, _ = forest_figure(comparison, found).axes
    looks = []
    for container in first.containers:
        (line, _, _) = container.lines
        filled = to_rgb(line.get_markerfacecolor()) == to_rgb(line.get_color())
        looks.append((filled, line.get_marker() == "s"))
    assert looks == list(both)
    (band,) = first.patches
    assert (band.get_x(), band.get_width()) == pytest.approx((-0.005, 0.01))
    assert len(second.containers) == 0
    assert [text.get_text() for text in first.texts] == ["no two seeds "]


def test_without_a_verdict_there_is_no_forest():
    (comparison,) = compare([run("mmoe", 0, 0.7)])
    verdicts = {"ctr_auc": {}, "ctr_logloss": {"x": verdict(0, 1, real=False, equivalent=False)}}
    found = Differences(
        baseline="mmoe", verdicts=verdicts, clustered=False, how=Method(margin=0.001)
    )
    assert forest_figure(comparison, found) is None


def test_gains_over_the_tasks_alone_are_drawn_once(part):
    assert {"forest", "transfer"} <= set(drawn(part))
    same = replace(part, differences=part.transfer.gains)
    assert "transfer" not in drawn(same)
    assert words_of(drawn(same)["forest"]).startswith(
        "log, test split: AUC less that of Single-Task"
    )


def test_the_seesaws_origin_is_the_tasks_alone(part):
    (axis,) = drawn(part)["seesaw"].axes
    alone = part.comparison.variants[0]
    x, y = alone.estimate("ctr_auc").mean, alone.estimate("cvr_auc").mean
    crossing = [line for line in axis.lines if len(set(line.get_xdata())) == 1]
    assert any(line.get_xdata()[0] == pytest.approx(x) for line in crossing)
    (low, high), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    assert low < x < high
    assert bottom < y < top
    assert {text.get_text() for text in axis.texts} == {
        "both gain", "both pay", "CTR gains,\nCVR pays", "CVR gains,\nCTR pays",
    }  # fmt: skip


def test_a_seesaw_has_a_panel_per_other_task(tmp_path):
    keep(tmp_path / "three", SHARED[1:], n_tasks=3)
    figure = seesaw_figure(part_of(tmp_path / "three").comparison)
    assert [axis.get_ylabel() for axis in figure.axes] == [
        "CVR AUC (clicked)",
        "LIKE AUC (exposures)",
    ]
    assert "no Single-Task, so no origin" in words_of(figure)
    keep(tmp_path / "one", SHARED, n_tasks=1)
    assert seesaw_figure(part_of(tmp_path / "one").comparison) is None


def places(axis):
    """Where the points with intervals stand."""
    return [
        (float(c.lines[0].get_xdata()[0]), float(c.lines[0].get_ydata()[0]))
        for c in axis.containers
    ]


def test_costs_are_those_of_the_records():
    costs = {"mmoe": (0, 100, 7), "ncs": (300, 100, 70)}
    records = [
        run(model, 0, 0.7 + search / 10_000, examples={"search": search, "train": train},
            multiply_adds=operations)
        for model, (search, train, operations) in costs.items()
    ]  # fmt: skip
    (comparison,) = compare(records)
    axes = cost_figure(comparison).axes
    assert places(axes[0]) == [pytest.approx((100, 0.7)), pytest.approx((400, 0.73))]
    assert places(axes[3]) == [pytest.approx((7, 0.7)), pytest.approx((70, 0.73))]
    assert [axes[0].get_xscale(), axes[3].get_xscale()] == ["linear", "log"]


def test_masked_strategies_stand_at_their_tasks_densities():
    masked = masked_record()
    plain = replace(masked, model="mmoe", run_id="m", diagnostics={})
    (comparison,) = compare([masked, plain])
    figure = density_figure(comparison)
    kept = masked.diagnostics["layers"]["all"]["density"]
    assert [places(axis) for axis in figure.axes] == [
        [pytest.approx((kept["ctr"], 0.7))],
        [pytest.approx((kept["cvr"], 0.7))],
    ]
    (level,) = (line for line in figure.axes[0].lines if len(line.get_xdata()) == 2)
    assert list(level.get_ydata()) == pytest.approx([0.7, 0.7])
    (without,) = compare([plain])
    assert density_figure(without) is None


def test_learning_curves_are_means_with_the_chosen_step_marked(part):
    ctr, _ = drawn(part)["learning"].axes
    aucs = [r.metrics["valid"]["ctr_auc"] for r in part.comparison.variants[0].runs]
    line = ctr.lines[0]
    assert list(line.get_xdata()) == [1, 2, 3]
    assert line.get_ydata() == pytest.approx([np.mean(aucs) - 1 / step for step in (10, 20, 30)])
    marks = ctr.lines[len(SHARED)]
    assert list(marks.get_xdata()) == [2, 2, 2]
    assert marks.get_ydata() == pytest.approx([auc - 1 / 20 for auc in aucs])


def test_calibration_is_held_against_the_diagonal(part):
    above, *_ = drawn(part)["calibration"].axes
    diagonal, first, *_ = above.lines
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
    curve = part.calibrations[0].variants["single_task"]
    np.testing.assert_allclose(first.get_xdata(), curve.predicted)
    np.testing.assert_allclose(first.get_ydata(), curve.observed)


def test_twenty_points_differ_without_colour():
    assert len({(mark(n).shape, mark(n).filled) for n in range(20)}) == 20


def test_a_long_name_takes_two_lines_and_keeps_both_ends():
    lines = row_name("begin" + "x" * 500 + "end", 20).split("\n")
    assert len(lines) <= 2
    assert lines[0].startswith("begin")
    assert lines[-1].endswith("end")
    assert "$" not in row_name("$x^{").replace(r"\$", "")
    assert row_name(" ") == "?"


@pytest.mark.parametrize("is_log", [False, True])
def test_equal_places_are_moved_apart_and_others_stay(is_log):
    moved, centres = side_by_side([5.0, 1.0, 5.0, 100.0], is_log=is_log)
    assert centres == pytest.approx([1.0, 5.0, 100.0])
    assert moved[1] == pytest.approx(1.0)
    assert moved[3] == pytest.approx(100.0)
    assert moved[0] < 5 < moved[2]
    assert len(set(side_by_side([3.0, 3.0, 3.0], is_log=is_log).moved)) == 3
    assert side_by_side([0.0], is_log=False) == ([0.0], [0.0])


def test_rows_of_panels_hold_every_strategy_once():
    for n in (1, 5, 6, 20):
        rows = rows_of(n)
        assert [one for row in rows for one in row] == list(range(n))
        assert max(map(len, rows)) <= 5


def scarce(share, gap):
    """Comparisons of two strategies of two seeds at one share of the labels."""
    records = [
        run(model, seed, 0.6 + share / 10 + seed / 100 + (gap if model == "ple" else 0))
        for model in ("single_task", "ple")
        for seed in (0, 1)
    ]
    (comparison,) = compare(records)
    task = None if share == 1 else "cvr"
    return replace(comparison, label_share=share, scarce_task=task)


def test_scarcity_is_drawn_over_the_share_of_labels(tmp_path):
    whole, tenth = scarce(1.0, 0.01), scarce(0.1, 0.02)
    gain = verdict(0.02, 0.01, real=True, equivalent=False)
    verdicts = {"cvr_auc": {"ple": gain}}
    gains = Differences(
        baseline="single_task", verdicts=verdicts, clustered=False, how=Method(margin=0.001)
    )
    values, over_alone = scarcity_figure([whole, tenth], [None, gains]).axes
    line = values.lines[0]
    assert list(line.get_xdata()) == [0.1, 1.0]
    assert line.get_ydata() == pytest.approx([0.615, 0.705])
    band = values.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(sum(t_interval([0.7, 0.71])[:2]))
    assert values.get_xscale() == "log"
    (point,) = (one for one in over_alone.lines if list(one.get_xdata()) == [0.1])
    assert list(point.get_ydata()) == [0.02]
    alone = scarcity_figure([tenth, whole], [None, None])
    assert len(alone.axes) == 1
    save(alone, tmp_path / "scarcity.png")


def test_one_share_alone_is_no_curve():
    assert scarcity_figure([scarce(0.1, 0.0)], [None]) is None
    assert scarcity_figure([scarce(1.0, 0.0)] * 2, [None] * 2) is None


def test_scarcity_is_drawn_per_task_of_one_dataset(part):
    def with_share(share, task, fingerprint="same"):
        one = replace(part.comparison, label_share=share, scarce_task=task, fingerprint=fingerprint)
        return replace(part, comparison=one)

    parts = [
        with_share(1.0, None), with_share(0.1, "cvr"), with_share(0.1, "ctr"),
        with_share(0.1, "cvr", "other"),
    ]  # fmt: skip
    figures = {one.name: one.draw() for one in across_figures(parts) if one.kind == "scarcity"}
    assert [name for name, figure in figures.items() if figure is not None] == [
        "scarcity-log-same-cvr", "scarcity-log-same-ctr",
    ]  # fmt: skip
    assert len(across_html(parts, "all")) == 2
