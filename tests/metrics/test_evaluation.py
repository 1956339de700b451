"""Every metric is measured on the rows that its name says."""

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from cvrbench.data.schema import Schema, Task
from cvrbench.errors import ConfigError, RunError
from cvrbench.metrics import evaluation, expected_auc
from cvrbench.metrics.evaluation import describe_metric, score, selection_score

CTR = Task(name="ctr", label="click")
CVR = Task(name="cvr", label="buy", parent="ctr", joint="ctcvr")
REFUND = Task(name="rr", label="refund", parent="cvr", joint="ctcvrr")


def schema(*tasks: Task) -> Schema:
    return Schema(
        name="toy",
        categorical=(),
        multivalued=(),
        numeric=(),
        tasks=tasks,
        group="user",
        rows={},
        fingerprint="f",
    )


@pytest.fixture
def planted() -> dict[str, np.ndarray]:
    """Three chained tasks with known probabilities and a model that is a little off."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.2, 0.8, (4000, 3))
    own = (rng.random((4000, 3)) < truth).astype(np.uint8)
    labels = np.cumprod(own, axis=1, dtype=np.uint8)
    conditional = np.clip(truth + rng.normal(0, 0.2, truth.shape), 0.01, 0.99)
    return {
        "labels": labels,
        "conditional": conditional,
        "joint": np.cumprod(conditional, axis=1),
        "groups": rng.integers(0, 200, 4000),
        "truth": truth,
    }


def test_each_metric_uses_the_rows_its_name_says(planted: dict[str, np.ndarray]) -> None:
    labels, conditional, joint = planted["labels"], planted["conditional"], planted["joint"]
    found, undefined = score(schema(CTR, CVR, REFUND), **planted)
    clicked, bought = labels[:, 0] == 1, labels[:, 1] == 1
    expected = {
        "ctr_auc": roc_auc_score(labels[:, 0], conditional[:, 0]),
        "cvr_auc": roc_auc_score(labels[clicked, 1], conditional[clicked, 1]),
        "rr_auc": roc_auc_score(labels[bought, 2], conditional[bought, 2]),
        "ctcvr_auc": roc_auc_score(labels[:, 1], joint[:, 1]),
        "ctcvrr_auc": roc_auc_score(labels[:, 2], joint[:, 2]),
        "cvr_auc_exposed": roc_auc_score(labels[:, 1], conditional[:, 1]),
        "cvr_logloss": log_loss(labels[clicked, 1], conditional[clicked, 1]),
        "ctcvr_logloss": log_loss(labels[:, 1], joint[:, 1]),
        "cvr_pcoc": conditional[clicked, 1].sum() / labels[clicked, 1].sum(),
        "ctcvr_pcoc": joint[:, 1].sum() / labels[:, 1].sum(),
    }
    assert undefined == {}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name
    assert "ctr_auc_exposed" not in found


def test_gauc_of_a_nested_task_groups_its_own_rows_only(planted: dict[str, np.ndarray]) -> None:
    labels, conditional, groups = planted["labels"], planted["conditional"], planted["groups"]
    clicked = labels[:, 0] == 1
    values, weights = [], []
    for group in np.unique(groups):
        mine = clicked & (groups == group)
        if 0 < labels[mine, 1].sum() < mine.sum():
            values.append(roc_auc_score(labels[mine, 1], conditional[mine, 1]))
            weights.append(mine.sum())
    found = score(schema(CTR, CVR, REFUND), **planted).metrics["cvr_gauc"]
    assert found == pytest.approx(np.average(values, weights=weights), abs=1e-12)


def test_the_truth_has_no_regret_and_the_best_auc(planted: dict[str, np.ndarray]) -> None:
    perfect = planted | {
        "conditional": planted["truth"],
        "joint": np.cumprod(planted["truth"], axis=1),
    }
    tasks = schema(CTR, CVR, REFUND)
    best, model = score(tasks, **perfect).metrics, score(tasks, **planted).metrics
    for space in ("ctr", "cvr", "rr", "ctcvr", "ctcvrr"):
        assert best[f"{space}_regret"] == pytest.approx(0, abs=1e-15)
        assert best[f"{space}_auc"] == pytest.approx(best[f"{space}_best_auc"], abs=1e-15)
        assert model[f"{space}_regret"] > 0
        assert model[f"{space}_best_auc"] == best[f"{space}_best_auc"] > model[f"{space}_auc"]


def test_undefined_metrics_are_none_with_a_reason() -> None:
    labels = np.array([[1, 0], [0, 0], [1, 0]], np.uint8)
    half = np.full((3, 2), 0.5)
    found, undefined = score(schema(CTR, CVR), labels, half, half)
    assert found["cvr_auc"] is None
    assert undefined["cvr_auc"] == "all 2 rows are negative"
    assert undefined["ctcvr_pcoc"] == "no row is positive"
    assert undefined["ctr_gauc"] == "the dataset has no group column"
    assert found["ctr_auc"] == 0.5
    assert {name for name, value in found.items() if value is None} == set(undefined)


def test_independent_tasks_have_no_joint_metrics() -> None:
    labels = np.array([[1, 0], [0, 1], [1, 0]], np.uint8)
    half = np.full((3, 2), 0.5)
    tasks = (Task(name="income", label="income"), Task(name="single", label="never_married"))
    found = score(schema(*tasks), labels, half, half).metrics
    assert {name.split("_")[0] for name in found} == {"income", "single"}
    assert not [name for name in found if name.endswith("exposed")]


def test_a_nan_prediction_stops_the_run() -> None:
    labels = np.array([[1, 0], [0, 0]], np.uint8)
    values = np.array([[0.5, np.nan], [0.5, 0.5]])
    with pytest.raises(RunError, match=r"1 of 2 predictions of task 'cvr'.*learning_rate"):
        score(schema(CTR, CVR), labels, values, values)


def test_only_the_kinds_asked_for_are_computed(planted: dict[str, np.ndarray]) -> None:
    found = score(schema(CTR, CVR, REFUND), **planted, kinds=("auc",)).metrics
    assert set(found) == {"ctr_auc", "cvr_auc", "ctcvr_auc", "rr_auc", "ctcvrr_auc"}


def test_threads_change_nothing(planted: dict[str, np.ndarray]) -> None:
    tasks = schema(CTR, CVR, REFUND)
    one, three = score(tasks, **planted), score(tasks, **planted, workers=3)
    assert one == three
    assert list(one.metrics) == list(three.metrics)


def test_rankings_of_a_space_share_one_sort(
    planted: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    sorts = []
    of = evaluation.metrics.Classes.of
    monkeypatch.setattr(evaluation.metrics.Classes, "of", lambda *a: sorts.append(a) or of(*a))
    score(schema(CTR), planted["labels"][:, :1], *[planted["conditional"][:, :1]] * 2)
    assert len(sorts) == 1


def test_counts_give_rows_and_positives_per_space(planted: dict[str, np.ndarray]) -> None:
    labels = planted["labels"].astype(int)
    found = evaluation.counts(schema(CTR, CVR, REFUND), planted["labels"])
    assert found["ctr"] == {"rows": 4000, "positives": labels[:, 0].sum()}
    assert found["cvr"] == {"rows": labels[:, 0].sum(), "positives": labels[:, 1].sum()}
    assert found["ctcvrr"] == {"rows": 4000, "positives": labels[:, 2].sum()}


def test_headers_name_the_space() -> None:
    assert describe_metric("ctr_auc").header == "CTR AUC (exposures)"
    assert describe_metric("ctcvr_logloss").header == "CTCVR log loss (exposures)"
    assert describe_metric("cvr_auc_exposed").header == "CVR AUC (exposures, biased)"
    assert describe_metric("rr_auc", (CTR, CVR, REFUND)).space == "buy = 1"
    assert describe_metric("ctr_best_auc").header == "CTR best reachable AUC (exposures)"
    assert describe_metric("cvr_logloss").direction == "lower"
    income = (Task(name="income", label="income"),)
    assert describe_metric("income_auc", income).header == "INCOME AUC (all rows)"
    with pytest.raises(ConfigError, match="valid names are: ctr_auc"):
        describe_metric("cvr_f1")


def test_every_metric_of_a_score_can_be_described(planted: dict[str, np.ndarray]) -> None:
    tasks = (CTR, CVR, REFUND)
    headers = [describe_metric(n, tasks).header for n in score(schema(*tasks), **planted).metrics]
    assert len(set(headers)) == len(headers)


def test_selection_maximises_whatever_the_direction() -> None:
    values = {"ctr_auc": 0.7, "cvr_auc": 0.6, "cvr_logloss": 0.3, "cvr_pcoc": 1.2}
    assert selection_score(values, ("ctr", "cvr"), "mean_auc") == pytest.approx(0.65)
    assert selection_score(values, ("cvr",), "mean_auc") == pytest.approx(0.6)
    assert selection_score(values, ("ctr", "cvr"), "cvr_logloss") == pytest.approx(-0.3)
    assert selection_score(values, ("ctr", "cvr"), "cvr_pcoc") == pytest.approx(-0.2)


def test_selection_by_an_unknown_or_undefined_metric_is_refused() -> None:
    values = {"ctr_auc": 0.7, "cvr_auc": None, "ctr_best_auc": 0.8}
    with pytest.raises(ConfigError, match=r"'cvr_ac'.*mean_auc, ctr_auc, cvr_auc$"):
        selection_score({**values, "cvr_auc": 0.6}, ("ctr",), "cvr_ac")
    with pytest.raises(ConfigError, match="ctr_best_auc"):
        selection_score(values, ("ctr",), "ctr_best_auc")
    with pytest.raises(RunError, match="all 9 rows are negative"):
        selection_score(values, ("ctr", "cvr"), "mean_auc", {"cvr_auc": "all 9 rows are negative"})


@pytest.mark.parametrize("bias", [0.0, 1.5])
def test_unclicked_rows_are_judged_by_labels_drawn_from_the_truth_there(planted, bias) -> None:
    """Against scikit-learn on drawn labels, within what the draw leaves open."""
    found, undefined = score(schema(CTR, CVR), **_first_two(planted), selection_bias=bias)
    assert undefined == {}
    unclicked = planted["labels"][:, 0] == 0
    logit = np.log(planted["truth"][unclicked, 1] / (1 - planted["truth"][unclicked, 1]))
    true = 1 / (1 + np.exp(bias - logit))
    predicted = planted["conditional"][unclicked, 1]
    rng = np.random.default_rng(0)
    aucs, losses = [], []
    for _ in range(200):
        drawn = rng.random(len(true)) < true
        aucs.append(roc_auc_score(drawn, predicted))
        losses.append(log_loss(drawn, predicted) - log_loss(drawn, true))
    for name, values in (("auc", aucs), ("regret", losses)):
        doubt = 4 * np.std(values) / len(values) ** 0.5
        assert found[f"cvr_{name}_unclicked"] == pytest.approx(np.mean(values), abs=doubt)
    assert found["cvr_pcoc_unclicked"] == pytest.approx(predicted.sum() / true.sum())
    assert "ctr_auc_unclicked" not in found


def _first_two(planted):
    return {n: v[:, :2] if v.ndim == 2 else v for n, v in planted.items()}


def test_expected_auc_of_certain_labels_is_the_auc() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 300), rng.random(300).round(1)
    assert expected_auc(labels.astype(float), scores) == pytest.approx(
        roc_auc_score(labels, scores), abs=1e-12
    )


def test_a_metric_of_unclicked_rows_says_so_in_its_header() -> None:
    assert describe_metric("cvr_auc_unclicked").header == "CVR AUC (not clicked)"
