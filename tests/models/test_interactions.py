"""Interactions against DeepCTR-Torch's layers, loops written out, and the network without them."""

import warnings
from itertools import combinations

import numpy as np
import pytest
import torch

from cvrbench.config.schema import (
    AllDotsConfig,
    CrossConfig,
    DotConfig,
    FMConfig,
    NoInteractionConfig,
)
from cvrbench.errors import ConfigError
from cvrbench.nn.interactions import Cross, Dot, FactorizationMachine, build_encoder
from tests.choices import kinds
from tests.models.conftest_models import chosen, make_batch, make_schema

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    theirs = pytest.importorskip("deepctr_torch.layers.interaction")
    sequence = pytest.importorskip("deepctr_torch.layers.sequence")

ROWS, FIELDS, DIM = 6, 4, 3


def embedded(*leading: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*leading, ROWS, FIELDS * DIM, generator=generator)


def test_dot_is_deepctrs_inner_product_layer():
    x = embedded()
    fields = [field[:, None] for field in x.view(ROWS, FIELDS, DIM).unbind(1)]
    expected = theirs.InnerProductLayer(reduce_sum=True)(fields).squeeze(-1)
    found = Dot(FIELDS, DIM, 0, copies=1)(x)
    assert torch.equal(found[:, : FIELDS * DIM], x)
    torch.testing.assert_close(found[:, FIELDS * DIM :], expected)


def test_all_dots_are_the_matrix_of_products_flattened():
    """lt4rec: tf.matmul(e, transpose(e)), reshaped, beside the embeddings."""
    x = embedded()
    fields = x.view(ROWS, FIELDS, DIM).double().numpy()
    found = Dot(FIELDS, DIM, 0, copies=1, every=True)(x)
    products = np.einsum("bid,bjd->bij", fields, fields).reshape(ROWS, -1)
    assert torch.equal(found[:, : FIELDS * DIM], x)
    np.testing.assert_allclose(found[:, FIELDS * DIM :].numpy(), products, rtol=1e-6, atol=1e-6)


def test_dot_makes_numeric_features_one_more_field():
    dot = Dot(FIELDS, DIM, 2, copies=1)
    x = torch.cat([embedded(), torch.randn(ROWS, 2, generator=torch.Generator())], dim=1)
    fields = [*x[:, : FIELDS * DIM].view(ROWS, FIELDS, DIM).unbind(1)]
    fields.append(x[:, FIELDS * DIM :] @ dot.weight[0] + dot.bias[0])
    expected = [(a * b).sum(1) for a, b in combinations(fields, 2)]
    found = dot(x)
    assert found.shape == (ROWS, dot.width)
    torch.testing.assert_close(found[:, x.shape[1] :], torch.stack(expected, dim=1))


def test_fm_is_deepctrs_bi_interaction_and_adds_up_to_its_factorization_machine():
    x = torch.cat([embedded(), torch.ones(ROWS, 2)], dim=1)  # numeric features stay out of it
    fields = x[:, : FIELDS * DIM].view(ROWS, FIELDS, DIM)
    fm = FactorizationMachine(FIELDS, DIM, 2)
    found = fm(x)
    assert found.shape == (ROWS, fm.width)
    assert torch.equal(found[:, : x.shape[1]], x)
    pooled = found[:, x.shape[1] :]
    torch.testing.assert_close(pooled, theirs.BiInteractionPooling()(fields).squeeze(1))
    torch.testing.assert_close(pooled.sum(1), theirs.FM()(fields).squeeze(1))


def test_cross_is_deepctrs_with_a_matrix():
    torch.manual_seed(0)
    layer = theirs.CrossNet(FIELDS * DIM, layer_num=3, parameterization="matrix")
    torch.nn.init.normal_(layer.bias)
    cross = Cross(FIELDS * DIM, 3, None, copies=1)
    for own, kernel in zip(cross.weights, layer.kernels, strict=True):
        own.data.copy_(kernel.detach().T[None])
    for own, bias in zip(cross.biases, layer.bias, strict=True):
        own.data.copy_(bias.detach().view(1, 1, -1))
    torch.testing.assert_close(cross(embedded()), layer(embedded()), rtol=1e-4, atol=1e-5)


