"""Ranks over datasets: what is ranked, and how it is drawn."""

from dataclasses import replace

import numpy as np
import pytest

from cvrbench.report.comparison import MEAN, compare, shared_metrics
from cvrbench.report.figures.across import ranks_figure
from cvrbench.report.figures.style import save
from tests.report.test_comparison import run

TASK = {"name": "income", "label": "income", "parent": None, "joint": None}


def dataset(name, aucs, **changes):
    """A comparison of one seed of every model."""
    records = [
        run(model, 0, auc, run_id=f"{name}-{model}", dataset=name, **changes)
        for model, auc in aucs.items()
    ]
    (comparison,) = compare(records)
    return comparison


FIRST = dataset("first", {"mmoe": 0.7, "ple": 0.8, "ncs": 0.75, "cgc": 0.6})
SECOND = dataset("second", {"mmoe": 0.5, "ple": 0.9, "ncs": 0.4, "omoe": 0.3})


def test_strategies_of_all_datasets_are_ranked_on_what_all_have():
    found = shared_metrics([SECOND, FIRST])
    assert [one.metric for one in found] == [MEAN, "ctr_auc", "cvr_auc", "ctcvr_auc"]
    for one in found:
        assert one.datasets == ("second", "first")
        assert one.labels == ("mmoe", "ple", "ncs")
        np.testing.assert_allclose(one.values, [[0.5, 0.9, 0.4], [0.7, 0.8, 0.75]])


def test_datasets_of_other_tasks_share_the_mean_over_their_own():
    metrics = {"income_auc": 0.9}
    other = [
        run(
            model, 0, None, run_id=f"c-{model}", dataset="census", tasks=[TASK],
            counts={"test": {"income": {"rows": 100, "positives": 10}}},
            metrics={"valid": metrics, "test": {"income_auc": auc}},
        )
        for model, auc in (("mmoe", 0.9), ("ple", 0.8), ("ncs", 0.7))
    ]  # fmt: skip
    (census,) = compare(other)
    (one,) = shared_metrics([FIRST, census])
    assert one.metric == MEAN
    np.testing.assert_allclose(one.values, [[0.7, 0.8, 0.75], [0.9, 0.8, 0.7]])


def test_what_has_too_little_in_common_is_left_out():
    small = dataset("small", {"mmoe": 0.7, "single_task": 0.6, "shared_bottom": 0.6})
    scarce = replace(dataset("third", {"mmoe": 0.7, "ple": 0.8, "ncs": 0.75}), scarce_task="cvr")
    assert shared_metrics([FIRST, small, scarce]) == []
    assert shared_metrics([FIRST, replace(FIRST, fingerprint="other")]) == []
    assert shared_metrics([]) == []
    assert shared_metrics([FIRST, small, SECOND])[0].datasets == ("first", "second")


def test_a_strategy_without_a_value_has_no_rank():
    gap = dataset("gap", {"mmoe": 0.5, "ple": 0.9, "ncs": None, "cgc": 0.4})
    found = shared_metrics([FIRST, gap])
    assert all(one.labels == ("mmoe", "cgc", "ple") or "ncs" not in one.labels for one in found)
    assert len(found) == 4


def test_every_name_is_led_to_its_rank(tmp_path):
    figure = ranks_figure([FIRST, SECOND])
    axis = figure.axes[0]
    texts = {text.get_text() for text in axis.texts}
    assert {"PLE (1.00)", "MMoE (2.50)", "NCS (2.50)", "1", "2", "3"} <= texts
    leads = {tuple(line.get_xdata()[:2]) for line in axis.lines if len(line.get_xdata()) == 3}
    assert leads == {(1.0, 1.0), (2.5, 2.5)}
    assert "2 datasets can prove little" in figure.get_label()
    assert "longer than the scale" in " ".join(texts)  # k = 3, N = 2: 2.34
    assert save(figure, tmp_path / "ranks.png").is_file()
    assert ranks_figure([FIRST]) is None


@pytest.mark.parametrize("n", [3, 20])
def test_many_datasets_tell_strategies_apart(tmp_path, n):
    rng = np.random.default_rng(0)
    models = [f"model {place} $x^{{" for place in range(n)]
    comparisons = [
        dataset(
            f"data {d}", {m: 0.5 + 0.02 * i + 0.03 * rng.random() for i, m in enumerate(models)}
        )
        for d in range(20)
    ]
    figure = ranks_figure(comparisons)
    axis = figure.axes[0]
    assert "critical difference" in " ".join(text.get_text() for text in axis.texts)
    assert "prove little" not in figure.get_label()
    bars = [line for line in axis.lines if line.get_linewidth() == 3.5]
    assert all(abs(np.diff(bar.get_xdata())) < n - 1 for bar in bars)
    assert (len(bars) > 0) == (n == 20)
    save(figure, tmp_path / "ranks.svg")
