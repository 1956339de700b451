"""Figures of a sweep: what stands where in them, and when there is none."""

import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cvrbench.report.plots.study import study_figures
from cvrbench.report.plots.study.common import PALETTE, broken, parameters
from cvrbench.report.plots.study.density import density_figure
from cvrbench.report.plots.study.front import Point, front, front_figure, labelled, staircase
from cvrbench.report.plots.study.history import curves_figure, history_figure
from cvrbench.report.plots.study.parameters import importances_figure, slices_figure
from cvrbench.report.plots.study.scales import scale_of, stacked
from cvrbench.report.plots.study.together import ABSENT, contour_figure, parallel_figure
from cvrbench.report.plots.style import save
from cvrbench.studies import Axis
from tests.report.made_up_studies import params, searched, study, trial

HOSTILE = r"a_b $x^{ [bold] \frac" + "\nnext"
IMPORTANCES = {
    "trainer.learning_rate": 0.6,
    "model.density": 0.3,
    "model.rounds": 0.08,
    "model.search": 0.02,
}


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def drawn(figure: Figure | None) -> Figure:
    assert figure is not None
    figure.canvas.draw()
    return figure


def dots(axes: Axes) -> np.ndarray:
    return np.vstack(
        [np.asarray(c.get_offsets()) for c in axes.collections if len(c.get_offsets())]
    )


def marked(axes: Axes, marker: str) -> list[tuple[float, float]]:
    lines = [line for line in axes.lines if line.get_marker() == marker]
    return [(float(x), float(y)) for line in lines for x, y in zip(*line.get_data(), strict=True)]


def titles(figure: Figure) -> str:
    return figure.get_suptitle().replace("\n", " ")


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for one in figure.legends for text in one.get_texts()]


# History and learning curves


def test_history_lays_values_over_everything_spent_so_far():
    trials = [
        trial(0, [0.70], examples=100),
        trial(1, state="pruned", examples=30),
        trial(2, [0.68], examples=200),
        trial(3, examples=5),
        trial(4, [0.75], examples=65),
    ]
    figure = drawn(history_figure(study(trials)))
    (axes,) = figure.axes
    assert marked(axes, "o") == [(100, 0.70), (330, 0.68), (400, 0.75)]
    (running,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    assert list(running.get_xdata()) == [100, 330, 400, 400]
    assert list(running.get_ydata()) == [0.70, 0.70, 0.75, 0.75]
    assert [x for x, _ in marked(axes, "x")] == [130]
    assert [x for x, _ in marked(axes, "v")] == [335]
    assert (marked(axes, "D"), marked(axes, "*")) == ([(100, 0.70)], [(400, 0.75)])
    assert legend(figure) == ["complete", "best so far", "pruned", "failed", "best", "preset"]


def test_history_has_a_panel_per_objective_and_minimises_what_is_to_be_small():
    trials = [trial(n, [0.7 + n / 100, 0.5 - n / 10], examples=10) for n in range(3)]
    figure = drawn(
        history_figure(
            study(trials, objectives=("cvr_auc", "density"), directions=("maximize", "minimize"))
        )
    )
    steps = [
        [line for line in axes.lines if "steps" in line.get_drawstyle()] for axes in figure.axes
    ]
    assert [list(line.get_ydata())[-1] for (line,) in steps] == pytest.approx([0.72, 0.3])
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "validation cvr_auc",
        "density\n(less is better)",
    ]


def test_pruned_curves_end_in_a_cross():
    looks = ((10, 0.6), (20, 0.65), (30, 0.7))
    trials = [
        trial(0, [0.7], looks=looks),
        trial(1, state="pruned", looks=looks[:2]),
        trial(2, [0.71], looks=tuple((step, value + 0.01) for step, value in looks)),
        trial(3),
    ]
    (axes,) = drawn(curves_figure(study(trials))).axes
    assert marked(axes, "x") == [(20, 0.65)]
    assert marked(axes, "*") == [(30, pytest.approx(0.71))]
    assert sum(len(line.get_xdata()) > 1 for line in axes.lines) == 3


# Parameters


