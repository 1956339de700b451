"""A trained network as files that need no cvrbench: ONNX or plain weights, and what they mean.

DIR/TASK.onnx or DIR/TASK.safetensors    the network
DIR/TASK.json                            inputs, fields, layers, outputs; written last

An output is a probability, the logistic function of its task's logit. What of depends on the run's
objective (see `cvrbench.objectives`): by `click_space` and `entire_space` it is P(label | parent's
label is 1) and called `p_cvr`; by `exposure_space` a task below another learned the probability of
all labels down to its own, and so it is called `p_ctcvr`: divided by the parent's output it gives
the conditional one.

One task of an NCS network is written compacted, its masks folded in. `all` writes the network as
it was trained, masks included. Other strategies have no part that is one task's alone: one task of
them is the whole network, asked for one output.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save

from cvrbench import __version__
from cvrbench.data.schema import Schema
from cvrbench.errors import ConfigError, StoreError, did_you_mean
from cvrbench.files import explain_write, write_text
from cvrbench.serving.compaction import (
    Compaction,
    TaskNetwork,
    compact,
    masked_network,
    vocabulary_starts,
)
from cvrbench.serving.to_onnx import make_onnx, tensor_inputs
from cvrbench.strategies.base import SharingStrategy
from cvrbench.strategies.ncs import NCS
from cvrbench.trained import Trained

ALL = "all"
Layout = Literal["onnx", "state_dict"]
SUFFIX: dict[Layout, str] = {"onnx": ".onnx", "state_dict": ".safetensors"}

LIST_OF_NUMBERS = re.compile(r"\[[\s\d,]+\]")


@dataclass(frozen=True, kw_only=True)
class Output:
    """One probability that an exported network gives."""

    name: str
    task: str
    meaning: str
    column: int
    """Of the network's logits."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is written: one task's network, or all tasks'."""

    name: str
    network: SharingStrategy
    schema: Schema
    """Of the fields that it reads."""
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
    if task == ALL or not isinstance(network, NCS):
        outputs = tuple(_output(schema, number, kind, column=number) for number in wanted)
        return Part(name=task, network=network, schema=schema, outputs=outputs, compaction=None)
    found = compact(masked_network(network, schema, names.index(task)))
    return Part(
        name=task,
        network=found.network,
        schema=found.network.schema,
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
        raise StoreError(
            f"cannot make {folder}: {error.strerror or error}; give another folder with --to"
        ) from None
    file = folder / f"{part.name}{SUFFIX[layout]}"
    opset = None
    if layout == "onnx":
        columns = {output.name: output.column for output in part.outputs}
        made = make_onnx(part.network, part.schema, columns, notes=_identity(part, trained))
        opset = made.opset
        _write_whole(file, made.save)
    else:
        state = {name: t.contiguous() for name, t in part.network.state_dict().items()}
        # Not save_file, which lets nobody but the owner read what is to be handed on.
        _write_whole(file, lambda path: path.write_bytes(save(state)))
    about = folder / f"{part.name}.json"
    facts = {"file": file.name, "format": layout, "opset": opset, **_describe(part, trained)}
    write_text(about, LIST_OF_NUMBERS.sub(_on_one_line, json.dumps(facts, indent=1)) + "\n")
    return file, about


def _on_one_line(numbers: re.Match[str]) -> str:
    return " ".join(numbers[0].split()).replace("[ ", "[").replace(" ]", "]")


def _write_whole(file: Path, save_to: Callable[[Path], object]) -> None:
    temporary = file.with_name(f".{file.name}.tmp")
    with explain_write(file):
        save_to(temporary)
        temporary.replace(file)


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
    """What a program needs to know to call the network, and a person to trust it."""
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
    """Each field's place: `start` is added to a value's id to give its row in the table."""
    starts = vocabulary_starts(schema)
    numeric = enumerate(schema.numeric)
    return [
        *(
            {"kind": "categorical", "column": i, "start": starts[f.name], **asdict(f)}
            for i, f in enumerate(schema.categorical)
        ),
        *(
            {"kind": "multivalued", "position": i, "start": starts[f.name], **asdict(f)}
            for i, f in enumerate(schema.multivalued)
        ),
        *({"kind": "numeric", "column": i, **asdict(f)} for i, f in numeric),
    ]


def _layers(part: Part) -> list[dict[str, Any]]:
    """A task's dense layers in order, `x @ weight + bias`; else every tensor's name and shape."""
    network = part.network
    if not isinstance(network, TaskNetwork) or part.compaction is None:
        return [{"name": n, "shape": list(t.shape)} for n, t in network.state_dict().items()]
    units = [*part.compaction.units, (0,)] if len(network.layers) > 1 else [(0,)]
    last = len(network.layers) - 1
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
    """Name what the logistic function of a task's logit is a probability of."""
    task = schema.tasks[number]
    labels = [schema.tasks[t].label for t in schema.chain(number)]
    if task.joint is not None and kind == "exposure_space":
        meaning = f"P({' and '.join(labels)} | exposure)"
        return Output(name=f"p_{task.joint}", task=task.name, meaning=meaning, column=column)
    given = " and ".join(["exposure", *labels[:-1]])
    meaning = f"P({task.label} | {given})"
    return Output(name=f"p_{task.name}", task=task.name, meaning=meaning, column=column)
