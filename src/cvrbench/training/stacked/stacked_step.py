"""The steps of a stack: one gather, one forward and backward pass, one optimiser step for all."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cvrbench.data.batches import SplitTensors
from cvrbench.training.job import TrainingJob
from cvrbench.training.optimizers import Optimizers, build_optimizers
from cvrbench.training.stacked.stack import Stack, stack_balancing
from cvrbench.training.step import train_step

States = list[dict[str, Any]]
"""Of a dense optimiser and of one for the tables, as `Optimizers.state_dict` gives them."""


class StackedStep:
    """A stack and its optimisers, which begin where the replicas' own are.

    Args:
        jobs: What the replicas are trained on and how; alike but for networks and labels seen.
        rows: The training rows of each: the same, but for the labels that are seen.
        generators: What each draws from.
        own: The replicas' optimisers.
    """

    def __init__(
        self,
        jobs: Sequence[TrainingJob],
        rows: Sequence[SplitTensors],
        generators: Sequence[torch.Generator],
        own: Sequence[Optimizers],
    ) -> None:
        self.own = tuple(own)
        self.stack = Stack([job.network for job in jobs], generators)
        self.own_balancing = [job.task.balancing for job in jobs]
        self.balancing = stack_balancing(self.own_balancing)
        self.optimizers = build_optimizers(self.stack, jobs[0].config, self.balancing, stacked=True)
        states = [optimizers.state_dict() for optimizers in own]
        if states[0][0]["state"]:
            self.optimizers.load_state_dict(_join(states))
        self.train = tuple(rows)
        self.objective = jobs[0].task.objective

    def step(self, index: Tensor) -> Tensor:
        """Take one step on the rows `[replicas, batch]`; give the losses `[replicas]`."""
        batch = self.stack.take(self.train[0].gather(self.stack.rows_of(index)))
        batch = batch._replace(weights=self._label_weights(index))
        return train_step(self.stack, self.objective, self.balancing, batch, self.optimizers)

    def write_back(self) -> None:
        """Bring the replicas' own optimisers to where they are here."""
        states = self.optimizers.state_dict()
        for number, own in enumerate(self.own):
            own.load_state_dict(_part(states, number, len(self.own)))

    def release(self) -> None:
        """Give every replica tensors of its own again, as they are now."""
        self.stack.release()
        for own in self.own_balancing:
            for tensor in (*own.parameters(), *own.buffers()):
                tensor.data = tensor.data.clone()

    def _label_weights(self, index: Tensor) -> Tensor | None:
        """How much each label counts, `[replicas, batch, tasks]`."""
        found = [
            rows.weights.index_select(0, own)
            for rows, own in zip(self.train, index, strict=True)
            if rows.weights is not None
        ]
        return torch.stack(found) if found else None


def _join(states: Sequence[States]) -> States:
    """One state of many: dense weights on a new first axis, tables behind each other."""
    return [
        _joined([of_one[kind] for of_one in states], torch.cat if kind else torch.stack)
        for kind in (0, 1)
    ]


def _joined(
    states: Sequence[dict[str, Any]], together: Callable[[list[Tensor]], Tensor]
) -> dict[str, Any]:
    first = states[0]["state"]

    def of_all(number: int, name: str) -> Any:
        value = first[number][name]
        if not isinstance(value, Tensor) or value.dim() == 0:
            return value  # a clock, which all have in common
        return together([state["state"][number][name] for state in states])

    joined = {
        number: {name: of_all(number, name) for name in of_one} for number, of_one in first.items()
    }
    return {"state": joined, "param_groups": states[0]["param_groups"]}


def _part(states: States, number: int, n: int) -> States:
    """The state of one of `n` out of that of all; tensors of its own."""

    def cut(value: Any, kind: int) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.dim() == 0:
            return value.clone()
        return value.chunk(n)[number].clone() if kind else value[number].clone()

    return [
        {
            "state": {
                place: {name: cut(value, kind) for name, value in of_one.items()}
                for place, of_one in state["state"].items()
            },
            "param_groups": state["param_groups"],
        }
        for kind, state in enumerate(states)
    ]
