"""Runs, records, weights and configurations that somebody else made: they are data, and no more.

Every file here would leave a canary behind if anything in it were executed.
"""

import json
import os
import pickle  # noqa: TID251 -- made here, to see that none is read
import shutil
from pathlib import Path

import numpy as np
import pytest

from cvrbench.config.compose import compose, with_own_word
from cvrbench.config.validate import config_from_saved
from cvrbench.data.dataset import open_dataset
from cvrbench.data.registry import ensure
from cvrbench.errors import ConfigError, CvrbenchError, StoreError
from cvrbench.runs import experiment
from cvrbench.runs.load import load_trained
from cvrbench.runs.reproduce import read_original
from cvrbench.runs.store import ResultStore, read_run_config
from cvrbench.system.files import sealed
from cvrbench.training.checkpoint import StageFiles

PLACE = Path(__file__)


class Bomb:
    """Unpickled, it leaves a canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


@pytest.fixture
def canary(tmp_path):
    """A file that must not be there in the end; it would be, were the bomb unpickled."""
    file = tmp_path / "canary"
    pickle.loads(pickle.dumps(Bomb(file)))  # noqa: S301 -- to see that the bomb works
    assert file.exists()
    file.unlink()
    yield file
    assert not file.exists()


@pytest.fixture(scope="module")
def honest(quick_data, tmp_path_factory):
    """The folder of a finished run, trained once for all these tests."""
    place = tmp_path_factory.mktemp("honest")
    words = ("model=ncs", "model.search=random", f"data_dir={quick_data}", f"results_dir={place}")
    record = experiment.run(compose(["experiment=quick_check", *words]))
    return place / "runs" / record.run_id


@pytest.fixture
def finished(honest, tmp_path):
    """A copy of it, to be tampered with."""
    return Path(shutil.copytree(honest, tmp_path / "runs" / honest.name))


def bombs(canary: Path) -> dict[str, bytes]:
    import io

    import torch

    saved, legacy = io.BytesIO(), io.BytesIO()
    torch.save({"best": Bomb(canary), "state": {}}, saved)
    torch.save({"best": Bomb(canary), "state": {}}, legacy, _use_new_zipfile_serialization=False)
    return {
        "plain": pickle.dumps(Bomb(canary)),
        "torch": saved.getvalue(),
        "legacy": legacy.getvalue(),
    }


@pytest.mark.parametrize("kind", ["plain", "torch", "legacy"])
@pytest.mark.parametrize("name", ["stage-0.pt", "stage-0-partial.pt"])
def test_a_checkpoint_that_is_a_pickle_is_not_executed(kind, name, canary, tmp_path):
    files = StageFiles(tmp_path, 0)
    (tmp_path / name).write_bytes(bombs(canary)[kind])
    assert files.finished() is None
    assert files.under_way() is None


@pytest.mark.parametrize("kind", ["plain", "torch", "legacy"])
def test_a_run_with_such_a_checkpoint_is_computed_anew(kind, canary, quick):
    cell = quick("model=shared_bottom")
    expected = experiment.run(cell)
    folder = Path(cell.config.results_dir) / "runs" / expected.run_id
    (folder / "record.json").unlink()
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "stage-0.pt").write_bytes(bombs(canary)[kind])
    assert experiment.run(cell).metrics == expected.metrics


@pytest.mark.parametrize("kind", ["plain", "torch", "legacy"])
@pytest.mark.parametrize("name", ["best.safetensors", "masks.safetensors"])
def test_weights_that_are_a_pickle_are_refused(kind, name, canary, finished):
    (finished / name).write_bytes(bombs(canary)[kind])
    record = json.loads((finished / "record.json").read_text())
    for key in ("files", "checksum"):
        record.pop(key, None)  # who changes weights can change what is said of them
    (finished / "record.json").write_text(json.dumps(record))
    for read in (load_trained, read_original):
        with pytest.raises(StoreError):
            read(finished)


def test_an_array_with_pickled_objects_is_refused(canary, quick_data, tmp_path):
    config = compose(["experiment=quick_check"]).config
    dataset = ensure(config.dataset, "synthetic", quick_data)
    copy = tmp_path / "copy"
    shutil.copytree(dataset.path, copy)
    np.save(
        copy / "train" / "labels.npy", np.array([Bomb(canary)], dtype=object), allow_pickle=True
    )
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"]["train/labels.npy"]["bytes"] = (copy / "train/labels.npy").stat().st_size
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises((CvrbenchError, ValueError)):
        open_dataset(copy)


def tampered(folder: Path, **changes: object) -> Path:
    """Change keys of a run's saved config: `trainer__device="x"`."""
    saved = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        *groups, last = key.split("__")
        node = saved
        for group in groups:
            node = node[group]
        node[last] = value
    del saved["checksum"]  # whoever changes a file can make its checksum, too
    (folder / "config.json").write_text(json.dumps(sealed(saved)))
    return folder


