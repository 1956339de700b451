"""Exported networks predict what the run predicted, without cvrbench; and errors of `export`."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
import polars as pl
import pytest
import torch
from benchmarks.latency import first_rows, select
from safetensors.numpy import load_file, save_file

from cvrbench.cli.app import main
from cvrbench.data.batches import Features, SplitTensors
from cvrbench.data.dataset import Bag, Split
from cvrbench.data.sources import load_raw
from cvrbench.objectives import Predictions
from cvrbench.runs.load import load_trained, read_finished
from cvrbench.serving.compaction import compact, example_features, task_network
from cvrbench.serving.export import Column, Part, save_onnx, tensor_inputs
from cvrbench.serving.score import score
from cvrbench.strategies import build_strategy
from tests.choices import OBJECTIVES
from tests.models.conftest_models import KINDS, build, chosen, make_batch, make_schema

CONF = Path(__file__).parents[1] / "conf"
NCS_CELL = ("model=ncs", "model.hidden=[24,12]", "model.tower=[6]", "model.density=0.1")


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def export(monkeypatch, capsys, tmp_path):
    """Call `cvrbench export` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CVRBENCH_CONF", str(CONF))

    def call(*arguments) -> Said:
        monkeypatch.setattr(sys, "argv", ["cvrbench", "export", *map(str, arguments)])
        code = main()
        return Said(code, *capsys.readouterr())

    return call


def raw_test_rows(run: Path) -> pl.DataFrame:
    """The raw test rows of a run, in the order of its predictions."""
    chunks = load_raw(load_trained(run).config.dataset, Path()).chunks(Counter())
    return pl.concat(frame for split, frame in chunks if split == "test")


def assert_predicts(found: pl.DataFrame, run: Path, names: list[str]) -> None:
    """A scorer's columns are those named, with the numbers of the run's own predictions."""
    predicted = pl.read_parquet(run / "predictions.parquet")
    assert found.columns == names
    for name in names:
        np.testing.assert_allclose(found[name], predicted[name], rtol=0, atol=1e-6)


