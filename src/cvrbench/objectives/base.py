"""What every objective is: on which rows each task learns, from which label, by which loss.

Shape legend of all objectives: `batch` rows, `tasks`; the leading `...` are the replicas of a stack
(`training.stacked_step`), absent where one network is trained.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar, NamedTuple, assert_never

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 -- the name every torch user expects

from cvrbench.config.schema import BCEConfig, FocalConfig, HuberConfig, LossConfig, MSEConfig
from cvrbench.data.batches import Batch
from cvrbench.data.schema import Schema
from cvrbench.errors import ConfigError, did_you_mean
from cvrbench.nn import Output

LOG_2 = math.log(2)
LOG_SMALLEST = math.log(1e-8)
RowLoss = Callable[[Tensor, Tensor], Tensor]
"""Logits and labels -> loss of every entry."""


class Predictions(NamedTuple):
    """Predictions in the two kinds of space, float64 `[..., batch, tasks]` each."""

    conditional: Tensor
    """E(label | exposure and all ancestors' labels are 1), for labels 0 and 1 the probability."""
    joint: Tensor
    """E(product of the label and all ancestors' labels | exposure)."""


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
    only_binary: ClassVar[str | None] = None
    """Why a task with a parent cannot be a ratio; None where it can."""
    only_products: ClassVar[bool] = False
    """Whether tasks with a parent learn by cross-entropy whatever `objective.losses` says."""

    def __init__(self, schema: Schema, losses: Mapping[str, LossConfig] | None = None) -> None:
        """Bind to the tasks of a dataset.

        Args:
            schema: The dataset's.
            losses: Task -> loss of one row; cross-entropy for tasks that are not named.

        Raises:
            ConfigError: There is no such task, or its label or this objective does not take the
                loss, or this objective no ratio.
        """
        self.chains = tuple(schema.chain(t) for t in range(len(schema.tasks)))
        self.parents = schema.parents
        self.row_losses = _row_losses(schema, losses or {})
        for index, task in enumerate(schema.tasks):
            if self.only_binary is not None and task.is_ratio and task.parent is not None:
                raise ConfigError(
                    f"task {task.name!r} is a ratio, and this objective {self.only_binary}; take "
                    "objective=click_space, entire_space, exposure_space, escm2_ipw or escm2_dr"
                )
            if self.only_products and index in self.row_losses and task.parent is not None:
                raise ConfigError(
                    f"objective.losses names {task.name!r}, which this objective learns by the "
                    "cross-entropy of a product of probabilities; name tasks without a parent "
                    "alone, or take objective=click_space"
                )

    def of_rows(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of every entry by its task's own function, of the shape of `logits`."""
        if not self.row_losses:
            return binary_cross_entropy(logits, labels)
        columns = [
            self.row_losses.get(task, binary_cross_entropy)(logits[..., task], labels[..., task])
            for task in range(len(self.chains))
        ]
        return torch.stack(columns, dim=-1)

    def where_root(self, of_roots: Tensor, of_others: Tensor) -> Tensor:
        """Return the columns of the first for tasks without a parent, else of the second."""
        is_root = torch.tensor([parent is None for parent in self.parents], device=of_roots.device)
        return torch.where(is_root, of_roots, of_others)

    @abstractmethod
    def losses(self, output: Output, batch: Batch) -> Tensor:
        """Return the mean loss of each task over the rows it learns on.

        Args:
            output: Of the strategy, `[..., batch, tasks]`.
            batch: Labels, from 0 to 1, and how much each label counts: 0 where it is hidden, never
                between 0 and 1; None: all alike.

        Returns:
            `[..., tasks]`; 0 where the batch holds no row of a task's space whose label is seen.
        """

    def predictions(self, output: Output) -> Predictions:
        """Return predictions in every space; here for logits that are conditional.

        Logit t is of P(label t | the labels of all ancestors are 1), or of the mean E of a ratio,
        whose joint prediction is E[y r] = P(y) E[r | y].
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


def squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (s - r)^2 of every entry, of the shape of `logits`; s is the logit's sigmoid."""
    return (logits.sigmoid() - labels).square()


def huber(logits: Tensor, labels: Tensor, delta: float) -> Tensor:
    """Return the Huber loss (1964) of every s - r, of the shape of `logits`."""
    return F.huber_loss(logits.sigmoid(), labels, reduction="none", delta=delta)


def focal(logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
    """Return the focal loss of every entry (Lin et al., ICCV 2017), of the shape of `logits`.

        y = 1:  - alpha (1 - s)^gamma log max(s, 1e-8)
        y = 0:  - (1 - alpha) s^gamma log max(1 - s, 1e-8)

    with s = sigmoid of the logit. The clip, and that the mean is over all rows, not over positives,
    are those of the authors of NCS (lt4rec).
    """
    right = torch.where(labels > 0, logits, -logits)
    weight = torch.where(labels > 0, alpha, 1 - alpha)
    log_p = F.logsigmoid(right).clamp_min(LOG_SMALLEST)
    return -weight * (gamma * F.logsigmoid(-right)).exp() * log_p


def _row_losses(schema: Schema, losses: Mapping[str, LossConfig]) -> dict[int, RowLoss]:
    """Return the losses of tasks, by their index, that are not cross-entropy."""
    names = [task.name for task in schema.tasks]
    found: dict[int, RowLoss] = {}
    for name, loss in losses.items():
        if name not in names:
            raise ConfigError(
                f"objective.losses names {name!r}, which is no task of this dataset."
                f"{did_you_mean(name, names)} Choices: {', '.join(names)}"
            )
        index = names.index(name)
        match loss:
            case BCEConfig():
                pass
            case MSEConfig():
                found[index] = squared_error
            case HuberConfig(delta=delta):
                found[index] = partial(huber, delta=delta)
            case FocalConfig(alpha=alpha, gamma=gamma):
                if schema.tasks[index].is_ratio:
                    raise ConfigError(
                        f"objective.losses: focal is a loss of labels 0 and 1, and {name!r} is a "
                        f"ratio; take bce, mse or huber: objective.losses={{{name}: {{kind: mse}}}}"
                    )
                found[index] = partial(focal, alpha=alpha, gamma=gamma)
            case _:
                assert_never(loss)
    return found


def weighted_mean(loss: Tensor, weights: Tensor) -> Tensor:
    """Return the mean over rows, `[..., tasks]`, 0 without any; a weight is 0 or at least 1."""
    return (loss * weights).sum(-2) / weights.sum(-2).clamp_min(1)


def mean_over_rows(loss: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean over all rows whose label is seen, `[..., tasks]`."""
    return loss.mean(-2) if weights is None else weighted_mean(loss, weights)


def _first_zero(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return log sum_k q_k prod_{j<k} p_j along the last axis."""
    return (log_q + log_p.cumsum(-1) - log_p).logsumexp(-1)
