"""What a network costs, and what sparsity saves: numbers and multiply-adds, whatever the machine.

The step from all tasks to one saves the other tasks' work, masks or not; only the step from an NCS
task's masked network to its compacted one is the masks' doing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch

from cvrbench.data.batches import Features
from cvrbench.data.schema import Schema
from cvrbench.nn import FeatureEncoder
from cvrbench.nn.multiply_adds import count_multiply_adds
from cvrbench.serving.compaction import Compaction, TaskNetwork, compact, task_network
from cvrbench.strategies.base import SharingStrategy
from cvrbench.strategies.ncs import NCS

EXAMPLE_ROWS = 3
"""Rows of an example batch; a length that no other size of a network is likely to equal."""


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
        own = task_network(network, schema, names.index(task))
        if own is None:
            sentences.append(
                f"The experts that {task} reads serve other tasks, too: it is served by the whole "
                "network."
            )
            continue
        cost = cost_of_task(own)
        if isinstance(network, NCS):
            found[task] = compact(own)
            small = cost_of_task(found[task].network)
            rows += [Row(task, "masked", cost), Row(task, "compacted", small)]
            sentences.append(in_words(task, cost, small, found[task]))
        else:
            rows.append(Row(task, "alone", cost))
            share = cost.multiply_adds / whole.multiply_adds
            sentences.append(
                f"{task} alone takes {share:.1%} of the multiply-adds: the rest is the other "
                "tasks'. There are no masks, so nothing else can be left out."
            )
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
        connections = min(multiply_adds, kept)
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
    sizes = torch.tensor([0, *(field.size for field in schema.id_fields)])
    starts, n = sizes.cumsum(0)[:-1], len(schema.categorical)
    values = torch.arange(len(schema.multivalued) * rows).repeat_interleave(2)
    return Features(
        rows=starts[:n].expand(rows, n).contiguous(),
        bag_rows=starts[n:].repeat_interleave(2 * rows),
        bag_weights=torch.ones(len(values)),
        bag_segments=values,
        numeric=torch.zeros(rows, len(schema.numeric)),
    )
