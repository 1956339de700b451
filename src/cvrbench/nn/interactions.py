"""Interactions (group `interaction=`): what happens between the look-up and the trunk.

One class and one dataclass (`config.schema`) each, one `case` here. Shape legend: `batch`
rows, `fields` embedded fields of `dim` numbers, `in` = fields * dim + numeric features; `copies` of
interactions that lie beside each other, one per table, are a leading dimension.
"""

from collections.abc import Mapping, Sequence
from typing import assert_never

import torch
from torch import Tensor, nn

from cvrbench.config.schema import (
    AllDotsConfig,
    AttentionConfig,
    CrossConfig,
    DotConfig,
    FMConfig,
    InteractionConfig,
    NoInteractionConfig,
)
from cvrbench.data.schema import Schema
from cvrbench.errors import ConfigError
from cvrbench.nn.embedding import Attention, FeatureEncoder, Interaction
from cvrbench.nn.layers import glorot, parallel_linear


def build_encoder(
    config: InteractionConfig, schema: Schema, embedding_dim: int, *, copies: int = 1
) -> FeatureEncoder:
    """Build the look-up and interaction that a strategy reads features through.

    Args:
        config: Of the interaction.
        schema: Of the dataset.
        embedding_dim: Numbers per id.
        copies: Tables, and interactions, of their own that lie beside each other.
    """
    n_looked_up, n_numeric = len(schema.id_fields), len(schema.numeric)
    n_fields = n_looked_up + len(schema.vectors)
    interaction: Interaction | None
    attention: Attention | None = None
    match config:
        case NoInteractionConfig():
            interaction = None
        case AttentionConfig(over=over, hidden=hidden):
            pairs = pairs_of(over, schema)
            interaction = None
            attention = Attention(pairs, embedding_dim, hidden, copies=copies)
        case DotConfig():
            interaction = Dot(n_fields, embedding_dim, n_numeric, copies=copies)
        case AllDotsConfig():
            interaction = Dot(n_fields, embedding_dim, n_numeric, copies=copies, every=True)
        case FMConfig():
            interaction = FactorizationMachine(n_fields, embedding_dim, n_numeric)
        case CrossConfig(layers=layers, rank=rank):
            width = n_fields * embedding_dim + n_numeric
            interaction = Cross(width, layers, rank, copies=copies)
        case _:
            assert_never(config)
    if schema.vectors:
        sizes = [n_looked_up * embedding_dim, n_numeric, *(v.width for v in schema.vectors)]
        interaction = VectorFields(sizes, embedding_dim, interaction, copies=copies)
    return FeatureEncoder(
        schema, embedding_dim, copies=copies, interaction=interaction, attention=attention
    )


def pairs_of(over: Mapping[str, str], schema: Schema) -> list[tuple[int, int]]:
    """Return the places of lists, and of the single ids that their values are held against.

    Raises:
        ConfigError: There is no such list, or no such field of single ids.
    """
    lists = [field.name for field in schema.multivalued]
    single = [field.name for field in schema.categorical]
    if wrong := [pair for pair in over.items() if pair[0] not in lists or pair[1] not in single]:
        raise ConfigError(
            f"interaction.over has {wrong[0][0]}: {wrong[0][1]}; it takes a list of this dataset "
            f"({', '.join(lists) or 'there is none'}) and a field of single ids "
            f"({', '.join(single) or 'there is none'})"
        )
    return [(lists.index(name), single.index(target)) for name, target in over.items()]


class VectorFields(Interaction):
    """Vectors of the data as fields among the embedded ones, and what interacts with them.

        e_v = W_v v + b_v

    Shape: `[(copies,) batch, fields * dim + numeric + numbers of the vectors]` -> the interaction's
    of `fields + vectors` fields.
    """

    def __init__(
        self, sizes: Sequence[int], dim: int, interaction: Interaction | None, *, copies: int
    ) -> None:
        """Begin with maps at random; `sizes` are those of the parts of the input in its order."""
        super().__init__()
        self.sizes, self.interaction = list(sizes), interaction
        self.weights = nn.ParameterList([glorot(copies, width, dim) for width in sizes[2:]])
        self.biases = nn.ParameterList(
            [nn.Parameter(torch.zeros(copies, 1, dim)) for _ in sizes[2:]]
        )
        width = sum(sizes[:2]) + dim * len(self.weights)
        self.width = width if interaction is None else interaction.width

    def forward(self, encoded: Tensor) -> Tensor:
        """Put the mapped vectors behind the embedded fields."""
        embedded, numeric, *vectors = encoded.split(self.sizes, dim=-1)
        maps = zip(vectors, self.weights, self.biases, strict=True)
        mapped = [parallel_linear(*each).reshape(*encoded.shape[:-1], -1) for each in maps]
        parts = [embedded, *mapped, numeric]  # ONNX cannot join tensors without an element
        joined = torch.cat([part for part in parts if part.shape[-1]], dim=-1)
        return joined if self.interaction is None else self.interaction(joined)


