"""The rows of a dataset as a rehearsal has them: their shapes, and how many are expected."""

import math
from collections.abc import Callable

import torch

from cvrbench.data.batches import BagTensors, SplitTensors, index_type, torch_type
from cvrbench.data.dataset import Dataset, Split


def resident(dataset: Dataset, name: str, *, weighted: bool = False) -> SplitTensors:
    """Give what `SplitTensors.load` would: the same shapes and types."""
    split, schema = dataset.split(name), dataset.schema
    ids = torch_type(index_type(schema))
    return SplitTensors(
        torch.empty(split.ids.shape, dtype=ids),
        torch.empty(split.numeric.shape),
        torch.empty(split.labels.shape, dtype=torch.uint8),
        tuple(
            BagTensors(
                torch.empty(bag.offsets.shape, dtype=torch.int64),
                torch.empty(bag.ids.shape, dtype=ids),
                torch.empty(bag.weights.shape),
                field.shared,
            )
            for bag, field in zip(split.bags, schema.multivalued, strict=True)
        ),
        None if split.contexts is None else torch.empty(split.contexts.shape, dtype=torch.int32),
        torch.empty(split.labels.shape) if weighted else None,
    )


def answers_bytes(split: Split) -> int:
    """Count the bytes of what predictions are scored by, which is in memory in any case."""
    answers = (split.labels, split.groups, split.truth)
    return sum(array.nbytes for array in answers if array is not None)


def expected_rows(dataset: Dataset) -> dict[str, Callable[[int], int]]:
    """How many distinct rows of the table so many look-ups read, and how many values so many bags.

    Values are taken as equally frequent, which gives a few rows too many.
    """
    sizes, bags = [field.size for field in dataset.schema.id_fields], dataset.train.bags
    n_values = sum(len(bag.ids) for bag in bags)
    per_bag = n_values / max(1, sum(len(bag.offsets) - 1 for bag in bags))

    def unique(n: int) -> int:
        each = n / max(1, len(sizes))
        found: float = sum(size * (1 - math.pow(1 - 1 / size, each)) for size in sizes)
        return max(1, min(n, round(found)))

    def repeated(n: int) -> int:
        return max(1, round(per_bag * n))

    return {"unique": unique, "repeated": repeated}
