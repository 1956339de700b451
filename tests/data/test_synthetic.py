"""The planted log keeps what its dials promise."""

from itertools import combinations

import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import log_loss, roc_auc_score

from cvrbench.config.compose import compose
from cvrbench.data.sources.synthetic import load
from tests.data.checks import Tables, check

SMALL = ("dataset.rows=40000", "dataset.users=500", "dataset.items=300")


def draw(*overrides: str, dataset: str = "synthetic"):
    words = [f"dataset={dataset}", *SMALL, *(f"dataset.{o}" for o in overrides)]
    return Tables.of(load(compose(words).config.dataset))


def everything(raw):
    return pl.concat(raw.splits().values())


def test_rates_are_the_asked_for_ones():
    log = everything(draw("click_rate=0.3", "conversion_rate=0.05"))
    assert log["p_click"].mean() == pytest.approx(0.3, abs=1e-9)
    assert log["click"].mean() == pytest.approx(0.3, abs=0.01)
    clicked = log.filter(log["click"] == 1)
    assert clicked["conversion"].mean() == pytest.approx(0.05, abs=0.006)
    weighted = np.average(log["p_conversion"], weights=log["p_click"])
    assert weighted == pytest.approx(0.05, abs=1e-9)


def test_stored_probabilities_are_calibrated_to_the_labels():
    log = everything(draw()).sort("p_click")
    for decile in np.array_split(np.arange(len(log)), 10):
        part = log[decile.tolist()]
        error = 4 * np.sqrt(0.25 / len(part))
        assert part["click"].mean() == pytest.approx(part["p_click"].mean(), abs=error)


def test_no_other_score_beats_the_true_probability():
    log = everything(draw())
    clicks, truth = log["click"].to_numpy(), log["p_click"].to_numpy()
    rng = np.random.default_rng(0)
    noisy = 1 / (1 + np.exp(-(np.log(truth / (1 - truth)) + rng.normal(size=len(truth)))))
    assert roc_auc_score(clicks, truth) > roc_auc_score(clicks, noisy)
    assert log_loss(clicks, truth) < log_loss(clicks, noisy)


@pytest.mark.parametrize("correlation", [-0.8, 0.0, 0.8])
def test_logits_of_the_tasks_correlate_as_asked(correlation):
    # Many values per field, so that the drawn effects correlate nearly as their distribution does.
    sizes = ("users=4000", "items=4000", "cardinality=4000", "zipf=0", "conflict=0")
    log = everything(draw(f"correlation={correlation}", *sizes))
    logits = [np.log(log[p] / (1 - log[p])) for p in ("p_click", "p_conversion")]
    assert np.corrcoef(*logits)[0, 1] == pytest.approx(correlation, abs=0.05)


def test_conflict_pulls_the_tasks_apart():
    def agreement(value: float) -> float:
        log = everything(draw("correlation=1", f"conflict={value}"))
        return float(spearmanr(log["p_click"], log["p_conversion"]).statistic)

    assert agreement(0) == pytest.approx(1, abs=1e-6)
    assert agreement(2) < agreement(0.5) < agreement(0)


def test_private_pairs_are_products_that_one_task_alone_reads():
    few = ("correlation=1", "conflict=0", "zipf=0", "cardinality=3", "n_fields=2", "users=3")
    log = everything(draw(*few, "items=3", "private_pairs=1"))
    values = [log[name].to_numpy() for name in ("user_id", "item_id", "field_1", "field_2")]
    columns = [np.eye(9)[3 * a + b] for a, b in combinations(values, 2)]
    own = np.log(log["p_click"] / (1 - log["p_click"])) - np.log(
        log["p_conversion"] / (1 - log["p_conversion"])
    )
    # The tasks differ in the pair's signs and their scale alone: by a table of two fields' values.
    table = [own.filter(pl.Series(columns[-1][:, cell] == 1)).std() for cell in range(9)]
    others = [own.filter(pl.Series(columns[0][:, cell] == 1)).std() for cell in range(9)]
    assert max(table) < 0.3 * min(others)
    many = everything(draw("correlation=1", "conflict=0", "private_pairs=15"))
    both = [np.log(many[p] / (1 - many[p])) for p in ("p_click", "p_conversion")]
    # A third of the variance is common, two thirds are the tasks' own.
    assert np.corrcoef(*both)[0, 1] == pytest.approx(1 / 3, abs=0.12)


def test_zipf_skews_the_ids():
    def top_share(zipf: float) -> float:
        log = everything(draw(f"zipf={zipf}"))
        return float(log["item_id"].value_counts()["count"].max() / len(log))

    assert top_share(0) == pytest.approx(1 / 300, rel=0.4)
    assert top_share(1.0) == pytest.approx(1 / np.sum(1 / np.arange(1, 301)), rel=0.1)


def test_by_user_no_user_is_in_two_splits_and_by_time_the_last_rows_are_tested():
    by_user = draw("split=user")
    check(by_user, "synthetic")
    assert by_user.group_disjoint
    by_time = draw()
    assert by_time.train["time"].max() < by_time.valid["time"].min()
    assert by_time.valid["time"].max() < by_time.test["time"].min()
    assert set(by_time.test["user_id"]) & set(by_time.train["user_id"])


def test_the_same_seed_draws_the_same_log_and_another_another():
    assert draw().train.equals(draw().train)
    assert not draw().train.equals(draw("data_seed=1").train)


def test_selection_bias_changes_no_bit_of_the_log():
    logs = [everything(draw("rows=500", f"selection_bias={bias}")) for bias in (0.0, 2.0)]
    assert logs[0].equals(logs[1])


def test_a_watch_ratio_is_drawn_with_the_planted_mean_and_variance():
    raw = draw("rows=20000", "concentration=3", dataset="synthetic_watch")
    check(raw, "synthetic_watch")
    log = everything(raw)
    assert ((log["watch"] > 0) == (log["click"] == 1)).all()
    assert log["watch"].max() <= 1
    clicked = log.filter(log["click"] == 1)
    watch, mean = clicked["watch"].to_numpy(), clicked["p_conversion"].to_numpy()
    assert watch.mean() == pytest.approx(0.5, abs=0.02)
    for part in np.array_split(np.argsort(mean), 5):
        assert watch[part].mean() == pytest.approx(mean[part].mean(), abs=0.03)
    assert ((watch - mean) ** 2).mean() == pytest.approx((mean * (1 - mean) / 4).mean(), rel=0.06)
