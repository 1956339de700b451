"""Learning curves: the last training alone, as far as every seed got."""

import json

import pytest

from cvrbench.errors import StoreError
from cvrbench.report.comparison import compare
from cvrbench.report.diagnostics import learnings, over_seeds
from cvrbench.report.figures.runs import balancing_figure
from cvrbench.runs.store import ResultStore
from tests.report.test_comparison import run


def keep(folder, record, looks):
    path = folder / "runs" / record.run_id
    path.mkdir(parents=True)
    (path / "history.jsonl").write_text("".join(json.dumps(look) + "\n" for look in looks))


def look(stage, step, ctr, cvr=None):
    metrics = {"ctr_auc": ctr, "cvr_auc": cvr, "ctr_logloss": 0.5}
    return {"stage": stage, "step": step, "epoch": step / 10, "score": ctr, "metrics": metrics}


def test_searches_are_left_out_and_seeds_meet_as_far_as_all_got(tmp_path):
    search = look("search round 1", 5, 0.1, 0.1)
    first = [search, look("train", 5, 0.6, 0.5), look("train", 10, 0.7, 0.6)]
    second = [search, look("train", 5, 0.8, 0.7)]
    records = [run("ncs", seed, 0.7, best_step=step) for seed, step in ((0, 10), (1, 5))]
    for record, looks in zip(records, (first, second), strict=True):
        keep(tmp_path, record, looks)
    (comparison,) = compare(records)
    (found,) = learnings(comparison, ResultStore(tmp_path))
    curve = found.curves["ctr_auc"]
    assert (found.label, found.seeds) == ("ncs", 2)
    assert (curve.epochs, curve.low, curve.high) == ((0.5,), (0.6,), (0.8,))
    assert curve.mean == pytest.approx((0.7,))
    assert found.best["ctr_auc"] == ((1.0, 0.7), (0.5, 0.8))
    assert set(found.curves) == {"ctr_auc", "cvr_auc"}  # a task's own space, no joint one


def test_undefined_values_are_no_points(tmp_path):
    record = run("mmoe", 0, 0.7, best_step=10)
    keep(tmp_path, record, [look("train", 5, 0.6), look("train", 10, 0.7)])
    (comparison,) = compare([record])
    (found,) = learnings(comparison, ResultStore(tmp_path))
    assert set(found.curves) == {"ctr_auc"}


def test_weights_of_the_balancing_are_drawn_where_a_method_has_some(tmp_path):
    plain, norm = run("mmoe", 0, 0.7, best_step=10), run("ple", 0, 0.7, best_step=10)
    keep(tmp_path, plain, [look("train", 5, 0.6)])
    weighed = [
        {"balancing": {"weights": {"ctr": w, "cvr": 2 - w}, "conflicts": c}}
        for w, c in ((0.9, 0.5), (0.7, 0.25))
    ]
    looks = [look("train", 5 * n, 0.6) | {"sharing": of} for n, of in enumerate(weighed, 1)]
    keep(tmp_path, norm, looks)
    (comparison,) = compare([plain, norm])
    found = learnings(comparison, ResultStore(tmp_path))
    figure = balancing_figure(comparison, found)
    ctr, cvr, conflicts = (list(axis.lines[0].get_ydata()) for axis in figure.axes)
    assert (ctr, cvr, conflicts) == ([0.9, 0.7], [1.1, pytest.approx(1.3)], [0.5, 0.25])
    assert balancing_figure(comparison, found[:1]) is None


@pytest.mark.parametrize("line", ['{"step": 1}', "[]", '{"stage": "train"}', "no json", "3"])
def test_another_form_of_history_is_named(tmp_path, line):
    record = run("mmoe", 0, 0.7)
    path = tmp_path / "runs" / record.run_id
    path.mkdir(parents=True)
    (path / "history.jsonl").write_text(line + "\n")
    (comparison,) = compare([record])
    with pytest.raises(StoreError, match="run the cell again"):
        learnings(comparison, ResultStore(tmp_path))


def test_without_a_common_epoch_there_is_no_curve():
    assert over_seeds([{1.0: 0.5}, {2.0: 0.5}]) is None
    assert over_seeds([]) is None
    curve = over_seeds([{1.0: 0.5, 2.0: 0.6}, {2.0: 0.8, 1.0: 0.3}])
    assert curve.epochs == (1.0, 2.0)
    assert curve.mean == pytest.approx((0.4, 0.7))
    assert (curve.low, curve.high) == ((0.3, 0.6), (0.5, 0.8))