def test_importances_are_bars_with_the_longest_on_top():
    found = {"model.density": 0.2, "trainer.learning_rate": 0.7, "model.search": 0.1}
    (axes,) = drawn(importances_figure(searched(importances=found))).axes
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["learning_rate", "density", "search"]
    assert [bar.get_width() for bar in axes.patches] == [0.7, 0.2, 0.1]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


def test_slices_stand_in_order_of_importance_with_their_own_scales():
    summary = searched(importances=IMPORTANCES)
    panels = drawn(slices_figure(summary)).axes[:4]
    assert [axes.get_xlabel() for axes in panels] == [
        "learning_rate",
        "density",
        "rounds",
        "search",
    ]
    assert [axes.get_xscale() for axes in panels] == ["log", "linear", "linear", "linear"]
    assert [text.get_text() for text in panels[3].get_xticklabels()] == ["imp", "snip", "null"]
    low, high = panels[0].get_xlim()
    assert low < 1e-4
    assert high > 1e-2


def test_slices_hold_every_trial_that_has_the_parameter():
    summary = searched(importances=IMPORTANCES)
    rates, _, rounds, searches = drawn(slices_figure(summary)).axes[:4]
    wanted = [(t.params["trainer.learning_rate"], t.values[0]) for t in summary.trials]
    np.testing.assert_allclose(dots(rates), wanted)
    assert len(dots(rounds)) == 12
    assert rounds.get_title(loc="left") == "12 of 24 trials have it"
    categories = [("imp", "snip", None).index(t.params["model.search"]) for t in summary.trials]
    np.testing.assert_array_equal(dots(searches)[:, 0].round(), categories)
    best = max(summary.trials, key=lambda t: t.values)
    assert marked(rates, "*") == [(best.params["trainer.learning_rate"], best.values[0])]


def test_slices_are_coloured_by_the_trials_number():
    figure = drawn(slices_figure(searched()))
    (scatter,) = figure.axes[0].collections
    assert list(scatter.get_array()) == list(range(24))
    assert scatter.get_clim() == (0, 23)


def test_colours_are_even_in_grey_and_none_is_white():
    grey = PALETTE(np.linspace(0, 1, 20))[:, :3] @ [0.299, 0.587, 0.114]
    steps = -np.diff(grey)
    assert (steps > 0).all()
    assert steps.max() < 3 * steps.min()
    assert grey[0] < 0.85


def test_equal_values_of_a_category_lie_side_by_side():
    steps = stacked([0.7, 0.7, 0.7, 0.8], 0.1)
    assert steps[:3] == pytest.approx([-steps[2], 0, steps[2]])
    assert steps[2] > 0
    assert steps[3] == 0
    assert max(map(abs, stacked([0.7] * 500, 0.1))) <= 0.4
    assert stacked([0.7, 0.7], 0.0)[0] < 0 < stacked([0.7, 0.7], 0.0)[1]


def test_a_preset_outside_of_its_space_is_shown():
    axes = {"model.search": Axis(kind="choice", choices=("imp", "snip"))}
    trials = [
        trial(0, [0.7], params={"model.search": "learned"}),
        trial(1, [0.71], params={"model.search": "imp"}),
    ]
    summary = study(trials, axes=axes)
    assert scale_of(summary, "model.search").categories == ("imp", "snip", "learned")
    assert marked(drawn(slices_figure(summary)).axes[0], "D") == [(2, 0.7)]


@pytest.mark.parametrize(("low", "high"), [(1e-5, 1e-1), (1e-3, 1e-2), (0.11, 0.18), (3, 700)])
def test_logarithmic_axes_have_ticks_whatever_their_range(low, high):
    space = {"trainer.lr": Axis(kind="float", low=low, high=high, log=True)}
    trials = [trial(n, [0.7], params={"trainer.lr": value}) for n, value in enumerate((low, high))]
    (axes, _) = drawn(slices_figure(study(trials, axes=space))).axes
    left, right = axes.get_xlim()
    assert 2 <= sum(left <= tick <= right for tick in axes.get_xticks()) <= 7


# Parameters together


