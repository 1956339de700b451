"""PEPNet: embeddings and layers scaled by what is known beforehand (Chang et al., KDD 2023).

With p(x) the embeddings of the fields named in `prior` (who is asked, and about what), stop() no
gradient, and a gate of values between 0 and 2 that begins near 1, G(v) = 2 sigmoid(V ReLU(U v)):

    e'(x) = G([p(x); stop(e(x))]) * e(x)                                    EPNet
    o_t^l = ReLU(W_t^l o_t^{l-1} + c_t^l) * G_t^l([p(x); stop(e'(x))])      PPNet,  o_t^0 = e'(x)
    logit_t = w_t o_t + b_t

Every layer of `hidden` and of `tower` is a task's own and scaled. With gates of 1 it is
shared_embedding. One group of fields serves both parts; the paper has one each (scenario, and user
with item).
"""

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from cvrbench.config.model import PEPNetConfig
from cvrbench.data.batches import Features
from cvrbench.data.schema import Schema
from cvrbench.errors import ConfigError
from cvrbench.nn import (
    FeatureEncoder,
    Output,
    ParallelMLP,
    Towers,
    parallel_linear,
    select_networks,
)
from cvrbench.nn.kernels import dropout
from cvrbench.nn.layers import glorot
from cvrbench.strategies.base import SharingStrategy


class GateNU(nn.Module):
    """n gates of one hidden layer. Shape: `[batch, in]` -> `[n, batch, out]`, between 0 and 2."""

    def __init__(self, n: int, n_in: int, n_hidden: int, n_out: int) -> None:
        super().__init__()
        self.network = ParallelMLP(n, n_in, (n_hidden,), dropout=0.0)
        self.weight, self.bias = glorot(n, n_hidden, n_out), nn.Parameter(torch.zeros(n, 1, n_out))

    def forward(self, x: Tensor) -> Tensor:
        """Return the factors."""
        return 2 * parallel_linear(self.network(x), self.weight, self.bias).sigmoid()


class PEPNet(SharingStrategy):
    """Common embeddings and a network per task, all of them scaled by gates over a prior."""

    stackable = True

    def __init__(
        self,
        config: PEPNetConfig,
        schema: Schema,
        encoder: FeatureEncoder,
        heads: Sequence[str],
    ) -> None:
        super().__init__()
        n, widths = len(schema.tasks), (*config.hidden, *config.tower)
        self.encoder, self.dropout = encoder, config.dropout
        self.prior = slices_of(config.prior, schema, config.embedding_dim)
        n_in = encoder.width + len(self.prior) * config.embedding_dim
        n_hidden = config.gate_hidden
        self.epnet = GateNU(1, n_in, n_hidden, encoder.width)
        self.layers = nn.ModuleList(
            ParallelMLP(n, i, (o,), dropout=0.0) for i, o in pairwise([encoder.width, *widths])
        )
        self.ppnets = nn.ModuleList(GateNU(n, n_in, n_hidden, width) for width in widths)
        self.heads = Towers(n, widths[-1], (), dropout=0.0, heads=heads)

    def forward(self, features: Features) -> Output:
        """Return the logits `[batch, tasks]`."""
        encoded = self.encoder(features)  # [batch, width]
        prior = [encoded[:, of_field] for of_field in self.prior]
        scaled = encoded * self.epnet(torch.cat([*prior, encoded.detach()], dim=1))[0]
        known = torch.cat([*prior, scaled.detach()], dim=1)
        x = scaled
        for layer, gate in zip(self.layers, self.ppnets, strict=True):
            x = layer(x) * gate(known)  # [tasks, batch, out]
            x = dropout(x, self.dropout) if self.training and self.dropout else x
        output: Output = self.heads(x)
        return output._replace(shared=(encoded,))

    def only(self, task: int) -> "PEPNet":
        """Return a copy without the other tasks' layers and gates."""
        own = copy.deepcopy(self)
        for part in (own.layers, own.ppnets, own.heads):
            select_networks(part, [task])
        return own


def slices_of(names: Sequence[str], schema: Schema, dim: int) -> list[slice]:
    """Return where fields of ids lie in an encoded row, `dim` numbers each.

    Raises:
        ConfigError: There is no such field.
    """
    places = {field.name: place for place, field in enumerate(schema.id_fields)}
    if unknown := [name for name in names if name not in places]:
        raise ConfigError(
            f"model.prior names {', '.join(unknown)}, which is no field of ids of this dataset; "
            f"its fields are {', '.join(places)}"
        )
    return [slice(places[name] * dim, (places[name] + 1) * dim) for name in names]
