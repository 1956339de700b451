"""A trained network as a folder that serves without cvrbench, the data or torch.

DIR/model.onnx            the network, ids in and probabilities out
DIR/model.onnx.data       weights of a network that is too large for one file (2 GB)
DIR/vocabulary.parquet    field, value, row: known values and their rows of the embedding table,
                          once for fields that share them
DIR/bundle.json           fields in the order of the inputs, outputs, and where the network is from
DIR/score.py              raw rows to probabilities (`cvrbench.serving.score`)
DIR/README.md             what a person needs to know of these

All tasks give what `cvrbench predict` gives: the conditional and the joint probabilities. One task
gives the probability that its logit is of, and is written without the parts that it does not need,
masks folded in (`serving.compaction`).

The home of the optional packages `onnx` and `onnxscript`, which torch's exporter needs; they come
with `pip install 'cvrbench[onnx]'`.
"""

import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Any, Literal, NamedTuple

import polars as pl
import torch
from torch import Tensor, nn

from cvrbench import __version__
from cvrbench.config.dataset import TableConfig
from cvrbench.data.batches import Features
from cvrbench.data.dataset import vocabulary_file
from cvrbench.data.encode import ZEROS
from cvrbench.data.schema import MISSING, N_RESERVED, OOV, Categorical, MultiValued, Schema
from cvrbench.data.sources.table_columns import NAN, absent_numbers, intervals
from cvrbench.errors import ConfigError, RunError, StoreError, did_you_mean
from cvrbench.nn import Output
from cvrbench.objectives import Predictions, build_objective
from cvrbench.runs.load import Trained
from cvrbench.serving.compaction import (
    Compaction,
    compact,
    example_features,
    task_network,
)
from cvrbench.serving.predict import as_table, takes_rows
from cvrbench.system.files import explain_write

PACKAGES = ("onnx", "onnxscript")
MODEL, ABOUT, VOCABULARY = "model.onnx", "bundle.json", "vocabulary.parquet"
SCORER, README = (Path(__file__).with_name(name) for name in ("score.py", "README.template.md"))

SCORES_ROWS = """`python score.py ROWS.parquet SCORES.parquet` scores a file with numpy, polars and
onnxruntime alone, `score.score` a polars frame (CSV: `pl.read_csv(FILE, infer_schema=False)`)."""
SCORES_NONE = """The values of its lists have weights: there is no scorer of rows, build the inputs
from prepared values."""

Predict = Callable[[Output], Predictions]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One probability that an exported network gives."""

    name: str
    task: str
    meaning: str
    space: Literal["conditional", "joint"]
    number: int
    """Number of the task among those of the network."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is written: one task's network, or all tasks'."""

    task: str | None
    """None: all."""
    network: nn.Module
    schema: Schema
    """Schema of the fields that it reads."""
    predict: Predict
    outputs: tuple[Column, ...]
    compaction: Compaction | None = None


def part_of(trained: Trained, task: str | None) -> Part:
    """Take the part of a trained network that one task needs, or the whole.

    Raises:
        ConfigError: There is no such task.
    """
    network, schema = trained.network, trained.schema
    objective = build_objective(trained.config.objective, schema)
    names = [t.name for t in schema.tasks]
    if task is None:
        outputs = tuple(column for t in range(len(names)) for column in _columns(schema, t))
        found = objective.predictions
        return Part(task=None, network=network, schema=schema, predict=found, outputs=outputs)
    if task not in names:
        raise ConfigError(
            f"--task {task}: {trained.record.run_id} has no such task."
            f"{did_you_mean(task, names)} Choices: {', '.join(names)}"
        )
    number = names.index(task)
    masked = task_network(network, schema, number)
    compaction = None if masked is None else compact(masked)
    own = network.only(number) if compaction is None else compaction.network
    space = "joint" if objective.joint_logits and len(schema.chain(number)) > 1 else "conditional"
    return Part(
        task=task,
        network=network if own is None else own,
        schema=schema if compaction is None else compaction.network.schema,
        predict=_of_logits,
        outputs=tuple(
            replace(column, number=number if own is None else 0)
            for column in _columns(schema, number)
            if column.space == space
        ),
        compaction=compaction,
    )


def _of_logits(output: Output) -> Predictions:
    """Return the probabilities that the logits are of, whatever their space."""
    probabilities = output.logits.double().sigmoid()
    return Predictions(probabilities, probabilities)


def _columns(schema: Schema, number: int) -> Iterator[Column]:
    """Yield a task's conditional probability and, if it has a parent, the joint one."""
    task = schema.tasks[number]
    *given, label = (schema.tasks[t].label for t in schema.chain(number))
    of_ratio = task.is_ratio
    of_task = Column(
        name=f"p_{task.name}",
        task=task.name,
        meaning=f"{'E' if of_ratio else 'P'}({label} | {' and '.join(['exposure', *given])})",
        space="conditional",
        number=number,
    )
    yield of_task
    if task.joint is not None:
        product = (" * " if of_ratio else " and ").join([*given, label])
        meaning = f"{'E' if of_ratio else 'P'}({product} | exposure)"
        yield replace(of_task, name=f"p_{task.joint}", meaning=meaning, space="joint")