def test_contours_show_the_two_most_important_numbers_and_every_trial():
    summary = searched(importances={**IMPORTANCES, "model.search": 0.9})
    axes, bar = drawn(contour_figure(summary)).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("learning_rate", "density")
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert len(axes.collections[-1].get_offsets()) == 24
    assert len(axes.collections) == 2
    assert bar.get_ylabel() == "validation cvr_auc"


@pytest.mark.parametrize("case", ["few", "on a line", "equal values"])
def test_contours_without_enough_to_go_by_show_the_trials_alone(case):
    if case == "few":
        summary = searched(6)
    elif case == "on a line":
        rows = [(0.1 + n / 20, 10 ** (-4 + 2 * n / 16)) for n in range(16)]
        names = ("model.density", "trainer.learning_rate")
        trials = [
            trial(n, [0.7 + n / 100], params=dict(zip(names, row, strict=True)))
            for n, row in enumerate(rows)
        ]
        summary = study(trials)
    else:
        summary = study([trial(n, [0.7], params=params(n)) for n in range(20)])
    figure = drawn(contour_figure(summary))
    assert len(figure.axes[0].collections) == 1
    assert "between dots" not in titles(figure)


def test_parallel_lines_pass_all_parameters_and_end_at_the_objective():
    summary = searched(importances=IMPORTANCES)
    (axes,) = drawn(parallel_figure(summary)).axes
    names = [text.get_text().replace("\n", " ") for text in axes.get_xticklabels()]
    assert names == ["learning_rate", "density", "rounds", "search", "validation cvr_auc"]
    lines = [
        line for line in axes.lines if len(line.get_xdata()) == 5 and line.get_linewidth() > 0.9
    ]
    paths = [line for line in lines if line.get_marker() == "None"]
    assert len(paths) == 24
    # Drawn from the worst to the best.
    heights = [line.get_ydata()[-1] for line in paths]
    assert heights == sorted(heights)
    assert (heights[0], heights[-1]) == (0, 1)
    worst = min(summary.trials, key=lambda t: t.values)
    rate = (np.log10(worst.params["trainer.learning_rate"]) + 4) / 2
    search = ("imp", "snip", None).index(worst.params["model.search"]) / 2
    assert paths[0].get_ydata()[0] == pytest.approx(rate)
    assert paths[0].get_ydata()[3] == pytest.approx(search)


def test_parallel_lines_pass_below_what_their_trial_does_not_have():
    (axes,) = drawn(parallel_figure(searched(importances=IMPORTANCES))).axes
    paths = [
        line for line in axes.lines if len(line.get_xdata()) == 5 and line.get_marker() == "None"
    ]
    assert sum(line.get_ydata()[2] == ABSENT for line in paths) == 12
    assert "absent" in [text.get_text() for text in axes.texts]


# Several objectives


def brute_front(points: list[tuple[float, float]], signs: tuple[int, int]) -> list[int]:
    """Every point against every other, in words."""
    found = []
    for own, (x, y) in enumerate(points):
        beaten = False
        for a, b in points:
            no_worse = signs[0] * a >= signs[0] * x and signs[1] * b >= signs[1] * y
            beaten |= no_worse and (a, b) != (x, y)
        if not beaten:
            found.append(own)
    return found


DIRECTIONS = st.sampled_from(["maximize", "minimize"])
POINTS = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=1, max_size=25)


@given(POINTS, st.tuples(DIRECTIONS, DIRECTIONS))
def test_the_front_is_what_nothing_beats(points, directions):
    signs = tuple(1 if one == "maximize" else -1 for one in directions)
    assert front(points, directions) == brute_front(points, signs)


@given(POINTS, st.tuples(DIRECTIONS, DIRECTIONS))
def test_stairs_run_along_the_border_of_what_the_front_dominates(points, directions):
    signs = tuple(1 if one == "maximize" else -1 for one in directions)
    best = [points[place] for place in brute_front(points, signs)]
    stairs = staircase(best, directions)
    assert set(best) <= set(stairs)
    assert len(stairs) == 2 * len(set(best)) - 1
    for before, after in pairwise(stairs):
        assert (before[0] == after[0]) != (before[1] == after[1])
    for x, y in stairs:
        reached = [signs[0] * a >= signs[0] * x and signs[1] * b >= signs[1] * y for a, b in best]
        beyond = [signs[0] * a > signs[0] * x and signs[1] * b > signs[1] * y for a, b in best]
        assert any(reached)
        assert not any(beyond)


