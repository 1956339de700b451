"""Sanity on real data: what a sound implementation reaches with the shipped defaults.

Thresholds: KuaiRand from an untuned prototype and plain gradient boosting (0.695 / 0.698 / 0.628
on the same columns); Census-Income from what other implementations of MMoE and PLE publish
(income 0.956 to 0.960, never married 0.995).
"""

from pathlib import Path

import pytest

from cvrbench.config.compose import compose
from cvrbench.data.dataset import verify
from cvrbench.data.registry import ensure
from cvrbench.runs import experiment
from tests.choices import MODELS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(raw_data, tmp_path_factory):
    """Where this module's datasets and results go; raw files are found by CVRBENCH_RAW_DATA."""
    base = tmp_path_factory.mktemp("real")
    return [f"data_dir={base / 'datasets'}", f"results_dir={base / 'results'}"]


@pytest.fixture(scope="module")
def on_kuairand(folders):
    """What a strategy reaches on the test days; a finished run is only read."""

    def reached(model):
        words = [f"model={model}", "dataset=kuairand", *folders]
        return experiment.run(compose(words)).metrics["test"]

    return reached


@pytest.mark.parametrize("model", MODELS)
def test_kuairand_reaches_what_its_clicks_and_long_views_allow(model, on_kuairand):
    """A strategy far below the plain one is wrong, or the method is: none of these is."""
    test, plain = on_kuairand(model), on_kuairand("shared_bottom")
    for name, least in {"ctr_auc": 0.72, "ctcvr_auc": 0.718, "cvr_auc": 0.645}.items():
        assert plain[name] >= least
        assert test[name] >= plain[name] - 0.005


def test_what_was_clicked_before_is_worth_more_than_a_strategy(folders):
    """Plain gradient boosting goes from .695 to .746 of CTR AUC by rates of the past."""
    words = ["model=shared_bottom", "dataset=kuairand_history", *folders]
    test = experiment.run(compose(words)).metrics["test"]
    assert test["ctr_auc"] >= 0.737
    assert test["ctcvr_auc"] >= 0.735


@pytest.mark.parametrize("model", ["shared_bottom", "mmoe", "ple", "ncs"])
def test_census_income_reaches_what_others_publish(model, folders):
    record = experiment.run(compose([f"model={model}", "dataset=census_income", *folders]))
    test = record.metrics["test"]
    assert test["income_auc"] >= 0.953
    assert test["never_married_auc"] >= 0.992


@pytest.mark.parametrize("dataset", ["hillstrom", "adult", "census_education", "kuairand_three"])
@pytest.mark.parametrize("model", ["shared_bottom", "ncs"])
def test_the_other_datasets_run(model, dataset, folders):
    words = [f"model={model}", f"dataset={dataset}", "trainer.epochs=2", *folders]
    record = experiment.run(compose(words))
    values = [v for name, v in record.metrics["test"].items() if name.endswith("_auc")]
    assert all(value > 0.5 for value in values)


KUAIRAND_ROWS = {"train": 131_474, "valid": 35_807, "test": 55_588}


def test_kuairand_has_the_rows_that_its_days_have(folders, raw_data):
    config = compose(["dataset=kuairand", *folders]).config
    data_dir = folders[0].partition("=")[2]
    dataset = ensure(config.dataset, "kuairand", Path(data_dir))
    assert dataset.schema.rows == KUAIRAND_ROWS
    assert dataset.manifest["accounting"]["dropped: exact duplicate"] == 5_460
    assert verify(dataset.path) > 20
