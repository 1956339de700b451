import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import somersd
from sklearn.metrics import mean_absolute_error, mean_squared_error, roc_auc_score

from cvrbench import metrics
from cvrbench.data.schema import Schema, Task
from cvrbench.errors import ConfigError
from cvrbench.metrics import Undefined, ratios
from cvrbench.metrics.evaluation import counts, describe_metric, score, selectable, selection_score
from cvrbench.stats.influence import (
    Resampling,
    auc_influence,
    gxauc_influence,
    mae_draws,
    mae_influence,
    rmse_draws,
    rmse_influence,
    xauc_draws,
    xauc_influence,
)

Floats = npt.NDArray[np.float64]


def drawn(n: int = 200, n_labels: int = 7, seed: int = 0) -> tuple[Floats, Floats]:
    """Labels and scores, both with ties."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, n_labels, n) / (n_labels - 1), rng.integers(0, 30, n) / 30


def by_pairs(labels: Floats, scores: Floats) -> float:
    """XAUC by its definition, over all pairs."""
    label, scored = (np.sign(x[:, None] - x[None]) for x in (labels, scores))
    return float(((label * scored)[label != 0] + 1).mean() / 2)


@given(st.integers(2, 60), st.integers(2, 9), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_xauc_is_the_share_of_pairs_ordered_rightly(n: int, n_labels: int, seed: int) -> None:
    labels, scores = drawn(n, n_labels, seed)
    if len(set(labels)) < 2:
        return
    assert ratios.xauc(labels, scores) == pytest.approx(by_pairs(labels, scores), abs=1e-12)
    if len(set(scores)) < 2:
        return
    assert ratios.xauc(labels, scores) == pytest.approx(
        (1 + somersd(labels, scores).statistic) / 2, abs=1e-12
    )


def test_of_labels_0_and_1_everything_is_as_for_probabilities() -> None:
    labels, scores = drawn(300, 2)
    users = np.random.default_rng(1).integers(0, 25, 300)
    assert ratios.xauc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    by_user = metrics.gauc(labels, scores, users)
    assert ratios.gxauc(labels, scores, users) == pytest.approx(by_user, abs=1e-12)
    assert ratios.ece(labels, scores) == pytest.approx(metrics.ece(labels, scores))
    assert ratios.pcoc(labels, scores) == pytest.approx(metrics.pcoc(labels, scores))
    assert xauc_influence(labels, scores) == pytest.approx(auc_influence(labels, scores))


def test_gxauc_is_the_mean_over_users_by_rows() -> None:
    labels, scores = drawn()
    users = np.random.default_rng(1).integers(0, 40, 200)
    own = [users == user for user in set(users) if len(set(labels[users == user])) > 1]
    expected = np.average([by_pairs(labels[u], scores[u]) for u in own], weights=[*map(sum, own)])
    assert ratios.gxauc(labels, scores, users) == pytest.approx((expected, len(own)))


def test_errors_are_those_of_scikit_learn() -> None:
    labels, scores = drawn()
    assert ratios.rmse(labels, scores) == pytest.approx(mean_squared_error(labels, scores) ** 0.5)
    assert ratios.mae(labels, scores) == pytest.approx(mean_absolute_error(labels, scores))
    assert ratios.rmse(np.ones(200), scores) == pytest.approx(np.sqrt(((1 - scores) ** 2).mean()))


@pytest.mark.parametrize("kind", ["rmse", "mae", "xauc"])
def test_a_rows_influence_is_the_derivative_by_its_weight(kind: str) -> None:
    """A row of weight 1 + h against all others of weight 1, the metric weighed by definition."""
    labels, scores = drawn(40)
    label, scored = (np.sign(x[:, None] - x[None]) for x in (labels, scores))

    def weighed(weights: Floats) -> float:
        if kind == "xauc":
            both = np.outer(weights, weights) * (label != 0)
            return float((both * (label * scored + 1) / 2).sum() / both.sum())
        errors = np.abs(scores - labels)
        mean = np.average(errors**2 if kind == "rmse" else errors, weights=weights)
        return float(mean**0.5 if kind == "rmse" else mean)

    h, ones = 1e-6, np.ones(40)
    steps = [h * np.eye(40)[row] for row in range(40)]
    slopes = [(weighed(ones + step) - weighed(ones - step)) / (2 * h) for step in steps]
    found = {"rmse": rmse_influence, "mae": mae_influence, "xauc": xauc_influence}[kind]
    assert found(labels, scores) == pytest.approx(slopes, abs=1e-8)


def test_a_draw_counts_a_row_as_often_as_it_was_drawn() -> None:
    labels, scores = drawn(60)
    users = np.sort(np.random.default_rng(2).integers(0, 12, 60))
    users = np.unique(users, return_inverse=True)[1]
    redrawn = Resampling(rows=60, groups=users, draws=5)
    for draw, times in enumerate(redrawn.weights()):
        rows = np.repeat(np.arange(60), times)
        found = labels[rows], scores[rows]
        assert xauc_draws(labels, scores, redrawn)[draw] == pytest.approx(ratios.xauc(*found))
        assert rmse_draws(labels, scores, redrawn)[draw] == pytest.approx(ratios.rmse(*found))
        assert mae_draws(labels, scores, redrawn)[draw] == pytest.approx(ratios.mae(*found))
        # A user that is drawn twice counts as one of twice the rows.
        by_user = ratios.gxauc(*found, users[rows]).value
        assert xauc_draws(labels, scores, redrawn, users)[draw] == pytest.approx(by_user)


def test_a_users_influence_on_gxauc_is_its_part_of_a_ratio_estimator() -> None:
    labels, scores = drawn()
    users = np.arange(200) % 23
    found = gxauc_influence(labels, scores, users)
    h, sizes = 1e-6, np.bincount(users)
    own = [by_pairs(labels[users == u], scores[users == u]) for u in range(23)]
    slope = (np.average(own, weights=sizes * (1 + h * (np.arange(23) == 5)))) - np.average(
        own, weights=sizes
    )
    assert found[5] == pytest.approx(slope / h, rel=1e-4)
    assert found.sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kind", [ratios.rmse, ratios.xauc, ratios.ece])
def test_labels_outside_0_and_1_and_scores_without_a_number_are_refused(kind) -> None:
    for labels, scores in (([0.0, 1.2], [0.1, 0.2]), ([0.0, -0.1], [0.1, 0.2])):
        with pytest.raises(ValueError, match="outside"):
            kind(np.array(labels), np.array(scores))
    with pytest.raises(ValueError, match="NaN"):
        kind(np.array([0.0, 1.0]), np.array([0.1, np.nan]))
    with pytest.raises(Undefined):
        kind(np.empty(0), np.empty(0))
    with pytest.raises(Undefined, match="equal"):
        ratios.xauc(np.full(3, 0.5), np.arange(3.0))


RATIO = (
    Task(name="ctr", label="click"),
    Task(name="cvr", label="watch", parent="ctr", joint="ctcvr", kind="ratio"),
)


def schema(*tasks: Task) -> Schema:
    return Schema(
        name="toy", categorical=(), multivalued=(), numeric=(), tasks=tasks or RATIO, group=None,
        rows={}, fingerprint="",
    )  # fmt: skip


def test_a_ratio_is_scored_on_clicked_rows_and_its_product_on_all() -> None:
    watch, scores = drawn(100)
    click = (np.arange(100) % 3 > 0) * 1.0
    labels = np.stack([click, click * watch], 1).astype(np.float32)
    conditional = np.stack([scores, scores[::-1]], 1)
    joint = np.stack([scores, scores * scores[::-1]], 1)
    found = score(schema(), labels, conditional, joint, np.arange(100) % 9, conditional).metrics
    on = click == 1
    assert found["cvr_rmse"] == ratios.rmse(labels[on, 1], conditional[on, 1])
    assert found["ctcvr_xauc"] == ratios.xauc(labels[:, 1], joint[:, 1])
    assert found["cvr_regret"] == 0
    assert found["cvr_best_xauc"] == found["cvr_xauc"]
    assert found["ctr_auc"] == pytest.approx(roc_auc_score(click, scores))
    assert not {"cvr_auc", "cvr_logloss", "ctcvr_auc", "cvr_auc_exposed", "ctr_xauc"} & {*found}
    assert counts(schema(), labels)["cvr"] == {
        "rows": int(click.sum()),
        "positives": int((labels[:, 1] > 0).sum()),
    }
    mean = (found["ctr_auc"] + found["cvr_xauc"]) / 2
    assert selection_score(found, ["ctr", "cvr"], "mean_auc") == mean
    assert selection_score(found, ["ctr", "cvr"], "cvr_rmse") == -found["cvr_rmse"]


def test_each_kind_of_task_has_metrics_of_its_own() -> None:
    assert {"ctr_auc", "cvr_rmse", "cvr_mae", "cvr_xauc", "cvr_gxauc"} <= {*selectable(RATIO)}
    assert describe_metric("cvr_rmse", RATIO).header == "CVR RMSE (clicked)"
    for name in ("cvr_auc", "cvr_logloss", "ctr_rmse"):
        with pytest.raises(ConfigError, match="no metric"):
            describe_metric(name, RATIO)


def test_a_ratio_is_no_parent() -> None:
    below = Task(name="like", label="like", parent="cvr", joint="ct_like")
    with pytest.raises(ValueError, match="ratio 'cvr' as its parent"):
        schema(*RATIO, below)