def several(values: list[tuple[float, ...]], objectives: tuple[str, ...], **changes):
    directions = tuple("minimize" if o == "density" else "maximize" for o in objectives)
    trials = [trial(n, one) for n, one in enumerate(values)]
    places = tuple(front(values, directions))
    return study(trials, objectives=objectives, directions=directions, best=places, **changes)


def test_the_pareto_front_stands_out_and_is_numbered():
    values = [(0.70, 0.9), (0.71, 0.5), (0.69, 0.2), (0.68, 0.6), (0.66, 0.1)]
    figure = drawn(front_figure(several(values, ("cvr_auc", "density"))))
    (axes,) = figure.axes
    off, stairs, on = axes.lines[:3]
    assert list(off.get_xdata()) == [0.9, 0.6]
    assert list(on.get_xdata()) == [0.5, 0.2, 0.1]
    corners = [(0.1, 0.66), (0.2, 0.66), (0.2, 0.69), (0.5, 0.69), (0.5, 0.71)]
    assert list(zip(*stairs.get_data(), strict=True)) == corners
    assert sorted(text.get_text() for text in axes.texts) == ["1", "2", "4"]
    assert axes.get_xlabel() == "density\n(less is better)"
    assert marked(axes, "D") == [(0.9, 0.70)]


def test_three_objectives_are_drawn_two_at_a_time():
    generator = np.random.default_rng(0)
    values = [tuple(map(float, row)) for row in generator.random((20, 3))]
    summary = several(values, ("cvr_auc", "ctr_auc", "density"))
    figure = drawn(front_figure(summary))
    pairs = [
        (axes.get_xlabel().partition("\n")[0], axes.get_ylabel().partition("\n")[0])
        for axes in figure.axes
    ]
    assert pairs == [
        ("validation ctr_auc", "validation cvr_auc"),
        ("density", "validation cvr_auc"),
        ("density", "validation ctr_auc"),
    ]
    for axes in figure.axes:
        assert len(axes.lines[2].get_xdata()) == len(summary.best)


def test_labels_keep_apart_and_are_at_most_eight():
    points = [Point(x / 200, -x / 200, x) for x in range(200)]
    chosen = labelled(points)
    assert len(chosen) == 8
    assert {chosen[0].number, chosen[-1].number} == {0, 199}
    assert len(labelled([Point(0.5, 0.5, n) for n in range(9)])) == 1


# Density


def test_density_shows_every_seed_and_a_band_over_the_seeds_means():
    by_seed = {0.2: ((0.70,), (0.72,)), 0.5: ((0.74,), (0.73,)), 0.8: ((0.75,), (0.77,))}
    trials = [
        trial(n, [np.mean(seeds)], by_seed=seeds, params={"model.density": density})
        for n, (density, seeds) in enumerate(by_seed.items())
    ]
    figure = drawn(density_figure(study(trials, seeds=(0, 1))))
    (axes,) = figure.axes
    assert len(marked(axes, ".")) == 6
    line = axes.lines[1]
    assert list(line.get_xdata()) == [0.2, 0.5, 0.8]
    assert list(line.get_ydata()) == pytest.approx([0.71, 0.735, 0.76])
    corners = {(round(x, 6), round(y, 6)) for x, y in axes.collections[0].get_paths()[0].vertices}
    assert {(0.2, 0.70), (0.2, 0.72), (0.5, 0.73), (0.5, 0.74), (0.8, 0.75), (0.8, 0.77)} <= corners
    assert "band: lowest to highest mean of 2 tuning seeds" in titles(figure)


def test_density_of_many_trials_is_averaged_over_neighbours():
    trials = [
        trial(n, [0.7 + n / 1000], params={"model.density": 0.1 + n / 100}) for n in range(40)
    ]
    figure = drawn(density_figure(study(trials)))
    (line,) = [line for line in figure.axes[0].lines if line.get_marker() == "None"]
    assert len(line.get_xdata()) == 8
    assert line.get_ydata()[0] == pytest.approx(0.7 + 2 / 1000)
    assert "mean of 5 neighbouring trials" in titles(figure)
    assert "band" not in titles(figure)


