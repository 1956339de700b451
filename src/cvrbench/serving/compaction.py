"""A task's own network out of a trained one, without the units that its masks leave useless.

What a task needs of a network is known to the strategy (`SharingStrategy.only`). Of a masked one
without an interaction it is one path of encoder, trunk and tower, which is written here as a plain
network.

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

`compare` counts what that saves in numbers and multiply-adds, whatever the machine. The step from
all tasks to one saves the other tasks' work, masks or not; only the step from an NCS task's masked
network to its compacted one is the masks' doing.

Shape legend: `batch` rows, `width` the encoder's output, `in` and `out` a layer's units.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- the name every torch user expects

from cvrbench.data.batches import Features
from cvrbench.data.schema import Schema
from cvrbench.nn import FeatureEncoder, Output
from cvrbench.nn.multiply_adds import count_multiply_adds
from cvrbench.strategies.base import SharingStrategy
from cvrbench.strategies.ncs import NCS

EXAMPLE_ROWS = 3
"""Rows of an example batch; a length that no other size of a network is likely to equal."""


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
    """Return a task's masked path as a plain network, zeros where its mask has zeros.

    Args:
        network: In the state to be served; its weights are not changed.
        schema: Schema of the data that it was trained on.
        task: Number of the task.

    Returns:
        None where nothing is masked, or fields interact below the trunk.
    """
    if not isinstance(network, NCS):
        return None
    if network.encoder.interaction is not None or network.encoder.attention is not None:
        return None
    own = network.only(task)
    effective = {name: weight.detach() for name, weight in own.effective().items()}

    def layer_of(name: str, weight: Tensor, bias: Tensor) -> Layer:
        weight, bias = effective.get(name, weight), effective.get(f"{name}_bias", bias)
        return Layer(weight.detach()[0], bias.detach().reshape(-1))

    layers = [
        layer_of(f"{part}_{number}", weight, bias)
        for part, mlp in (("trunk", own.trunk), ("tower", own.towers.network))
        for number, (weight, bias) in enumerate(zip(mlp.weights, mlp.biases, strict=True))
    ]
    layers.append(layer_of("tower_head", own.towers.head, own.towers.bias))
    table = own.encoder.table.detach()
    if "embedding" in effective:
        table = table * effective["embedding"][0]
    return TaskNetwork(schema, table, layers).eval()


def compact(network: TaskNetwork) -> Compaction:
    """Leave out every unit and field that carries nothing.

    One pass up finds the silent units, since only a silent unit can silence one above it; one pass
    down finds the unread ones, and leaving those out silences nobody: compacting twice changes
    nothing.
    """
    layers, folded = _fold_constants(network.layers)
    read = _read_units(layers)  # of the encoder, then of each hidden layer
    schema, columns, unread = _read_fields(network, read[0])
    kept = [columns, *read[1:], torch.ones(1, dtype=torch.bool, device=columns.device)]
    small = [
        Layer(weight[below][:, above].contiguous(), bias[above].contiguous())
        for (weight, bias), (below, above) in zip(layers, pairwise(kept), strict=True)
    ]
    if not all(bool(units.any()) for units in read[1:]):
        # A layer without units lets nothing through: the logit is the last bias.
        small = [Layer(small[0].weight.new_zeros(int(columns.sum()), 1), small[-1].bias)]
    return Compaction(
        network=TaskNetwork(schema, _table_of(network, schema), small).eval(),
        units=tuple(tuple(units.nonzero().flatten().tolist()) for units in read[1:]),
        removed=tuple(int((~units).sum()) for units in read[1:]),
        folded=folded,
        unread_columns=int((~read[0]).sum()),
        unread_fields=unread,
    )


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
    start, numeric = 0, {field.name for field in network.schema.numeric}
    for field in (*network.schema.id_fields, *network.schema.numeric):
        width = 1 if field.name in numeric else network.encoder.embedding_dim
        yield field.name, slice(start, start + width)
        start += width


def _read_fields(network: TaskNetwork, read: Tensor) -> tuple[Schema, Tensor, tuple[str, ...]]:
    """The schema of the fields that stay, their columns, `[width]` bool, and those that are unread.

    A field is looked up as a whole, so that its unread columns stay if one is read. The smallest
    categorical field, where there is one, stays if none is read: its ids tell how many rows there
    are.
    """
    schema = network.schema
    unread = [name for name, place in _field_columns(network) if not read[place].any()]
    gone = set(unread)
    if schema.categorical and gone >= {field.name for field in schema.categorical}:
        gone -= {min(schema.categorical, key=lambda field: field.size).name}
    columns = torch.ones_like(read)
    for name, place in _field_columns(network):
        columns[place] = name not in gone
    kept = replace(
        schema,
        categorical=tuple(f for f in schema.categorical if f.name not in gone),
        multivalued=tuple(f for f in schema.multivalued if f.name not in gone),
        numeric=tuple(f for f in schema.numeric if f.name not in gone),
    )
    return kept, columns, tuple(unread)


def _table_of(network: TaskNetwork, kept: Schema) -> Tensor:
    """The embedding rows of the fields that stay."""
    table, starts = network.encoder.table.detach(), network.schema.starts
    if kept.vocabulary_size == network.schema.vocabulary_size:
        return table
    pieces = {f.vocabulary: table[starts[f.name] :][: f.size] for f in kept.id_fields}
    return torch.cat([*pieces.values()]) if pieces else table[:0]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Sizes and work of one example's forward pass."""

    dense_parameters: int
    """Parameters but embeddings; zeros written down as numbers count."""
    embedding_parameters: int
    multiply_adds: int
    """Looking embeddings up and pooling them is none."""
    connections: int
    """Multiply-adds whose weight is not 0, summed over the tasks; the others are wasted."""


