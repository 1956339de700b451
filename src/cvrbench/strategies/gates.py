"""What a strategy's gates do on a batch, as plain values for the record and its figures.

With g(x) in the simplex over E experts, the mixture of one row:

    load_e  = mean over rows of g(x)_e                                sums to 1 over the experts
    entropy = mean over rows of -sum_e g(x)_e log g(x)_e  /  log E    1: all alike, 0: one only

The load is the importance of Shazeer et al. (ICLR 2017, eq. 6) over the batch's size. A gate may
have a flat load and a low entropy at once: every row is sent to one expert, each to its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class GateFacts:
    """One gate on one batch."""

    level: int
    """From 0, the one next to the embeddings."""
    gate: str
    """The task that it mixes for; `common` of one for all tasks, `shared` of PLE's shared path."""
    experts: tuple[str, ...]
    """What it mixes: `expert_0`, or `ctr_0` for a task's own and `shared_0` for a common one."""
    load: tuple[float, ...]
    """Mean weight of each expert."""
    entropy: float
    """Mean over rows, between 0 and 1; 0 where there is one expert only."""


def gate_facts(
    mixtures: Tensor, gates: Sequence[str], experts: Sequence[Sequence[str]], *, level: int = 0
) -> list[GateFacts]:
    """Describe the gates of one level.

    Args:
        mixtures: `[gates, batch, experts]`, over the experts a sum of 1.
        gates: Name of each.
        experts: Per gate the names of what it mixes.
        level: Of all of them.
    """
    mixtures = mixtures.detach().double()
    loads = mixtures.mean(dim=1)  # [gates, experts]
    entropies = torch.special.entr(mixtures).sum(dim=2).mean(dim=1)  # [gates]; 0 log 0 is 0
    scale = math.log(mixtures.shape[2]) or 1.0
    return [
        GateFacts(
            level=level,
            gate=gate,
            experts=tuple(names),
            load=tuple(load),
            entropy=entropy / scale,
        )
        for gate, names, load, entropy in zip(
            gates, experts, loads.tolist(), entropies.tolist(), strict=True
        )
    ]
