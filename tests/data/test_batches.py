"""Batches of stores whose bags are shared by many rows, and what an encoder makes of them."""

import numpy as np
import pytest
import torch

from cvrbench.data.batches import SplitTensors
from cvrbench.data.dataset import Bag, Split
from cvrbench.data.schema import Categorical, MultiValued, Schema, Task
from cvrbench.nn import FeatureEncoder

ROWS, CONTEXTS, SIZE = 40, 7, 12


def bag(rng: np.random.Generator, n: int) -> Bag:
    lengths = rng.integers(0, 5, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = rng.integers(0, SIZE, offsets[-1]).astype(np.int32)
    return Bag(offsets, ids, rng.random(offsets[-1]).astype(np.float32))


@pytest.fixture
def schema() -> Schema:
    return Schema(
        name="shared",
        categorical=(Categorical(name="item", size=SIZE),),
        multivalued=(
            MultiValued(name="history", size=SIZE, shared=True),
            MultiValued(name="intentions", size=SIZE),
            MultiValued(name="crossed", size=SIZE, pool="sum"),
        ),
        numeric=(),
        tasks=(Task(name="ctr", label="click"),),
        group=None,
        rows={"train": ROWS, "valid": ROWS, "test": ROWS},
        fingerprint="x",
    )


@pytest.fixture
def split() -> Split:
    rng = np.random.default_rng(0)
    return Split(
        name="train",
        ids=rng.integers(0, SIZE, (ROWS, 1)).astype(np.int32),
        numeric=np.empty((ROWS, 0), np.float32),
        labels=rng.integers(0, 2, (ROWS, 1)).astype(np.uint8),
        bags=(bag(rng, CONTEXTS), bag(rng, ROWS), bag(rng, ROWS)),
        contexts=rng.integers(0, CONTEXTS, ROWS).astype(np.int32),
        groups=None,
        truth=None,
    )


def test_a_row_has_the_bag_of_its_context(split, schema):
    index = torch.tensor([3, 3, 39, 0, 17])
    features = SplitTensors.load(split, schema, torch.device("cpu")).gather(index).features
    for field, shared in enumerate((True, False, False)):
        for position, row in enumerate(index.tolist()):
            at = split.contexts[row] if shared else row
            here = slice(*split.bags[field].offsets[at : at + 2])
            chosen = features.bag_segments == field * len(index) + position
            expected = split.bags[field].ids[here] + (field + 1) * SIZE
            assert features.bag_rows[chosen].tolist() == expected.tolist()
            assert features.bag_weights[chosen].tolist() == split.bags[field].weights[here].tolist()


def test_a_sum_keeps_the_weight_of_a_single_value_and_a_mean_does_not(split, schema):
    encoder = FeatureEncoder(schema, embedding_dim=4)
    index = torch.arange(ROWS)
    features = SplitTensors.load(split, schema, torch.device("cpu")).gather(index).features
    encoded = encoder(features).view(ROWS, 4, 4).detach().numpy()
    table = encoder.table.detach().numpy()
    for row in range(ROWS):
        for field, (shared, is_sum) in enumerate(((True, False), (False, False), (False, True))):
            at = split.contexts[row] if shared else row
            here = slice(*split.bags[field].offsets[at : at + 2])
            weights = split.bags[field].weights[here][:, None]
            vectors = table[split.bags[field].ids[here] + (field + 1) * SIZE]
            pooled = (weights * vectors).sum(axis=0)
            if not is_sum:
                pooled = pooled / max(weights.sum(), 1e-12)
            np.testing.assert_allclose(encoded[row, field + 1], pooled, atol=1e-6)
