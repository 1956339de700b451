"""Methods that weigh the tasks by the inner products of their gradients g_t, G = J J^T.

The gradients are taken at what the tasks' own modules read (`nn.Output.shared`: the output of a
trunk or of experts, or the encoded fields), not over all shared weights as in the papers, and a
weight scales its task's loss as a whole, its own tower included, where the papers leave towers as
they are. Weights are scaled to a mean of 1 over the tasks that have a gradient in a batch, so that
a step is as long as one of `equal`; which direction a method takes is its papers', how far is the
same for all. A task without a gradient takes no part: the shortest vector of a hull with 0 in it
would be 0.

For two tasks `nash`, `imtl_g` and `fairgrad` with alpha=1 are one method, w_t ~ 1 / |g_t|, and
`pcgrad` and `upgrad` another.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, assert_never

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cvrbench.balancing.base import Adaptive
from cvrbench.config.schema import (
    GradCraftConfig,
    GradNormConfig,
    GradVacConfig,
    MetaBalanceConfig,
)
from cvrbench.errors import ConfigError

Floats = npt.NDArray[np.float64]
RIDGE = 1e-9
"""Added to G's diagonal, of mean 1, where it is inverted: gradients may be opposite."""
SMALLEST = 1e-3
"""Least weight that a step of GradNorm leaves."""
NEWTON_STEPS = 50


