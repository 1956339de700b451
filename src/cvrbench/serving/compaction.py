"""One task's own plain network out of a trained one, without the units that carry nothing.

Where a task has one path of encoder, trunk and tower (`single_task`, `shared_embedding`,
`shared_bottom`, `ncs`), that is a plain network. Mixtures of experts have no such path.

A mask is a matrix of zeros and ones: the product with a masked weight matrix costs what the product
with the whole one costs. What does save work is a unit that carries nothing of the task's, because
it can be left out together with its row and its column:

    silent unit    nothing flows into it, so that it puts out the constant relu(bias) whatever the
                   example; constant times outgoing weights moves into the next layer's bias
    unread unit    nothing that is read later flows out of it
    unread field   none of its columns of the encoder's output is read: its part of the embedding
                   table goes as well

The result gives the same logits up to the rounding of one sum in another order. A connection
carries nothing where its effective weight is 0, masked or not.

Shape legend: `batch` rows, `width` the encoder's output, `in` and `out` a layer's units.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- the name every torch user expects

from cvrbench.data.batches import Features
from cvrbench.data.schema import Schema
from cvrbench.nn import FeatureEncoder, Output
from cvrbench.strategies.base import SharingStrategy
from cvrbench.strategies.ncs import NCS
from cvrbench.strategies.shared_bottom import SharedBottom
from cvrbench.strategies.shared_embedding import SharedEmbedding
from cvrbench.strategies.single_task import SingleTask

OnePath = NCS | SharedBottom | SharedEmbedding | SingleTask
"""Strategies of which every task has one path from the encoder to its logit."""


class Layer(NamedTuple):
    """One dense layer, `x @ weight + bias`; ReLU follows except after the last."""

    weight: Tensor
    """`[in, out]`."""
    bias: Tensor
    """`[out]`."""


class TaskNetwork(nn.Module):
    """One task without the others: an encoder, dense layers with a ReLU between, one logit."""

    def __init__(self, schema: Schema, table: Tensor, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.schema = schema  # only the fields that are read
        with torch.random.fork_rng(devices=()):  # the fresh table is thrown away at once
            self.encoder = FeatureEncoder(schema, table.shape[1])
        self.encoder.table = nn.Parameter(table)
        self.weights = nn.ParameterList([nn.Parameter(layer.weight) for layer in layers])
        self.biases = nn.ParameterList([nn.Parameter(layer.bias) for layer in layers])

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The dense layers, detached; the last gives the logit."""
        both = zip(self.weights, self.biases, strict=True)
        return tuple(Layer(weight.detach(), bias.detach()) for weight, bias in both)

    def forward(self, features: Features) -> Output:
        """Return the task's logit, `[batch, 1]`."""
        x: Tensor = self.encoder(features)  # [batch, width]
        last = len(self.weights) - 1
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.addmm(bias, x, weight)  # [batch, out]
            x = F.relu_(x) if number < last else x
        return Output(x)


@dataclass(frozen=True, kw_only=True)
class Compaction:
    """A task's network without what carries nothing, and what was left out."""

    network: TaskNetwork
    units: tuple[tuple[int, ...], ...]
    """Per hidden layer, the units that stay, by their number in the trained network."""
    removed: tuple[int, ...]
    """Per hidden layer, how many units went."""
    folded: tuple[int, ...]
    """Per hidden layer, how many of those put out a constant that is not 0."""
    unread_columns: int
    """Columns of the trained encoder's output that the task does not read."""
    unread_fields: tuple[str, ...]
    """Fields of which it reads no column."""


def task_network(network: SharingStrategy, schema: Schema, task: int) -> TaskNetwork | None:
    """Return one task's path as a plain network, zeros where its mask has zeros.

    Args:
        network: In the state to be served; its weights are not changed.
        schema: Schema of the data that it was trained on.
        task: Number of the task.

    Returns:
        None where a task's output needs the paths of others, or fields interact below the trunk.
    """
    if not isinstance(network, OnePath) or network.encoder.interaction is not None:
        return None
    effective: dict[str, Tensor] = {}
    if isinstance(network, NCS):
        effective = {name: weight.detach() for name, weight in network.effective().items()}
    trunk = network.trunks if isinstance(network, SharedEmbedding | SingleTask) else network.trunk

    def own(name: str, parameter: Tensor) -> Tensor:
        weight = effective.get(name, parameter.detach())
        return weight[task if len(weight) > 1 else 0]

    layers = []
    for part, mlp in (("trunk", trunk), ("tower", network.towers.network)):
        for number, (weight, bias) in enumerate(zip(mlp.weights, mlp.biases, strict=True)):
            name = f"{part}_{number}"
            layers.append(Layer(own(name, weight), own(f"{name}_bias", bias).reshape(-1)))
    head = own("tower_head", network.towers.head)  # [out, 1]
    layers.append(Layer(head, network.towers.bias.detach()[task : task + 1]))
    table = network.encoder.table.detach()
    if network.encoder.copies > 1:  # one table per task, one below the other
        table = table.chunk(network.encoder.copies)[task]
    if "embedding" in effective:
        table = table * effective["embedding"][task]
    return TaskNetwork(schema, table, layers).eval()