@pytest.mark.parametrize(
    "name",
    ["../../evil", "/tmp/evil", "..", "a/b", "a\\b", "", "\x1b[31m", "a\x00b", "x" * 300, 7, None],
)
@pytest.mark.parametrize("group", ["dataset", "model"])
def test_a_choice_that_leads_out_of_its_folder_is_refused(group, name, finished, tmp_path):
    before = set(tmp_path.rglob("*"))
    with pytest.raises(StoreError):
        read_run_config(tampered(finished, **{f"choices__{group}": name}))
    with pytest.raises(CvrbenchError):
        experiment.resume(finished)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "value",
    [
        {"_target_": "os.system", "_args_": ["touch {canary}"]},
        {"kind": "ncs", "_target_": "os.system"},
        "!!python/object/apply:os.system ['touch {canary}']",
        "${oc.env:HOME}",
        "${hydra:runtime.cwd}",
        float("nan"),
        [[[[[]]]]],
        10**400,
    ],
)
@pytest.mark.parametrize("key", ["model", "model__embedding_dim", "trainer__device", "seed"])
def test_a_foreign_config_is_data(key, value, canary, finished):
    text = json.loads(json.dumps(value).replace("{canary}", str(canary)))
    tampered(finished, **{f"config__{key}": text})
    with pytest.raises(CvrbenchError):
        experiment.resume(finished)


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "${trainer.device}", "???", "${"])
def test_an_interpolation_in_a_saved_config_is_never_resolved(text, finished):
    saved = read_run_config(tampered(finished, config__data_dir=text))
    assert config_from_saved(saved.config).data_dir == text


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 50_000, "NaN", "Infinity", '{"config": NaN}', "\x00", "9" * 10_000],
)
def test_json_that_exhausts_or_is_none_is_told(text, finished, cvrbench):
    for name in ("record.json", "config.json"):
        (finished / name).write_text(text)
    with pytest.raises(StoreError):
        read_run_config(finished)
    survey = ResultStore(finished.parent.parent).survey()
    assert survey.records == []
    assert [one.folder for one in survey.unreadable] == [finished]


YAMLS = {
    "object": "kind: !!python/object/apply:os.system ['touch {canary}']\n",
    "module": "kind: !!python/module:evil\n",
    "target": "kind: ncs\n_target_: os.system\n_args_: ['touch {canary}']\n",
    "aliases": "a: &a [x]\nb: &b [*a,*a]\nkind: [*b, *b]\n",
}


@pytest.mark.parametrize("kind", YAMLS)
def test_a_yaml_that_names_code_runs_none(kind, canary, tmp_path, monkeypatch):
    conf = tmp_path / "conf"
    shutil.copytree(PLACE.parents[2] / "conf", conf)
    (conf / "model" / "evil.yaml").write_text(YAMLS[kind].replace("{canary}", str(canary)))
    monkeypatch.setenv("CVRBENCH_CONF", str(conf))
    with pytest.raises(ConfigError):
        compose(["model=evil"])


