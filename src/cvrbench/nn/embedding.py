"""The look-up of every field in one embedding table.

Shape legend: `batch` rows, `width` the encoder's output.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- the name every torch user expects

from cvrbench.data.batches import Features
from cvrbench.data.schema import Schema
from cvrbench.nn.layers import ParallelMLP, glorot, parallel_linear, select_networks
from cvrbench.nn.lookup import Bags, has_kernel, look_up


class Interaction(nn.Module):
    """What happens between the look-up and the trunk (group `interaction=`).

    Shape: `[(copies,) batch, n_fields * dim + numeric]`, embedded fields first, -> `[(copies,)
    batch, width]`.
    """

    width: int


class Attention(nn.Module):
    """What a value of a list counts beside the row's own value (DIN: Zhou et al., KDD 2018, eq. 3).

        pooled = sum over values v of  a([e; v; e - v; e * v]) v,    a a network with ReLU

    e is the vector of the field that the list is held against. The weights do not add up to 1, so
    that the strength of an interest counts, as in the paper; its network has PReLU or Dice.
    """

    def __init__(
        self, pairs: Sequence[tuple[int, int]], dim: int, hidden: Sequence[int], *, copies: int
    ) -> None:
        """Begin with networks at random.

        Args:
            pairs: List's place among the lists, and the place of what its values are held against.
            dim: Numbers per id.
            hidden: Widths of the networks, one per list.
            copies: Networks of their own for as many tables.
        """
        super().__init__()
        self.pairs = tuple(pairs)
        self.networks = nn.ModuleList(
            ParallelMLP(copies, 4 * dim, hidden, dropout=0.0) for _ in self.pairs
        )
        self.heads = nn.ParameterList(glorot(copies, hidden[-1], 1) for _ in self.pairs)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(copies, 1, 1)) for _ in self.pairs)

    def forward(
        self, single: Tensor, values: Tensor, places: tuple[Tensor, Tensor], weights: Tensor
    ) -> Tensor:
        """Return what each value counts, `[copies, values, 1]`.

        Args:
            single: `[copies, batch, categorical, dim]`.
            values: `[copies, values, dim]`.
            places: `[values]` each, the row and the list of a value.
            weights: `[values]`, what values count without attention.
        """
        row, field = places
        counts = weights[None, :, None].expand(len(values), -1, 1)
        parts = zip(self.pairs, self.networks, self.heads, self.biases, strict=True)
        for (of_list, target), network, head, bias in parts:
            own = single[:, :, target].index_select(1, row)
            seen = torch.cat([own, values, own - values, own * values], dim=2)
            found = parallel_linear(network(seen), head, bias)
            counts = torch.where((field == of_list)[:, None], found, counts)
        return counts


class FeatureEncoder(nn.Module):
    """Embeds every field and lines the vectors up with the numeric features.

    One table serves all fields. A multi-valued field is the weighted mean or sum of its values.
    `copies` tables of their own (one per task in `single_task`) lie behind each other in the
    same parameter, so that they still cost one gather and one optimiser step.

    Shape: features -> `[batch, width]`, or `[copies, batch, width]` with more than one copy.
    """

    sums: Tensor

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        *,
        copies: int = 1,
        interaction: Interaction | None = None,
        attention: Attention | None = None,
    ) -> None:
        super().__init__()
        self.copies = copies
        self.vocabulary_size = schema.vocabulary_size
        self.embedding_dim = embedding_dim
        self.n_multivalued = len(schema.multivalued)
        sums = torch.tensor([field.pool == "sum" for field in schema.multivalued], dtype=torch.bool)
        self.register_buffer("sums", sums.reshape(-1, 1), persistent=False)
        n_fields = len(schema.categorical) + self.n_multivalued
        self.table = nn.Parameter(torch.empty(copies * self.vocabulary_size, embedding_dim))
        nn.init.normal_(self.table, std=0.01)
        self.interaction, self.attention = interaction, attention
        width = n_fields * embedding_dim + len(schema.numeric)
        self.width = width if interaction is None else interaction.width
        self.sparse = True
        """Whether the table's gradient holds the batch's rows only; the optimiser decides."""

    def forward(self, features: Features, keep: Tensor | None = None) -> Tensor:
        """Look a batch up, and let its fields interact; arguments and shape of `look_up`."""
        encoded = self.look_up(features, keep)
        if self.interaction is not None:
            encoded = self.interaction(encoded)
        return encoded

    def look_up(self, features: Features, keep: Tensor | None = None) -> Tensor:
        """Embed a batch: `[batch, n_fields * dim + numeric]`, or with leading copies.

        Args:
            features: Of the batch.
            keep: `[tasks, vocabulary, dim]`, which entries of a common table each task reads; the
                result is then `[tasks, batch, width]`.
        """
        batch, copies = len(features.rows), max(self.copies, 1 if keep is None else len(keep))
        parts = []
        if self.vocabulary_size:  # else ONNX would have to join tensors without an element
            vectors, pooled = self._vectors(features, keep)
            if features.rows.shape[1]:
                parts.append(vectors.reshape(copies, batch, -1))
            if pooled is not None:
                pooled = pooled.view(copies, self.n_multivalued, batch, self.embedding_dim)
                parts.append(pooled.transpose(1, 2).reshape(copies, batch, -1))
        if features.numeric.shape[1] or not parts:
            parts.append(features.numeric.expand(copies, batch, -1))
        encoded = torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]
        return encoded if copies > 1 else encoded.squeeze(0)

    def select_copy(self, number: int) -> None:
        """Keep one of the tables, and its interaction."""
        if self.copies > 1:
            self.table = nn.Parameter(self.table.detach().chunk(self.copies)[number].clone())
            for part in (self.interaction, self.attention):
                if part is not None:
                    select_networks(part, [number])
            self.copies = 1

    def _vectors(self, features: Features, keep: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Vectors of single values, and pooled bags if there are some."""
        plain = keep is None and self.attention is None and self.sparse
        if plain and has_kernel(self.table):
            bags = self._bags(features) if self.n_multivalued else None
            return look_up(self.table, self._of_copies(features.rows.reshape(-1)), bags)
        return self._by_value(features, keep)

    def _by_value(self, features: Features, keep: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Vectors and pooled bags by a vector for every value, for autograd to differentiate."""
        ids = torch.cat([features.rows.reshape(-1), features.bag_rows])
        vectors = F.embedding(self._of_copies(ids), self.table, sparse=self.sparse)
        vectors = vectors.view(self.copies, len(ids), self.embedding_dim)
        if keep is not None:
            vectors = vectors * keep[:, ids]
        single, values = vectors.split([features.rows.numel(), len(features.bag_rows)], dim=1)
        if not self.n_multivalued:
            return single, None
        weights = self._weights(features)[:, None]
        if self.attention is not None:
            vectors = single.unflatten(1, features.rows.shape)
            weights = self.attention(vectors, values, self._places(features), weights[:, 0])
        weighted = values * weights
        pooled = values.new_zeros(len(values), self._n_bags(features), self.embedding_dim)
        return single, pooled.index_add(1, features.bag_segments, weighted)

    def _bags(self, features: Features) -> Bags:
        """The bags of all fields, of every copy."""
        n = self._n_bags(features)
        shift = torch.arange(self.copies, device=features.bag_rows.device)[:, None] * n
        return Bags(
            self._of_copies(features.bag_rows),
            self._weights(features).repeat(self.copies),
            (features.bag_segments + shift).reshape(-1),
            self.copies * n,
        )

    def _weights(self, features: Features) -> Tensor:
        """What each value counts in its bag, `[values]`."""
        weights, segments = features.bag_weights, features.bag_segments
        total = weights.new_zeros(self._n_bags(features)).index_add(0, segments, weights)
        total = total.clamp_min(1e-12).view(self.n_multivalued, -1).masked_fill(self.sums, 1.0)
        return weights / total.view(-1)[segments]

    def _places(self, features: Features) -> tuple[Tensor, Tensor]:
        """Row and list of each value, `[values]`; by look-up, since ONNX has no such division."""
        device, n = features.rows.device, self.n_multivalued
        rows = torch.arange(len(features.rows), device=device).expand(n, -1)
        lists = torch.arange(n, device=device)[:, None].expand_as(rows)
        segments = features.bag_segments
        return rows.reshape(-1)[segments], lists.reshape(-1)[segments]

    def _n_bags(self, features: Features) -> int:
        return self.n_multivalued * len(features.rows)

    def _of_copies(self, rows: Tensor) -> Tensor:
        """The same rows of every copy's table, one copy after another."""
        if self.copies == 1:
            return rows
        shift = torch.arange(self.copies, device=rows.device) * self.vocabulary_size
        return (rows + shift[:, None]).reshape(-1)
