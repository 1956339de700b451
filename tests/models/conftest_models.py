"""A small schema with every kind of field, batches of it, and everything a config can build on it.

The kinds of every axis are those of its config union, with the values of `conf/`, so that a new
strategy, objective or balancing method is tested without a line in the tests.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from cvrbench.balancing import Balancing, build_balancing
from cvrbench.config.compose import compose
from cvrbench.config.model import ModelConfig
from cvrbench.config.ncs import Derived, NCSConfig
from cvrbench.config.schema import BalancingConfig, ObjectiveConfig
from cvrbench.data.batches import Batch, Features
from cvrbench.data.schema import Categorical, MultiValued, Numeric, Schema, Task
from cvrbench.nn import Output
from cvrbench.objectives import Objective, build_objective
from cvrbench.strategies import build_strategy
from cvrbench.strategies.base import SharingStrategy


def kinds(union: Any) -> list[str]:
    """Return the kinds of a config union as a user writes them."""
    classes = get_args(union) or (union,)
    return [kind for cls in classes for kind in get_args(cls.__annotations__["kind"])]


KINDS, OBJECTIVES, BALANCINGS = map(kinds, (ModelConfig, ObjectiveConfig, BalancingConfig))
SMALL: Mapping[str, Any] = {
    "embedding_dim": 4,
    "hidden": (8, 6),
    "tower": (5,),
    "dropout": 0.0,
    "n_experts": 3,
    "levels": 2,
    "n_shared_experts": 2,
    "n_specific_experts": 1,
    "density": 0.3,
    "regrow_every": 2,
    "weights": {"ctr": 0.5},
    "window": 2,
    "warmup_steps": 2,
    "over": {"tags": "item"},
}
"""Sizes of small networks, and what differs from `conf/` so that it shows."""


@cache
def _composed(group: str, kind: str) -> Any:
    return getattr(compose(["model=shared_bottom", f"{group}={kind}"]).config, group)


def chosen(group: str, kind: str, **changes: object) -> Any:
    """Return the config of one kind of a group: `chosen("model", "mmoe", n_experts=1)`."""
    if kind == "ncs":
        changes = with_search(**changes)
    return _changed(_composed(group, kind), changes)


def with_search(search: str = "imp", **changes: object) -> dict[str, object]:
    """Sort changes of `ncs` and of its mask search, the masks' base of a control included."""
    found = compose(["model=ncs", f"model.search={search}"]).config.model.search
    of_model = {field.name for field in fields(NCSConfig)}
    own = {name: changes.pop(name) for name in [*changes] if name not in of_model}
    if isinstance(found, Derived):
        return {**changes, "search": replace(found, base=_changed(found.base, own))}
    return {**changes, "search": _changed(found, own)}


def _changed(config: Any, changes: Mapping[str, object]) -> Any:
    names = {field.name for field in fields(config)}
    return replace(config, **{n: v for n, v in SMALL.items() if n in names} | changes)


def build(
    kind: str, schema: Schema, seed: int = 0, *, heads: tuple[str, ...] = (), **changes: object
) -> SharingStrategy:
    """Build a small network of a strategy, drawn from a seed."""
    torch.manual_seed(seed)
    return build_strategy(chosen("model", kind, **changes), schema, heads=heads)


def objective_of(kind: str, schema: Schema) -> Objective:
    return build_objective(chosen("objective", kind), schema)


def balancing_of(kind: str, schema: Schema, **changes: object) -> Balancing:
    """Build a balancing method by which every task is trained."""
    names = [task.name for task in schema.tasks]
    return build_balancing(chosen("balancing", kind, **changes), names, names)


def output(logits: Tensor) -> Output:
    """The output of a strategy that has logits, and the heads of any objective from the same."""
    heads = {head for kind in OBJECTIVES for head in objective_of(kind, make_schema()).heads}
    return Output(logits, dict.fromkeys(heads, 0.3 - logits.detach()))


def rows_of(labels: Tensor, weights: Tensor | None = None) -> Batch:
    """A batch of which nothing is read but the labels and how much each counts."""
    ids = torch.zeros(len(labels), 0, dtype=torch.int64)
    return Batch(Features(ids, ids, ids.float(), ids, ids.float()), labels, weights)


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
