"""Figures of a sweep: what stands where in them, when there is none, and what they leave behind."""

import warnings
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import optuna
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cvrbench.report.figures.style import save
from cvrbench.report.figures.sweep import parameters, study_figures
from cvrbench.runs.study import Axis, StudySummary
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


def drawn(summary: StudySummary, kind: str) -> Figure:
    figure = study_figures(summary)[kind]
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
    return figure.get_label()


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for one in figure.legends for text in one.get_texts()]


def test_history_lays_values_over_everything_spent_so_far():
    trials = [
        trial(0, [0.70], examples=100),
        trial(1, state="pruned", examples=30),
        trial(2, [0.68], examples=200),
        trial(3, examples=5),
        trial(4, [0.75], examples=65),
    ]
    figure = drawn(study(trials), "history")
    (axes,) = figure.axes
    assert marked(axes, "o") == [(100, 0.70), (330, 0.68), (400, 0.75)]
    (running,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    assert list(running.get_xdata()) == [100, 330, 400, 400]
    assert list(running.get_ydata()) == [0.70, 0.70, 0.75, 0.75]
    assert [x for x, _ in marked(axes, "x")] == [130]
    assert [x for x, _ in marked(axes, "v")] == [335]
    assert (marked(axes, "D"), marked(axes, "*")) == ([(100, 0.70)], [(400, 0.75)])
    assert legend(figure) == ["pruned", "failed", "best", "preset"]


def test_history_has_a_panel_per_objective_and_minimises_what_is_to_be_small():
    figure = drawn(several([(0.7 + n / 100, 0.5 - n / 10) for n in range(3)]), "history")
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
    (axes,) = drawn(study(trials), "curves").axes
    assert marked(axes, "x") == [(20, 0.65)]
    assert marked(axes, "*") == [(30, pytest.approx(0.71))]
    assert sum(len(line.get_xdata()) > 1 for line in axes.lines) == 3


def test_importances_are_bars_with_the_longest_on_top():
    found = {"model.density": 0.2, "trainer.learning_rate": 0.7, "model.search": 0.1}
    (axes,) = drawn(searched(importances=found), "importances").axes
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["search", "density", "learning_rate"]  # from the foot up
    assert [bar.get_width() for bar in axes.patches] == [0.1, 0.2, 0.7]


def test_slices_stand_in_order_of_importance_and_show_the_whole_space():
    panels = drawn(searched(importances=IMPORTANCES), "slices").axes[:4]
    panels = sorted(panels, key=lambda axes: axes.get_subplotspec().num1)
    names = [axes.get_xlabel() for axes in panels]
    assert names == ["learning_rate", "density", "rounds", "search"]
    assert [axes.get_xscale() for axes in panels] == ["log", "linear", "linear", "linear"]
    assert [text.get_text() for text in panels[3].get_xticklabels()] == ["imp", "snip", "null"]
    for axes, low, high in zip(panels[:3], (1e-4, 0.1, 1), (1e-2, 0.9, 8), strict=True):
        assert axes.get_xlim()[0] < low < high < axes.get_xlim()[1]


def test_slices_hold_every_trial_that_has_the_parameter():
    summary = searched(importances=IMPORTANCES)
    figure = drawn(summary, "slices")
    panels = {axes.get_xlabel(): axes for axes in figure.axes[:4]}
    rates = panels["learning_rate"]
    wanted = [(t.params["trainer.learning_rate"], t.values[0]) for t in summary.trials]
    np.testing.assert_allclose(dots(rates), wanted)
    assert len(dots(panels["rounds"])) == 12
    categories = [("imp", "snip", None).index(t.params["model.search"]) for t in summary.trials]
    assert sorted(dots(panels["search"])[:, 0]) == sorted(categories)
    best = max(summary.trials, key=lambda t: t.values)
    assert marked(rates, "*") == [(best.params["trainer.learning_rate"], best.values[0])]
    preset = summary.trials[0]
    assert marked(panels["search"], "D") == [(0, preset.values[0])]
    numbers = next(c for c in rates.collections if len(c.get_offsets())).get_array()
    assert list(numbers) == list(range(24))


def test_a_preset_outside_of_its_space_is_shown():
    axes = {"model.search": Axis(kind="choice", choices=("imp", "snip"))}
    trials = [
        trial(0, [0.7], params={"model.search": "learned"}),
        trial(1, [0.71], params={"model.search": "imp"}),
    ]
    panel = drawn(study(trials, axes=axes), "slices").axes[0]
    assert [text.get_text() for text in panel.get_xticklabels()] == ["imp", "learned"]
    assert marked(panel, "D") == [(1, 0.7)]


@pytest.mark.parametrize(("low", "high"), [(1e-5, 1e-1), (1e-3, 1e-2), (0.11, 0.18), (3, 700)])
def test_logarithmic_axes_can_be_drawn_whatever_their_range(low, high):
    space = {"trainer.lr": Axis(kind="float", low=low, high=high, log=True)}
    trials = [trial(n, [0.7], params={"trainer.lr": value}) for n, value in enumerate((low, high))]
    axes = drawn(study(trials, axes=space), "slices").axes[0]
    assert axes.get_xlim()[0] < low < high < axes.get_xlim()[1]


def test_contours_show_the_two_most_important_numbers_and_every_trial():
    summary = searched(importances={**IMPORTANCES, "model.search": 0.9})
    axes, bar = drawn(summary, "contour").axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("density", "learning_rate")
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
    assert any(len(one.get_offsets()) == 24 for one in axes.collections)
    assert bar.get_ylabel() == "validation cvr_auc"


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_dark_is_good(direction):
    summary = searched(directions=(direction,))
    axes, _ = drawn(summary, "contour").axes
    filled = next(c for c in axes.collections if getattr(c, "filled", False))
    worst, *_, best = filled.get_cmap()(np.linspace(0, 1, 9))[:, :3].sum(axis=1)[
        :: 1 if direction == "maximize" else -1
    ]
    assert best < worst


@pytest.mark.parametrize("case", ["few", "equal values", "one value of a parameter"])
def test_too_little_for_a_contour_is_no_contour(case):
    if case == "few":
        summary = searched(6)
    elif case == "equal values":
        summary = study([trial(n, [0.7], params=params(n)) for n in range(20)])
    else:
        names = ("model.density", "trainer.learning_rate")
        rows = [dict(zip(names, (0.3, 10 ** (-n / 5)), strict=True)) for n in range(5, 19)]
        summary = study([trial(n, [0.7 + n / 100], params=row) for n, row in enumerate(rows)])
    assert "contour" not in study_figures(summary)


def test_parallel_coordinates_begin_at_the_objective_and_pass_all_parameters():
    axes, *_ = drawn(searched(importances=IMPORTANCES), "parallel").axes
    names = [text.get_text() for text in axes.get_xticklabels()]
    assert names[0] == "validation cvr_auc"
    assert sorted(names[1:]) == ["density", "learning_rate", "rounds", "search"]
    assert len(axes.collections[0].get_segments()) == 24


def several(values: list[tuple[float, ...]], **changes) -> StudySummary:
    objectives = ("cvr_auc", "density", "ctr_auc")[: len(values[0])]
    directions = ("maximize", "minimize", "maximize")[: len(values[0])]
    facts = {"objectives": objectives, "directions": directions, "best": (1, 2), **changes}
    return study([trial(n, one) for n, one in enumerate(values)], **facts)


def test_the_front_is_what_nothing_beats():
    values = [(0.70, 0.9), (0.71, 0.5), (0.69, 0.2), (0.68, 0.6), (0.66, 0.1)]
    (axes,) = drawn(several(values), "front").axes
    dominated, best = (np.asarray(c.get_offsets()).tolist() for c in axes.collections)
    assert sorted(dominated) == [[0.6, 0.68], [0.9, 0.70]]
    assert sorted(best) == [[0.1, 0.66], [0.2, 0.69], [0.5, 0.71]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "density\n(less is better)",
        "validation cvr_auc",
    )
    assert marked(axes, "D") == [(0.9, 0.70)]


def test_three_objectives_are_drawn_two_at_a_time():
    generator = np.random.default_rng(0)
    values = [tuple(map(float, row)) for row in generator.random((20, 3))]
    figures = study_figures(several(values))
    pairs = [
        [words.partition("\n")[0] for words in (axes.get_xlabel(), axes.get_ylabel())]
        for axes in (figures[name].axes[0] for name in ("front", "front-2", "front-3"))
    ]
    assert pairs == [
        ["density", "validation cvr_auc"],
        ["validation ctr_auc", "validation cvr_auc"],
        ["validation ctr_auc", "density"],
    ]


def test_density_shows_every_seed_and_the_mean_of_neighbours():
    by_seed = {0.2: ((0.70,), (0.72,)), 0.5: ((0.74,), (0.73,)), 0.8: ((0.75,), (0.77,))}
    trials = [
        trial(n, [np.mean(seeds)], by_seed=seeds, params={"model.density": density})
        for n, (density, seeds) in enumerate(by_seed.items())
    ]
    (axes,) = drawn(study(trials, seeds=(0, 1)), "density").axes
    assert len(marked(axes, ".")) == 6
    assert marked(axes, "o") == [(d, pytest.approx(np.mean(s))) for d, s in by_seed.items()]
    many = [trial(n, [0.7 + n / 1000], params={"model.density": 0.1 + n / 100}) for n in range(40)]
    figure = drawn(study(many), "density")
    (line,) = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 8]
    assert line.get_ydata()[0] == pytest.approx(0.7 + 2 / 1000)
    assert "8 groups of neighbours" in titles(figure)


