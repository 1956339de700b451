"""Results on disk: whole or absent, named by what decides them, readable or explained."""

import errno
import json
import os
import shutil

import polars as pl
import pytest

import cvrbench
from cvrbench.errors import RunError, StoreError
from cvrbench.runs.environment import describe_environment
from cvrbench.runs.record import RunRecord
from cvrbench.runs.store import ResultStore, RunFolder, read_record, read_run_config
from cvrbench.system import files
from cvrbench.system.files import write_text

RECORD = RunRecord(
    record_version=2,
    run_id="a-b-s0-c",
    model="b",
    dataset="a",
    seed=0,
    choices={},
    config={},
    fingerprint="f",
    tasks=[],
    metrics={"test": {"ctr_auc": 0.5}},
    undefined={},
    counts={"test": {"ctr": {"rows": 2, "positives": 1}}},
    test_scored=1,
    parameters=1,
    embedding_parameters=0,
    multiply_adds=1,
    seconds={},
    examples={"search": 0, "train": 1000},
    examples_per_second=1.0,
    best_step=1,
    best_epoch=1.0,
    diagnostics={},
    environment={},
)


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path)


def enter(store, name="a-b-s0-c", fresh=False):
    return store.open(name, config={}, choices={}, fresh=fresh)


def test_a_run_is_new_then_unfinished_then_finished(store):
    assert store.state("a-b-s0-c") == "new"
    with enter(store) as folder:
        assert store.state("a-b-s0-c") == "unfinished"
        assert store.find("a-b-s0-c") is None
        folder.finish(RECORD)
    assert store.state("a-b-s0-c") == "finished"
    assert store.find("a-b-s0-c") == RECORD
    assert store.records() == [RECORD]


def test_a_forced_run_that_breaks_leaves_the_old_record_readable(store):
    with enter(store) as folder:
        folder.finish(RECORD)
    with pytest.raises(RuntimeError), enter(store, fresh=True):
        raise RuntimeError
    assert read_record(store.runs / "a-b-s0-c") == RECORD
    assert store.state("a-b-s0-c") == "unfinished"


