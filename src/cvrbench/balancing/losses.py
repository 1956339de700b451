"""Methods that need no gradient but the step's own: fixed, learned or drawn weights.

    L = sum_t w_t L_t,    w_t > 0 held constant in the step, scaled to a mean of 1

so that a step is as long as one of `equal`, from which all but `uncertainty`, whose weights are
published unscaled, differ by the ratios of the tasks alone. A task that has no row in a batch, and
so a loss of 0, takes no part: its logarithm or inverse would be all that counts.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, assert_never

import torch
from torch import Tensor, nn

from cvrbench.balancing.base import Adaptive, Balancing, scaled
from cvrbench.config.schema import DWAConfig, FAMOConfig, NISERatioConfig, STCHConfig
from cvrbench.errors import ConfigError


class Fixed(Balancing):
    """A weighted sum, of which `equal` is the case of ones."""

    weights: Tensor

    def __init__(self, active: Tensor, weights: Tensor) -> None:
        super().__init__(active)
        self.register_buffer("weights", active * weights, persistent=False)

    def weigh(self, losses: Tensor) -> Tensor:
        """Return the weighted losses, `[..., tasks]`."""
        return losses * self.weights


def weights_of(named: Mapping[str, float], tasks: Sequence[str]) -> Tensor:
    """Return the weight of each task's loss, `[tasks]`: 1 for tasks not named.

    Raises:
        ConfigError: A weight names a task that the dataset does not have.
    """
    if unknown := sorted(set(named) - set(tasks)):
        raise ConfigError(
            f"balancing.weights names {', '.join(unknown)}, which is no task of this dataset; its "
            f"tasks are {', '.join(tasks)}"
        )
    return torch.tensor([named.get(task, 1.0) for task in tasks])


BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Of FAMO's Adam, torch's own."""


class Uncertainty(Adaptive):
    """Homoscedastic uncertainty (Kendall, Gal and Cipolla, CVPR 2018, eq. 10, classification).

        L = sum_t exp(-s_t) L_t + s_t / 2,    s_t = log sigma_t^2 learned, 0 at the start

    At the optimum exp(-s_t) = 1 / (2 L_t): each task is weighed by the inverse of its loss. The s_t
    are free, also below 0: a clamp at 0 would leave every loss below 1/2, such as that of any rare
    label, at one fixed weight.
    """

    def __init__(self, active: Tensor) -> None:
        super().__init__(active)
        self.log_variance = nn.Parameter(torch.zeros(active.shape))

    def weigh(self, losses: Tensor) -> Tensor:
        """Return exp(-s_t) L_t + s_t / 2, `[..., tasks]`."""
        s = self.log_variance
        weights = torch.exp(-s)
        self.note(weights)
        return (weights * losses + s / 2) * self.active


class Weights(Adaptive):
    """What methods have in common that weigh the losses by numbers without a gradient."""

    def weigh(self, losses: Tensor) -> Tensor:
        """Return the weighted losses, `[..., tasks]`."""
        known = losses.detach()
        here = (self.active * known) > 0
        weights = scaled(self.weights(torch.where(here, known, 1.0), here), here)
        self.note(weights)
        return weights * losses * self.active

    def weights(self, losses: Tensor, here: Tensor) -> Tensor:
        """Return weights before they are scaled, `[..., tasks]`, positive and finite.

        Args:
            losses: Above 0; 1 where a task takes no part.
            here: Which tasks take part.
        """
        raise NotImplementedError


class Random(Weights):
    """RLW (Lin et al., TMLR 2022): w = softmax(N(0, I)) anew in every step; a litmus control."""

    stackable = False  # drawn from torch's global generator

    def weights(self, losses: Tensor, here: Tensor) -> Tensor:
        """Return exponentials of normal numbers."""
        del here
        return torch.randn_like(losses).exp()


class Geometric(Weights):
    """GLS (Chennupati et al., CVPRW 2019): the gradient of (prod_t L_t)^(1/T), w_t ~ 1 / L_t."""

    def weights(self, losses: Tensor, here: Tensor) -> Tensor:
        """Return inverse losses."""
        del here
        return 1 / losses


class NISERatio(Weights):
    """NISE (Huang et al., RecSys 2024, eq. 11): w_t = min(L_1 / L_t, cap), 1 the first task."""

    def __init__(self, active: Tensor, config: NISERatioConfig) -> None:
        super().__init__(active)
        self.cap = config.cap

    def weights(self, losses: Tensor, here: Tensor) -> Tensor:
        """Return the first task's loss over each task's, at most `cap`."""
        del here
        return (losses[..., self.trained[0], None] / losses).clamp_max(self.cap)


class IMTLL(Weights):
    """IMTL-L (Liu et al., ICLR 2021, eq. 9): w_t = exp(s_t), s_t descends exp(s_t) L_t - s_t.

    At the optimum w_t ~ 1 / L_t: the ratios of `uncertainty`, whose s_t has the other sign, and of
    `geometric`, which has them in every batch.
    """

    def __init__(self, active: Tensor) -> None:
        super().__init__(active)
        self.log_scale = nn.Parameter(torch.zeros(active.shape))

    def weigh(self, losses: Tensor) -> Tensor:
        """Return the weighted losses, with the gradient of s_t beside theirs."""
        here = (self.active * losses.detach()) > 0
        own = torch.where(here, self.log_scale.exp() * losses.detach() - self.log_scale, 0.0)
        return super().weigh(losses) + own - own.detach()

    def weights(self, losses: Tensor, here: Tensor) -> Tensor:
        """Return exp(s_t)."""
        del here
        return self.log_scale.detach().exp().expand_as(losses)


