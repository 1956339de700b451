"""What sharing is worth, and figures of it and of what was seen while the runs trained."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest

from cvrbench.errors import StoreError
from cvrbench.report.comparison import compare
from cvrbench.report.dataset_report import transfer_json
from cvrbench.report.diagnostics import agreements, gatings, read_observed
from cvrbench.report.differences import transfer
from cvrbench.report.figures.comparison import transfer_figure
from cvrbench.report.figures.runs import agreement_figure, gates_figure
from cvrbench.report.figures.style import save
from cvrbench.report.grids import transfer_grid
from cvrbench.runs.store import ResultStore
from cvrbench.stats.difference import t_interval
from tests.report.test_comparison import run
from tests.report.test_differences import ROWS, versus, write

HOSTILE = r"a_b $x^{ [bold] \frac"


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def store(tmp_path):
    """Five seeds of the tasks alone, of a better strategy and of an equal one."""
    rng = np.random.default_rng(0)
    merit = rng.standard_normal(ROWS)
    click = merit + rng.standard_normal(ROWS) > 0.5
    conversion = click & (merit + rng.standard_normal(ROWS) > 1.2)
    for model, noise in (("single_task", 1.5), ("shared_bottom", 1.5), ("ple", 1.0)):
        for seed in range(5):
            score = merit + noise * rng.standard_normal(ROWS)
            write(tmp_path, model, seed, score, click, conversion)
    return ResultStore(tmp_path)


def gained(comparison, store):
    return transfer(comparison, versus(comparison, "single_task", store))


def test_gains_are_the_differences_to_the_tasks_alone(store):
    (comparison,) = compare(store.records())
    found = gained(comparison, store)
    assert found.gains == versus(comparison, "single_task", store)
    assert found.gains.of("ctr_auc", "ple").is_shown
    assert not found.gains.of("ctr_auc", "shared_bottom").is_shown


def test_the_mean_gain_is_relative_and_over_the_tasks_own_spaces(store):
    (comparison,) = compare(store.records())
    found = gained(comparison, store)
    by_label = {v.label: [r.metrics["test"] for r in v.runs] for v in comparison.variants}
    for label in ("shared_bottom", "ple"):
        gains = [
            np.mean([own[m] / base[m] - 1 for m in ("ctr_auc", "cvr_auc")])  # no joint space
            for own, base in zip(by_label[label], by_label["single_task"], strict=True)
        ]
        assert found.relative[label] == pytest.approx(t_interval(gains))
    assert found.relative["ple"].mean > 0.02


def test_only_seeds_in_common_count(store):
    kept = [r for r in store.records() if r.model != "ple" or r.seed < 2]
    (comparison,) = compare(kept)
    assert gained(comparison, store).relative["ple"].n == 2
    (comparison,) = compare([r for r in kept if (r.model, r.seed) != ("ple", 1)])
    found = gained(comparison, store)
    assert "ple" not in found.relative
    assert [cell.text for cell in transfer_grid(comparison, found).rows[1]] == ["ple", *"----"]


def test_without_the_tasks_alone_there_is_no_transfer(store):
    (comparison,) = compare([r for r in store.records() if r.model != "single_task"])
    assert transfer(comparison, None) is None
    (comparison,) = compare([r for r in store.records() if r.seed == 0])
    assert gained(comparison, store) is None


def test_the_grid_and_the_plain_values_say_the_same(store):
    (comparison,) = compare(store.records())
    found = gained(comparison, store)
    grid, plain = transfer_grid(comparison, found), transfer_json(found)
    assert grid.title == "log: transfer: gain over single_task"
    assert [row[0].text for row in grid.rows] == ["shared_bottom", "ple"]
    assert len(grid.headers) == len(grid.rows[1]) == 5
    gain = plain["gain"]["ctr_auc"]["ple"]
    # The p of a pair stands once, in the table of differences.
    assert grid.rows[1][1].text == f"{gain['mean']:+.4f} ± {gain['half_width']:.4f}"
    assert grid.rows[1][4].text.startswith(
        f"{100 * plain['mean_relative_gain']['ple']['mean']:+.2f}"
    )
    json.dumps(plain, allow_nan=False)


def look(epoch, cosine, own, layers=("embedding", "trunk_0", "trunk_0_bias"), pair="ctr-cvr"):
    return {
        "epoch": epoch,
        "sharing": {
            "gradient_cosine": {layer: {pair: cosine} for layer in layers},
            "self_cosine": {layer: {"ctr": 0.9, "cvr": own} for layer in layers},
            "gates": [],
        },
    }


def gate(level, name, experts, load, entropy):
    return {"level": level, "gate": name, "experts": experts, "load": load, "entropy": entropy}


def with_history(folder, model, seed, looks, gates=(), **changes):
    record = run(model, seed, 0.7, diagnostics={"gates": list(gates)}, **changes)
    path = folder / "runs" / record.run_id
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    search = {"stage": "search", "epoch": 0.5, "score": 0.5}
    (path / "history.jsonl").write_text("".join(json.dumps(k) + "\n" for k in [search, *looks]))
    return record


def test_seeds_become_a_curve_over_the_epochs_that_all_of_them_reached(tmp_path):
    records = [
        with_history(tmp_path, "ncs", 0, [look(1, 0.2, 0.1), look(2, 0.4, 0.3), look(3, 1, 1)]),
        with_history(tmp_path, "ncs", 1, [look(1, -0.4, 0.2), look(2, 0.2, 0.1)]),
    ]
    (comparison,) = compare(records)
    (found,) = agreements(comparison, ResultStore(tmp_path))
    assert (found.label, found.pair, found.seeds) == ("ncs", "ctr-cvr", 2)
    assert list(found.layers) == ["embedding", "trunk_0"]
    curve = found.layers["trunk_0"]
    assert curve.epochs == (1, 2)
    assert curve.mean == pytest.approx((-0.1, 0.3))
    assert (curve.low, curve.high) == ((-0.4, 0.2), (0.2, 0.4))
    assert found.noise.mean == pytest.approx((0.15, 0.2))


def test_older_runs_and_runs_without_a_common_layer_tell_nothing(tmp_path):
    records = [
        with_history(tmp_path, "single_task", 0, [look(1, 0, 0, layers=())]),
        with_history(tmp_path, "mmoe", 0, [{"stage": "train", "epoch": 1}]),
    ]
    (comparison,) = compare(records)
    assert agreements(comparison, ResultStore(tmp_path)) == []
    assert agreement_figure("log", []) is gates_figure("log", []) is None
    assert gatings(comparison) == []


def test_a_missing_history_is_named(tmp_path):
    record = with_history(tmp_path, "mmoe", 0, [])
    (tmp_path / "runs" / record.run_id / "history.jsonl").unlink()
    with pytest.raises(StoreError, match=r"history\.jsonl cannot be read"):
        read_observed(record.run_id, ResultStore(tmp_path))


@pytest.mark.parametrize(("n_variants", "n_looks"), [(1, 1), (3, 4)])
def test_figures_of_sharing_can_be_drawn(tmp_path, n_variants, n_looks):
    layers = ["embedding", *(f"experts_{n} {HOSTILE}" for n in range(6))]
    gates = [
        gate(level, name, [f"{HOSTILE}_{n}" for n in range(8)], [0.125] * 8, 0.5)
        for level in range(2)
        for name in ("ctr", HOSTILE)
    ]
    models = [f"model {HOSTILE} {n}" for n in range(n_variants)]
    looks = [look(epoch / 4, 0.1, 0.2, layers=layers) for epoch in range(n_looks)]
    records = [
        with_history(tmp_path, model, seed, looks, gates, run_id=f"{number}-{seed}")
        for number, model in enumerate(models)
        for seed in range(2)
    ]
    (comparison,) = compare(records)
    seen = agreements(comparison, ResultStore(tmp_path))
    figures = [agreement_figure(HOSTILE, seen), gates_figure(HOSTILE, gatings(comparison))]
    for number, figure in enumerate(figures):
        file = save(figure, tmp_path / "deep" / f"{number}.png")
        assert file.read_bytes().startswith(b"\x89PNG")
    titled = [axis for axis in figures[0].axes if axis.get_title(loc="left")]
    assert len(titled) == n_variants


def test_the_figure_of_transfer_leaves_out_the_tasks_alone(store, tmp_path):
    records = [replace(record, dataset=HOSTILE) for record in store.records()]
    (comparison,) = compare(records)
    figure = transfer_figure(comparison, gained(comparison, store))
    assert save(figure, tmp_path / "gain.png").read_bytes().startswith(b"\x89PNG")
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["Shared-Bottom", "PLE"]
