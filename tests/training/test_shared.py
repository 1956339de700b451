"""Trainings that runs share: what is lent is what would have been computed, and nothing else is."""

import json
import shutil
from pathlib import Path

import pytest

from cvrbench.config.compose import compose
from cvrbench.config.ncs import readers
from cvrbench.errors import RunInterrupted
from cvrbench.runs import experiment
from cvrbench.runs.record import RunRecord

SEARCHES = ["imp", "one_shot", "gradient_conflict", "snip"]


def outcome(record: RunRecord) -> dict:
    """What must not depend on who computed the search."""
    diagnostics = {k: v for k, v in record.diagnostics.items() if k != "rounds"}
    return {"metrics": record.metrics, "masks": diagnostics, "step": record.best_step}


def cells(quick, tmp_path: Path, name: str, *overrides: str):
    return quick("trainer.epochs=2", f"results_dir={tmp_path / name}", *overrides)


@pytest.mark.parametrize(
    ("search", "warmup"),
    [
        pytest.param(
            search,
            warmup,
            marks=[pytest.mark.slow] if warmup and search != "imp" else [],
        )
        for search in SEARCHES
        for warmup in (0, 0.5)
    ],
)
def test_a_run_with_lent_trainings_ends_as_one_without(quick, tmp_path, search, warmup):
    model = [f"model.search={search}", f"model.warmup_epochs={warmup}"]
    model += ["model.search.early_bird=null"] if search in readers("model.early_bird") else []
    first = [*model, "model.dropout=0.2", "model.density=0.5"]
    second = [*model, "model.dropout=0.2", "model.density=0.1"]
    searches = tmp_path / "searches"
    experiment.run(cells(quick, tmp_path, "shared", *first), searches=searches)
    lent = experiment.run(cells(quick, tmp_path, "shared", *second), searches=searches)
    alone = experiment.run(cells(quick, tmp_path, "alone", *second))
    assert outcome(lent) == outcome(alone)
    assert lent.examples["search"] == alone.examples["search"]  # what it would cost by itself
    assert alone.examples["reused"] == 0
    shares = warmup > 0 or search != "snip"  # which trains nothing; imp shares its first round
    assert (lent.examples["reused"] > 0) == shares


COMMON = ("model.search=one_shot", "model.search_epochs=1", "model.dropout=0.1")


@pytest.fixture(scope="module")
def lent(quick_data, tmp_path_factory) -> Path:
    """What one run has to lend: copied where it is asked for, never written to."""
    folder = tmp_path_factory.mktemp("lent")
    places = (f"data_dir={quick_data}", f"results_dir={folder / 'r'}")
    one = compose(["experiment=quick_check", *places, "trainer.epochs=2", *COMMON])
    experiment.run(one, searches=folder / "searches")
    return folder / "searches"


@pytest.mark.parametrize(
    "change",
    [
        "model.dropout=0.3",
        "model.hidden=[8]",
        "model.embedding_dim=3",
        "model.search_epochs=0.7",
        "trainer.batch_size=128",
        "trainer.learning_rate=0.002",
        "trainer.patience=3",
        "seed=1",
        "objective=entire_space",
        "balancing=weighted",
        "model.masked=[trunk,towers]",
    ],
)
def test_nothing_is_lent_where_anything_differs(quick, tmp_path, lent, change):
    searches = shutil.copytree(lent, tmp_path / "searches")
    weights = ["balancing.weights={cvr:2}"] if change == "balancing=weighted" else []
    kept = {file.name for file in searches.glob("*.pt")}
    overrides = [c for c in COMMON if c.partition("=")[0] != change.partition("=")[0]]
    record = experiment.run(
        cells(quick, tmp_path, "r", *overrides, change, *weights), searches=searches
    )
    assert record.examples["reused"] == 0
    assert len(kept) == 1
    assert len(list(searches.glob("*.pt"))) == 2


def test_early_bird_rounds_are_shared_only_where_the_same_mask_is_to_be_cut(quick, tmp_path):
    common = ["model.search=one_shot", "model.search_epochs=4", "model.early_bird=0.5"]
    searches = tmp_path / "searches"
    for density, reused in ((0.5, False), (0.1, False), (0.1, True)):
        scored = f"protocol.score_test={str(reused).lower()}"  # another run of the same search
        cell = cells(quick, tmp_path, "r", *common, f"model.density={density}", scored)
        assert (experiment.run(cell, searches=searches).examples["reused"] > 0) == reused


def test_every_round_of_one_trajectory_takes_the_same_search(quick, tmp_path):
    common = ["model.search=imp", "model.rounds=3", "model.density=0.1", "model.search_epochs=1.5"]
    searches = tmp_path / "searches"
    records = [
        experiment.run(
            cells(quick, tmp_path, "r", *common, f"model.take={number}"), searches=searches
        )
        for number in (1, 2, 3)
    ]
    first, *others = records
    assert first.examples["reused"] == 0
    assert [r.examples["reused"] for r in others] == [first.examples["search"]] * 2
    densities = [max(record.diagnostics["density"].values()) for record in records]
    assert densities == pytest.approx([0.1 ** (1 / 3), 0.1 ** (2 / 3), 0.1], abs=2e-3)
    last = experiment.run(cells(quick, tmp_path, "alone", *common, "model.choice=last"))
    assert last.metrics == records[-1].metrics


def test_a_stopped_run_counts_what_it_was_lent_once(quick, tmp_path):
    common = ["model.search=one_shot", "model.search_epochs=1", "model.early_bird=null"]
    searches = tmp_path / "searches"
    experiment.run(cells(quick, tmp_path, "r", *common, "model.density=0.5"), searches=searches)
    cell = cells(quick, tmp_path, "r", *common, "model.density=0.1")

    def stop(now) -> None:
        if now.stage == "train" and now.step == 3:
            raise RunInterrupted("stopped")

    with pytest.raises(RunInterrupted):
        experiment.run(cell, searches=searches, on_progress=stop)
    resumed = experiment.run(cell, searches=searches)
    again = experiment.run(cells(quick, tmp_path, "alone", *common, "model.density=0.1"))
    assert resumed.examples == again.examples | {"reused": again.examples["search"]}
    assert resumed.metrics == again.metrics


def test_progress_counts_the_examples_that_the_run_computed(quick, tmp_path):
    seen = []
    cell = cells(quick, tmp_path, "r", "model.search=gradient_conflict")
    record = experiment.run(cell, on_progress=lambda now: seen.append(now.examples))
    assert seen == sorted(seen)
    spent = record.examples["search"] + record.examples["train"]
    assert spent - cell.config.trainer.batch_size <= seen[-1] <= spent
    assert json.dumps(record.examples)
