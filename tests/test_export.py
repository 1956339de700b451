"""Exported networks predict what the run predicted, without cvrbench; and errors of `export`."""

import json
import shutil
import sys
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
from cvrbench.runs.load import load_trained
from cvrbench.serving.compaction import compact, example_features, task_network
from cvrbench.serving.export import make_onnx, tensor_inputs
from tests.models.conftest_models import KINDS, build, make_batch, make_schema

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


def predictions(run: Path) -> pl.DataFrame:
    return pl.read_parquet(run / "predictions.parquet")


def ids_for(run: Path, about: Path) -> np.ndarray:
    """The test rows' ids as the description of a network wants them."""
    dataset = load_trained(run).dataset
    names = [field.name for field in dataset.schema.categorical]
    fields = json.loads(about.read_text())["fields"]
    assert [field["column"] for field in fields] == list(range(len(fields)))
    columns = [dataset.test.ids[:, names.index(f["name"])] + f["start"] for f in fields]
    return np.stack(columns, axis=1).astype(np.int64)


def by_onnx(file: Path, rows: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"rows": rows}), strict=True))


def by_hand(run: Path, folder: Path, task: str) -> np.ndarray:
    """The test rows' probabilities from the written files and numpy alone."""
    about = json.loads((folder / f"{task}.json").read_text())
    rows = ids_for(run, folder / f"{task}.json")
    state = load_file(folder / about["file"])
    x = state["encoder.table"][rows].reshape(len(rows), -1)
    for layer in about["layers"]:
        x = x @ state[layer["weight"]] + state[layer["bias"]]
        x = np.maximum(x, 0) if layer["activation"] == "relu" else x
    return 1 / (1 + np.exp(-x[:, 0]))


def test_one_task_as_onnx_predicts_what_the_run_predicted(trained, export, tmp_path):
    run = trained(*NCS_CELL)
    said = export(run, "--task", "cvr", "--to", "served", "--json")
    assert said.code == 0, said.err
    (about,) = map(json.loads, said.out.splitlines())
    assert about["files"] == ["served/cvr.onnx", "served/cvr.json"]
    assert sorted(p.name for p in Path("served").iterdir()) == ["cvr.json", "cvr.onnx"]
    predicted = predictions(run)
    rows = ids_for(run, Path("served/cvr.json"))
    known = json.loads(Path("served/cvr.json").read_text())
    assert known["run_id"] == run.name
    assert known["opset"] >= 18
    for seen in (slice(0, 1), slice(5, 6), slice(0, 2), slice(0, len(rows))):
        found = by_onnx(Path("served/cvr.onnx"), rows[seen])
        assert list(found) == ["p_cvr"]
        np.testing.assert_allclose(found["p_cvr"], predicted["p_cvr"].to_numpy()[seen], atol=1e-5)
    networks = {row["state"]: row for row in about["networks"]}
    assert networks["masked"]["dense_parameters"] == 32 * 24 + 24 + 24 * 12 + 12 + 12 * 6 + 6 + 7
    assert sum(about["removed_units"]["cvr"]) > 0
    assert networks["compacted"]["multiply_adds"] < networks["masked"]["multiply_adds"]
    assert "seconds" not in networks["masked"]


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(NCS_CELL, marks=pytest.mark.slow),
        ("model=mmoe", "model.hidden=[8]", "model.tower=[]"),
    ],
)
def test_all_tasks_as_onnx_predict_what_the_run_predicted(given, export, cell):
    run = given(*cell)
    assert export(run).code == 0
    predicted = predictions(run)
    file = run / "export" / "all.onnx"
    rows = ids_for(run, file.with_suffix(".json"))
    for seen in (slice(7, 8), slice(0, len(rows))):
        found = by_onnx(file, rows[seen])
        assert list(found) == ["p_ctr", "p_cvr"]
        for name, values in found.items():
            np.testing.assert_allclose(values, predicted[name].to_numpy()[seen], atol=1e-5)


@pytest.mark.parametrize("objective", ["entire_space", "exposure_space"])
def test_an_output_is_named_after_what_it_predicts(trained, export, objective):
    # So sparse that whole fields are not read.
    run = trained(*NCS_CELL, f"objective={objective}", "model.density=0.05")
    predicted = predictions(run)
    assert export(run, "--task", "cvr", "--format", "state_dict", "--to", "served").code == 0
    (output,) = json.loads(Path("served/cvr.json").read_text())["outputs"]
    name, meaning = {
        "entire_space": ("p_cvr", "P(conversion | exposure and click)"),
        "exposure_space": ("p_ctcvr", "P(click and conversion | exposure)"),
    }[objective]
    assert (output["name"], output["meaning"]) == (name, meaning)
    assert json.loads(Path("served/cvr.json").read_text())["unread_fields"]
    found = by_hand(run, Path("served"), "cvr")
    np.testing.assert_allclose(found, predicted[name].to_numpy(), atol=1e-5)