def test_density_can_be_an_objective_or_a_logarithmic_axis_or_neither():
    values = [(0.7 + n / 100, 0.1 + n / 10) for n in range(4)]
    figure = drawn(several(values, axes={}), "density")
    assert marked(figure.axes[0], "o") == [(d, v) for v, d in values]
    axis = {"model.density": Axis(kind="float", low=0.01, high=0.9, log=True)}
    assert drawn(replace(searched(), axes=axis), "density").axes[0].get_xscale() == "log"
    rate = {"trainer.learning_rate": searched().axes["trainer.learning_rate"]}
    assert "density" not in study_figures(replace(searched(), axes=rate))


def test_figures_come_in_a_fixed_order():
    wanted = ["history", "importances", "slices", "contour", "parallel", "density"]
    assert list(study_figures(searched(importances=IMPORTANCES))) == wanted


@pytest.mark.parametrize(
    "trials", [[], [trial(0, [0.7], params=params(0))], [trial(n) for n in range(5)]]
)
def test_too_little_to_see_is_no_figure(trials):
    assert study_figures(study(trials)) == {}


def test_negative_and_equal_values_can_be_drawn(tmp_path):
    negative = [trial(n, [-0.5 - n / 10], params=params(n)) for n in range(12)]
    equal = [trial(n, [-0.5], params=params(0)) for n in range(12)]
    for trials in (negative, equal):
        summary = study(trials, directions=("minimize",), objectives=("cvr_logloss",))
        for name, figure in study_figures(summary).items():
            assert save(figure, tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
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
        "y" * 301: Axis(kind="choice", choices=("1", 2)),
    }
    trials = [
        trial(
            n,
            [0.7 + n / 100, 0.5 - n / 100],
            params={
                key: (HOSTILE, "x" * 300)[n % 2],
                "model.density": 0.1 + n / 20,
                "y" * 300: n / 12,
                "y" * 301: "1",
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
        save(figure, tmp_path / f"{name}.png", titles=True)
        assert r"\$" in figure.get_suptitle()
        width = figure.get_figwidth() * figure.dpi
        assert figure._suptitle.get_window_extent().x1 <= 1.02 * width


def test_equal_figures_are_equal_files(tmp_path):
    files = [
        save(figure, tmp_path / f"{name}-{n}.svg")
        for n in range(2)
        for name, figure in study_figures(searched()).items()
    ]
    half = len(files) // 2
    for one, other in zip(files[:half], files[half:], strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_drawing_leaves_no_style_no_window_and_no_word_behind(capfd):
    before = dict(mpl.rcParams), mpl.style.library["ggplot"], optuna.logging.get_verbosity()
    study_figures(searched(importances=IMPORTANCES))
    after = dict(mpl.rcParams), mpl.style.library["ggplot"], optuna.logging.get_verbosity()
    assert {k: v for k, v in after[0].items() if k != "backend"} == {
        k: v for k, v in before[0].items() if k != "backend"
    }
    assert after[1:] == before[1:]
    assert pyplot.get_fignums() == []
    assert capfd.readouterr() == ("", "")


def test_only_parameters_that_a_complete_trial_has_get_a_panel():
    trials = [
        trial(0, [0.7], params={"model.density": 0.2}),
        trial(1, [0.8], params={"model.density": 0.3}),
        trial(2, params=params(2)),
    ]
    assert parameters(study(trials)) == ["model.density"]
