"""What the doctor finds in made-up runs, and that it finds nothing in a sound one."""

from dataclasses import replace

import pytest

from cvrbench.report.doctor import examine
from cvrbench.runs.study import Axis
from tests.report.made_up_studies import study, trial
from tests.report.test_comparison import run

COUNT = {
    "ctr": {"rows": 100_000, "positives": 20_000},
    "cvr": {"rows": 20_000, "positives": 4_000},
    "ctcvr": {"rows": 100_000, "positives": 4_000},
}
AUCS = {
    f"{name}_{kind}": value
    for name in COUNT
    for kind, value in (("auc", 0.7), ("logloss", 0.5), ("pcoc", 1.0))
}
TRAINER = {"batch_size": 512, "epochs": 4, "learning_rate": 0.001}
HISTORY = [{"stage": "train", "step": 10 * n, "epoch": n} for n in (1, 2, 3, 4)]
SOUND = run(
    "mmoe",
    0,
    None,
    counts=dict.fromkeys(("train", "valid", "test"), COUNT),
    metrics={"valid": AUCS, "test": AUCS},
    config={"model": {"kind": "mmoe", "embedding_dim": 8}, "trainer": TRAINER, "seed": 0},
    best_step=20,
    best_epoch=2.0,
    embedding_parameters=50_000,
)


def changed(split, **values):
    return {"metrics": {**SOUND.metrics, split: {**AUCS, **values}}}


def drifted(**counts):
    return {"counts": {**SOUND.counts, **counts}}


RARE = {**COUNT, "cvr": {"rows": 20_000, "positives": 100}}
COSINES = {"gradient_cosine": {"trunk": {"ctr-cvr": -0.3}}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (drifted(train=RARE, test=RARE, valid=RARE), "few positives of cvr in a batch"),
        ({"best_step": 40, "best_epoch": 4.0}, "the last evaluation was the best"),
        ({"best_step": 10, "best_epoch": 1.0}, "the first evaluation was the best"),
        (changed("valid", cvr_logloss=0.01), "the loss of ctr drowns that of cvr"),
        (
            {"diagnostics": {**COSINES, "self_cosine": {"trunk": {"ctr": 0.9, "cvr": 0.5}}}},
            "gradients of ctr and cvr in conflict",
        ),
        (
            drifted(train={**COUNT, "ctr": {"rows": 100_000, "positives": 30_000}}),
            "the base rate of ctr drifts",
        ),
        ({"embedding_parameters": 10**8}, "embedding tables are larger"),
        (changed("valid", ctr_auc=0.8), "validation is far from test in ctr"),
        (changed("test", cvr_pcoc=2.0), "cvr is not calibrated"),
        (
            {
                "seconds": {"total": 10.0, "cpu": 5.0},
                "environment": {"device": "cpu", "threads": 2, "cpu_count": 2},
            },
            "its threads fought",
        ),
    ],
)
def test_what_looks_wrong_is_found_alone_and_with_something_to_try(changes, words):
    (found,) = examine(replace(SOUND, **changes), HISTORY)
    assert found.what.startswith(words)
    assert found.evidence
    assert "=" in found.advice or found.advice.startswith("cvrbench ")


def test_a_sound_run_has_no_finding_and_a_leak_is_one():
    assert examine(SOUND, HISTORY) == []
    leaking = {**AUCS, "cvr_auc": 0.999}
    found = examine(replace(SOUND, metrics={"valid": leaking, "test": leaking}), HISTORY)
    assert [one.what for one in found] == ["cvr is predicted too well: a column may hold its label"]


def test_gradients_that_are_noise_are_no_conflict():
    noise = {**COSINES, "self_cosine": {"trunk": {"ctr": 0.9, "cvr": 0.0}}}
    assert examine(replace(SOUND, diagnostics=noise), HISTORY) == []


def test_a_sweep_that_chose_the_border_of_its_space_is_found_in_its_runs_alone():
    axes = {
        "trainer.learning_rate": Axis(kind="float", low=1e-4, high=1e-2, log=True),
        "model.dropout": Axis(kind="float", low=0.0, high=0.5),
    }
    params = {"trainer.learning_rate": 0.0098, "model.dropout": 0.2}
    best = trial(0, [0.7], params=params)
    chosen = {"trial": 0, "overrides": [], "runs": [SOUND.run_id]}
    sweep = study([best], axes=axes, best=(0,), chosen=chosen)
    (found,) = examine(SOUND, HISTORY, [sweep])
    assert "trainer.learning_rate=0.0098 of 0.0001 to 0.01" in found.evidence
    assert "dropout" not in found.evidence
    assert examine(replace(SOUND, run_id="another"), HISTORY, [sweep]) == []
