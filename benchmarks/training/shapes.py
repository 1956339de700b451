"""What all contenders train: the same network sizes on the same rows."""

from typing import NamedTuple

import numpy as np

from cvrbench.data.schema import Categorical, Schema, Task

ALICCP_SIZES = (
    238636, 98, 14, 3, 8, 4, 4, 3, 5, 467299, 6930, 263943, 106400, 5889, 104831, 51879, 37149, 4,
    12223, 116741, 58015, 33786, 56136,
)  # fmt: skip
"""Ids of Ali-CCP's 23 categorical fields, 1.56 M in all."""
ZIPF_POWER = 4


class Shape(NamedTuple):
    """Sizes of a network and of its step; PLE has one shared and one specific expert a task."""

    name: str
    dim: int
    hidden: tuple[int, ...]
    tower: tuple[int, ...]
    batch: int = 4096
    sizes: tuple[int, ...] = ALICCP_SIZES
    n_experts: int = 4

    @property
    def width(self) -> int:
        """Width of the encoded features."""
        return len(self.sizes) * self.dim

    def grown_to(self, n_ids: int) -> "Shape":
        """The same shape with a larger vocabulary."""
        factor = n_ids / sum(self.sizes)
        return self._replace(sizes=tuple(max(size, round(size * factor)) for size in self.sizes))


REFERENCE = Shape("reference", dim=16, hidden=(256, 128), tower=(64,))
SMALL = Shape("small", dim=8, hidden=(128, 64), tower=(32,))


def schema_of(sizes: tuple[int, ...]) -> Schema:
    """Give a log of single ids alone, with a click and a conversion."""
    return Schema(
        name="benchmark",
        categorical=tuple(Categorical(name=str(i), size=s) for i, s in enumerate(sizes)),
        multivalued=(),
        numeric=(),
        tasks=(
            Task(name="ctr", label="y"),
            Task(name="cvr", label="z", parent="ctr", joint="ctcvr"),
        ),
        group=None,
        rows={},
        fingerprint="",
    )


class Data(NamedTuple):
    """The same rows for everyone."""

    ids: np.ndarray
    """`[rows, fields]`, local to the field."""
    labels: np.ndarray
    """`[rows, 2]`."""


def draw(shape: Shape, n_batches: int) -> Data:
    """Draw skewed ids; a grown vocabulary gets the ids of the one it grew from."""
    rng = np.random.default_rng(0)
    rows = shape.batch * n_batches
    skewed = (rng.random(rows) ** ZIPF_POWER for _ in ALICCP_SIZES)
    columns = [(u * size).astype(np.int32) for u, size in zip(skewed, ALICCP_SIZES, strict=True)]
    return Data(np.stack(columns, axis=1), (rng.random((rows, 2)) < 0.1).astype(np.uint8))
