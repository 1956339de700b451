"""Masks learned by gradient descent, together with the weights they gate.

    logit_t = h_t( f(e(x); theta * Z_t) ),    Z_t gates in [0, 1], one per task and connection

minimise sum_t L_t + PRESSURE ( sum_t (density_t - wanted)^2 + (sharing - wanted)^2 ) over theta and
the gates' logits; what is wanted falls from 1 on the way. Kept are the connections whose gates end
with the highest logits, so that the density is exact and the sharing nearly what was asked for.

A gate has one number, its logit; it is open where that is high:

    straight_through   z = 1 where logit > 0, else 0; dz / dlogit as if z were sigma(logit)
                       (Bengio et al., arXiv 1308.3432; of weights: Mallya et al., ECCV 2018;
                       Zhou et al., NeurIPS 2019)
    hard_concrete      s = sigma((log u - log(1 - u) + logit) / beta), u ~ U(0, 1)
                       z = min(1, max(0, s (zeta - gamma) + gamma))
                       P(z != 0) = sigma(logit - beta log(-gamma / zeta))
                       (Louizos et al., ICLR 2018, eq. 10-12)

Learned with the weights, as in Louizos et al. (ICLR 2018), and per task over a common network, as
in Piggyback (Mallya et al., ECCV 2018). The budgets are ours.
"""

import math

import torch
from torch import Tensor, nn

from cvrbench.config.ncs import LearnedSearch
from cvrbench.data.batches import Features
from cvrbench.masks.mask_set import OWNED, MaskSet
from cvrbench.masks.ranking import keep_best
from cvrbench.nn import Output
from cvrbench.strategies.base import PretrainContext, SharingStrategy, Training
from cvrbench.strategies.ncs import NCS
from cvrbench.strategies.ncs.candidates import Candidate, ranked

START = 1.0
"""Logit that every gate starts with: open (hard-concrete: in 93 of 100 draws), and near closing."""
PRESSURE = 20.0
"""Weight of the budgets' squared errors against the losses. Measured: at 1 a short search misses
its budgets, at 100 all gates move as one and the losses have little to say."""
BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
"""Temperature and stretch of the hard-concrete distribution, those of Louizos et al."""
ANNEALED = 0.7
"""Share of the search over which the budgets fall from 1; the rest is spent at their ends."""


def learned(ncs: NCS, context: PretrainContext, search: LearnedSearch) -> list[Candidate]:
    """Train weights and gates; the gates' logits then rank the connections, at every density."""
    gated = Gated(ncs, search, steps=context.steps(search.epochs))
    epochs = search.epochs
    context.train(Training(gated, label="search all tasks", epochs=epochs, per_task=True))
    return ranked(gated.logits(), ncs.masks, search)


class Gated(SharingStrategy):
    """An NCS whose masks are gates.

    In evaluation the masks are those that would be cut now, so that validation chooses the moment
    at which they are good, which is not before they are sparse.
    """

    n_steps: Tensor

    def __init__(self, ncs: NCS, settings: LearnedSearch, *, steps: int) -> None:
        super().__init__()
        self.ncs = ncs
        self.settings, self.steps = settings, steps
        # A logit is its start plus `gate_rate` times a parameter that starts at 0: under Adam,
        # whose steps do not depend on a gradient's size, the logit's rate is `gate_rate` times the
        # weights'. Weight decay draws to the start, and at usual rates by next to nothing.
        self.offsets = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros_like(w)) for name, w in ncs.effective().items()}
        )
        self.register_buffer("n_steps", torch.zeros((), dtype=torch.long))

    def forward(self, features: Features) -> Output:
        """Return the logits `[batch, tasks]` under gated weights, and how far the budgets are."""
        gates = self.gates() if self.training else self.cut().keep
        gated = {name: w * gates[name] for name, w in self.ncs.effective().items()}
        penalty = self._penalty() if self.training else None
        return self.ncs.through(features, gated)._replace(penalty=penalty)

    def logits(self) -> dict[str, Tensor]:
        """The gates' logits, layer -> `[tasks, in, out]`."""
        rate = self.settings.gate_rate
        return {name: START + rate * offset for name, offset in self.offsets.items()}

    def gates(self) -> dict[str, Tensor]:
        """Gates of one training step, layer -> `[tasks, in, out]`."""
        if self.settings.relaxation == "straight_through":
            return {name: straight_through(logit) for name, logit in self.logits().items()}
        return {
            n: hard_concrete(logit, torch.rand_like(logit)) for n, logit in self.logits().items()
        }

    def cut(self) -> MaskSet:
        """The masks of the final density that the gates would yield now."""
        return keep_best(self.logits(), self.ncs.masks, self.settings.density, self.settings.scope)

    def _penalty(self) -> Tensor:
        """Squared distance from the budgets as they are at this step."""
        opens = self.open()
        progress = self.n_steps / (ANNEALED * self.steps)
        density = expected_density(torch.cat([p.flatten(1) for p in opens.values()], dim=1))
        off = (density - annealed(self.settings.density, progress)).square().sum()
        common = [p.flatten(1) for name, p in opens.items() if not name.startswith(OWNED)]
        if self.settings.sharing is not None and common:
            sharing = expected_sharing(torch.cat(common, dim=1))
            off = off + (sharing - annealed(self.settings.sharing, progress)).square()
        return PRESSURE * off

    def open(self) -> dict[str, Tensor]:
        """Probability that a gate is open, layer -> `[tasks, in, out]`; 0 or 1 without chance."""
        if self.settings.relaxation == "straight_through":
            return self.gates()
        return {name: open_probability(logit) for name, logit in self.logits().items()}

    def after_step(self, step: int) -> bool:
        """Keep count, for the budget."""
        self.n_steps.fill_(step)
        return False


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