class Dot(Interaction):
    """Dot products of every two fields (DLRM: Naumov et al., arXiv 1906.00091).

        out = [e_1, ..., e_F, x; <e_i, e_j> for i < j]

    Numeric features x, if there are some, are mapped to one more field of the dot products (theirs
    by an MLP, ours by a linear map). Joined to the embeddings rather than to the mapped numeric
    features alone, as in the authors' network of NCS (arXiv 2008.09872), whose products are `every`
    <e_i, e_j>: each pair twice, and each field with itself.

    Shape: `[(copies,) batch, in]` -> `[(copies,) batch, in + n (n - 1) / 2]` of n fields, or `in +
    n^2`.
    """

    def __init__(
        self, n_fields: int, dim: int, n_numeric: int, *, copies: int, every: bool = False
    ) -> None:
        super().__init__()
        self.n_fields, self.dim, self.n_numeric = n_fields, dim, n_numeric
        if n_numeric:
            self.weight = glorot(copies, n_numeric, dim)
            self.bias = nn.Parameter(torch.zeros(copies, 1, dim))
        n = n_fields + bool(n_numeric)
        square = torch.cartesian_prod(torch.arange(n), torch.arange(n)).T
        pairs = square if every else torch.triu_indices(n, n, offset=1)
        self.register_buffer("pairs", pairs, persistent=False)
        self.width = n_fields * dim + n_numeric + pairs.shape[1]

    pairs: Tensor

    def forward(self, encoded: Tensor) -> Tensor:
        """Join the dot products of every two fields."""
        embedded, numeric = encoded.split([self.n_fields * self.dim, self.n_numeric], dim=-1)
        fields = embedded.unflatten(-1, (self.n_fields, self.dim))  # [(copies,) batch, fields, dim]
        if self.n_numeric:
            mapped = parallel_linear(numeric, self.weight, self.bias)
            mapped = mapped.reshape(*numeric.shape[:-1], 1, self.dim)
            fields = torch.cat([fields, mapped], dim=-2)
        products = fields @ fields.mT  # [(copies,) batch, fields, fields]
        first, second = self.pairs
        return torch.cat([encoded, products[..., first, second]], dim=-1)


class FactorizationMachine(Interaction):
    """Products of every two fields, summed (FM: Rendle, ICDM 2010; NFM: He and Chua, SIGIR 2017).

        out = [e_1, ..., e_F, x; sum over i < j of e_i * e_j]

    The sum is taken in linear time, ((sum e)^2 - sum e^2) / 2. The elements of the last part add up
    to the second-order term of a factorization machine; kept apart, as in NFM, the network above
    weighs them. It has no weights of its own.

    Shape: `[(copies,) batch, in]` -> `[(copies,) batch, in + dim]`.
    """

    def __init__(self, n_fields: int, dim: int, n_numeric: int) -> None:
        super().__init__()
        self.n_fields, self.dim = n_fields, dim
        self.width = n_fields * dim + n_numeric + dim

    def forward(self, encoded: Tensor) -> Tensor:
        """Join the pooled products of every two fields."""
        embedded = encoded[..., : self.n_fields * self.dim]
        fields = embedded.unflatten(-1, (self.n_fields, self.dim))  # [(copies,) batch, fields, dim]
        pooled = (fields.sum(-2).square() - fields.square().sum(-2)) / 2
        return torch.cat([encoded, pooled], dim=-1)


class Cross(Interaction):
    """Explicit crosses in layers (DCNv2: Wang et al., WWW 2021, eqs. 1 and 2).

        x_{l+1} = x_0 * (W_l x_l + b_l) + x_l,    W_l = U_l V_l^T with a rank

    The strategy's network lies on top of the last x (the paper's stacked form).

    Shape: `[(copies,) batch, in]` -> the same.
    """

    def __init__(self, width: int, layers: int, rank: int | None, *, copies: int) -> None:
        super().__init__()
        self.width = width
        sizes = [(width, width)] if rank is None else [(width, rank), (rank, width)]
        self.weights = nn.ParameterList(
            [glorot(copies, n_in, n_out) for _ in range(layers) for n_in, n_out in sizes]
        )
        self.biases = nn.ParameterList(
            [nn.Parameter(torch.zeros(copies, 1, width)) for _ in range(layers)]
        )

    def forward(self, encoded: Tensor) -> Tensor:
        """Cross the input with itself, layer by layer."""
        x, per_layer = encoded, len(self.weights) // len(self.biases)
        for layer, bias in enumerate(self.biases):
            *first, last = self.weights[layer * per_layer : (layer + 1) * per_layer]
            projected = x
            for weight in first:
                projected = parallel_linear(projected, weight, weight.new_zeros(1, 1, 1))
            crossed = parallel_linear(projected, last, bias).reshape(encoded.shape)
            x = encoded * crossed + x
        return x
