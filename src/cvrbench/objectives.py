"""On which rows each task learns, and from which label.

With labels y (click) and z (conversion), and logits a (CTR) and b (CVR), sigma the logistic
function and BCE binary cross-entropy:

    click_space      BCE(y, sigma(a)) on all exposures;  BCE(z, sigma(b)) on the clicked ones
    entire_space     BCE(y, sigma(a)) and BCE(y z, sigma(a) sigma(b)), both on all exposures
                     (ESMM: Ma et al., SIGIR 2018, eq. 5)
    exposure_space   BCE(y, sigma(a)) and BCE(z, sigma(b)), both on all exposures: b is then the
                     logit of CTCVR, and CVR follows as their quotient (MMoE paper's setting)

A chain of more than two tasks works alike: the space of a task is where all its ancestors'
labels are 1. For tasks without parents the three objectives are the same.

Where labels of training rows are hidden (`data.scarcity`), every mean is a weighted one, hidden
labels weighing 0. A hidden z leaves its row out of the second loss in all three; rows that were not
clicked stay in the last two, whose label 0 needs no look at z.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 -- the name every torch user expects

from cvrbench.config.schema import ObjectiveConfig
from cvrbench.data.schema import Schema


class Probabilities(NamedTuple):
    """Predictions in the two kinds of space."""

    conditional: Tensor
    """`[batch, tasks]`: P(label | exposure and all ancestors' labels are 1)."""
    joint: Tensor
    """`[batch, tasks]`: P(label and all ancestors' labels | exposure)."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Turns logits and labels into one loss per task, and logits into probabilities."""

    kind: str
    chains: tuple[tuple[int, ...], ...]
    """Per task the indices from its root down to and including itself."""

    def losses(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Mean loss of each task over the rows it learns on.

        Args:
            logits: `[..., batch, tasks]`; several networks may be computed at once.
            labels: Of the same shape, 0 or 1.
            weights: Of the same shape: how much each label counts, 0 where it is hidden, never
                between 0 and 1. None: all alike.

        Returns:
            `[..., tasks]`; 0 where the batch holds no row of a task's space whose label is seen.
        """
        match self.kind:
            case "click_space":
                observed = self.observed(labels)
                loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
                return _weighted_mean(loss, observed if weights is None else observed * weights)
            case "entire_space":
                log_p = self._log_joint(logits)
                target = self._joint_labels(labels)
                loss = -(target * log_p + (1 - target) * _log_one_minus_exp(log_p))
            case _:
                loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return loss.mean(-2) if weights is None else _weighted_mean(loss, weights)

    def probabilities(self, logits: Tensor) -> Probabilities:
        """Give predictions in every space, float64: `[batch, tasks]` each."""
        logits = logits.double()
        if self.kind != "exposure_space":
            return Probabilities(logits.sigmoid(), self._log_joint(logits).exp())
        joint = logits.sigmoid()
        parents = [chain[-2] if len(chain) > 1 else None for chain in self.chains]
        conditional = [
            joint[:, t] if parent is None else (joint[:, t] / joint[:, parent]).clamp(max=1)
            for t, parent in enumerate(parents)
        ]
        return Probabilities(torch.stack(conditional, 1), joint)

    def observed(self, labels: Tensor) -> Tensor:
        """Where each task is defined: shaped as the labels, 1 where all ancestors' are 1."""
        return torch.stack([labels[..., chain[:-1]].prod(-1) for chain in self.chains], dim=-1)

    def _joint_labels(self, labels: Tensor) -> Tensor:
        return torch.stack([labels[..., chain].prod(-1) for chain in self.chains], dim=-1)

    def _log_joint(self, logits: Tensor) -> Tensor:
        log_p = F.logsigmoid(logits)
        return torch.stack([log_p[..., chain].sum(-1) for chain in self.chains], dim=-1)


def build_objective(config: ObjectiveConfig, schema: Schema) -> Objective:
    """Bind an objective to the tasks of a dataset."""
    return Objective(
        kind=config.kind, chains=tuple(schema.chain(t) for t in range(len(schema.tasks)))
    )


def alone(objective: Objective) -> Objective:
    """Give the objective by which one task can be trained without the others.

    A product of probabilities needs both factors trained; a task alone learns its own factor in
    its own space.
    """
    if objective.kind == "entire_space":
        return Objective(kind="click_space", chains=objective.chains)
    return objective


def _weighted_mean(loss: Tensor, weights: Tensor) -> Tensor:
    """Mean over rows, `[..., tasks]`, 0 without any; a weight is 0 or 1 or more."""
    return (loss * weights).sum(-2) / weights.sum(-2).clamp_min(1)


def _log_one_minus_exp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0 without loss of digits at either end (Maechler 2012)."""
    x = x.clamp(max=-1e-7)
    near_zero = torch.log(-torch.expm1(x.clamp(min=-0.6931472)))
    far = torch.log1p(-torch.exp(x.clamp(max=-0.6931472)))
    return torch.where(x > -0.6931472, near_zero, far)
