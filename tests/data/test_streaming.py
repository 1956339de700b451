"""Rows left on disk: the batches, whatever is read when, are those of the rows in memory."""

import os
from contextlib import closing
from itertools import chain, islice

import numpy as np
import pytest
import torch

from cvrbench.data import sampler
from cvrbench.data.batches import Batch, SplitTensors
from cvrbench.data.dataset import ArrayReader, Dataset, open_dataset
from cvrbench.data.sampler import prefetch
from cvrbench.data.streaming import DiskRows
from cvrbench.errors import DataError
from tests.data.stores import write_store

CPU = torch.device("cpu")
ROWS = 1000


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    return open_dataset(write_store(tmp_path / "toy", ROWS))


@pytest.fixture(params=[(5, 3), (16, 4), (64, 2), (256, 8)], ids=lambda p: f"{p[1]}x{p[0]}")
def blockwise(request, monkeypatch):
    """Blocks of so many rows, so many a window; the last of them holds the whole split."""
    block, window = request.param
    monkeypatch.setattr(sampler.Shape, "block", block)
    monkeypatch.setattr(sampler, "WINDOW_BLOCKS", window)


@pytest.fixture
def weights() -> np.ndarray:
    return np.random.default_rng(1).random((ROWS, 2)).astype(np.float32)


def both(dataset: Dataset, weights=None) -> tuple[SplitTensors, DiskRows]:
    rows = (dataset.train, dataset.schema, CPU, weights)
    return SplitTensors.load(*rows), DiskRows(*rows)


def assert_same(one: Batch, other: Batch) -> None:
    pairs = [*zip(one.features, other.features, strict=True), (one.labels, other.labels)]
    if one.weights is not None or other.weights is not None:
        pairs.append((one.weights, other.weights))
    for mine, theirs in pairs:
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)


def taken(rows, size: int, n: int, **options) -> list[list[int]]:
    """Numbers of the rows of the first batches."""
    with closing(rows.batches(size, **options)) as batches:
        return [batch.features.rows[:, 0].tolist() for batch in islice(batches, n)]


