"""A network as an ONNX graph, by torch's exporter: the home of the optional package `onnx`.

The exporter needs `onnx` and `onnxscript`; they come with `pip install 'cvrbench[onnx]'`.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cvrbench.data.batches import Features
from cvrbench.data.schema import Schema
from cvrbench.errors import RunError
from cvrbench.serving.costs import example_features
from cvrbench.strategies.base import SharingStrategy

PACKAGES = ("onnx", "onnxscript")
MAX_BYTES = 2**31 - 2**20
"""Of a protobuf message, and so of one ONNX file; some room is left for the graph itself."""


class TensorInput(NamedTuple):
    """One input tensor of an exported network."""

    name: str
    dtype: str
    shape: tuple[str | int, ...]
    """`batch` and `values` may differ from call to call."""
    meaning: str


@dataclass(frozen=True)
class Made:
    """An ONNX graph that is ready to be written."""

    proto: Any
    opset: int

    def save(self, path: Path) -> None:
        """Write it as one file."""
        path.write_bytes(self.proto.SerializeToString())


def tensor_inputs(schema: Schema) -> tuple[TensorInput, ...]:
    """Say which tensors a network of these fields reads, in the order of `Features`."""
    found = [
        TensorInput(
            "rows",
            "int64",
            ("batch", len(schema.categorical)),
            "per categorical field the value's id plus the field's start",
        )
    ]
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
    network: SharingStrategy, schema: Schema, columns: Mapping[str, int], notes: Mapping[str, str]
) -> Made:
    """Trace a network into an ONNX graph with any number of rows and of values.

    Args:
        network: In the state to be served.
        schema: Of the fields that it reads.
        columns: Name of an output -> column of the logits whose probability it gives.
        notes: What the file says of itself.

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
    return Made(proto, next(o.version for o in proto.opset_import if o.domain == ""))


class _Served(nn.Module):
    """Tensors in, probabilities out, one `[batch]` each."""

    def __init__(
        self, network: SharingStrategy, inputs: tuple[str, ...], columns: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.network = network
        self.inputs = inputs
        self.columns = columns

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
        probabilities = self.network(features).sigmoid()  # [batch, tasks]
        return tuple(probabilities[:, column] for column in self.columns)


def _check(network: SharingStrategy) -> None:
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