def test_density_can_be_an_objective_or_a_logarithmic_axis_or_neither():
    values = [(0.7 + n / 100, 0.1 + n / 10) for n in range(4)]
    figure = drawn(density_figure(several(values, ("cvr_auc", "density"), axes={})))
    np.testing.assert_allclose(dots(figure.axes[0]), [(d, v) for v, d in values])
    axis = {"model.density": Axis(kind="float", low=0.01, high=0.9, log=True)}
    figure = drawn(density_figure(replace(searched(), axes=axis)))
    assert figure.axes[0].get_xscale() == "log"
    rate = {"trainer.learning_rate": searched().axes["trainer.learning_rate"]}
    assert density_figure(replace(searched(), axes=rate)) is None


# Extremes

FULL = ["history", "importances", "slices", "contour", "parallel", "density"]


def test_figures_come_in_a_fixed_order():
    assert list(study_figures(searched(importances=IMPORTANCES))) == FULL


@pytest.mark.parametrize(
    "trials", [[], [trial(0, [0.7], params=params(0))], [trial(n) for n in range(5)]]
)
def test_too_little_to_see_is_no_figure(trials):
    assert study_figures(study(trials)) == {}


def test_negative_and_equal_values_can_be_drawn(tmp_path):
    negative = [trial(n, [-0.5 - n / 10], params=params(n)) for n in range(12)]
    equal = [trial(n, [-0.5], params=params(0)) for n in range(12)]
    for trials in (negative, equal):
        for name, figure in study_figures(
            study(trials, directions=("minimize",), objectives=("cvr_logloss",))
        ).items():
            assert save(figure, tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_five_hundred_trials_can_be_drawn(tmp_path):
    looks = ((1, 0.5), (2, 0.6))
    summary = searched(500)
    summary = replace(summary, trials=tuple(replace(t, looks=looks) for t in summary.trials))
    figures = study_figures(summary)
    assert list(figures) == ["history", "curves", "slices", "contour", "parallel", "density"]
    for name, figure in figures.items():
        assert save(figure, tmp_path / f"{name}.png").is_file()


def test_hostile_and_long_names_are_drawn_as_they_are(tmp_path):
    key = f"model.{HOSTILE}"
    axes = {
        key: Axis(kind="choice", choices=(HOSTILE, "x" * 300)),
        "model.density": Axis(kind="float", low=0.1, high=0.9),
        "y" * 300: Axis(kind="float", low=0.0, high=1.0),
    }
    trials = [
        trial(
            n,
            [0.7 + n / 100, 0.5 - n / 100],
            params={
                key: (HOSTILE, "x" * 300)[n % 2],
                "model.density": 0.1 + n / 20,
                "y" * 300: 0.5,
            },
            looks=((1, 0.5), (2, 0.6)),
        )
        for n in range(12)
    ]
    summary = study(
        trials,
        name=HOSTILE + "z" * 300,
        axes=axes,
        objectives=(HOSTILE, "ctr_auc"),
        directions=("maximize", "maximize"),
        importances=dict.fromkeys(axes, 0.3),
    )
    figures = study_figures(summary)
    assert len(figures) == 8
    for name, figure in figures.items():
        save(figure, tmp_path / f"{name}.png")
        assert r"\$" in figure.get_suptitle()
        width = figure.get_figwidth() * figure.dpi
        assert figure._suptitle.get_window_extent().x1 <= 1.02 * width


def test_equal_figures_are_equal_files(tmp_path):
    files = [save(slices_figure(searched()), tmp_path / f"{n}.svg") for n in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_only_parameters_that_a_complete_trial_has_get_a_panel():
    trials = [
        trial(0, [0.7], params={"model.density": 0.2}),
        trial(1, [0.8], params={"model.density": 0.3}),
        trial(2, params=params(2)),
    ]
    assert parameters(study(trials)) == ["model.density"]


def test_names_break_where_they_may():
    assert broken("early_bird_patience", 12) == "early_bird_\npatience"
    assert broken("density\n(less is better)", 14) == "density\n(less is\nbetter)"
    assert broken("x" * 40, 12) == "x" * 40