class ByGradient(Adaptive):
    """What they have in common; a method overrides `weights`."""

    compares_gradients = True
    stackable = False  # one replica's Gramian at a time

    def combine(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """Return the scaled weights of the active tasks, `[tasks]`."""
        matrix = gramian.detach().double().cpu().numpy()
        here = np.flatnonzero(matrix.diagonal() > 0)
        weights = np.ones(len(matrix))
        conflict = False
        if len(here) > 1:
            part = matrix[np.ix_(here, here)]
            conflict = bool((part < 0).any())
            tasks = [self.trained[k] for k in here]
            found = self.weights(part, losses.double().cpu().numpy()[here], tasks)
            if (total := found.sum()) > np.finfo(np.float64).tiny:
                weights[here] = found * len(here) / total
        of_all = torch.zeros_like(self.active)
        of_all[self.trained] = torch.as_tensor(weights).to(of_all)
        self.note(of_all, conflict)
        return of_all[self.trained]

    def weights(self, gramian: Floats, losses: Floats, tasks: Sequence[int]) -> Floats:
        """Return weights before they are scaled.

        Args:
            gramian: Of the tasks that have a gradient.
            losses: Theirs.
            tasks: Their indices in the dataset.
        """
        raise NotImplementedError


class FromGramian(ByGradient):
    """A function of the Gramian alone, which is given with a mean of 1 on its diagonal."""

    def __init__(self, active: Tensor, function: Callable[[Floats], Floats]) -> None:
        super().__init__(active)
        self.function = function

    def weights(self, gramian: Floats, losses: Floats, tasks: Sequence[int]) -> Floats:
        """Return what the function returns."""
        del losses, tasks
        return self.function(gramian / gramian.diagonal().mean())


class _WithNorms(ByGradient):
    """A moving average of every task's gradient norm."""

    norms: Tensor

    def __init__(self, active: Tensor, decay: float) -> None:
        super().__init__(active)
        self.decay = decay
        self.register_buffer("norms", torch.zeros_like(active))

    def averaged(self, gramian: Floats, tasks: Sequence[int]) -> Floats:
        """Take note of the norms; return the averages of these tasks."""
        now = np.sqrt(gramian.diagonal())
        before = self.norms.cpu().double().numpy()[tasks]
        mean = np.where(before > 0, self.decay * before + (1 - self.decay) * now, now)
        self.norms[tasks] = torch.as_tensor(mean).to(self.norms)
        return np.asarray(mean)


class MetaBalance(_WithNorms):
    """MetaBalance (He et al., WWW 2022): bring every gradient near the target task's norm.

        m_t <- decay m_t + (1 - decay) |g_t|,    w_t = relax m_target / m_t + (1 - relax)

    The paper has an m_t per parameter tensor, here it is one.
    """

    def __init__(self, active: Tensor, config: MetaBalanceConfig, target: int) -> None:
        super().__init__(active, config.decay)
        self.relax, self.target = config.relax, target

    def weights(self, gramian: Floats, losses: Floats, tasks: Sequence[int]) -> Floats:
        """Return the weights."""
        del losses
        mean = self.averaged(gramian, tasks)
        goal = self.norms[self.target].item() or mean.mean()  # 0: never seen so far
        return self.relax * goal / mean + (1 - self.relax)


class GradCraft(_WithNorms):
    """GradCraft (Bai et al., KDD 2024): norms near the largest, then no conflict left.

        g_t <- (relax max_u m_u / m_t + 1 - relax) g_t,    m_t as in MetaBalance
        C = {j: <g_t, g_j> < 0};    g_t += G_C^T v,    G_C G_C^T v = -G_C g_t + margin |g_t| |g_C|

    so that afterwards <g_t, g_j> = margin |g_t| |g_j| for every j of C at once.
    """

    def __init__(self, active: Tensor, config: GradCraftConfig) -> None:
        super().__init__(active, config.decay)
        self.relax, self.margin = config.relax, config.margin

    def weights(self, gramian: Floats, losses: Floats, tasks: Sequence[int]) -> Floats:
        """Return the weights."""
        del losses
        mean = self.averaged(gramian, tasks)
        scale = self.relax * mean.max() / mean + (1 - self.relax)
        g = gramian * np.outer(scale, scale)
        norms = np.sqrt(g.diagonal())
        mixed = np.eye(len(g))
        for t in range(len(g)):
            c = np.flatnonzero(g[t] < 0)
            if len(c):
                wanted = self.margin * norms[t] * norms[c] - g[c, t]
                mixed[t, c] += np.linalg.lstsq(g[np.ix_(c, c)], wanted, rcond=None)[0]
        return np.asarray(mixed.sum(0) * scale)


class GradNorm(ByGradient):
    """GradNorm (Chen et al., ICML 2018, eq. 2): tasks that fall slowly get the larger gradient.

        w_t descends |w_t |g_t| - target_t|,    target_t = mean_u (w_u |g_u|) r_t^alpha
        r_t = (L_t / L_t(0)) / mean_u (L_u / L_u(0))

    L_t(0) is the loss of logits of 0, ln 2 for every task, which cancels, and not that of the first
    batch, whose rare labels would decide a whole training. The step is relative to the mean norm,
    where the authors have an Adam. With alpha 0 or 1 it ends where every gradient has its target;
    with another the targets do not add up to the gradients, and the weights settle nearby.
    """

    shares: Tensor

    def __init__(self, active: Tensor, config: GradNormConfig) -> None:
        super().__init__(active)
        self.alpha, self.learning_rate = config.alpha, config.learning_rate
        self.register_buffer("shares", torch.ones_like(active))

    def weights(self, gramian: Floats, losses: Floats, tasks: Sequence[int]) -> Floats:
        """Return the weights; take their step."""
        before = self.shares.cpu().double().numpy()[tasks]
        norms = np.sqrt(gramian.diagonal())
        norms /= norms.mean()
        target = (before * norms).mean() * (losses / losses.mean()) ** self.alpha
        now = before - self.learning_rate * norms * np.sign(before * norms - target)
        now = np.maximum(now, SMALLEST)
        self.shares[tasks] = torch.as_tensor(now * before.sum() / now.sum()).to(self.shares)
        return before


class GradVac(ByGradient):
    """Gradient vaccine (Wang et al., ICLR 2021, algorithm 1): PCGrad with goals for every cosine.

    for every task i, other tasks j in random order, phi = cos(g_i', g_j):
        if phi < goal_ij:  g_i' += |g_i'| (goal s(phi) - phi s(goal)) / (|g_j| s(goal))  g_j
        goal_ij <- (1 - beta) goal_ij + beta phi,                    s(x) = sqrt(1 - x^2)
    """

    goals: Tensor

    def __init__(self, active: Tensor, config: GradVacConfig) -> None:
        super().__init__(active)
        self.beta = config.beta
        self.register_buffer("goals", active.new_zeros(len(active), len(active)))

    def weights(self, gramian: Floats, losses: Floats, tasks: Sequence[int]) -> Floats:
        """Return the weights; move the goals."""
        del losses
        n = len(gramian)
        place = np.ix_(tasks, tasks)
        goals = self.goals.cpu().double().numpy()[place]
        norms, mixed = np.sqrt(gramian.diagonal()), np.eye(n)
        for i in range(n):
            others = [j for j in range(n) if j != i]
            for j in (others[k] for k in torch.randperm(n - 1).tolist()):
                own = np.sqrt(max(mixed[i] @ gramian @ mixed[i], 0.0))
                phi = mixed[i] @ gramian[j] / max(own * norms[j], RIDGE)
                goal = goals[i, j]
                if phi < goal:
                    sines = [np.sqrt(max(1 - x * x, 0.0)) for x in (phi, goal)]
                    change = own * (goal * sines[0] - phi * sines[1])
                    mixed[i, j] += change / max(norms[j] * sines[1], RIDGE)
                goals[i, j] = (1 - self.beta) * goal + self.beta * phi
        self.goals[place] = torch.as_tensor(goals).to(self.goals)
        return np.asarray(mixed.sum(0))


def from_gramian(
    kind: Literal["aligned_mtl", "imtl_g", "mgda", "nash", "pcgrad", "upgrad"],
) -> Callable[[Floats], Floats]:
    """Return the function of a method without settings; torchjd's where it needs no solver."""
    match kind:
        case "nash":
            return lambda gramian: fair(gramian, 1.0)
        case "upgrad":
            return upgrad
        case "aligned_mtl" | "imtl_g" | "mgda" | "pcgrad":
            return _torchjds(kind)
        case _:
            assert_never(kind)


def upgrad(gramian: Floats) -> Floats:
    """UPGrad (Quinton and Rey, 2024): the mean of all g_t, each projected onto the dual cone.

    The projection of u = sum_t u_t g_t is u + s with the s >= 0 that make it shortest (a dual of
    theorem 1), a non-negative least-squares problem, which scipy solves to the last digit.
    """
    from scipy.optimize import nnls

    values, vectors = np.linalg.eigh(gramian)
    root = np.sqrt(np.maximum(values, 0.0) + RIDGE)[:, None] * vectors.T  # root^T root = G
    moved = [np.asarray(nnls(root, -column)[0]) for column in root.T]
    return np.asarray(1 + np.sum(moved, axis=0))


def cagrad(gramian: Floats, c: float) -> Floats:
    """CAGrad (Liu et al., NeurIPS 2021, algorithm 1): g_0 + c |g_0| g_w / |g_w|, g_0 the mean.

    w minimises <g_w, g_0> + c |g_0| |g_w| over the simplex, by the solver of the authors' code.
    """
    from scipy.optimize import minimize

    n = len(gramian)
    g_0 = gramian.mean(1)
    radius = c * np.sqrt(max(g_0.mean(), 0.0))

    def value(w: Floats) -> tuple[float, Floats]:
        norm = _norm(gramian, w)
        return float(w @ g_0 + radius * norm), g_0 + radius * (gramian @ w) / norm

    one = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones_like(w)}
    start = np.full(n, 1 / n)
    found: Any = minimize(
        value, start, jac=True, method="SLSQP", bounds=[(0, 1)] * n, constraints=one
    )
    w = np.maximum(found.x, 0.0)
    return np.asarray(1 / n + radius / _norm(gramian, w) * w)


