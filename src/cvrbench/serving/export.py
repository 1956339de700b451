"""A trained network as files that need no cvrbench: ONNX or plain weights, and what they mean.

DIR/TASK.onnx or DIR/TASK.safetensors    the network
DIR/TASK.json                            inputs, fields, layers, outputs; written last

An output is a probability, the logistic function of its task's logit. Which one it is depends on
the run's objective (see `cvrbench.objectives`): by `click_space` and `entire_space` it is
P(label | parent's label is 1) and called `p_cvr`; by `exposure_space` a task below another learned
the probability of all labels down to its own, and so it is called `p_ctcvr`: divided by the
parent's output it gives the conditional one.

One task is written without the other tasks' parts where it has a path of its own, masks folded in
(`serving.compaction`); of a mixture of experts it is the whole network, asked for one output. `all`
writes the network as it was trained, masks included.

The home of the optional packages `onnx` and `onnxscript`, which torch's exporter needs; they come
with `pip install 'cvrbench[onnx]'`.
"""

import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor, nn

from cvrbench import __version__
from cvrbench.data.batches import Features
from cvrbench.data.schema import Schema
from cvrbench.errors import ConfigError, RunError, StoreError, did_you_mean
from cvrbench.runs.load import Trained
from cvrbench.serving.compaction import (
    Compaction,
    TaskNetwork,
    compact,
    example_features,
    task_network,
    vocabulary_starts,
)
from cvrbench.system.files import atomic_write, write_text

ALL = "all"
Layout = Literal["onnx", "state_dict"]
SUFFIX: dict[Layout, str] = {"onnx": ".onnx", "state_dict": ".safetensors"}
PACKAGES = ("onnx", "onnxscript")
MAX_BYTES = 2**31 - 2**20
"""Most bytes of a protobuf message, and so of one ONNX file; some room is left for the graph."""

LIST_OF_NUMBERS = re.compile(r"\[[\s\d,]+\]")


@dataclass(frozen=True, kw_only=True)
class Output:
    """One probability that an exported network gives."""

    name: str
    task: str
    meaning: str
    column: int
    """Column of the network's logits."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is written: one task's network, or all tasks'."""

    name: str
    network: nn.Module
    schema: Schema
    """Schema of the fields that it reads."""
    outputs: tuple[Output, ...]
    compaction: Compaction | None


def part_of(trained: Trained, task: str) -> Part:
    """Take the part of a trained network that one task needs, or the whole with `all`.

    Raises:
        ConfigError: There is no such task.
    """
    network, schema = trained.network, trained.schema
    names = [t.name for t in schema.tasks]
    if task not in (choices := [*names, ALL]):
        raise ConfigError(
            f"--task {task}: {trained.record.run_id} has no such task."
            f"{did_you_mean(task, choices)} Choices: {', '.join(choices)}"
        )
    kind = trained.config.objective.kind
    wanted = range(len(names)) if task == ALL else [names.index(task)]
    if task == ALL or (own := network.only(names.index(task))) is None:
        outputs = tuple(_output(schema, number, kind, column=number) for number in wanted)
        return Part(name=task, network=network, schema=schema, outputs=outputs, compaction=None)
    masked = task_network(network, schema, names.index(task))
    found = None if masked is None else compact(masked)
    return Part(
        name=task,
        network=own if found is None else found.network,
        schema=schema if found is None else found.network.schema,
        outputs=tuple(_output(schema, number, kind, column=0) for number in wanted),
        compaction=found,
    )


