"""What a record must be to be read, and what decides the name of a run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cvrbench.cli.console import out
from cvrbench.errors import StoreError
from cvrbench.runs.record import RunRecord, run_id
from tests.report.test_comparison import run
from tests.test_store import RECORD

HOSTILE = "[red]x\x1b[31m"
FILE = Path("runs", "a", "record.json")
CONFIG = {
    "seed": 3,
    "data_dir": "x",
    "results_dir": "y",
    "trainer": {"epochs": 2, "threads": None, "checkpoint_seconds": 30.0},
}
CHOICES = {"dataset": "adult", "model": "mmoe"}


def changed(**changes):
    return {**RECORD.to_json(), **changes}


def test_a_record_comes_back_from_json_as_it_was():
    plain = json.loads(json.dumps(RECORD.to_json()))
    assert RunRecord.from_json(plain, FILE) == RECORD
    undefined = replace(RECORD, metrics={"test": {"ctr_auc": None}})
    assert RunRecord.from_json(undefined.to_json(), FILE) == undefined


def test_a_whole_number_stands_for_a_float():
    assert RunRecord.from_json(changed(seconds={"search": 0}), FILE).seconds == {"search": 0}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "it: Input should be an object"),
        (None, "it: Input should be an object"),
        ({}, "has record version None"),
        (changed(record_version=99), "has record version 99, this cvrbench reads 2"),
        ({"record_version": 2}, "run_id: Field required"),
        (changed(seed="0"), "seed: Input should be a valid integer"),
        (changed(dataset=None), "dataset: Input should be a valid string"),
        (changed(metrics=None), "metrics: Input should be an object"),
        (
            changed(metrics={"test": {"ctr_auc": "0.7"}}),
            "metrics.test.ctr_auc: Input",
        ),
        (
            changed(metrics={"test": {"ctr_auc": 1e308}}),
            "test ctr_auc is 1e.308",
        ),
        (changed(counts={}), "has no counts of its test rows"),
        (changed(config={"protocol": None}), "config: Value error, protocol is no group"),
        (changed(config={"model": ["ncs"]}), "model is no group"),
        (changed(config={"protocol": {"label_share": "x"}}), "protocol.label_share is x"),
        (changed(config={"protocol": {"label_share_task": 3}}), "protocol.label_share_task is 3"),
        (
            changed(tasks=[{"name": "cvr", "label": "y", "parent": "ctr", "joint": "c"}]),
            "a parent that is no task before it",
        ),
        (changed(tasks=["ctr"]), "tasks.0: Input should be an object"),
        (changed(tasks=[{"name": "ctr"}]), "a task has other keys"),
        (changed(test_scored=-5), "test_scored: Input should be greater than or equal to 0"),
        (changed(seconds={"search": True}), "seconds.search: Input should be a valid number"),
        (changed(counts={"test": {"ctr": 5}}), "counts.test.ctr: Input should be an object"),
    ],
)
def test_what_is_no_record_is_said_in_a_sentence(data, words):
    with pytest.raises(StoreError, match=rf"record\.json.*{words}"):
        RunRecord.from_json(data, FILE)


def test_a_name_tells_dataset_strategy_and_seed():
    assert run_id(CONFIG, CHOICES, "f").startswith("adult-mmoe-s3-")


def test_a_name_changes_with_the_version_of_the_numbers(monkeypatch):
    name = run_id(CONFIG, CHOICES, "f")
    monkeypatch.setattr("cvrbench.runs.record.NUMBERS", 10**9)
    assert run_id(CONFIG, CHOICES, "f") != name


def test_a_name_changes_with_what_decides_numbers_and_with_nothing_else():
    name = run_id(CONFIG, CHOICES, "f")
    trainer = CONFIG["trainer"]
    for free in (
        {"data_dir": "elsewhere", "results_dir": "elsewhere"},
        {"trainer": {**trainer, "threads": 4, "checkpoint_seconds": 1.0}},
    ):
        assert run_id({**CONFIG, **free}, CHOICES, "f") == name
    assert run_id({**CONFIG, "trainer": {**trainer, "epochs": 3}}, CHOICES, "f") != name
    table = {"kind": "table", "path": "log.csv", "min_count": 2}
    moved, rarer = {**table, "path": "moved/log.csv"}, {**table, "min_count": 3}
    of_table, of_moved, of_rarer = (
        run_id({**CONFIG, "dataset": one}, CHOICES, "f") for one in (table, moved, rarer)
    )
    assert of_table == of_moved != of_rarer
    assert run_id(CONFIG, CHOICES, "g") != name


def test_ls_and_report_go_on_where_a_record_cannot_be_read(cvrbench, monkeypatch):
    monkeypatch.setattr(out, "width", 250)
    runs = Path("results", "runs")
    whole = run("mmoe", 0, 0.7, environment={"finished": "today"})
    for name, text in {
        whole.run_id: json.dumps(whole.to_json()),
        "half": '{"record_version": 2, "run',
        "older": '{"record_version": 1}',
        HOSTILE: "[]",
    }.items():
        (runs / name).mkdir(parents=True)
        (runs / name / "record.json").write_text(text)
    said = cvrbench("ls")
    assert said.code == 0
    assert said.out.count("unreadable: ") == 3
    assert "today" in said.out
    assert r"[red]x\x1b[31m" in said.out
    assert "\x1b" not in said.out
    states = {one["run_id"]: one for one in cvrbench("ls", "--json").json()}
    assert states[whole.run_id] == {
        "run_id": whole.run_id,
        "state": "finished",
        "finished": "today",
    }
    assert states["half"]["state"] == "unreadable"
    assert "cannot be read" in states["half"]["why"]
    assert "record version 1" in states["older"]["why"]
    (table,) = cvrbench("report", "--json").json()
    assert [one["strategy"] for one in table["strategies"]] == ["mmoe"]


def test_a_run_that_learns_from_all_labels_is_named_as_before_they_could_be_hidden():
    of_all = {"score_test": True, "label_share": 1.0, "label_share_task": "cvr"}
    names = [
        run_id({**CONFIG, "protocol": protocol}, CHOICES, "f")
        for protocol in ({"score_test": True}, of_all, {**of_all, "label_share": 0.1})
    ]
    assert names[0] == names[1] != names[2]