def _norm(gramian: Floats, w: Floats) -> float:
    return math.sqrt(max(float(w @ gramian @ w), 0.0) + RIDGE)


def fair(gramian: Floats, alpha: float) -> Floats:
    """FairGrad (Ban and Ji, ICML 2024, eq. 7): w > 0 with G w = w^(-1/alpha).

    alpha=1 is Nash-MTL (Navon et al., ICML 2022, claim 3.1). w minimises the strictly convex
    w^T G w / 2 - sum_t integral of w_t^(-1/alpha), by Newton's method, damped to stay above 0.
    """
    g = gramian + RIDGE * np.eye(len(gramian))
    w = g.diagonal() ** (-alpha / (1 + alpha))  # exact for orthogonal gradients
    for _ in range(NEWTON_STEPS):
        power = w ** (-1 / alpha)
        slope = g @ w - power
        step = np.linalg.solve(g + np.diag(power / (alpha * w)), slope)
        decrement = math.sqrt(max(float(slope @ step), 0.0))
        w = w - step / max(1 + decrement, 1.25 * float((step / w).max()))
        if decrement < RIDGE:
            break
    return w


def _torchjds(kind: str) -> Callable[[Floats], Floats]:
    try:
        from torchjd import aggregation
    except ImportError:
        raise ConfigError(
            f"balancing={kind} needs torchjd; install it with pip install 'cvrbench[balancing]'"
        ) from None
    weighting = {
        "aligned_mtl": aggregation.AlignedMTLWeighting,
        "imtl_g": aggregation.IMTLGWeighting,
        "mgda": aggregation.MGDAWeighting,
        "pcgrad": aggregation.PCGradWeighting,
    }[kind]()

    def weights(gramian: Floats) -> Floats:
        found: Floats = weighting(torch.from_numpy(gramian)).numpy()
        return found

    return weights