ALONE = """
import runpy, sys
sys.modules["cvrbench"] = sys.modules["torch"] = None  # an import of either fails
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_bundle_scores_raw_rows_without_cvrbench_and_torch(trained, export, tmp_path):
    run = trained("model=mmoe", "model.hidden=[8]", "model.tower=[]")
    raw = raw_test_rows(run)
    raw.write_parquet("raw.parquet")
    said = export(run, "--to", "served")
    assert said.code == 0, said.err
    files = {"README.md", "bundle.json", "model.onnx", "score.py", "vocabulary.parquet"}
    assert {file.name for file in Path("served").iterdir()} == files
    names = ["p_ctr", "p_cvr", "p_ctcvr"]
    command = [sys.executable, "-c", ALONE, "served/score.py", "raw.parquet", "scores.parquet"]
    subprocess.run(command, check=True, cwd=tmp_path, env={})
    scored = pl.read_parquet("scores.parquet")
    assert scored.columns == [*raw.columns, *names]
    assert_predicts(scored.select(names), run, names)
    text = raw.cast(pl.String)  # as CSV has it
    assert_predicts(score(text, Path("served")), run, names)
    lines = Path("served/score.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 60
    assert "P(conversion" in Path("served/README.md").read_text()


def test_one_task_is_written_without_what_it_does_not_need(trained, export):
    run = trained(*NCS_CELL)
    said = export(run, "--task", "cvr", "--to", "served", "--json")
    assert said.code == 0, said.err
    (about,) = map(json.loads, said.out.splitlines())
    assert about["folder"] == "served"
    assert "served/model.onnx" in about["files"]
    known = json.loads(Path("served/bundle.json").read_text())
    assert (known["run_id"], known["task"]) == (run.name, "cvr")
    assert known["opset"] >= 18
    assert known["removed_units"] == about["removed_units"]["cvr"]
    rows = raw_test_rows(run)
    assert_predicts(score(rows, Path("served")), run, ["p_cvr"])
    assert score(rows.head(1), Path("served")).height == 1
    assert score(rows.head(0), Path("served")).height == 0
    networks = {row["state"]: row for row in about["networks"]}
    assert networks["masked"]["dense_parameters"] == 32 * 24 + 24 + 24 * 12 + 12 + 12 * 6 + 6 + 7
    assert sum(known["removed_units"]) > 0
    assert networks["compacted"]["multiply_adds"] < networks["masked"]["multiply_adds"]


@pytest.mark.parametrize(
    ("objective", "name", "meaning"),
    [
        pytest.param(
            "entire_space", "p_cvr", "P(conversion | exposure and click)", marks=pytest.mark.slow
        ),
        ("exposure_space", "p_ctcvr", "P(click and conversion | exposure)"),
    ],
)
def test_an_output_is_named_after_what_it_predicts(trained, export, objective, name, meaning):
    # So sparse that whole fields are not read.
    run = trained(*NCS_CELL, f"objective={objective}", "model.density=0.05")
    assert export(run, "--task", "cvr", "--to", "served").code == 0
    about = json.loads(Path("served/bundle.json").read_text())
    assert about["outputs"] == [{"name": name, "task": "cvr", "meaning": meaning}]
    assert about["unread_fields"]
    rows = raw_test_rows(run)
    assert_predicts(score(rows.drop(about["unread_fields"]), Path("served")), run, [name])


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_all_tasks_give_what_the_objective_predicts(trained, export, objective):
    run = trained(*NCS_CELL, f"objective={objective}", "interaction=dot")
    assert export(run, "--to", "served").code == 0
    names = ["p_ctr", "p_cvr", "p_ctcvr"]
    assert_predicts(score(raw_test_rows(run), Path("served")), run, names)


def test_a_run_with_a_trunk_per_task_is_rebuilt(trained):
    run = trained(*NCS_CELL, "model.search=unshared", "model.base=random")
    found = load_trained(run)
    assert found.network.own_weights
    test = read_finished(run).open_dataset().test
    rows = SplitTensors.load(test, found.schema, torch.device("cpu"))
    features = rows.gather(torch.arange(len(rows))).features
    for number, task in enumerate(("ctr", "cvr")):
        small = compact(task_network(found.network, found.schema, number)).network
        features_read = select(features, found.schema, small.schema)
        with torch.inference_mode():
            logits = small(features_read).logits[:, 0]
        expected = pl.read_parquet(run / "predictions.parquet")[f"p_{task}"]
        np.testing.assert_allclose(logits.sigmoid(), expected, atol=1e-6)


def test_the_table_says_what_is_saved_and_what_is_not(trained, export, monkeypatch):
    monkeypatch.setattr("cvrbench.serving.export.save_onnx", lambda *_: 0)
    said = export(trained(*NCS_CELL), "--to", "ncs")
    assert "ctr compacted" in said.out
    assert "carry nothing" in said.out
    assert "The mask alone saves nothing" in said.out
    assert said.out.splitlines()[-1] == "ncs"
    dense = trained(*NCS_CELL[:3], "model.search=random", "model.density=0.9")
    assert "masks of cvr save nothing" in export(dense, "--to", "dense").out
    plain = trained("model=shared_bottom", "model.hidden=[8]", "model.tower=[]")
    assert "cvr alone takes" in export(plain, "--task", "cvr", "--to", "plain").out


def test_an_export_stands_in_no_ones_place(given, export, monkeypatch, tmp_path):
    monkeypatch.setattr("cvrbench.serving.export.save_onnx", lambda *_: 0)
    run = given("model=shared_bottom", "model.hidden=[8]", "model.tower=[]")
    assert export(run, "--task", "cvr").code == 0
    assert [folder.name for folder in (run / "export").iterdir()] == ["task-cvr"]
    again = export(run, "--task", "cvr")
    assert again.code == 1
    assert "--force" in again.err
    assert export(run, "--task", "cvr", "--force").code == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    said = export(run, "--to", "mine", "--force")
    assert said.code == 1
    assert "holds other files" in said.err
    assert (tmp_path / "mine" / "thesis.tex").exists()


def assert_exported(network, reads, numbers, features_of, file) -> None:
    """The ONNX file gives the network's probabilities, whatever the number of rows and values."""

    def predict(output):
        probabilities = output.logits.sigmoid()
        return Predictions(probabilities, probabilities)

    columns = tuple(
        Column(name=f"p{n}", task="", meaning="", space="joint", number=n) for n in numbers
    )
    part = Part(task=None, network=network, schema=reads, predict=predict, outputs=columns)
    save_onnx(part, file, {"run_id": "r1"})
    session = onnxruntime.InferenceSession(file)
    assert session.get_modelmeta().custom_metadata_map["run_id"] == "r1"
    shapes = {value.name: tuple(value.shape) for value in session.get_inputs()}
    assert shapes == {tensor.name: tensor.shape for tensor in tensor_inputs(reads)}
    for n in (1, 2, 3, 50):
        features = features_of(n)
        if n == 50:  # every bag empty
            none = {name: getattr(features, name)[:0] for name in features._fields[1:4]}
            features = features._replace(**none)
        given = {name: getattr(features, name).numpy() for name in shapes}
        with torch.inference_mode():
            expected = network(features).logits.sigmoid()
        for found, number in zip(session.run(None, given), numbers, strict=True):
            np.testing.assert_allclose(found, expected[:, number], atol=1e-6)


