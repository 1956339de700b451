"""What every sharing strategy is: features in, an `Output` with one logit per task out.

Shape legend of all strategies: `batch` rows, `width` the encoder's output, `experts`, `tasks`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, NamedTuple, Protocol

from torch import Tensor, nn

from cvrbench.data.batches import Batch, Features, Permuted
from cvrbench.nn import Output
from cvrbench.objectives import Objective
from cvrbench.strategies.gates import GateFacts

UpdateMask = Mapping[nn.Parameter, Tensor]
"""Where parameters may move: parameter -> mask that broadcasts to it, True where it may.
Parameters not named may move everywhere."""


class UpdateStep(NamedTuple):
    """One optimiser step of those that every batch gets."""

    task: int | None
    """Whose loss it descends; None: all tasks'."""
    update_mask: UpdateMask | None
    """What this step may change. None: everything that has a gradient, be it 0, so that excluded
    weights still move on an optimiser's leftover momentum, as in the published code."""


class SharingStrategy(nn.Module, ABC):
    """A network that predicts all tasks from one batch of features.

    Built as `Strategy(config, schema, encoder, heads)`. Everything but `forward` has a default that
    fits a network whose weights may all move.

    Attributes:
        stackable: Whether several seeds can be trained as one program (`torch.func.vmap` over
            `forward`): no random draw but `nn.kernels.dropout`, no state kept by `forward`.
    """

    stackable: ClassVar[bool] = False

    @abstractmethod
    def forward(self, features: Features) -> Output:
        """Return logits `[batch, tasks]`, and what the tasks' own modules read."""

    def prepare(self, context: "PretrainContext") -> None:
        """Fix what must be fixed before the final training; nothing by default."""

    def update_mask(self) -> UpdateMask:
        """Where masked parameters may move at all. Training applies weight decay by it."""
        return {}

    def update_steps(self) -> tuple[UpdateStep, ...]:
        """Steps that a batch gets; none means one step on all tasks together."""
        return ()

    def auxiliary(
        self,
        output: Output,  # noqa: ARG002 -- for those who override it
        batch: Batch,  # noqa: ARG002
        objective: Objective,  # noqa: ARG002
    ) -> Tensor | None:
        """Return a loss of the strategy's own that may see labels, `[...]`; none by default.

        It reads no weights: in a stack one call serves all replicas.

        Args:
            output: Of the pass, `[..., batch, tasks]`.
            batch: The rows of the pass.
            objective: Says what the logits predict.
        """
        return None

    def after_step(self, step: int) -> bool:  # noqa: ARG002 -- for those who override it
        """Do what is due after optimiser step `step` (from 1); say whether training may end."""
        return False

    def only(self, task: int) -> "SharingStrategy | None":  # noqa: ARG002
        """Return a copy with what one task's logit needs and nothing else: `[batch, 1]` logits.

        By default None, for a strategy whose tasks cannot be taken apart.
        """
        return None

    def gate_facts(self, features: Features) -> list[GateFacts]:  # noqa: ARG002
        """Return what each gate does on a batch; none by default, for a strategy without gates."""
        return []

    def diagnostics(self) -> dict[str, object]:
        """Return plain facts about what is shared, for the run's record; none by default."""
        return {}


class Fitted(Protocol):
    """What a strategy learns of a training: how good the best weights were."""

    @property
    def score(self) -> float:
        """Validation score of the weights now in the network; higher is better."""
        ...

    @property
    def scores(self) -> Mapping[str, float]:
        """Task -> its validation AUC in its own space, with these weights."""
        ...


class Training(NamedTuple):
    """A training that a strategy asks its `PretrainContext` for."""

    network: SharingStrategy
    """What is trained."""
    label: str
    """Names the stage to the user."""
    epochs: float
    """At most so many passes over the rows; part of one takes that many random rows."""
    tasks: Sequence[str] | None = None
    """Those to train; None for all that the run trains. One alone counts whatever its loss weighs;
    several weigh as in the run."""
    per_task: bool = False
    """Each task in its own space from its own label, so that no task's loss reaches another's path;
    otherwise by the run's objective."""
    depends: Mapping[str, object] | None = None
    """Every setting of the strategy that decides how this training goes from the weights and masks
    now in the network; runs that agree in it share the training. None: it is not to be shared."""

    @property
    def is_of_one(self) -> bool:
        """Whether one task is asked for by itself."""
        return self.tasks is not None and len(self.tasks) == 1


class PretrainContext(Protocol):
    """What a strategy may use before its final training: training rows, and validation to choose.

    The test split is out of reach.
    """

    @property
    def seed(self) -> int:
        """The run's seed, for `cvrbench.system.rng.derive`."""
        ...

    def train(self, training: Training) -> Fitted:
        """Train a network, early-stopped by validation, and leave its best weights in it."""
        ...

    def permuted(self, what: Permuted) -> AbstractContextManager[None]:
        """Read noise until it is left: training and validation in which `what` is permuted."""
        ...

    def steps(self, epochs: float) -> int:
        """Count the steps that a training of `epochs` takes if nothing ends it sooner."""
        ...

    def batches(self, n: int) -> Iterator[Batch]:
        """Return `n` training batches, the same for one seed; more epochs where rows run out."""
        ...

    def losses(self, output: Output, batch: Batch) -> Tensor:
        """Loss of each task in its own space, `[tasks]`."""
        ...