class Row(NamedTuple):
    """One network among those compared."""

    task: str | None
    """None: all of them."""
    state: str
    """`as trained`, `alone`, `masked` or `compacted`."""
    cost: Cost

    @property
    def name(self) -> str:
        """The row's heading."""
        return f"{self.task} {self.state}" if self.task else self.state


@dataclass(frozen=True, kw_only=True)
class Savings:
    """All tasks' network as trained, and what each task's own one comes to."""

    rows: tuple[Row, ...]
    """As trained first; then per task alone, or masked and compacted."""
    compactions: Mapping[str, Compaction]
    """Task -> what was left out; empty for a strategy without masks."""
    sentences: tuple[str, ...]
    """What it comes to, in words."""

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        found = self.compactions
        return {
            "networks": [{"task": r.task, "state": r.state, **asdict(r.cost)} for r in self.rows],
            "removed_units": {task: c.removed for task, c in found.items()},
            "unread_columns": {task: c.unread_columns for task, c in found.items()},
            "unread_fields": {task: c.unread_fields for task, c in found.items()},
            "summary": list(self.sentences),
        }


def compare(network: SharingStrategy, schema: Schema, tasks: Sequence[str]) -> Savings:
    """Count a network as trained, and the own networks of these of its tasks.

    Args:
        network: In the state to be served.
        schema: Schema of the data that it was trained on.
        tasks: Tasks of interest.
    """
    whole = cost_as_trained(network, schema)
    rows, found, sentences = [Row(None, "as trained", whole)], {}, []
    names = [task.name for task in schema.tasks]
    for task in tasks:
        number = names.index(task)
        if (masked := task_network(network, schema, number)) is not None:
            cost, found[task] = cost_of_task(masked), compact(masked)
            small = cost_of_task(found[task].network)
            rows += [Row(task, "masked", cost), Row(task, "compacted", small)]
            sentences.append(in_words(task, cost, small, found[task]))
        elif (own := network.only(number)) is not None:
            rows.append(Row(task, "alone", cost_as_trained(own, schema)))
            share = rows[-1].cost.multiply_adds / whole.multiply_adds
            sentences.append(f"{task} alone takes {share:.1%} of the multiply-adds.")
        else:
            sentences.append(f"{task} cannot be taken out: it is served by the whole network.")
    return Savings(rows=tuple(rows), compactions=found, sentences=tuple(sentences))


def cost_of_task(network: TaskNetwork) -> Cost:
    """Count a task's plain network: a layer costs `in * out` multiply-adds."""
    weights = [layer.weight for layer in network.layers]
    return Cost(
        dense_parameters=sum(w.numel() + w.shape[1] for w in weights),
        embedding_parameters=network.encoder.table.numel(),
        multiply_adds=sum(w.numel() for w in weights),
        connections=sum(int(w.count_nonzero()) for w in weights),
    )


def cost_as_trained(network: SharingStrategy, schema: Schema) -> Cost:
    """Count a whole network with all its tasks, multiply-adds by watching a pass."""
    features = example_features(schema)
    network.eval()
    multiply_adds = count_multiply_adds(lambda: network(features)) // EXAMPLE_ROWS
    embeddings = sum(m.table.numel() for m in network.modules() if isinstance(m, FeatureEncoder))
    connections = multiply_adds
    if isinstance(network, NCS):
        own = (task_network(network, schema, t) for t in range(len(network.tasks)))
        # A part without masks is computed once for all tasks.
        kept = sum(cost_of_task(task).connections for task in own if task is not None)
        connections = min(multiply_adds, kept or multiply_adds)
    return Cost(
        dense_parameters=sum(p.numel() for p in network.parameters()) - embeddings,
        embedding_parameters=embeddings,
        multiply_adds=multiply_adds,
        connections=connections,
    )


def in_words(task: str, masked: Cost, compacted: Cost, compaction: Compaction) -> str:
    """Return one sentence on what a task's masks save, plain where they save nothing."""
    zeros = 1 - masked.connections / masked.multiply_adds
    units, fields = sum(compaction.removed), len(compaction.unread_fields)
    if zeros == 0:
        return f"{task} keeps every connection: there is nothing to save."
    if not units and not fields:
        return (
            f"The masks of {task} save nothing: {zeros:.1%} of its connections are 0, but every "
            "unit and field keeps at least one, and a 0 is multiplied like any other number."
        )
    gone = [f"{units:,} units"] if units else []
    gone += [f"{fields} fields"] if fields else []
    left = compacted.multiply_adds / masked.multiply_adds
    full = compacted.connections / max(compacted.multiply_adds, 1)
    return (
        f"{task}: {' and '.join(gone)} carry nothing and are left out, which leaves {left:.1%} of "
        f"the multiply-adds; {full:.1%} of those have a weight that is not 0. The mask alone saves "
        "nothing."
    )


def example_features(schema: Schema, rows: int = EXAMPLE_ROWS) -> Features:
    """Return a small batch with every field's first id, two to a bag; it stands for any other."""
    starts, n = torch.tensor([*schema.starts.values()]).long(), len(schema.categorical)
    values = torch.arange(len(schema.multivalued) * rows).repeat_interleave(2)
    return Features(
        rows=starts[:n].expand(rows, n).contiguous(),
        bag_rows=starts[n:].repeat_interleave(2 * rows),
        bag_weights=torch.ones(len(values)),
        bag_segments=values,
        numeric=torch.zeros(rows, schema.n_numbers),
    )