def test_a_compacted_network_with_bags_and_numbers_is_exported(tmp_path):
    schema = make_schema(3)
    network = build("ncs", schema, hidden=(12, 6), dropout=0.1)
    network.keep.trunk_0[1, :4] = False  # no task but the second does without the users
    network = compact(task_network(network, schema, 1)).network.eval()
    reads = network.schema
    assert [field.name for field in reads.id_fields] == ["item", "tags"]

    def features_of(n: int) -> Features:
        return select(make_batch(schema, n, seed=n).features, schema, reads)

    assert_exported(network, reads, [0], features_of, tmp_path / "x.onnx")


@pytest.mark.slow
def test_attention_over_lists_is_exported(tmp_path):
    schema = make_schema()
    interaction = chosen("interaction", "attention")
    network = build_strategy(chosen("model", "single_task"), schema, interaction=interaction)

    def features_of(n: int) -> Features:
        return make_batch(schema, n, seed=n).features

    assert_exported(network.eval(), schema, [0, 1], features_of, tmp_path / "x.onnx")


ONE = pytest.param("mmoe", "numeric")
OTHERS = [
    pytest.param(kind, fields, marks=pytest.mark.slow)
    for kind in KINDS
    for fields in ("numeric", "multivalued", "all")
    if (kind, fields) != ("mmoe", "numeric")
]


@pytest.mark.parametrize(("kind", "fields"), [ONE, *OTHERS])
def test_every_strategy_and_kind_of_field_is_exported(kind, fields, tmp_path):
    every = make_schema(3)
    schema = every
    if fields != "all":
        without = {"categorical", "multivalued", "numeric"} - {fields}
        schema = replace(every, **dict.fromkeys(without, ()))
    network = build(kind, schema).eval()
    own = network.only(2)

    def features_of(n: int) -> Features:
        return select(make_batch(every, n, seed=n).features, every, schema)

    assert_exported(network, schema, [0, 2], features_of, tmp_path / "x.onnx")
    if fields == "all" and own is not None:
        assert_exported(own, schema, [0], features_of, tmp_path / "own.onnx")


def test_the_first_rows_are_those_of_the_split(trained):
    dataset = read_finished(trained(*NCS_CELL)).open_dataset()
    split, schema = dataset.valid, dataset.schema
    assert_first_rows(split, schema, 7)
    assert len(first_rows(split, schema, 10**9).rows) == len(split)


@pytest.mark.parametrize("shared", [False, True])
def test_the_first_rows_have_their_bags(shared):
    schema = make_schema()
    tags = replace(schema.multivalued[0], shared=shared)
    schema = replace(schema, multivalued=(tags,))
    contexts = np.array([2, 0, 2, 1], np.int32)
    split = Split(
        name="valid",
        ids=np.arange(8, dtype=np.int32).reshape(4, 2),
        numeric=np.arange(4, dtype=np.float32).reshape(4, 1),
        labels=np.zeros((4, 2), np.uint8),
        bags=(
            Bag(
                np.array([0, 2, 2, 5] if shared else [0, 2, 2, 5, 6]),
                np.arange(6, dtype=np.int32),
                np.arange(6, dtype=np.float32),
            ),
        ),
        contexts=contexts if shared else None,
        groups=None,
        truth=None,
    )
    for n in (1, 3, 4):
        assert_first_rows(split, schema, n)


