"""What every objective is: on which rows each task learns, from which label, by which loss.

Shape legend of all objectives: `batch` rows, `tasks`; the leading `...` are the replicas of a stack
(`training.stacked`), absent where one network is trained.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 -- the name every torch user expects

from cvrbench.data.batches import Batch
from cvrbench.data.schema import Schema
from cvrbench.nn import Output

LOG_2 = math.log(2)


class Predictions(NamedTuple):
    """Predictions in the two kinds of space, float64 `[..., batch, tasks]` each."""

    conditional: Tensor
    """P(label | exposure and all ancestors' labels are 1)."""
    joint: Tensor
    """P(label and all ancestors' labels | exposure)."""


class Objective(ABC):
    """Turns a strategy's output and a batch into one loss per task, and outputs into predictions.

    One module and one config dataclass per objective. A task's space are the rows on which all its
    ancestors' labels are 1; for tasks without a parent, all rows.

    Attributes:
        heads: Extra heads per task that the objective asks of the strategy (`Output.extra`).
        joint_logits: Whether a logit is of its task's joint probability, not of the conditional
            one.
        chains: Per task the indices from its root down to and including itself.
        parents: Per task the index of its parent, None of a root.
    """

    heads: ClassVar[tuple[str, ...]] = ()
    joint_logits: ClassVar[bool] = False

    def __init__(self, schema: Schema) -> None:
        self.chains = tuple(schema.chain(t) for t in range(len(schema.tasks)))
        self.parents = schema.parents

    @abstractmethod
    def losses(self, output: Output, batch: Batch) -> Tensor:
        """Return the mean loss of each task over the rows it learns on.

        Args:
            output: Of the strategy, `[..., batch, tasks]`.
            batch: Labels, 0 or 1, and how much each label counts: 0 where it is hidden, never
                between 0 and 1; None: all alike.

        Returns:
            `[..., tasks]`; 0 where the batch holds no row of a task's space whose label is seen.
        """

    def predictions(self, output: Output) -> Predictions:
        """Return predictions in every space; here for logits that are conditional.

        Logit t is of P(label t | the labels of all ancestors are 1).
        """
        logits = output.logits.double()
        return Predictions(logits.sigmoid(), self.log_joint(logits).exp())

    def per_task(self) -> "Objective":
        """Return the objective by which one task can be trained without the others: itself.

        Overridden where a task's loss needs another task's prediction.
        """
        return self

    def observed(self, labels: Tensor) -> Tensor:
        """Return 1 where a task is defined (all ancestors' labels are 1), `[..., batch, tasks]`."""
        return torch.stack([labels[..., chain[:-1]].prod(-1) for chain in self.chains], dim=-1)

    def joint_labels(self, labels: Tensor) -> Tensor:
        """Return the products of the labels along each chain, `[..., batch, tasks]`."""
        return torch.stack([labels[..., chain].prod(-1) for chain in self.chains], dim=-1)

    def log_joint(self, logits: Tensor) -> Tensor:
        """Return the log of the joint probabilities along each chain, `[..., batch, tasks]`."""
        log_p = F.logsigmoid(logits)
        return torch.stack([log_p[..., chain].sum(-1) for chain in self.chains], dim=-1)

    def joint_cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return BCE(joint label, joint probability) of every entry, `[..., batch, tasks]`."""
        target = self.joint_labels(labels)
        return -(target * self.log_joint(logits) + (1 - target) * self.log_no_joint(logits))

    def log_no_joint(self, logits: Tensor) -> Tensor:
        """Return log(1 - p) of the joint probabilities p, `[..., batch, tasks]`.

        Along a chain of logits x_k, the first label that is 0 is one of them:

            1 - prod_k s(x_k) = sum_k s(-x_k) prod_{j<k} s(x_j)

        The sum's logarithm keeps every digit where p is near 1, that of 1 - p where p is small.
        """
        log_p, log_q = F.logsigmoid(logits), F.logsigmoid(-logits)
        near_one = torch.stack([_first_zero(log_p[..., c], log_q[..., c]) for c in self.chains], -1)
        joint = torch.stack([log_p[..., chain].sum(-1) for chain in self.chains], dim=-1)
        small = torch.log1p(-joint.clamp(max=-LOG_2).exp())
        return torch.where(joint > -LOG_2, near_one, small)


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of every entry, of the shape of `logits`."""
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none")


def weighted_mean(loss: Tensor, weights: Tensor) -> Tensor:
    """Return the mean over rows, `[..., tasks]`, 0 without any; a weight is 0 or at least 1."""
    return (loss * weights).sum(-2) / weights.sum(-2).clamp_min(1)


def mean_over_rows(loss: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean over all rows whose label is seen, `[..., tasks]`."""
    return loss.mean(-2) if weights is None else weighted_mean(loss, weights)


def _first_zero(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return log sum_k q_k prod_{j<k} p_j along the last axis."""
    return (log_q + log_p.cumsum(-1) - log_p).logsumexp(-1)