def test_cross_with_a_rank_is_full_cross_with_the_product_of_its_matrices():
    torch.manual_seed(0)
    thin, full = (Cross(FIELDS * DIM, 2, rank, copies=2) for rank in (2, None))
    for layer in range(2):
        product = thin.weights[2 * layer] @ thin.weights[2 * layer + 1]
        full.weights[layer].data.copy_(product)
        torch.nn.init.normal_(thin.biases[layer])
        full.biases[layer].data.copy_(thin.biases[layer])
    torch.testing.assert_close(thin(embedded(2)), full(embedded(2)))


def test_cross_of_zeros_is_no_interaction():
    cross = Cross(FIELDS * DIM, 2, None, copies=1)
    for weight in cross.weights:
        torch.nn.init.zeros_(weight)
    assert torch.equal(cross(embedded()), embedded())


def test_attention_is_deepctrs_over_a_history_and_leaves_other_lists_alone():
    """Histories of 0 to 3 values against the item, one network of one hidden layer."""
    torch.manual_seed(0)
    schema, config = make_schema(), chosen("interaction", "attention", hidden=(5,))
    encoder = build_encoder(config, schema, DIM)
    lengths = torch.tensor([3, 0, 1, 2])
    features = make_batch(schema, 4).features
    features = features._replace(
        bag_rows=torch.arange(6) + 80,
        bag_segments=torch.arange(4).repeat_interleave(lengths),
        bag_weights=torch.ones(6),
    )
    torch.nn.init.normal_(encoder.table)
    attention = encoder.attention
    layer = sequence.AttentionSequencePoolingLayer((5,), "relu", embedding_dim=DIM)
    (unit,) = attention.networks
    given = dict(layer.named_parameters())
    pairs = [
        ("linears.0.weight", unit.weights[0][0].T),
        ("linears.0.bias", unit.biases[0].view(-1)),
    ]
    with torch.no_grad():
        attention.biases[0].fill_(0.3)
        for name, value in pairs:
            given[f"local_att.dnn.{name}"].copy_(value)
        given["local_att.dense.weight"].copy_(attention.heads[0][0].T)
        given["local_att.dense.bias"].copy_(attention.biases[0].view(-1))
    items = encoder.table[features.rows[:, 1]]
    keys = torch.zeros(4, 3, DIM)
    for row, n in enumerate(lengths):
        begin = 80 + int(lengths[:row].sum())
        keys[row, :n] = encoder.table[begin : begin + int(n)]
    expected = layer(items[:, None], keys, lengths[:, None]).squeeze(1)
    found = encoder(features)
    torch.testing.assert_close(found[:, 2 * DIM : 3 * DIM], expected)
    assert torch.equal(found[1, 2 * DIM : 3 * DIM], torch.zeros(DIM))
    plain = build_encoder(NoInteractionConfig(kind="none"), schema, DIM)
    nobody = build_encoder(chosen("interaction", "attention", over={}), schema, DIM)
    nobody.table.data.copy_(plain.table)
    torch.testing.assert_close(nobody(features), plain(features))


def test_attention_names_the_lists_that_it_may_be_given():
    config = chosen("interaction", "attention", over={"tags": "age"})
    with pytest.raises(ConfigError, match=r"interaction.over has tags: age.*tags.*user, item"):
        build_encoder(config, make_schema(), DIM)


CONFIGS = [
    *(chosen("interaction", kind) for kind in kinds("interaction") if kind != "none"),
    CrossConfig(kind="cross", layers=2, rank=2),
]


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_every_copy_of_an_interaction_is_one_of_its_own(config):
    schema = make_schema()
    batch = make_batch(schema, ROWS)
    torch.manual_seed(0)
    both = build_encoder(config, schema, DIM, copies=2)
    one = build_encoder(config, schema, DIM)
    found = both(batch.features)
    for copy in range(2):
        state = {
            name: value.chunk(2)[copy] if name != "interaction.pairs" else value
            for name, value in both.state_dict().items()
        }
        one.load_state_dict(state)
        torch.testing.assert_close(found[copy], one(batch.features))


@pytest.mark.parametrize(
    "config",
    [DotConfig(kind="dot"), AllDotsConfig(kind="all_dots"), FMConfig(kind="fm")],
    ids=lambda c: c.kind,
)
def test_an_interaction_keeps_what_comes_in_where_that_is_its_first_part(config):
    schema = make_schema()
    features = make_batch(schema, ROWS).features
    torch.manual_seed(0)
    plain = build_encoder(NoInteractionConfig(kind="none"), schema, DIM)
    joined = build_encoder(config, schema, DIM)
    joined.table.data.copy_(plain.table)
    torch.testing.assert_close(joined(features)[:, : plain.width], plain(features))
