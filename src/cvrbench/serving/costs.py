"""What a network costs that does not depend on the machine: its numbers and multiply-adds."""

from dataclasses import dataclass, replace

import torch

from cvrbench.data.batches import Features, SplitTensors
from cvrbench.data.dataset import Bag, Split
from cvrbench.data.schema import Schema
from cvrbench.multiply_adds import count_multiply_adds
from cvrbench.nn import FeatureEncoder
from cvrbench.serving.compaction import TaskNetwork, masked_network
from cvrbench.strategies.base import SharingStrategy
from cvrbench.strategies.ncs import NCS

EXAMPLE_ROWS = 3
"""Of an example batch; a length that no other size of a network is likely to equal."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What does not depend on the machine."""

    dense_parameters: int
    """Of everything but embeddings; zeros written down as numbers count."""
    embedding_parameters: int
    multiply_adds: int
    """Of one example's forward pass; looking embeddings up and pooling them is none."""
    connections: int
    """Multiply-adds whose weight is not 0, summed over the tasks; the others are wasted."""


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
        alone = (masked_network(network, schema, t) for t in range(len(network.tasks)))
        # A part without masks is computed once for all tasks.
        connections = min(multiply_adds, sum(cost_of_task(task).connections for task in alone))
    return Cost(
        dense_parameters=sum(p.numel() for p in network.parameters()) - embeddings,
        embedding_parameters=embeddings,
        multiply_adds=multiply_adds,
        connections=connections,
    )


def example_features(schema: Schema, rows: int = EXAMPLE_ROWS) -> Features:
    """Make a small batch with every field's first id, two to a bag; it stands for any other."""
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


def first_rows(split: Split, schema: Schema, n: int) -> Features:
    """Read the first rows of a split, `n` or as many as there are, and little else of it."""
    n = min(n, len(split))
    contexts = None if split.contexts is None else split.contexts[:n]

    def head(bag: Bag, *, shared: bool) -> Bag:
        last = n if contexts is None or not shared else int(contexts.max()) + 1
        end = int(bag.offsets[last])
        return Bag(bag.offsets[: last + 1], bag.ids[:end], bag.weights[:end])

    fields = zip(split.bags, schema.multivalued, strict=True)
    short = replace(
        split,
        ids=split.ids[:n],
        numeric=split.numeric[:n],
        labels=split.labels[:n],
        bags=tuple(head(bag, shared=field.shared) for bag, field in fields),
        contexts=contexts,
    )
    rows = SplitTensors.load(short, schema, torch.device("cpu"))
    return rows.gather(torch.arange(n)).features