def compact(network: TaskNetwork) -> Compaction:
    """Leave out every unit and field that carries nothing.

    One pass up finds the silent units, since only a silent unit can silence one above it; one pass
    down finds the unread ones, and leaving those out silences nobody: compacting twice changes
    nothing.
    """
    layers, folded = _fold_constants(network.layers)
    read = _read_units(layers)  # of the encoder, then of each hidden layer
    schema, columns = _read_fields(network, read[0])
    kept = [columns, *read[1:], torch.ones(1, dtype=torch.bool, device=columns.device)]
    small = [
        Layer(weight[below][:, above].contiguous(), bias[above].contiguous())
        for (weight, bias), (below, above) in zip(layers, pairwise(kept), strict=True)
    ]
    if not all(bool(units.any()) for units in read[1:]):
        # A layer without units lets nothing through: the logit is the last bias.
        small = [Layer(small[0].weight.new_zeros(int(columns.sum()), 1), small[-1].bias)]
    unread = _unread_fields(network, read[0])
    return Compaction(
        network=TaskNetwork(schema, _table_of(network, schema), small).eval(),
        units=tuple(tuple(units.nonzero().flatten().tolist()) for units in read[1:]),
        removed=tuple(int((~units).sum()) for units in read[1:]),
        folded=folded,
        unread_columns=int((~read[0]).sum()),
        unread_fields=unread,
    )


def vocabulary_starts(schema: Schema) -> Mapping[str, int]:
    """Return in which row of the one table each field's vocabulary begins."""
    starts, start = {}, 0
    for field in schema.id_fields:
        starts[field.name] = start
        start += field.size
    return starts


def _fold_constants(layers: Sequence[Layer]) -> tuple[list[Layer], tuple[int, ...]]:
    """Move what silent units put out into the next layer's bias, and cut their connections."""
    changed, folded = list(layers), []
    for number in range(len(layers) - 1):
        weight, bias = changed[number]
        silent = ~(weight != 0).any(dim=0)  # [out]
        constant = bias.relu() * silent
        following = changed[number + 1]
        # In double, so that only one rounding is added to those of the trained network.
        moved = following.bias.double() + constant.double() @ following.weight.double()
        rest = following.weight * ~silent[:, None]
        changed[number + 1] = Layer(rest, moved.to(following.bias.dtype))
        folded.append(int((constant != 0).sum()))
    return changed, tuple(folded)


def _read_units(layers: Sequence[Layer]) -> list[Tensor]:
    """Which units of each layer's input reach the logit, `[in]` bool, from the encoder up."""
    found: list[Tensor] = []
    above = layers[-1].weight.new_ones(1, dtype=torch.bool)
    for layer in reversed(layers):
        above = (layer.weight[:, above] != 0).any(dim=1)
        found.insert(0, above)
    return found


def _field_columns(network: TaskNetwork) -> Iterator[tuple[str, slice]]:
    """Each field's name and its columns of the encoder's output."""
    start, dim = 0, network.encoder.embedding_dim
    schema = network.schema
    widths = [(f.name, dim) for f in schema.id_fields] + [(f.name, 1) for f in schema.numeric]
    for name, width in widths:
        yield name, slice(start, start + width)
        start += width


def _unread_fields(network: TaskNetwork, read: Tensor) -> tuple[str, ...]:
    return tuple(name for name, columns in _field_columns(network) if not read[columns].any())


def _read_fields(network: TaskNetwork, read: Tensor) -> tuple[Schema, Tensor]:
    """The schema of the fields that are read, and their columns, `[width]` bool.

    A field is looked up as a whole, so that its unread columns stay if one is read. The smallest
    categorical field, where there is one, stays if none is read: its ids tell how many rows there
    are.
    """
    schema = network.schema
    unread = set(_unread_fields(network, read))
    if schema.categorical and unread >= {field.name for field in schema.categorical}:
        unread -= {min(schema.categorical, key=lambda field: field.size).name}
    columns = torch.ones_like(read)
    for name, place in _field_columns(network):
        columns[place] = name not in unread
    kept = replace(
        schema,
        categorical=tuple(f for f in schema.categorical if f.name not in unread),
        multivalued=tuple(f for f in schema.multivalued if f.name not in unread),
        numeric=tuple(f for f in schema.numeric if f.name not in unread),
    )
    return kept, columns


def _table_of(network: TaskNetwork, kept: Schema) -> Tensor:
    """The embedding rows of the fields that stay."""
    table, starts = network.encoder.table.detach(), vocabulary_starts(network.schema)
    if kept.vocabulary_size == network.schema.vocabulary_size:
        return table
    pieces = [table[starts[f.name] : starts[f.name] + f.size] for f in kept.id_fields]
    return torch.cat(pieces) if pieces else table[:0]
