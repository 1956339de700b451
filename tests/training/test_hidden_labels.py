"""Runs that may learn from a share of one task's labels: what they see, and what they say of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cvrbench.config.compose import plan
from cvrbench.data.registry import ensure
from cvrbench.errors import ConfigError, RunInterrupted
from cvrbench.runs import experiment
from cvrbench.training import session

SCARCE = ("trainer.batch_size=256", "protocol.label_share=0.3")
LOOK_AT_LABELS = [
    ("model=single_task",),
    ("model=mmoe",),
    ("model=ncs", "model.search=imp", "model.choice=validation"),
    ("model=ncs", "model.search=gradient_conflict"),
    ("model=ncs", "model.search=snip", "model.warmup_epochs=0.5"),
    ("model=ncs", "model.search=grasp", "model.warmup_epochs=0.5"),
    ("model=ncs", "model.search=learned"),
    ("model=ncs", "model.search=rigl", "model.regrow_every=2"),
]
"""Every place that reads training labels: the loss, the probe, every kind of mask search."""


def weights_of(record) -> dict[str, torch.Tensor]:
    folder = Path(record.config["results_dir"], "runs", record.run_id)
    return {
        n: t for file in sorted(folder.glob("*.safetensors")) for n, t in load_file(file).items()
    }


def told(record) -> dict:
    """All of a record but times."""
    plain = record.to_json()
    keys = ("metrics", "counts", "diagnostics", "best_step", "examples")
    return {key: plain[key] for key in keys}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("options", LOOK_AT_LABELS, ids=lambda o: o[min(1, len(o) - 1)])
def test_no_bit_of_a_run_depends_on_a_hidden_label(quick, tmp_path, monkeypatch, options):
    cell = quick(*options, *SCARCE, f"results_dir={tmp_path / 'one'}")
    one = experiment.run(cell)
    draw, drawn = session.label_weights, []
    dataset = ensure(cell.config.dataset, "synthetic", Path(cell.config.data_dir))
    drawn = draw(dataset.schema, dataset.train.labels, 1, share=0.3, seed=0)
    labels = np.array(dataset.train.labels)
    hidden = drawn[:, 1] == 0
    labels[hidden, 1] = 1 - labels[hidden, 1]
    assert hidden.sum() > 500
    changed = replace(dataset, train=replace(dataset.train, labels=labels))
    monkeypatch.setattr(experiment, "ensure", lambda *_: changed)
    monkeypatch.setattr(session, "label_weights", lambda *_, **__: drawn)
    other = experiment.run(quick(*options, *SCARCE, f"results_dir={tmp_path / 'other'}"))
    assert told(one) == told(other)
    assert same(weights_of(one), weights_of(other))


@pytest.mark.parametrize("objective", ["click_space", "entire_space", "exposure_space"])
def test_a_share_of_1_is_a_run_without_hiding(quick, tmp_path, monkeypatch, objective):
    """Against weights of 1, which take the path of hidden labels to the same mean."""
    options = ("model=shared_bottom", f"objective={objective}", "trainer.batch_size=256")
    plain = experiment.run(quick(*options, f"results_dir={tmp_path / 'plain'}"))
    ones = np.ones((4200, 2), np.float32)
    monkeypatch.setattr(session, "label_weights", lambda *_, **__: ones)
    weighed = experiment.run(quick(*options, f"results_dir={tmp_path / 'weighed'}"))
    assert weighed.counts == plain.counts
    for name, tensor in weights_of(plain).items():
        torch.testing.assert_close(weights_of(weighed)[name], tensor, rtol=1e-3, atol=1e-5)


def test_fewer_labels_teach_something_else_and_change_nothing_of_validation_and_test(quick):
    records = {
        share: experiment.run(quick("model=shared_bottom", f"protocol.label_share={share}"))
        for share in (1.0, 0.3, 0.1)
    }
    full = records[1.0]
    for share, record in records.items():
        assert record.counts["valid"] == full.counts["valid"]
        assert record.counts["test"] == full.counts["test"]
        seen, every = record.counts["train"], full.counts["train"]
        assert seen["ctr"] == every["ctr"]
        for key in ("rows", "positives"):
            assert abs(seen["cvr"][key] - share * every["cvr"][key]) <= 1
        assert seen["ctcvr"]["positives"] == seen["cvr"]["positives"]
        # Without a click it is known that there is no conversion.
        unclicked = every["ctr"]["rows"] - every["ctr"]["positives"]
        assert seen["ctcvr"]["rows"] == unclicked + seen["cvr"]["rows"]
        assert record.examples == full.examples
    assert len({record.metrics["test"]["cvr_logloss"] for record in records.values()}) == 3


def test_the_scarce_task_can_be_named(quick):
    record = experiment.run(
        quick("model=shared_bottom", "protocol.label_share=0.1", "protocol.label_share_task=ctr")
    )
    assert record.counts["train"]["ctr"]["rows"] == pytest.approx(420, abs=1)
    assert record.counts["train"]["cvr"]["rows"] == record.counts["train"]["ctr"]["positives"]


@pytest.mark.parametrize("share", [1.0, 0.1])
def test_a_wrong_task_ends_a_run_before_it_trains(quick, share):
    cell = quick(f"protocol.label_share={share}", "protocol.label_share_task=cvx")
    with pytest.raises(ConfigError, match=r"protocol\.label_share_task='cvx'.*ctr, cvr"):
        experiment.run(cell, on_progress=lambda _: pytest.fail("trained"))


def test_a_stopped_run_goes_on_with_the_same_labels(quick, tmp_path):
    options = ("model=ncs", "trainer.epochs=2", *SCARCE)
    whole = experiment.run(quick(*options, f"results_dir={tmp_path / 'whole'}"))

    def stop(now) -> None:
        if now.stage == "train" and now.step == 3:
            raise RunInterrupted("stopped")

    cell = quick(*options, "trainer.checkpoint_seconds=1e-9")
    with pytest.raises(RunInterrupted):
        experiment.run(cell, on_progress=stop)
    resumed = experiment.run(cell)
    assert told(resumed) == told(whole)
    assert same(weights_of(resumed), weights_of(whole))


def test_searches_on_other_labels_are_not_shared(quick, tmp_path):
    common = ("model=ncs", "model.search=one_shot", "model.early_bird=null")
    searches = tmp_path / "searches"
    for density, share, reused in ((0.5, 0.3, False), (0.2, 0.3, True), (0.2, 0.1, False)):
        cell = quick(*common, f"model.density={density}", f"protocol.label_share={share}")
        assert (experiment.run(cell, searches=searches).examples["reused"] > 0) == reused


@pytest.mark.slow
def test_the_experiment_is_every_strategy_at_every_share_and_seed():
    cells = plan(["experiment=conversion_scarcity", "dataset=kuairand"], multirun=False)
    found = {(c.config.protocol.label_share, c.choices["model"], c.config.seed) for c in cells}
    models = {"single_task", "shared_embedding", "shared_bottom", "mmoe", "ple", "ncs"}
    shares = {1.0, 0.3, 0.1, 0.03, 0.01}
    assert found == {(s, m, n) for s in shares for m in models for n in range(5)}
    assert len(cells) == 150
    assert {c.choices["dataset"] for c in cells} == {"kuairand"}
