"""Masks that can be differentiated: gates per task and connection, and budgets on how many open.

A gate has one number, its logit; it is open where that is high.

    straight_through   z = 1 where logit > 0, else 0; dz / dlogit as if z were sigma(logit)
                       (Bengio et al., arXiv 1308.3432; of weights: Mallya et al., ECCV 2018;
                       Zhou et al., NeurIPS 2019)
    hard_concrete      s = sigma((log u - log(1 - u) + logit) / beta), u ~ U(0, 1)
                       z = min(1, max(0, s (zeta - gamma) + gamma))
                       P(z != 0) = sigma(logit - beta log(-gamma / zeta))
                       (Louizos et al., ICLR 2018, eq. 10-12)
"""

import math

from torch import Tensor

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
"""Temperature and stretch of the hard-concrete distribution, those of Louizos et al."""


def straight_through(logits: Tensor) -> Tensor:
    """0 or 1 forward, the gradient of a sigmoid backward; same shape."""
    soft = logits.sigmoid()
    return (logits > 0).to(soft) + (soft - soft.detach())


def hard_concrete(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw gates in [0, 1], many of which are exactly 0 or 1; same shape.

    Args:
        logits: log alpha.
        uniform: u, drawn from U(0, 1), one per gate.
    """
    s = ((uniform.logit() + logits) / BETA).sigmoid()
    return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def open_probability(logits: Tensor) -> Tensor:
    """Probability that a hard-concrete gate is not 0; same shape."""
    return (logits - BETA * math.log(-GAMMA / ZETA)).sigmoid()


def expected_density(probabilities: Tensor) -> Tensor:
    """Share of open gates to be expected per task: `[tasks, connections]` -> `[tasks]`."""
    return probabilities.mean(dim=1)


def expected_sharing(probabilities: Tensor) -> Tensor:
    """Connections that all tasks keep over those that any keeps, `[tasks, connections]` -> `[]`.

    The ratio of the two expectations; gates are independent of each other.
    """
    common = probabilities.prod(dim=0).sum()
    union = (1 - (1 - probabilities).prod(dim=0)).sum()
    return common / union.clamp_min(1)


def annealed(budget: float, progress: Tensor) -> Tensor:
    """A budget on its way from 1 to its end, fast at first: b + (1 - b) (1 - p)^3.

    (Of densities: Zhu and Gupta, arXiv 1710.01878, eq. 1.)

    Args:
        budget: In the end.
        progress: p, `[]`, from 0; from 1 on it is over.
    """
    return budget + (1 - budget) * (1 - progress.clamp(max=1)) ** 3
