"""`cvrbench reproduce`: the same again, almost, or not; and nothing of the first is touched."""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cvrbench.errors import RunInterrupted
from cvrbench.runs import experiment
from cvrbench.runs.environment import differences
from cvrbench.runs.record import RunRecord
from cvrbench.runs.reproduce import NOISE
from cvrbench.runs.store import read_record

HOSTILE = "[bold]x[/bold][/red]\x1b[31m"
NCS = ("model=ncs", "model.hidden=[8]", "model.tower=[]")


@pytest.fixture
def original(given, cvrbench, tmp_path, monkeypatch) -> Path:
    """A finished run of NCS where the command looks; scratch folders are made in ./scratch."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    return given(*NCS)


@pytest.fixture
def lent(trained, monkeypatch):
    """Instead of training again, give what the first training gave."""
    first, ran = trained(*NCS), []

    def run(composed, **_) -> RunRecord:
        ran.append(composed)
        shutil.copytree(first, Path(composed.config.results_dir, "runs", first.name))
        return read_record(first)

    monkeypatch.setattr(experiment, "run", run)
    return ran


def edit(folder: Path, **changed) -> None:
    file = folder / "record.json"
    record = {**json.loads(file.read_text()), **changed}
    record.pop("checksum", None)  # it would be seen
    file.write_text(json.dumps(record))


def shift(folder: Path, by: float) -> None:
    """Say that the test AUC of CVR was another."""
    metrics = json.loads((folder / "record.json").read_text())["metrics"]
    metrics["test"]["cvr_auc"] += by
    edit(folder, metrics=metrics)


def bytes_of(folder: Path) -> dict[str, str]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_a_run_reproduces_bit_for_bit_and_stays_as_it_was(cvrbench, original):
    before, times = bytes_of(original), (original / "record.json").stat().st_mtime_ns
    said = cvrbench("reproduce", original.name[-6:])
    assert said.code == 0
    assert "reproduced bit for bit" in said.out
    assert said.err == ""
    assert bytes_of(original) == before
    assert (original / "record.json").stat().st_mtime_ns == times
    assert (original / "test-scored").read_text() == "1"
    assert [path.name for path in original.parent.iterdir()] == [original.name]
    assert list(Path("scratch").iterdir()) == []


def test_the_second_run_is_kept_where_that_is_wanted(cvrbench, original, lent):
    said = cvrbench("reproduce", original.name, "--keep", "--json")
    (found,) = said.json()
    assert (said.code, found["verdict"], found["changed"]) == (0, "identical", {})
    assert found["weights"]["compared"] > 2
    assert found["weights"]["deviation"] == 0
    copy = Path(found["copy"])
    assert copy.is_relative_to(Path("scratch").resolve())
    assert (copy / "record.json").is_file()
    assert copy.name == original.name
    assert "the second run is" in cvrbench("reproduce", original.name, "--keep").out
    assert len(list(Path("scratch").iterdir())) == 2


def test_the_config_is_the_stored_one_with_as_many_threads(cvrbench, original, lent):
    environment = json.loads((original / "record.json").read_text())["environment"]
    edit(original, environment={**environment, "threads": 7})
    cvrbench("reproduce", original.name)
    (composed,) = lent
    assert composed.config.trainer.threads == 7
    assert composed.config.model.hidden == (8,)
    assert composed.choices["model"] == "ncs"
    assert not Path(composed.config.results_dir).exists()


def test_float_noise_is_no_failure_and_says_how_far_and_why(cvrbench, original, lent):
    shift(original, 3e-7)
    environment = json.loads((original / "record.json").read_text())["environment"]
    edit(original, environment={**environment, "device": "abacus"})
    said = cvrbench("reproduce", original.name)
    assert said.code == 0
    assert "within float noise: largest deviation 3.0e-07 in test cvr_auc" in said.out
    assert "what may be why: device abacus then, cpu now" in said.out
    (found,) = cvrbench("reproduce", original.name, "--json").json()
    assert found["verdict"] == "noise"
    assert found["largest_deviation"]["name"] == "test cvr_auc"
    assert found["first_difference"] is None


def test_weights_that_are_off_alone_are_noise(cvrbench, original, lent):
    file = original / "best.safetensors"
    weights = load_file(file)
    name = next(iter(weights))
    weights[name] = weights[name] + np.float32(1e-3)
    save_file(weights, file)
    edit(original, files={})
    said = cvrbench("reproduce", original.name)
    assert said.code == 0
    assert "no metric deviates, of a weight 1.0e-03" in said.out
    assert "nothing that the records tell is another" in said.out


def test_what_is_another_number_is_named_and_fails(cvrbench, original, lent):
    shift(original, 2 * NOISE)
    said = cvrbench("reproduce", original.name)
    assert said.code == 1
    assert "not reproduced: first 2.0e-04 in test cvr_auc" in said.out
    (found,) = cvrbench("reproduce", original.name, "--json").json()
    assert found["verdict"] == "different"
    assert found["first_difference"]["name"] == "test cvr_auc"
    assert list(Path("scratch").iterdir()) == []


def test_a_given_tolerance_is_what_counts(cvrbench, original, lent):
    shift(original, 0.003)
    assert cvrbench("reproduce", original.name, "--tolerance", "0.0029").code == 1
    assert cvrbench("reproduce", original.name, "--tolerance", "0.0031").code == 0
    assert cvrbench("reproduce", original.name, "--tolerance", "-1").code == 2


def test_a_metric_that_is_gone_or_weights_of_another_shape_fail(cvrbench, original, lent):
    file = original / "best.safetensors"
    weights = load_file(file)
    save_file({f"other.{name}": value for name, value in weights.items()}, file)
    edit(original, files={})
    said = cvrbench("reproduce", original.name)
    assert said.code == 1
    assert "weights have other names or shapes" in said.out
    metrics = json.loads((original / "record.json").read_text())["metrics"]
    metrics["test"]["ctr_auc"] = None
    edit(original, metrics=metrics)
    said = cvrbench("reproduce", original.name, "--json")
    assert said.code == 1
    assert said.json()[0]["first_difference"]["name"] == "test ctr_auc"


def test_without_weights_the_metrics_alone_are_compared(cvrbench, original, lent):
    for name in ("best.safetensors", "masks.safetensors"):
        (original / name).unlink()
    said = cvrbench("reproduce", original.name)
    assert said.code == 0
    assert "metrics are the same bit for bit; it has no weights to compare" in said.out


def test_other_versions_are_told_before_it_runs(cvrbench, original, lent):
    environment = json.loads((original / "record.json").read_text())["environment"]
    old = {**environment["versions"], "torch": HOSTILE}
    edit(original, environment={**environment, "versions": old})
    said = cvrbench("reproduce", original.name)
    assert said.code == 0
    assert said.err.count("\n") == 1
    assert r"torch [bold]x[/bold][/red]\x1b[31m then" in said.err
    assert "\x1b" not in said.err + said.out


def test_what_nobody_told_is_no_change():
    assert differences({}, {"versions": {"torch": "2"}, "git": None}) == {}
    git = {"commit": "a" * 40, "dirty": False}
    dirty = {"git": {**git, "dirty": True}}
    assert differences({"git": git}, dirty) == {"git": ("a" * 10, f"{'a' * 10} with changes")}


def drop_record(folder: Path) -> None:
    (folder / "record.json").unlink()


def other_data(folder: Path) -> None:
    edit(folder, fingerprint="other")


def spoil_weights(folder: Path) -> None:
    (folder / "best.safetensors").write_bytes(b"half")


def spoil_record(folder: Path) -> None:
    (folder / "record.json").write_text("{")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (drop_record, "is unfinished; end it with"),
        (other_data, "was trained on other data"),
        (spoil_weights, "best.safetensors cannot be read"),
        (spoil_record, "record.json cannot be read"),
    ],
)
def test_what_cannot_be_run_again_is_one_line_and_runs_nothing(
    cvrbench, original, lent, harm, words
):
    harm(original)
    said = cvrbench("reproduce", original.name)
    assert said.code == 1
    assert words in said.err
    assert said.err.count("\n") == 1
    assert lent == []


def test_an_interrupted_one_leaves_nothing(cvrbench, original, monkeypatch):
    def stopped(_, **__):
        raise RunInterrupted("stopped by the user in stage 'train'")

    monkeypatch.setattr(experiment, "run", stopped)
    before = bytes_of(original)
    said = cvrbench("reproduce", original.name)
    assert said.code == 130
    assert "nothing of it is kept" in said.err
    assert list(Path("scratch").iterdir()) == []
    assert bytes_of(original) == before
