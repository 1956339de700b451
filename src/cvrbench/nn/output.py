"""What a strategy's forward pass returns."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class Output(NamedTuple):
    """The result of one forward pass; of a stack with the replicas as a leading dimension."""

    logits: Tensor
    """`[batch, tasks]`; the objective says of which probability."""
    extra: Mapping[str, Tensor] = {}
    """Heads that the objective asked for (`Objective.heads`): name -> `[batch, tasks]`."""
    penalty: Tensor | None = None
    """`[]`: what this pass adds to the loss, such as an L0 norm or a load balance."""
    shared: Tensor | None = None
    """The representation that all tasks read and above which gradient balancing compares them,
    `[batch, width]`; None where tasks share nothing."""

    def float(self) -> "Output":
        """Return the output in fp32, in which losses are computed under autocast."""
        extra = {name: value.float() for name, value in self.extra.items()}
        penalty = None if self.penalty is None else self.penalty.float()
        return Output(self.logits.float(), extra, penalty, self.shared)