def test_a_full_disk_leaves_no_half_written_record(tmp_path, monkeypatch):
    write_text(tmp_path / "record.json", "old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StoreError, match="no space left"):
        write_text(tmp_path / "record.json", "new")
    assert (tmp_path / "record.json").read_text() == "old"


def test_a_number_that_json_does_not_know_is_never_written(tmp_path):
    write_text(tmp_path / "config.json", "{}")
    bad = RunRecord(**{**RECORD.to_json(), "metrics": {"test": {"ctr_auc": float("nan")}}})
    with pytest.raises(ValueError, match="JSON"):
        RunFolder(tmp_path).finish(bad)
    assert not (tmp_path / "record.json").exists()


FOREIGN = {
    "half": ('{"record_version": 2, "run', "cannot be read"),
    "older": (json.dumps({"record_version": 1}), "record version 1"),
    "bare": (json.dumps({"record_version": 2}), "run_id: Field required"),
    "list": ("[]", "Input should be an object"),
    "nan": (json.dumps({**RECORD.to_json(), "best_epoch": float("nan")}), "NaN is no value"),
    "bytes": ("\udcff", "cannot be read"),
    "deep": ("[" * 100_000, "cannot be read"),
    "renamed": (json.dumps(RECORD.to_json()), "the record of a-b-s0-c, in a folder of another"),
}


def test_what_cannot_be_read_is_named_and_the_others_are_read(store):
    with enter(store) as folder:
        folder.finish(RECORD)
    for name, (text, _) in FOREIGN.items():
        (store.runs / name).mkdir()
        (store.runs / name / "record.json").write_bytes(text.encode(errors="surrogateescape"))
    (store.runs / "folder" / "record.json").mkdir(parents=True)
    survey = store.survey()
    assert survey.records == store.records() == [RECORD]
    found = {one.folder.name: one.why for one in survey.unreadable}
    assert list(found) == sorted([*FOREIGN, "folder"])
    for name, (_, words) in FOREIGN.items():
        assert words in found[name]
        assert str(store.runs / name / "record.json") in found[name]


@pytest.mark.parametrize("name", [name for name in FOREIGN if name != "renamed"])
def test_a_run_that_is_asked_for_must_be_readable(store, name):
    (store.runs / name).mkdir(parents=True)
    text, words = FOREIGN[name]
    (store.runs / name / "record.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(StoreError, match=words):
        read_record(store.runs / name)
    with pytest.raises(StoreError, match=words):
        store.find(name)


@pytest.mark.parametrize("text", ["[]", "{}", '{"config": {}}', "nothing"])
def test_a_config_that_is_none_is_said_so(store, text):
    (store.runs / "x").mkdir(parents=True)
    (store.runs / "x" / "config.json").write_text(text)
    with pytest.raises(StoreError, match=r"config\.json"):
        read_run_config(store.runs / "x")


def test_results_for_notebooks_warn_of_what_they_leave_out(store):
    with enter(store) as folder:
        folder.finish(RECORD)
    (store.runs / "half").mkdir()
    (store.runs / "half" / "record.json").write_text("{")
    with pytest.warns(UserWarning, match=r"left out: .*half.*cannot be read"):
        assert list(cvrbench.results(store.runs.parent)) == [RECORD]


def test_a_run_is_found_by_a_part_that_fits_only_one(store):
    for name in ("a-b-s0-c", "a-b-s1-d"):
        with enter(store, name) as folder:
            folder.finish(RECORD)
    assert store.folder("s1-d").name == "a-b-s1-d"
    assert store.folder(str(store.runs / "a-b-s0-c")).name == "a-b-s0-c"
    with pytest.raises(StoreError, match="fits 2 runs"):
        store.folder("a-b")
    with pytest.raises(StoreError, match="cvrbench ls"):
        store.folder("zzz")


def test_the_environment_names_versions_and_the_state_of_the_checkout():
    found = describe_environment()
    assert {"cvrbench", "torch", "numpy", "polars"} <= set(found["versions"])
    git = found["git"]
    assert git is None or len(git["commit"]) == 40


def test_why_a_run_failed_is_kept_until_it_is_tried_again(store):
    with pytest.raises(RunError), enter(store):
        raise RunError("the loss is not finite")
    (begun,) = store.survey().begun
    assert begun.failure == "the loss is not finite"
    assert begun.folder == store.runs / "a-b-s0-c"
    with enter(store):
        (begun,) = store.survey().begun
        assert begun.failure is None


def test_a_stopped_run_did_not_fail_and_a_damaged_file_of_it_is_named(store):
    with pytest.raises(KeyboardInterrupt), enter(store):
        raise KeyboardInterrupt
    assert [one.failure for one in store.survey().begun] == [None]
    (store.runs / "a-b-s0-c" / "failure.json").write_text('{"reason": 3}')
    (begun,) = store.survey().begun
    assert "failure.json cannot be read: reason: Input should be a valid string" in begun.failure


@pytest.mark.parametrize(
    "saved",
    [
        [],
        {"config": [], "choices": {}},
        {"config": {}, "choices": []},
        {"config": {"protocol": "x"}, "choices": {}},
        {"config": {"protocol": {"label_share": None}}, "choices": {}},
    ],
)
def test_a_damaged_config_of_an_unfinished_run_is_named_and_stops_no_report(store, saved):
    with enter(store) as folder:
        (folder.path / "config.json").write_text(json.dumps(saved))
    survey = store.survey()
    assert survey.begun == []
    assert [one.folder.name for one in survey.unreadable] == ["a-b-s0-c"]
    assert "config.json cannot be read" in survey.unreadable[0].why
    assert [folder.name for folder in store.unfinished()] == ["a-b-s0-c"]


@pytest.mark.parametrize("name", ["record.json", "config.json", "failure.json", "test-scored"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), os.mkdir])
def test_an_odd_file_neither_hangs_nor_stops_the_others(store, name, make):
    with enter(store) as folder:
        folder.finish(RECORD)
    with enter(store, "odd") as folder:
        pass
    (folder.path / name).unlink(missing_ok=True)
    make(folder.path / name)
    survey = store.survey()
    assert survey.records == [RECORD]
    if name == "test-scored":
        with pytest.raises(StoreError, match=r"test-scored cannot be read"):
            folder.count_test()
    elif name == "failure.json":
        assert "failure.json cannot be read: it is no regular file" in survey.begun[0].failure
    else:
        assert [one.folder.name for one in survey.unreadable] == ["odd"]
        assert f"{name} cannot be read: it is no regular file" in survey.unreadable[0].why


def test_predictions_that_unpack_to_more_than_the_test_rows_are_refused(store):
    with enter(store) as folder:
        folder.write_predictions(pl.DataFrame({"p_ctr": pl.repeat(0.5, 10**7, eager=True)}))
        folder.finish(RECORD)
    assert (folder.path / "predictions.parquet").stat().st_size < 10**5
    with pytest.raises(StoreError, match=r"10,000,000 rows, and the record 2"):
        store.predictions("a-b-s0-c")


@pytest.mark.parametrize(("count", "said"), [("0", "0, less than the record's 3"), ("-5", "-5")])
def test_a_count_of_scorings_that_contradicts_the_record_is_refused(store, count, said):
    with enter(store) as folder:
        folder.finish(RunRecord(**{**RECORD.to_json(), "test_scored": 3}))
        (folder.path / "test-scored").write_text(count)
        folder.checkpoints.mkdir()
        with pytest.raises(StoreError, match=rf"test-scored cannot be read \({said}"):
            folder.count_test()
        (folder.path / "test-scored").write_text("3")
        assert folder.count_test() == 4


def test_a_run_whose_folder_is_removed_meanwhile_does_not_finish(store):
    with enter(store) as folder:
        shutil.rmtree(folder.path)
        folder.path.mkdir()
        with pytest.raises(StoreError, match="removed or emptied while the run was under way"):
            folder.finish(RECORD)
    assert store.survey().records == []


@pytest.mark.parametrize("part", ["runs", "runs/a-b-s0-c", "runs/a-b-s0-c/checkpoints"])
def test_no_run_writes_or_deletes_behind_a_link(store, part):
    outside = store.results_dir / "outside"
    outside.mkdir()
    for name in ("precious.tmp", "checkpoints.tmp", "lock"):
        (outside / name).write_text("precious")
    link = store.results_dir / part
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside)
    for fresh in (False, True):
        with pytest.raises(StoreError, match="is a link"), enter(store, fresh=fresh):
            pass
    store.tidy("a-b-s0-c")
    store.discard("a-b-s0-c")
    assert {path.name: path.read_text() for path in outside.iterdir()} == dict.fromkeys(
        ("precious.tmp", "checkpoints.tmp", "lock"), "precious"
    )