def test_a_tasks_plain_weights_are_the_masked_ones(trained, export):
    run = trained(*NCS_CELL)
    predicted = predictions(run)
    masks = load_file(run / "masks.safetensors")
    weights = load_file(run / "best.safetensors")
    names = [field.name for field in load_trained(run).schema.categorical]
    for number, task in enumerate(("ctr", "cvr")):
        said = export(run, "--task", task, "--format", "state_dict", "--to", "served")
        assert said.code == 0
        found = by_hand(run, Path("served"), task)
        np.testing.assert_allclose(found, predicted[f"p_{task}"].to_numpy(), atol=1e-5)
        about = json.loads(Path(f"served/{task}.json").read_text())
        state = load_file(Path(f"served/{task}.safetensors"))
        # Fields that are not read have left the first matrix with their four columns.
        places = [names.index(field["name"]) for field in about["fields"]]
        below = [4 * place + column for place in places for column in range(4)]
        for i in range(2):
            above = about["layers"][i]["trained_units"]
            keep = masks[f"keep.trunk_{i}"][number][below][:, above]
            np.testing.assert_array_equal(state[f"weights.{i}"] != 0, keep)
            kept = weights[f"trunk.weights.{i}"][0][below][:, above]
            np.testing.assert_array_equal(state[f"weights.{i}"], kept * keep)
            below = above


def test_the_whole_as_plain_weights_is_what_the_run_saved(trained, export):
    run = trained(*NCS_CELL)
    assert export(run, "--format", "state_dict", "--to", "served").code == 0
    state = load_file(Path("served/all.safetensors"))
    saved = load_file(run / "best.safetensors") | load_file(run / "masks.safetensors")
    assert set(state) == set(saved)
    for name, value in saved.items():
        assert state[name].dtype == value.dtype
        np.testing.assert_array_equal(state[name], value, err_msg=name)


def test_a_run_with_a_trunk_per_task_is_rebuilt(trained, export):
    run = trained(*NCS_CELL, "model.search=unshared", "model.base=random")
    assert load_trained(run).network.own_weights
    predicted = predictions(run)
    for task in ("ctr", "cvr"):
        said = export(run, "--task", task, "--format", "state_dict", "--to", "served")
        assert said.code == 0, said.err
        found = by_hand(run, Path("served"), task)
        np.testing.assert_allclose(found, predicted[f"p_{task}"].to_numpy(), atol=1e-5)


def test_the_table_says_what_is_saved_and_what_is_not(given, export):
    run = given(*NCS_CELL)
    said = export(run, "--format", "state_dict")
    assert "ctr compacted" in said.out
    assert "carry nothing" in said.out
    assert "The mask alone saves nothing" in said.out
    assert str(run / "export" / "all.safetensors") in said.out
    dense = given(*NCS_CELL[:3], "model.search=random", "model.density=0.9")
    assert "masks of cvr save nothing" in export(dense, "--format", "state_dict").out
    plain = given("model=shared_bottom", "model.hidden=[8]", "model.tower=[]")
    said = export(plain, "--task", "cvr", "--format", "state_dict").out
    assert "cvr alone takes" in said
    (output,) = json.loads((plain / "export" / "cvr.json").read_text())["outputs"]
    assert output["column"] == 0


def test_a_task_of_single_task_is_written_without_the_others(trained, export):
    run = trained("model=single_task", "model.hidden=[8]", "model.tower=[4]")
    predicted = predictions(run)
    assert export(run, "--to", "served").code == 0
    for task in ("ctr", "cvr"):
        said = export(run, "--task", task, "--to", "served")
        assert said.code == 0, said.err
        rows = ids_for(run, Path(f"served/{task}.json"))
        found = by_onnx(Path(f"served/{task}.onnx"), rows)
        expected = predicted[f"p_{task}"].to_numpy()
        np.testing.assert_allclose(found[f"p_{task}"], expected, atol=1e-5)
        assert Path(f"served/{task}.onnx").stat().st_size < Path("served/all.onnx").stat().st_size


def assert_exported(network, reads, columns, features_of, tmp_path) -> None:
    """The ONNX file gives the network's probabilities, whatever the number of rows and values."""
    content, _ = make_onnx(network, reads, columns, {"run_id": "r1"})
    (tmp_path / "x.onnx").write_bytes(content)
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
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
        for found, column in zip(session.run(None, given), columns.values(), strict=True):
            np.testing.assert_allclose(found, expected[:, column], atol=1e-5)


def test_a_compacted_network_with_bags_and_numbers_is_exported(tmp_path):
    schema = make_schema(3)
    network = build("ncs", schema, hidden=(12, 6), dropout=0.1)
    network.keep.trunk_0[1, :4] = False  # no task but the second does without the users
    network = compact(task_network(network, schema, 1)).network.eval()
    reads = network.schema
    assert [field.name for field in reads.id_fields] == ["item", "tags"]

    def features_of(n: int) -> Features:
        return select(make_batch(schema, n, seed=n).features, schema, reads)

    assert_exported(network, reads, {"p_cvr": 0}, features_of, tmp_path)


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

    columns = {"p_ctr": 0, "p_like": 2}
    assert_exported(network, schema, columns, features_of, tmp_path)
    if fields == "all":
        assert_exported(own, schema, {"p_like": 0}, features_of, tmp_path)


def test_the_first_rows_are_those_of_the_split(trained):
    found = load_trained(trained(*NCS_CELL))
    split, schema = found.dataset.valid, found.schema
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
    assert "Choices: ctr, cvr, all" in said.err
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


def test_a_network_too_large_for_a_file_is_one_line(given, export, monkeypatch):
    monkeypatch.setattr("cvrbench.serving.export.MAX_BYTES", 100)
    said = export(given(*NCS_CELL), "--task", "cvr")
    assert said.code == 1
    assert "--format state_dict" in said.err


def test_a_folder_that_cannot_be_made_is_one_line(trained, export, tmp_path):
    (tmp_path / "served").write_text("a file")
    said = export(trained(*NCS_CELL), "--to", "served", "--format", "state_dict")
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
