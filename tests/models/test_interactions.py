"""Interactions against DeepCTR-Torch's layers, loops written out, and the network without them."""

import warnings
from itertools import combinations

import pytest
import torch

from cvrbench.config.schema import CrossConfig, DotConfig, FMConfig, NoInteractionConfig
from cvrbench.nn.interactions import Cross, Dot, FactorizationMachine, build_encoder
from tests.choices import kinds
from tests.models.conftest_models import chosen, make_batch, make_schema

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    theirs = pytest.importorskip("deepctr_torch.layers.interaction")

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
    "config", [DotConfig(kind="dot"), FMConfig(kind="fm")], ids=lambda c: c.kind
)
def test_an_interaction_keeps_what_comes_in_where_that_is_its_first_part(config):
    schema = make_schema()
    features = make_batch(schema, ROWS).features
    torch.manual_seed(0)
    plain = build_encoder(NoInteractionConfig(kind="none"), schema, DIM)
    joined = build_encoder(config, schema, DIM)
    joined.table.data.copy_(plain.table)
    torch.testing.assert_close(joined(features)[:, : plain.width], plain(features))