class DWA(Weights):
    """Dynamic weight average (Liu, Johns and Davison, CVPR 2019, eq. 7).

        w_t = softmax over t of  r_t / temperature,    r_t = mean L_t of the last window
                                                             / mean L_t of the one before

    Windows are of `window` steps, where the paper has epochs, of which a log is often read in one.
    """

    steps: Tensor
    sums: Tensor
    seen: Tensor
    newer: Tensor
    older: Tensor

    def __init__(self, active: Tensor, config: DWAConfig) -> None:
        super().__init__(active)
        self.temperature, self.window = config.temperature, config.window
        self.register_buffer("steps", active.new_zeros(1))
        for name in ("sums", "seen", "newer", "older"):
            self.register_buffer(name, torch.zeros_like(active))

    def weights(self, losses: Tensor, here: Tensor) -> Tensor:
        """Return exponentials of the rates; take note of the losses."""
        known = self.older > 0
        rates = torch.where(known, self.newer / torch.where(known, self.older, 1.0), 1.0)
        self.steps.add_(1)
        self.sums.add_(losses * here)
        self.seen.add_(here)
        ends = self.steps % self.window == 0
        full = ends & (self.seen > 0)  # a task that no batch of the window had keeps its means
        self.older.copy_(torch.where(full, self.newer, self.older))
        self.newer.copy_(torch.where(full, self.sums / self.seen.clamp_min(1), self.newer))
        self.sums.mul_(~ends)
        self.seen.mul_(~ends)
        return (rates / self.temperature).exp()


class STCH(Weights):
    """Smooth Tchebycheff scalarisation (Lin et al., ICML 2024), as its authors use it.

        L = mu log sum_t exp(log(L_t / n_t) / mu),    w_t = softmax over t of log(L_t / n_t) / mu
                                                            / L_t

    n_t is the mean loss of the first `warmup_steps` steps, in which w_t = 1 / L_t; the authors' is
    that of an epoch. The smaller mu, the more the task with the worst ratio counts alone.
    """

    steps: Tensor
    sums: Tensor
    seen: Tensor

    def __init__(self, active: Tensor, config: STCHConfig) -> None:
        super().__init__(active)
        self.mu, self.warmup_steps = config.mu, config.warmup_steps
        self.register_buffer("steps", active.new_zeros(1))
        self.register_buffer("sums", torch.zeros_like(active))
        self.register_buffer("seen", torch.zeros_like(active))

    def weights(self, losses: Tensor, here: Tensor) -> Tensor:
        """Return the weights; take note of the losses while they are the reference's."""
        warm = self.steps < self.warmup_steps
        self.steps.add_(1)
        self.sums.add_(losses * here * warm)
        self.seen.add_(here & warm)
        nadir = torch.where(self.seen > 0, self.sums / self.seen.clamp_min(1), losses)
        ratios = torch.where(here, (losses / nadir).log(), -torch.inf) / self.mu
        return torch.where(here & ~warm, ratios.softmax(-1), 1.0) / losses


class FAMO(Weights):
    """Fast adaptive multitask optimisation (Liu et al., NeurIPS 2023, algorithm 1).

        w_t ~ z_t / L_t,    z = softmax(xi)
        xi descends  sum_t z_t (log L_t(theta) - log L_t(theta'))   over the step theta -> theta'

    so that tasks whose loss a step lowered least gain weight. The losses after the step are those
    of the same batch: a second forward pass, whose dropout enters. xi has an Adam of its own with
    decay, as in the authors' code.
    """

    looks_again = True
    logits: Tensor
    before: Tensor
    mean: Tensor
    square: Tensor
    clock: Tensor

    def __init__(self, active: Tensor, config: FAMOConfig) -> None:
        super().__init__(active)
        self.learning_rate, self.weight_decay = config.learning_rate, config.weight_decay
        for name in ("logits", "before", "mean", "square"):
            self.register_buffer(name, torch.zeros_like(active))
        self.register_buffer("clock", active.new_zeros(1))

    def weights(self, losses: Tensor, here: Tensor) -> Tensor:
        """Return softmax(xi) over the losses, which `learn` compares with those after the step."""
        self.before.copy_(torch.where(here, losses, 0.0))
        return self._shares() / losses

    def learn(self, losses: Tensor) -> None:
        """Take Adam's step on xi."""
        known = (self.before > 0) & (losses > 0)
        ratio = torch.where(known, self.before, 1.0) / torch.where(known, losses, 1.0)
        fell = torch.where(known, ratio.log(), 0.0)
        shares = self._shares()
        gradient = shares * (fell - (shares * fell).sum(-1, keepdim=True))
        gradient = gradient + self.weight_decay * self.logits
        self.clock.add_(1)
        self.mean.lerp_(gradient, 1 - BETAS[0])
        self.square.lerp_(gradient.square(), 1 - BETAS[1])
        mean = self.mean / (1 - BETAS[0] ** self.clock)
        deviation = (self.square / (1 - BETAS[1] ** self.clock)).sqrt()
        self.logits.sub_(self.learning_rate * mean / (deviation + EPSILON))

    def _shares(self) -> Tensor:
        return torch.where(self.active > 0, self.logits, -torch.inf).softmax(-1)


def by_loss(kind: Literal["geometric", "imtl_l", "random", "uncertainty"]) -> type[Adaptive]:
    """Return the method of this name, which has no settings."""
    match kind:
        case "geometric":
            return Geometric
        case "imtl_l":
            return IMTLL
        case "random":
            return Random
        case "uncertainty":
            return Uncertainty
        case _:
            assert_never(kind)
