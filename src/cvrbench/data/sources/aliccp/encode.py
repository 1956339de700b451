"""Parts -> the arrays of the prepared dataset."""

from typing import Any

import numpy as np
import numpy.typing as npt

from cvrbench.data.dataset import SPLITS, Bag, StoreWriter
from cvrbench.data.raw import OnRows, RowsProgress
from cvrbench.data.sources.aliccp.half import HalfRead
from cvrbench.data.sources.aliccp.layout import Codes, groups_of
from cvrbench.data.sources.aliccp.learn import Codebook
from cvrbench.data.sources.aliccp.parts import Part
from cvrbench.data.sources.aliccp.truth import TruthReader

Ids = npt.NDArray[np.int32]
Truths = npt.NDArray[np.float64]


class Contexts:
    """The common rows of one half, encoded, as the skeleton rows need them."""

    def __init__(self, book: Codebook, read: HalfRead) -> None:
        """Encode the fields with one value, all common rows of the half at once."""
        self.book, self.parts = book, read.common_parts
        layout = book.layout
        self.categorical = [f for f in layout.categorical if f.kind == "common"]
        self.numeric = [f for f in layout.numeric if f.kind == "common"]
        ids, numbers = [], []
        for part in self.parts:
            bags, rows = layout.choose(part), len(part.line)
            ids.append(_stack([book.ids(f, part, bags) for f in self.categorical], rows, np.int32))
            columns = [book.numbers(f, bags) for f in self.numeric]
            numbers.append(_stack(columns, rows, np.float32))
        self.ids = np.concatenate(ids)
        self.numbers = np.concatenate(numbers)
        self.groups = groups_of(read.common)
        self.used = read.used > 0
        self.place = (np.cumsum(self.used, axis=1) - 1).astype(np.int32)

    def write_bags(self, writer: StoreWriter, split: int) -> None:
        """Write the bags of the common rows that a split's rows refer to."""
        layout, start = self.book.layout, 0
        if not self.used[split].any():
            return
        for part in self.parts:
            end = start + len(part.line)
            rows = np.flatnonzero(self.used[split, start:end])
            bags = layout.choose(part)
            for k, which in enumerate(layout.multivalued):
                if which.kind == "common":
                    bag = self.book.bag(which, bags)
                    writer.append_bags(SPLITS[split], k, take(bag, rows))
            start = end


def _stack(columns: list[npt.NDArray[Any]], rows: int, dtype: type) -> npt.NDArray[Any]:
    return np.stack(columns, axis=1) if columns else np.empty((rows, 0), dtype)


def take(bag: Bag, rows: npt.NDArray[np.int64]) -> Bag:
    """The bags of some rows."""
    if len(rows) == len(bag.offsets) - 1:
        return bag
    starts = bag.offsets[rows]
    lengths = bag.offsets[rows + 1] - starts
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    return Bag(offsets, bag.ids[places], bag.weights[places])


def _write_rows(
    writer: StoreWriter,
    contexts: Contexts,
    part: Part,
    context: Ids,
    codes: Codes,
    truth: Truths | None,
) -> None:
    """Append a part's skeleton rows to the splits that they belong to.

    Args:
        writer: Where to.
        contexts: The common rows of the same half.
        part: Skeleton rows.
        context: `[rows]`, the common row of each.
        codes: `[rows]`, the split of each, -1 for none.
        truth: `[rows, 2]`, the true probabilities of click and of conversion given a click.
    """
    book = contexts.book
    bags = book.layout.choose(part)
    n = len(context)
    own_ids = [book.ids(f, part, bags) for f in book.layout.categorical if f.kind == "skeleton"]
    own_numbers = [book.numbers(f, bags) for f in book.layout.numeric if f.kind == "skeleton"]
    # Names of common fields come before those of skeleton fields: so do the columns.
    ids = np.hstack([contexts.ids[context], _stack(own_ids, n, np.int32)])
    numbers = np.hstack([contexts.numbers[context], _stack(own_numbers, n, np.float32)])
    labels = book.layout.labels(part)
    for split in sorted(set(codes[codes >= 0].tolist())):
        rows = np.flatnonzero(codes == split)
        name = SPLITS[split]
        writer.append(name, "ids", ids[rows])
        writer.append(name, "numeric", numbers[rows])
        writer.append(name, "labels", labels[rows])
        if truth is not None:
            writer.append(name, "truth", truth[rows])
        writer.append(name, "groups", contexts.groups[context[rows]])
        if any(which.kind == "common" for which in book.layout.multivalued):
            writer.append(name, "contexts", contexts.place[split, context[rows]])
        for k, which in enumerate(book.layout.multivalued):
            if which.kind == "skeleton":
                writer.append_bags(name, k, take(book.bag(which, bags), rows))


def write_half(
    writer: StoreWriter,
    book: Codebook,
    read: HalfRead,
    truth: TruthReader | None,
    on_rows: OnRows,
) -> None:
    """Write a half's rows, in the order of the file within each split."""
    contexts = Contexts(book, read)
    for split in range(len(SPLITS)):
        contexts.write_bags(writer, split)
    n_parts = len(read.skeleton_parts.paths)
    for number, part in enumerate(read.skeleton_parts):
        context, codes = read.place(part)
        true = truth.take(part) if truth is not None else None
        _write_rows(writer, contexts, part, context, codes, true)
        rows = int(part.line[-1]) if len(part.line) else 0
        on_rows(RowsProgress(f"writing, {read.half}", rows, (number + 1) / n_parts))