def write_bundle(part: Part, trained: Trained, folder: Path, *, force: bool = False) -> None:
    """Write a folder that serves by itself, whole or not at all.

    Raises:
        StoreError: Something is in its place, or it cannot be written.
        RunError: Packages that ONNX needs are not installed.
    """
    _check_packages()
    work = folder.with_name(f".{folder.name}.tmp")
    with explain_write(folder, "--to"):
        if folder.exists() and not (folder / ABOUT).is_file() and any(folder.iterdir()):
            raise StoreError(f"{folder} holds other files; give a folder of its own with --to")
        if (folder / ABOUT).is_file() and not force:
            raise StoreError(f"{folder} holds an export; replace it with --force")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            identity = _identity(part, trained)
            opset = save_onnx(part, work / MODEL, identity)
            about = {**identity, "opset": opset, **_describe(part, trained)}
            (work / ABOUT).write_text(json.dumps(about, indent=1) + "\n")
            _vocabulary(part.schema, trained).write_parquet(work / VOCABULARY)
            dataset = trained.config.dataset
            is_weighted = isinstance(dataset, TableConfig) and bool(dataset.weights)
            is_scored = takes_rows(dataset) and not is_weighted
            (work / "README.md").write_text(_readme(part, about, is_scored=is_scored))
            if is_scored:
                shutil.copyfile(SCORER, work / SCORER.name)
            if folder.exists():
                shutil.rmtree(folder)
            work.rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _identity(part: Part, trained: Trained) -> dict[str, str]:
    record = trained.record
    return {
        "cvrbench": __version__,
        "run_id": record.run_id,
        "model": record.model,
        "dataset": record.dataset,
        "fingerprint": record.fingerprint,
        "task": "all" if part.task is None else part.task,
        "objective": trained.config.objective.kind,
    }


def _describe(part: Part, trained: Trained) -> dict[str, Any]:
    """Return what a program needs to know to call the network."""
    found, dataset = part.compaction, trained.config.dataset
    config = as_table(dataset, trained.schema) if takes_rows(dataset) else None
    return {
        "outputs": [{"name": c.name, "task": c.task, "meaning": c.meaning} for c in part.outputs],
        "inputs": [tensor._asdict() for tensor in tensor_inputs(part.schema)],
        "fields": list(_fields(part.schema, trained.schema, config)),
        "unread_fields": [] if found is None else list(found.unread_fields),
        "removed_units": [] if found is None else list(found.removed),
    }


def _fields(reads: Schema, every: Schema, config: TableConfig | None) -> Iterator[dict[str, Any]]:
    """Yield how each input is made of a column of the rows, in the order of the inputs.

    Keys without effect are left out, and `config` is None where rows are no raw ones.
    """
    starts, nulls = reads.starts, ["", *(config.null_values if config else ())]
    rules = {key: getattr(config, key, {}) for key in ("hash", "buckets", "clip")}

    def column(kind: str, name: str) -> dict[str, Any]:
        own = {key: rule[name] for key, rule in rules.items() if name in rule}
        if "buckets" in own:
            own["intervals"] = intervals(own["buckets"])
        words = {"nulls": nulls, "na": absent_numbers(nulls), "clip": [None, None]}
        return {"kind": kind, "column": name, **words, **own}

    def place(field: Categorical | MultiValued, position: int) -> dict[str, Any]:
        start, typed = starts[field.name], bool(field.typed)
        empty = [*(nulls if isinstance(field, Categorical) else [""]), *([NAN] if typed else [])]
        own = {"position": position, "size": field.size, "zeros": ZEROS, "empty": empty}
        own |= {"vocabulary": field.vocabulary, "typed": typed}
        rows = {"absent": start + MISSING, "unknown": start + OOV}
        return {**own, **rows}

    for position, single in enumerate(reads.categorical):
        yield {**column("id", single.name), **place(single, position)}
    for position, bag in enumerate(reads.multivalued):
        own = {"pool": bag.pool, "separator": config.list_separator if config else None}
        own |= {"around": ""}
        yield {**column("list", bag.name), **own, **place(bag, position)}
    gaps = every.gaps
    for number in reads.numeric:
        name = gaps.get(number.name, number.name)
        found = column("absence" if number.name in gaps else "number", name)
        found |= {"log1p": True} if config and name in config.log1p else {}
        yield {**found, "mean": number.mean, "std": number.std}
    for vector in reads.vectors:
        separator = config.vector_separator if config else None
        words = {**column("number", vector.name), "separator": separator, "around": "[] ", "na": []}
        for place_in, (mean, std) in enumerate(zip(vector.mean, vector.std, strict=True)):
            yield {**words, "at": place_in, "mean": mean, "std": std}


