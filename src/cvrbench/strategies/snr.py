"""SNR-Trans: sub-networks routed by learned gates (Ma et al., AAAI 2019).

    x_t = sum_j z_tj T_tj f_j(e(x)),    logit_t = h_t(x_t)
    z = min(1, max(0, s (zeta - gamma) + gamma))
    s = sigmoid((ln u - ln(1 - u) + ln alpha) / beta)

z is a hard concrete variable (Louizos et al., ICLR 2018): u is drawn uniformly anew at every step
of training, one for each pair of task and sub-network; afterwards z = min(1, max(0, sigmoid(ln
alpha) (zeta - gamma) + gamma)). The loss gains `l0` times the expected number of open gates,

    sum of sigmoid(ln alpha - beta ln(-gamma / zeta)).

Public ports learn u as a weight, draw nothing, and leave the penalty out. Several seeds are trained
one by one, since each draws.
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cvrbench.config.model import SNRConfig
from cvrbench.data.batches import Features
from cvrbench.data.schema import Schema
from cvrbench.nn import FeatureEncoder, Output, ParallelMLP, Towers, select_networks
from cvrbench.nn.layers import glorot
from cvrbench.strategies.base import SharingStrategy

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
"""Temperature and stretch of the hard concrete distribution, as Louizos et al. have them."""
TINY = 1e-6
"""Least distance of a draw from 0 and 1, where its logit is infinite."""


class SNRTrans(SharingStrategy):
    """Sub-networks, each transformed for each task where a gate that is drawn is open."""

    def __init__(
        self,
        config: SNRConfig,
        schema: Schema,
        encoder: FeatureEncoder,
        heads: Sequence[str],
    ) -> None:
        super().__init__()
        self.tasks = [task.name for task in schema.tasks]
        n_tasks, n = len(self.tasks), config.n_experts
        self.l0 = config.l0
        self.encoder = encoder
        self.experts = ParallelMLP(n, encoder.width, config.hidden, dropout=config.dropout)
        k = self.experts.n_out
        self.transforms = nn.Parameter(glorot(n_tasks * n, k, k).detach().unflatten(0, (-1, n)))
        self.log_alpha = nn.Parameter(torch.empty(n_tasks, n).normal_(std=0.01))
        self.towers = Towers(n_tasks, k, config.tower, dropout=config.dropout, heads=heads)

    def forward(self, features: Features) -> Output:
        """Return the logits `[batch, tasks]`, in training with the penalty on open gates."""
        encoded = self.encoder(features)  # [batch, width]
        experts = self.experts(encoded)  # [experts, batch, k]
        z = draw_gates(self.log_alpha, training=self.training)
        routed = z[:, :, None, None] * self.transforms  # [tasks, experts, k, k]
        output: Output = self.towers(torch.einsum("ebi,teio->tbo", experts, routed))
        penalty = self.l0 * share_open(self.log_alpha).sum() if self.training else None
        return output._replace(shared=(encoded,), penalty=penalty)

    def only(self, task: int) -> "SNRTrans":
        """Return a copy without the other tasks' gates, transforms and towers."""
        own = copy.deepcopy(self)
        own.tasks = [self.tasks[task]]
        own.log_alpha = nn.Parameter(self.log_alpha.detach()[task : task + 1])
        own.transforms = nn.Parameter(self.transforms.detach()[task : task + 1])
        select_networks(own.towers, [task])
        return own

    def diagnostics(self) -> dict[str, object]:
        """Return the probability that each task's gates are open."""
        rows = share_open(self.log_alpha).tolist()
        return {"open_gates": dict(zip(self.tasks, rows, strict=True))}


def draw_gates(log_alpha: Tensor, *, training: bool) -> Tensor:
    """Return hard concrete gates of the logits' shape: drawn in training, else their middle."""
    logits = log_alpha
    if training:
        u = torch.rand_like(logits).clamp(TINY, 1 - TINY)
        logits = (torch.logit(u) + logits) / BETA
    return (logits.sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def share_open(log_alpha: Tensor) -> Tensor:
    """Return the probability that each gate is not 0."""
    return (log_alpha - BETA * math.log(-GAMMA / ZETA)).sigmoid()
