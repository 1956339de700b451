"""Several networks of one structure as one: stacked weights under their common code.

    replicas 1..S with weights w_1..w_S    ->    one program with weights W = [w_1; ...; w_S]

While they are stacked, the replicas' own parameters and buffers are views of the stack, so that
whatever reads or changes a replica in place, as a mask search after a step, reads and changes the
stack.

The embedding tables lie behind each other in one, so that one look-up and one optimiser step serve
all replicas; what comes after the look-up runs under `torch.func.vmap`.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from cvrbench.balancing import Balancing
from cvrbench.data.batches import Batch, Features, SplitTensors
from cvrbench.nn import FeatureEncoder, Output
from cvrbench.nn.kernels import drawing_from
from cvrbench.objectives import Objective
from cvrbench.strategies.base import SharingStrategy, UpdateMask
from cvrbench.training.loop import TrainingJob
from cvrbench.training.optimizers import Optimizers, build_optimizers
from cvrbench.training.step import train_step


def can_stack(network: SharingStrategy) -> bool:
    """Whether a network can be a replica of a stack.

    A strategy says so (`SharingStrategy.stackable`). Not where its steps are its own: a step per
    task, or a mask over the embeddings, which are looked up by the rows of one table; nor where a
    network of its own weighs what is looked up.
    """
    encoders = _encoders(network)
    plain = network.stackable and not network.update_steps()
    plain = plain and all(encoder.attention is None for encoder in encoders.values())
    tables = {id(encoder.table) for encoder in encoders.values()}
    return plain and len(encoders) == 1 and not any(id(p) in tables for p in network.update_mask())


class Stack(SharingStrategy):
    """Networks of one structure, trained as one.

    Shape: features of all replicas' rows (`take`) -> logits `[replicas, batch, tasks]`.
    """

    def __init__(
        self, replicas: Sequence[SharingStrategy], generators: Sequence[torch.Generator]
    ) -> None:
        super().__init__()
        # In a tuple, so that no replica's weights are counted twice.
        self.replicas, self.generators = tuple(replicas), tuple(generators)
        ((place, own),) = _encoders(replicas[0]).items()
        self.copies, self.vocabulary_size = own.copies, own.vocabulary_size
        self.encoder = _encoder_of_all(replicas, place)
        self.names = [n for n, _ in replicas[0].named_parameters() if n != f"{place}.table"]
        self.dense = nn.ParameterList(_stack(replicas, self.names).values())
        held = [n for n, _ in replicas[0].named_buffers() if not n.startswith(f"{place}.")]
        self.held = _stack(replicas, held)
        tables = self.encoder.table.detach().chunk(len(replicas))
        for replica, table in zip(replicas, tables, strict=True):
            replica.get_parameter(f"{place}.table").data = table
        self.template = (_template(replicas[0], own),)

    def forward(self, features: Features) -> Output:
        """Return the logits `[replicas, batch, tasks]`."""
        encoded = self.encoder.look_up(features)  # [replicas * copies * batch, width]
        encoded = encoded.view(len(self.replicas), self.copies, -1, encoded.shape[1])
        encoded = encoded.squeeze(1) if self.copies == 1 else encoded
        weights = dict(zip(self.names, self.dense, strict=True)) | self.held
        with drawing_from(self.generators):
            return Output(*vmap(self._run_one)(encoded, weights))

    def auxiliary(self, output: Output, batch: Batch, objective: Objective) -> Tensor | None:
        """As the replicas, `[replicas]`."""
        return self.replicas[0].auxiliary(output, batch, objective)

    def rows_of(self, index: Tensor) -> Tensor:
        """Return which rows to gather for `forward`: `[replicas, batch]` -> `[rows]`.

        A replica with a table per task reads its rows once for each.
        """
        return index[:, None].expand(-1, self.copies, -1).reshape(-1)

    def take(self, gathered: Batch) -> Batch:
        """Return all replicas' batch out of gathered rows, labels `[replicas, batch, tasks]`."""
        features = gathered.features
        n_tables, n = len(self.replicas) * self.copies, len(features.rows)
        batch = n // n_tables
        first = torch.arange(n_tables, device=features.rows.device) * self.vocabulary_size
        shift = first.repeat_interleave(batch)
        features = features._replace(
            rows=features.rows + shift[:, None],
            bag_rows=features.bag_rows + shift[features.bag_segments % n],
        )
        labels = gathered.labels.view(len(self.replicas), self.copies, batch, -1)[:, 0]
        return Batch(features, labels)

    def update_mask(self) -> UpdateMask:
        """As the replicas, each in its own weights."""
        update_mask = [replica.update_mask() for replica in self.replicas]
        stacked: dict[nn.Parameter, Tensor] = {}
        for name, parameter in zip(self.names, self.dense, strict=True):
            masks = [
                of_one.get(replica.get_parameter(name))
                for replica, of_one in zip(self.replicas, update_mask, strict=True)
            ]
            if (known := [mask for mask in masks if mask is not None]) != []:
                assert len(known) == len(masks)
                n_dims = parameter.dim() - 1  # lead with dimensions of 1, as broadcasting would
                deep = [m.reshape(*[1] * (n_dims - m.dim()), *m.shape) for m in known]
                stacked[parameter] = torch.stack(deep)
        return stacked

    def _run_one(
        self, encoded: Tensor, weights: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Run the common code with one replica's weights and buffers."""
        (template,) = self.template
        output: Output = functional_call(template, weights, (encoded,), tie_weights=False)
        penalty = output.penalty
        if penalty is None:
            penalty = encoded.new_zeros(())
        return output.logits, dict(output.extra), penalty


class _Given(nn.Module):
    """Stands in for an encoder whose look-up is done."""

    def __init__(self, interaction: nn.Module | None) -> None:
        super().__init__()
        self.interaction = interaction

    def forward(self, encoded: Tensor, keep: None = None) -> Tensor:
        assert keep is None
        if self.interaction is not None:
            encoded = self.interaction(encoded)
        return encoded


def stack_balancing(replicas: Sequence[Balancing]) -> Balancing:
    """Stack balancing methods, `[replicas, tasks]`; the replicas' own tensors become views."""
    stacked = copy.deepcopy(replicas[0])
    names = [n for n, _ in (*stacked.named_parameters(), *stacked.named_buffers())]
    for name, tensor in _stack(replicas, names).items():
        owner, _, own_name = name.rpartition(".")
        setattr(stacked.get_submodule(owner), own_name, tensor)
    return stacked


def _encoders(network: nn.Module) -> dict[str, FeatureEncoder]:
    return {n: m for n, m in network.named_modules() if isinstance(m, FeatureEncoder)}


def _encoder_of_all(replicas: Sequence[SharingStrategy], place: str) -> FeatureEncoder:
    """One encoder over all replicas' tables, which it takes for one."""
    first = _encoders(replicas[0])[place]
    tables = [_encoders(replica)[place].table.detach() for replica in replicas]
    table = nn.Parameter(torch.cat(tables))
    encoder = copy.deepcopy(first, {id(first.table): table})
    encoder.copies, encoder.interaction = 1, None
    return encoder


def _stack(replicas: Sequence[nn.Module], names: Sequence[str]) -> dict[str, Tensor]:
    """Stack parameters and buffers; the replicas' own become views of the stacked ones."""
    found: dict[str, Tensor] = {}
    for name in names:
        owner, _, own_name = name.rpartition(".")
        own = [getattr(replica.get_submodule(owner), own_name) for replica in replicas]
        stacked = torch.stack([tensor.detach() for tensor in own])
        for tensor, now in zip(own, stacked, strict=True):
            tensor.data = now
        found[name] = nn.Parameter(stacked) if isinstance(own[0], nn.Parameter) else stacked
    return found


def _template(replica: SharingStrategy, encoder: FeatureEncoder) -> SharingStrategy:
    """The replicas' common code; it never reads its own weights, so that they are not copied."""
    known: dict[int, object] = {id(p): p for p in (*replica.parameters(), *replica.buffers())}
    known[id(encoder)] = _Given(copy.deepcopy(encoder.interaction, known))
    return copy.deepcopy(replica, known).train()


class StackedStep:
    """A stack and its optimisers, which begin where the replicas' own are.

    Args:
        jobs: What the replicas are trained on and how; alike but for networks and labels seen.
        generators: What each draws from.
        own: The replicas' optimisers.
    """

    def __init__(
        self,
        jobs: Sequence[TrainingJob],
        generators: Sequence[torch.Generator],
        own: Sequence[Optimizers],
    ) -> None:
        self.own, self.objective = tuple(own), jobs[0].task.objective
        self.stack = Stack([job.network for job in jobs], generators)
        self.own_balancing = [job.task.balancing for job in jobs]
        self.balancing = stack_balancing(self.own_balancing)
        self.optimizers = build_optimizers(self.stack, jobs[0].config, self.balancing, stacked=True)
        states = [optimizers.state_dict() for optimizers in own]
        if states[0][0]["state"]:
            self.optimizers.load_state_dict(_join(states))
        self.train = [job.train for job in jobs if isinstance(job.train, SplitTensors)]

    def step(self, index: Tensor) -> Tensor:
        """Take one step on the rows `[replicas, batch]`; return the losses `[replicas]`."""
        batch = self.stack.take(self.train[0].gather(self.stack.rows_of(index)))
        weights = [
            rows.weights.index_select(0, own)
            for rows, own in zip(self.train, index, strict=True)
            if rows.weights is not None
        ]
        # [replicas, batch, tasks]: the rows are the same, the labels that are seen each seed's own.
        batch = batch._replace(weights=torch.stack(weights) if weights else None)
        return train_step(self.stack, self.objective, self.balancing, batch, self.optimizers)

    def write_back(self) -> None:
        """Bring the replicas' own optimisers to where they are here."""
        states = self.optimizers.state_dict()
        for number, own in enumerate(self.own):
            own.load_state_dict(_part(states, number, len(self.own)))

    def release(self) -> None:
        """Copy the stacked tensors back into every replica, as they are now."""
        for own in (*self.stack.replicas, *self.own_balancing):
            for tensor in (*own.parameters(), *own.buffers()):
                tensor.data = tensor.data.clone()


States = list[dict[str, Any]]
"""States of a dense optimiser and of one for the tables (`Optimizers.state_dict`)."""


def _join(states: Sequence[States]) -> States:
    """One state of many: dense weights on a new first axis, tables behind each other."""
    dense, tables = zip(*states, strict=True)
    return [_merged(torch.stack, dense), _merged(torch.cat, tables)]


def _part(states: States, number: int, n: int) -> States:
    """The state of one of `n` out of that of all; tensors of its own."""
    dense, table = states
    return [
        _merged(lambda of_all: of_all[0][number].clone(), [dense]),
        _merged(lambda of_all: of_all[0].chunk(n)[number].clone(), [table]),
    ]


def _merged(
    merge: Callable[[list[Tensor]], Tensor], states: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """One state of several of one form; a clock is the same in all and stays."""

    def entry(place: int, name: str) -> Any:
        values = [state["state"][place][name] for state in states]
        is_clock = not isinstance(values[0], Tensor) or values[0].dim() == 0
        return copy.deepcopy(values[0]) if is_clock else merge(values)

    first = states[0]["state"]
    found = {place: {name: entry(place, name) for name in of} for place, of in first.items()}
    return {"state": found, "param_groups": states[0]["param_groups"]}