def _vocabulary(reads: Schema, trained: Trained) -> pl.DataFrame:
    """Return the known values of all id fields as text, and their rows of the embedding table."""
    tables = [pl.DataFrame(schema={"field": pl.String, "value": pl.String, "row": pl.Int64})]
    for name, start in {f.vocabulary: reads.starts[f.name] for f in reads.id_fields}.items():
        known = pl.read_parquet(vocabulary_file(trained.data, name), glob=False)
        row = (pl.col("id").cast(pl.Int64) + start).alias("row")
        known = known.filter(pl.col("id") >= N_RESERVED)
        tables.append(known.select(pl.lit(name).alias("field"), "value", row))
    return pl.concat(tables)


def _readme(part: Part, about: Mapping[str, Any], *, is_scored: bool) -> str:
    cells = [(output.name, output.meaning.replace("|", r"\|", 1)) for output in part.outputs]
    lines = [f"| `{name}` | {meaning} |" for name, meaning in cells]
    what = "all tasks" if part.task is None else f"task {part.task}"
    scorer = SCORES_ROWS if is_scored else SCORES_NONE
    filled = {**about, "what": what, "outputs": "\n".join(lines), "scorer": scorer}
    return Template(README.read_text()).substitute(filled)


class TensorInput(NamedTuple):
    """One input tensor of an exported network."""

    name: str
    dtype: str
    shape: tuple[str | int, ...]
    """`batch` and `values` may differ from call to call."""
    meaning: str


def tensor_inputs(schema: Schema) -> tuple[TensorInput, ...]:
    """Return which tensors a network of these fields reads, in the order of `Features`."""
    shape = ("batch", len(schema.categorical))
    meaning = "per categorical field the value's id plus the field's start"
    found = [TensorInput("rows", "int64", shape, meaning)]
    if schema.multivalued:
        bag = ("values",)
        found += [
            TensorInput("bag_rows", "int64", bag, "every value's id plus its field's start"),
            TensorInput("bag_weights", "float32", bag, "every value's weight"),
            TensorInput("bag_segments", "int64", bag, "field's position times batch, plus row"),
        ]
    if schema.n_numbers:
        shape = ("batch", schema.n_numbers)
        found.append(TensorInput("numeric", "float32", shape, "(number - mean) / std"))
    return tuple(found)


def save_onnx(part: Part, file: Path, notes: Mapping[str, str]) -> int:
    """Trace a network into an ONNX graph with any number of rows and of values.

    Args:
        part: Its network in the state to be served.
        file: What to write; a network of more than 2 GB has its weights in a second one beside it.
        notes: What the file says of itself.

    Returns:
        The version of its operators.
    """
    import onnx

    inputs = tensor_inputs(part.schema)
    example = example_features(part.schema)
    arguments = tuple(getattr(example, tensor.name) for tensor in inputs)
    sizes = {"batch": torch.export.Dim("batch"), "values": torch.export.Dim("values")}
    dynamic = (tuple({0: sizes[str(tensor.shape[0])]} for tensor in inputs),)
    with _quietly(), torch.no_grad():
        # strict: it reads the code, where len() of a tensor would be fixed by merely running it.
        program = torch.export.export(
            _Served(part).eval(), arguments, dynamic_shapes=dynamic, strict=True
        )
        traced = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[tensor.name for tensor in inputs],
            output_names=[output.name for output in part.outputs],
            dynamic_shapes=dynamic,
            verbose=False,
        )
    assert traced is not None  # None is the answer of the exporter before this one
    traced.model.metadata_props.update(notes)
    traced.save(file)
    onnx.checker.check_model(file)
    opset = traced.model.opset_imports[""]
    assert opset is not None
    return opset


class _Served(nn.Module):
    """Tensors in, probabilities out, one `[batch]` each."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.network, self.predict, self.outputs = part.network, part.predict, part.outputs
        self.inputs = [tensor.name for tensor in tensor_inputs(part.schema)]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.inputs, tensors, strict=True))
        rows = given["rows"]
        none = rows.new_empty(0)
        features = Features(
            rows=rows,
            bag_rows=given.get("bag_rows", none),
            bag_weights=given.get("bag_weights", none.float()),
            bag_segments=given.get("bag_segments", none),
            numeric=given.get("numeric", rows.new_empty(rows.shape[0], 0).float()),
        )
        found = self.predict(self.network(features))
        return tuple(getattr(found, o.space)[:, o.number] for o in self.outputs)


def _check_packages() -> None:
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise RunError(f"export needs {' and '.join(missing)}; run `pip install 'cvrbench[onnx]'`")


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporter's notes on its own affairs (torchvision is absent, ...) off the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
