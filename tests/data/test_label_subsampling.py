"""Hidden training labels: how many, which, and what a kept one stands for."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvrbench.data.label_subsampling import label_weights, scarce_task
from cvrbench.data.schema import Task
from cvrbench.errors import ConfigError
from tests.models.conftest_models import make_schema

SHARES = (0.01, 0.03, 0.1, 0.3)
TWO = make_schema(2)
CHAIN = replace(
    make_schema(3),
    tasks=(
        Task(name="ctr", label="click"),
        Task(name="cvr", label="conversion", parent="ctr", joint="ctcvr"),
        Task(name="back", label="return", parent="cvr", joint="ctback"),
    ),
)
PARALLEL = (Task(name="income", label="a"), Task(name="married", label="b"))


def log(rows: int, n_tasks: int = 2, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Labels 0.4 of which are 1 on the rows of the task before, 0.1 on those of the second."""
    labels = np.random.default_rng(seed).random((rows, n_tasks)) < [0.4, 0.1, 0.5][:n_tasks]
    return labels.cumprod(axis=1).astype(np.uint8)


def weights(labels, share: float, *, schema=TWO, task: int = 1, seed: int = 0):
    found = label_weights(schema, labels, task, share=share, seed=seed)
    assert found is not None
    return found


@given(st.integers(1, 4000), st.floats(1e-3, 0.999), st.integers(0, 9))
def test_positives_and_negatives_of_the_space_are_thinned_alike(rows, share, seed):
    labels = log(rows, seed=seed)
    found = weights(labels, share, seed=seed)
    assert (found[:, 0] == 1).all()
    assert (found[labels[:, 0] == 0] == 1).all()  # no click, no conversion: nothing to hide
    for value in (0, 1):
        stratum = found[(labels[:, 0] == 1) & (labels[:, 1] == value), 1]
        kept = int((stratum > 0).sum())
        assert kept >= min(1, len(stratum))
        assert abs(kept - share * len(stratum)) <= max(0.5, 1 - share * len(stratum))


@given(st.integers(1, 4000), st.floats(1e-3, 0.999), st.integers(0, 9))
def test_kept_labels_stand_for_all_so_that_the_base_rate_stays(rows, share, seed):
    labels = log(rows, seed=seed)
    clicked = labels[:, 0] == 1
    kept = weights(labels, share, seed=seed)[clicked, 1]
    assert kept.sum() == pytest.approx(clicked.sum(), rel=1e-5)
    assert kept @ labels[clicked, 1] == pytest.approx(labels[clicked, 1].sum(), rel=1e-5)


def test_what_is_kept_of_few_is_kept_of_more():
    labels = log(20_000)
    kept = [weights(labels, share)[:, 1] > 0 for share in SHARES]
    for fewer, more in pairwise(kept):
        assert (fewer <= more).all()
        assert fewer.sum() < more.sum()


def test_one_seed_always_keeps_the_same_and_another_something_else():
    labels = log(5000)
    one, again = weights(labels, 0.1), weights(labels, 0.1)
    other = weights(labels, 0.1, seed=1)
    assert (one == again).all()
    assert (one != other).any()
    assert ((one > 0).sum(axis=0) == (other > 0).sum(axis=0)).all()


def test_every_label_is_kept_as_often_as_any_other():
    labels = log(400)
    times = sum((weights(labels, 0.25, seed=seed)[:, 1] > 0).astype(int) for seed in range(400))
    inside = times[labels[:, 0] == 1]
    # Binomial: 400 draws with 1/4; the extreme of 200 labels is within 4.5 deviations.
    assert abs(inside - 100).max() < 4.5 * (400 * 0.25 * 0.75) ** 0.5


def test_nothing_is_hidden_at_a_share_of_1():
    assert label_weights(TWO, log(50), 1, share=1.0, seed=0) is None


def test_what_follows_a_hidden_label_is_hidden_too():
    labels = log(4000, n_tasks=3)
    found = weights(labels, 0.3, schema=CHAIN, task=1)
    assert (found[:, 2] == found[:, 1]).all()
    last = weights(labels, 0.3, schema=CHAIN, task=2)
    assert (last[:, :2] == 1).all()
    first = weights(labels, 0.3, schema=CHAIN, task=0)
    assert (first == first[:, :1]).all()
    assert (first[:, 0] > 0).mean() == pytest.approx(0.3, abs=1e-3)


def test_a_task_beside_the_hidden_one_keeps_its_labels():
    labels = log(1000, n_tasks=3)
    found = weights(
        labels, 0.1, schema=make_schema(3), task=1
    )  # conversion and like, after a click
    assert (found[:, 2] == 1).all()


def test_conversions_that_are_kept_without_a_click_are_thinned_like_the_others():
    labels = np.zeros((1000, 2), np.uint8)
    labels[:200, 1] = 1
    found = weights(labels, 0.05)
    assert (found[:200, 1] > 0).sum() == 10
    assert (found[200:] == 1).all()


def test_the_deepest_task_is_scarce_unless_another_is_named():
    assert scarce_task(CHAIN.tasks, None) == 2
    assert scarce_task(PARALLEL, None) == 1
    assert scarce_task((CHAIN.tasks[1], PARALLEL[0]), None) == 0
    assert scarce_task(CHAIN.tasks, "cvr") == 1


def test_a_wrong_task_is_answered_with_the_key_and_the_right_names():
    with pytest.raises(ConfigError, match="mean 'cvr'") as caught:
        scarce_task(CHAIN.tasks, "crv")
    for word in ("protocol.label_share_task='crv'", "ctr, cvr, back", "null for back"):
        assert word in str(caught.value)
