"""Prepared datasets written without raw files: every kind of field, random values."""

from pathlib import Path

import numpy as np

from cvrbench.data.dataset import SPLITS, Bag
from cvrbench.data.schema import Categorical, MultiValued, Numeric, Schema, Task
from cvrbench.data.writer import StoreWriter

CONTEXTS, SIZE = 7, 50


def bags(rng: np.random.Generator, n: int) -> Bag:
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 4, n))])
    ids = rng.integers(0, SIZE, offsets[-1]).astype(np.int32)
    return Bag(offsets, ids, rng.random(offsets[-1]).astype(np.float32))


def write_store(folder: Path, rows: int, *, n_items: int = 1, splits=SPLITS) -> Path:
    """Write a dataset called `toy`; the first categorical id of a row is its number.

    Splits that are not wanted have one row.
    """
    rng = np.random.default_rng(0)
    items = tuple(Categorical(name=f"item_{i}", size=SIZE) for i in range(n_items))
    schema = Schema(
        name="toy",
        categorical=(Categorical(name="row", size=rows), *items),
        multivalued=(
            MultiValued(name="history", size=SIZE, shared=True),
            MultiValued(name="words", size=SIZE),
        ),
        numeric=(Numeric(name="price", mean=0, std=1),),
        tasks=(Task(name="ctr", label="click"), Task(name="cvr", label="buy")),
        group=None,
        rows={split: rows if split in splits else 1 for split in SPLITS},
        fingerprint="",
    )
    with StoreWriter(folder) as writer:
        for split, n in schema.rows.items():
            columns = [np.arange(n), *rng.integers(0, SIZE, (n_items, n))]
            writer.append(split, "ids", np.stack(columns, axis=1).astype(np.int32))
            writer.append(split, "numeric", rng.random((n, 1)).astype(np.float32))
            writer.append(split, "labels", rng.integers(0, 2, (n, 2)).astype(np.uint8))
            writer.append(split, "contexts", rng.integers(0, CONTEXTS, n).astype(np.int32))
            writer.append_bags(split, 0, bags(rng, CONTEXTS))
            writer.append_bags(split, 1, bags(rng, n))
        writer.finish(schema, config={}, accounting={}, sources={})
    return folder