def assert_first_rows(split, schema, n):
    every = SplitTensors.load(split, schema, torch.device("cpu"))
    expected = every.gather(torch.arange(n)).features
    for ours, theirs in zip(first_rows(split, schema, n), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_an_example_has_every_field():
    example = example_features(make_schema())
    batch = make_batch(make_schema(), 3).features
    assert [t.shape[1:] for t in example] == [t.shape[1:] for t in batch]
    assert [t.dtype for t in example] == [t.dtype for t in batch]
    assert example.bag_segments.tolist() == [0, 0, 1, 1, 2, 2]


def broken(run: Path, to: Path) -> Path:
    """A copy of a run's folder without checksums, to be damaged beyond what they see."""
    folder = to / "results" / "runs" / run.name
    shutil.copytree(run, folder)
    record = json.loads((folder / "record.json").read_text())
    del record["checksum"], record["files"]
    (folder / "record.json").write_text(json.dumps(record, indent=1))
    return folder


def test_an_unknown_task_names_those_there_are(trained, export):
    said = export(trained(*NCS_CELL), "--task", "cvx")
    assert said.code == 2
    assert "Did you mean 'cvr'" in said.err
    assert "Choices: ctr, cvr" in said.err
    assert len(said.err.splitlines()) == 1


def test_a_run_that_is_not_whole_is_one_line(trained, export, tmp_path):
    folder = broken(trained(*NCS_CELL), tmp_path)
    (folder / "masks.safetensors").rename(folder / "elsewhere")
    said = export(folder.name)
    assert said.code == 1
    assert "holds no masks.safetensors" in said.err
    (folder / "elsewhere").rename(folder / "masks.safetensors")
    weights = load_file(folder / "best.safetensors")
    del weights["towers.head"]
    save_file(weights, folder / "best.safetensors")
    said = export(folder.name)
    assert said.code == 1
    assert "towers.head" in said.err
    (folder / "best.safetensors").write_bytes(b"torn")
    assert "best.safetensors cannot be read" in export(folder.name).err
    (folder / "best.safetensors").unlink()
    assert "holds no best.safetensors" in export(folder.name).err
    (folder / "record.json").unlink()
    said = export(folder.name)
    assert said.code == 1
    assert "cvrbench resume" in said.err
    assert len(said.err.splitlines()) == 1
    assert "cvrbench ls" in export("nothing").err


def test_other_data_than_it_was_trained_on_are_one_line(trained, export, tmp_path, quick_data):
    folder = broken(trained(*NCS_CELL), tmp_path)
    saved = json.loads((folder / "config.json").read_text())
    record = (folder / "record.json").read_text()
    fingerprint = json.loads(record)["fingerprint"]
    (folder / "record.json").write_text(record.replace(fingerprint, "another"))
    said = export(folder.name)
    assert said.code == 1
    assert f"fingerprint another, now {fingerprint}" in said.err
    saved["config"]["data_dir"] = "nowhere"
    del saved["checksum"]
    (folder / "config.json").write_text(json.dumps(saved))
    said = export(folder.name)
    assert said.code == 1
    assert "cvrbench data prepare synthetic" in said.err


def test_what_onnx_needs_is_named_where_it_is_missing(trained, export, monkeypatch):
    monkeypatch.setattr("cvrbench.serving.export.find_spec", lambda _: None)
    run = trained(*NCS_CELL)
    said = export(run, "--task", "cvr", "--to", "served")
    assert said.code == 1
    assert "pip install 'cvrbench[onnx]'" in said.err
    assert len(said.err.splitlines()) == 1
    assert list(Path("served").glob("*")) == []


def test_a_folder_that_cannot_be_made_is_one_line(trained, export, tmp_path):
    (tmp_path / "served").write_text("a file")
    said = export(trained(*NCS_CELL), "--to", "served/below")
    assert said.code == 1
    assert "--to" in said.err
    assert len(said.err.splitlines()) == 1


def test_loading_leaves_the_random_state_alone(trained):
    run = trained(*NCS_CELL)
    state = torch.get_rng_state()
    found = load_trained(run)
    assert torch.equal(torch.get_rng_state(), state)
    assert not found.network.training
    assert replace(found.config, results_dir="") != found.config