def write(part: Part, trained: Trained, folder: Path, layout: Layout) -> tuple[Path, Path]:
    """Write a part's network and its description; each file whole or not at all.

    Returns:
        The two files, the network's first.

    Raises:
        StoreError: The folder cannot be made or written.
        RunError: Packages that ONNX needs are not installed, or the network is too large for it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or error
        raise StoreError(f"cannot make {folder}: {why}; give another folder with --to") from None
    file, opset = folder / f"{part.name}{SUFFIX[layout]}", None
    if layout == "onnx":
        columns = {output.name: output.column for output in part.outputs}
        content, opset = make_onnx(part.network, part.schema, columns, _identity(part, trained))
    else:
        # Not save_file, which lets nobody but the owner read what is to be handed on.
        content = save({name: t.contiguous() for name, t in part.network.state_dict().items()})
    with atomic_write(file) as temporary:
        temporary.write_bytes(content)
    about = folder / f"{part.name}.json"
    facts = {"file": file.name, "format": layout, "opset": opset, **_describe(part, trained)}
    write_text(about, LIST_OF_NUMBERS.sub(_on_one_line, json.dumps(facts, indent=1)) + "\n")
    return file, about


def _on_one_line(numbers: re.Match[str]) -> str:
    return " ".join(numbers[0].split()).replace("[ ", "[").replace(" ]", "]")


def _identity(part: Part, trained: Trained) -> dict[str, str]:
    record = trained.record
    return {
        "cvrbench": __version__,
        "run_id": record.run_id,
        "model": record.model,
        "dataset": record.dataset,
        "fingerprint": record.fingerprint,
        "part": part.name,
        "objective": trained.config.objective.kind,
    }


def _describe(part: Part, trained: Trained) -> dict[str, Any]:
    """Return what a program needs to know to call the network, and a person to trust it."""
    found = part.compaction
    return {
        **_identity(part, trained),
        "compacted": found is not None,
        "tasks": [output.task for output in part.outputs],
        "outputs": [asdict(output) for output in part.outputs],
        "inputs": [tensor._asdict() for tensor in tensor_inputs(part.schema)],
        "fields": _fields(part.schema),
        "vocabularies": str(trained.dataset.path / "vocabulary"),
        "unread_fields": [] if found is None else list(found.unread_fields),
        "removed_units": [] if found is None else list(found.removed),
        "layers": _layers(part),
    }


def _fields(schema: Schema) -> list[dict[str, Any]]:
    """Return each field's place: `start` is added to a value's id to give its row in the table."""
    starts, found = vocabulary_starts(schema), []
    kinds: list[tuple[str, str, Sequence[Any]]] = [
        ("categorical", "column", schema.categorical),
        ("multivalued", "position", schema.multivalued),
        ("numeric", "column", schema.numeric),
    ]
    for kind, place, fields in kinds:
        for number, field in enumerate(fields):
            start = {"start": starts[field.name]} if field.name in starts else {}
            found.append({"kind": kind, place: number, **start, **asdict(field)})
    return found


def _layers(part: Part) -> list[dict[str, Any]]:
    """Return a task's dense layers, `x @ weight + bias`; else every tensor's name and shape."""
    network = part.network
    if not isinstance(network, TaskNetwork) or part.compaction is None:
        return [{"name": n, "shape": list(t.shape)} for n, t in network.state_dict().items()]
    last = len(network.layers) - 1
    units = [*part.compaction.units[:last], (0,)]
    return [
        {
            "weight": f"weights.{number}",
            "bias": f"biases.{number}",
            "shape": list(layer.weight.shape),
            "activation": "relu" if number < last else "none",
            "trained_units": list(units[number]),
        }
        for number, layer in enumerate(network.layers)
    ]


def _output(schema: Schema, number: int, kind: str, *, column: int) -> Output:
    """Return what the logistic function of a task's logit is a probability of."""
    task = schema.tasks[number]
    *given, label = (schema.tasks[t].label for t in schema.chain(number))
    name, event, condition = task.name, label, ["exposure", *given]
    if task.joint is not None and kind == "exposure_space":
        name, event, condition = task.joint, " and ".join([*given, label]), ["exposure"]
    meaning = f"P({event} | {' and '.join(condition)})"
    return Output(name=f"p_{name}", task=task.name, meaning=meaning, column=column)


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
    if schema.numeric:
        shape = ("batch", len(schema.numeric))
        found.append(TensorInput("numeric", "float32", shape, "(number - mean) / std"))
    return tuple(found)


def make_onnx(
    network: nn.Module, schema: Schema, columns: Mapping[str, int], notes: Mapping[str, str]
) -> tuple[bytes, int]:
    """Trace a network into an ONNX graph with any number of rows and of values.

    Args:
        network: In the state to be served.
        schema: Of the fields that it reads.
        columns: Name of an output -> column of the logits whose probability it gives.
        notes: What the file says of itself.

    Returns:
        One file, and the version of its operators.

    Raises:
        RunError: A package is missing, or the network is too large for one file.
    """
    _check(network)
    import onnx

    inputs = tensor_inputs(schema)
    example = example_features(schema)
    arguments = tuple(getattr(example, tensor.name) for tensor in inputs)
    sizes = {"batch": torch.export.Dim("batch"), "values": torch.export.Dim("values")}
    dynamic = (tuple({0: sizes[str(tensor.shape[0])]} for tensor in inputs),)
    served = _Served(network, tuple(t.name for t in inputs), tuple(columns.values())).eval()
    with _quietly(), torch.no_grad():
        # strict: it reads the code, where len() of a tensor would be fixed by merely running it.
        program = torch.export.export(served, arguments, dynamic_shapes=dynamic, strict=True)
        traced = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[tensor.name for tensor in inputs],
            output_names=list(columns),
            dynamic_shapes=dynamic,
            verbose=False,
        )
    assert traced is not None  # None is the answer of the exporter before this one
    traced.model.metadata_props.update(notes)
    proto = traced.model_proto
    onnx.checker.check_model(proto)
    opset = next(o.version for o in proto.opset_import if o.domain == "")
    return proto.SerializeToString(), opset


class _Served(nn.Module):
    """Tensors in, probabilities out, one `[batch]` each."""

    def __init__(
        self, network: nn.Module, inputs: tuple[str, ...], columns: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.network, self.inputs, self.columns = network, inputs, columns

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
        probabilities = self.network(features).logits.sigmoid()  # [batch, tasks]
        return tuple(probabilities[:, column] for column in self.columns)


def _check(network: nn.Module) -> None:
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise RunError(
            f"--format onnx needs {' and '.join(missing)}; run `pip install 'cvrbench[onnx]'`, or "
            "use --format state_dict"
        )
    n_bytes = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    if n_bytes > MAX_BYTES:
        raise RunError(
            f"the network has {n_bytes / 2**30:.1f} GiB and one ONNX file holds 2; use "
            "--format state_dict"
        )


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