@pytest.mark.parametrize("size", [7, 96, 300, 1000, 1500])
def test_batches_from_disk_are_those_from_memory(dataset, weights, blockwise, size):
    resident, on_disk = both(dataset, weights)
    n = 2 * -(-ROWS // size) + 1
    with closing(on_disk.batches(size, 3)) as found:
        for mine, theirs in zip(islice(resident.batches(size, 3), n), found, strict=False):
            assert_same(mine, theirs)


@pytest.mark.parametrize("size", [96, 300])
def test_an_epoch_takes_every_row_once(dataset, blockwise, size):
    n = -(-ROWS // size)
    for rows in both(dataset):
        batches = taken(rows, size, 2 * n, seed=0)
        sizes = [size] * (n - 1) + [ROWS - (n - 1) * size]
        assert [len(batch) for batch in batches] == 2 * sizes
        first, second = (list(chain.from_iterable(part)) for part in (batches[:n], batches[n:]))
        assert sorted(first) == sorted(second) == list(range(ROWS))
        assert first != second


def test_a_training_taken_up_again_takes_the_rows_it_would_have_taken(dataset, blockwise):
    size, n = 96, 11
    for rows in both(dataset):
        straight = taken(rows, size, 3 * n, seed=5)
        for step in (0, 1, 5, 10, 11):
            again = taken(rows, size, 2 * n - step, seed=5, epoch=1, step=step)
            assert again == straight[n + step :], step


def test_order_follows_from_the_seed(dataset, blockwise):
    resident, on_disk = both(dataset)
    assert taken(resident, 96, 20, seed=1) == taken(on_disk, 96, 20, seed=1)
    assert taken(resident, 96, 1, seed=1) != taken(resident, 96, 1, seed=2)


def test_a_split_that_one_window_holds_is_permuted_as_a_whole(dataset):
    generator = torch.Generator().manual_seed(sampler.derive(4, "shuffle", 0))
    expected = torch.randperm(ROWS, generator=generator).tolist()
    for rows in both(dataset):
        assert list(chain.from_iterable(taken(rows, 128, 8, seed=4))) == expected


def test_neighbours_on_disk_are_far_apart_in_a_blockwise_order(dataset, monkeypatch):
    # As if the file were sorted by user: the label of a row is its place in the file.
    monkeypatch.setattr(sampler.Shape, "block", 10)
    monkeypatch.setattr(sampler, "WINDOW_BLOCKS", 20)
    batches = taken(both(dataset)[1], 50, 20, seed=0)
    # A random sample of 50 of 1000 has its mean within four standard errors of 499.5.
    error = 1000 / 12**0.5 / 50**0.5
    # Blocks of 10 that a window samples leave a wider spread: 20 blocks of 100.
    window_error = 1000 / 12**0.5 / 20**0.5
    for batch in batches:
        assert abs(np.mean(batch) - 499.5) < 4 * (error**2 + window_error**2) ** 0.5
        assert len({row // 10 for row in batch}) > 12


def test_rows_are_given_as_they_lie(dataset, weights, blockwise):
    resident, on_disk = both(dataset, weights)
    for size in (64, 300, 2000):
        pairs = list(zip(resident.in_order(size), on_disk.in_order(size), strict=True))
        for start, (mine, theirs) in enumerate(pairs):
            assert_same(mine, theirs)
            expected = range(start * size, min(start * size + size, ROWS))
            assert theirs.features.rows[:, 0].tolist() == list(expected)


def test_any_rows_can_be_asked_for_in_any_order(dataset, weights):
    resident, on_disk = both(dataset, weights)
    index = torch.tensor([999, 3, 4, 5, 3, 0, 500])
    assert_same(resident.gather(index), on_disk.gather(index))


@pytest.mark.parametrize("array", ["ids", "labels", "bag1_offsets", "bag1_weights"])
def test_a_file_cut_short_during_a_run_is_named(dataset, array):
    on_disk = both(dataset)[1]
    file = dataset.path / "train" / f"{array}.npy"
    with closing(on_disk.batches(64, 0)) as batches:
        next(batches)
        os.truncate(file, file.stat().st_size // 2)
        with pytest.raises(DataError, match=array) as said:
            list(islice(batches, 40))
    assert "cvrbench data prepare toy --force" in str(said.value)


def test_a_file_that_vanished_is_named(dataset):
    (dataset.path / "train" / "numeric.npy").unlink()
    with pytest.raises(DataError, match=r"train/numeric\.npy .*No such file.*prepare toy"):
        both(dataset)


@pytest.mark.parametrize("value", [-1, 2**40])
def test_offsets_that_lead_nowhere_are_named(dataset, value):
    offsets = np.lib.format.open_memmap(dataset.path / "train" / "bag1_offsets.npy", mode="r+")
    offsets[500] = value
    offsets.flush()
    with pytest.raises(DataError, match=r"bag1_offsets\.npy was changed.*prepare toy"):
        SplitTensors.load(dataset.train, dataset.schema, CPU)


def test_a_part_of_a_mapped_array_is_taken_from_memory(dataset):
    train = dataset.train
    part = train.ids[100:200]
    assert ArrayReader(part, "toy").read(10, 20).tolist() == train.ids[110:120].tolist()


def test_the_next_item_is_made_while_one_is_used_and_no_more():
    made: list[int] = []

    def items():
        for number in range(5):
            made.append(number)
            yield number

    with closing(prefetch(items())) as found:
        for number in found:
            while len(made) < min(number + 2, 5):
                pass
            assert len(made) <= number + 2


def test_what_fails_ahead_fails_when_it_is_due():
    def items():
        yield 1
        raise DataError("damaged")

    with closing(prefetch(items())) as found:
        assert next(found) == 1
        with pytest.raises(DataError, match="damaged"):
            next(found)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("size", [96, 300])
def test_batches_on_a_gpu_are_those_of_the_cpu(dataset, weights, blockwise, size):
    gpu = torch.device("cuda")
    rows = (dataset.train, dataset.schema, gpu, weights)
    there = (SplitTensors.load(*rows), DiskRows(*rows))
    n = 2 * -(-ROWS // size)
    for found in there:
        expected = both(dataset, weights)[0].batches(size, 3)
        with closing(expected), closing(found.batches(size, 3)) as batches:
            for mine, theirs in zip(islice(expected, n), batches, strict=False):
                assert theirs.labels.device.type == "cuda"
                on_cpu = Batch(type(mine.features)(*(t.cpu() for t in theirs.features)),
                               theirs.labels.cpu(), theirs.weights.cpu())  # fmt: skip
                assert_same(mine, on_cpu)
