"""A small schema with every kind of field, and batches of it, for tests of models."""

import pytest
import torch

from cvrbench.data.batches import Batch, Features
from cvrbench.data.schema import Categorical, MultiValued, Numeric, Schema, Task


def make_schema(n_tasks: int = 2, *, multivalued: bool = True, numeric: bool = True) -> Schema:
    tasks = [
        Task(name="ctr", label="click"),
        Task(name="cvr", label="conversion", parent="ctr", joint="ctcvr"),
        Task(name="like", label="is_like", parent="ctr", joint="ctlike"),
    ][:n_tasks]
    return Schema(
        name="tiny",
        categorical=(Categorical(name="user", size=50), Categorical(name="item", size=30)),
        multivalued=(MultiValued(name="tags", size=12),) if multivalued else (),
        numeric=(Numeric(name="age", mean=0.0, std=1.0),) if numeric else (),
        tasks=tuple(tasks),
        group=None,
        rows={"train": 0, "valid": 0, "test": 0},
        fingerprint="tiny",
    )


def make_batch(schema: Schema, rows: int = 16, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    starts = torch.tensor([0, *[f.size for f in schema.categorical]]).cumsum(0)
    ids = [torch.randint(f.size, (rows,), generator=g) for f in schema.categorical]
    ids_tensor = torch.stack(ids, 1) + starts[:-1]
    n_values = 3 * rows * len(schema.multivalued)
    tags = schema.multivalued[0].size if schema.multivalued else 1
    labels = torch.randint(2, (rows, len(schema.tasks)), generator=g).float()
    labels[:, 1:] *= labels[:, :1]
    features = Features(
        rows=ids_tensor,
        bag_rows=torch.randint(tags, (n_values,), generator=g) + starts[-1],
        bag_weights=torch.rand(n_values, generator=g) + 0.1,
        bag_segments=torch.arange(n_values) // 3,
        numeric=torch.randn(rows, len(schema.numeric), generator=g),
    )
    return Batch(features, labels)


@pytest.fixture
def schema() -> Schema:
    return make_schema()
