"""Dynamic sparse training: masks of constant density whose connections are replaced now and then.

The weakest kept connections go, as many others come: random ones (SET: Mocanu et al., Nature
Communications 2018), or those of largest gradient (RigL: Evci et al., ICML 2020).
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from cvrbench.masks.mask_set import MaskSet
from cvrbench.masks.ranking import Scope, keep_best

END = 0.75
"""Share of the training after which masks change no more (T_end of Evci et al.)."""


def share_at(step: int, steps: int, share: float) -> float:
    """Share of a task's connections to replace: share / 2 (1 + cos(pi step / T_end)).

    (Evci et al., eq. 1.) It falls to 0 at T_end and stays there.

    Args:
        step: Steps done.
        steps: Of the whole training; T_end is `END` of them.
        share: At first.
    """
    progress = step / (END * steps)
    return share / 2 * (1 + math.cos(math.pi * progress)) if progress < 1 else 0.0


def regrow(
    masks: MaskSet,
    magnitudes: Mapping[str, Tensor],
    gains: Mapping[str, Tensor],
    *,
    density: float,
    share: float,
    scope: Scope,
) -> MaskSet:
    """Drop, per task, the kept connections of smallest magnitude, and grow as many.

    What was just dropped may grow again (Evci et al., algorithm 1).

    Args:
        masks: Those so far, of `density`.
        magnitudes: Layer -> `[1 or tasks, in, out]`; the smallest go.
        gains: Layer -> `[tasks, in, out]`; of what is not kept, the largest come.
        density: Share of all connections that a task keeps, before and after.
        share: Share of a task's connections that is replaced.
        scope: Drop and grow over all layers together, or in each as many as it loses.
    """
    left = keep_best(magnitudes, masks, density * (1 - share), scope)
    everything = MaskSet(masks.tasks, {n: torch.ones_like(k) for n, k in masks.keep.items()})
    first = {name: gains[name].masked_fill(keep, torch.inf) for name, keep in left.keep.items()}
    return keep_best(first, everything, density, scope)