def test_a_configuration_of_another_program_is_not_searched_for_packages(
    canary, tmp_path, monkeypatch
):
    conf = tmp_path / "conf"
    shutil.copytree(PLACE.parents[2] / "conf", conf)
    package = tmp_path / "evilpackage"
    package.mkdir()
    (package / "__init__.py").write_text(f"import os; os.mkdir({str(canary)!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = (conf / "config.yaml").read_text()
    (conf / "config.yaml").write_text(config + "hydra:\n  searchpath: [pkg://evilpackage]\n")
    monkeypatch.setenv("CVRBENCH_CONF", str(conf))
    with pytest.raises(ConfigError, match="key `hydra`"):
        compose(["model=mmoe"])


FOREIGN = ["logger=mlflow", "logger.tracking_uri=https://example.org", "data_dir=/not/mine"]


def test_a_run_does_not_choose_where_data_are_written_and_whom_it_tells():
    foreign = compose(FOREIGN)
    with pytest.raises(ConfigError, match="resume RUN data_dir=/not/mine` takes it"):
        with_own_word(foreign, [], "cvrbench resume RUN")
    taken = with_own_word(foreign, ["data_dir=/not/mine"], "").config
    assert (taken.data_dir, taken.logger.kind) == ("/not/mine", "none")
    assert with_own_word(foreign, FOREIGN, "").config == foreign.config
    with pytest.raises(ConfigError, match="seed=3: what a run computes is fixed"):
        with_own_word(foreign, ["seed=3"], "")


@pytest.mark.parametrize("command", ["resume", "reproduce"])
def test_a_foreign_data_folder_is_not_filled(cvrbench, given, tmp_path, command):
    folder = given("model=shared_bottom", "model.hidden=[8]", "model.tower=[]")
    saved = json.loads((folder / "config.json").read_text())
    saved["config"]["data_dir"] = str(tmp_path / "elsewhere")
    saved.pop("checksum", None)
    (folder / "config.json").write_text(json.dumps(saved))
    said = cvrbench(command, folder.name)
    assert (said.code, said.out) == (2, "")
    assert "a run does not choose the folder that data are written to" in said.err
    assert not (tmp_path / "elsewhere").exists()


def test_a_link_to_a_run_is_not_resumed(finished, tmp_path):
    (tmp_path / "link").symlink_to(finished)
    with pytest.raises(StoreError, match="link is a link"):
        experiment.resume(tmp_path / "link")


@pytest.mark.parametrize(
    ("link", "command"),
    [
        ("report", ["report"]),
        ("runs/{run}/export", ["export", "{run}"]),
        ("runs/{run}/checkpoints", ["resume", "{path}"]),
        ("sweeps/s/searches", ["sweep", "{words}", "name=s", "trials=1"]),
        ("tensorboard", ["run", "{words}", "logger=tensorboard"]),
    ],
)
def test_no_command_writes_or_deletes_behind_a_link(
    link, command, finished, cvrbench, quick_data, tmp_path, caplog
):
    results, outside = finished.parents[1], tmp_path / "outside"
    outside.mkdir()
    for name in ("index.html", "precious.tmp", "stage-0.pt", "study.json"):
        (outside / name).write_text("precious")
    place = results / link.format(run=finished.name)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(outside)
    words = ["experiment=quick_check", "model=ncs", "model.search=imp", "model.rounds=1",
             f"data_dir={quick_data}"]  # fmt: skip
    said = cvrbench(*[
        one
        for word in command
        for one in (words if word == "{words}" else [word.format(run=finished.name, path=finished)])
    ], *([f"results_dir={results}"] if "{words}" in command else
         ["--results-dir", str(results)] if command[0] == "export" else
         [str(results)] if command[0] == "report" else []))  # fmt: skip
    assert "is a link" in said.err + caplog.text
    assert {path.name: path.read_text() for path in outside.iterdir()} == dict.fromkeys(
        ("index.html", "precious.tmp", "stage-0.pt", "study.json"), "precious"
    )
