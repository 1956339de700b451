"""Several networks of one structure as one: stacked weights under their common code.

    members 1..S with weights w_1..w_S    ->    one program with weights W = [w_1; ...; w_S]

While they are stacked, the members' own parameters and buffers are views of the stack, so that
whatever reads or changes a member in place, as a mask search after a step, reads and changes the
stack.

The embedding tables lie behind each other in one, so that one look-up and one optimiser step serve
all members; what comes after the look-up runs under `torch.vmap`.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cvrbench.balancing import Balancing
from cvrbench.data.batches import Batch, Features
from cvrbench.nn import FeatureEncoder, Output
from cvrbench.nn.kernels import drawing_from
from cvrbench.objectives import Objective
from cvrbench.strategies.base import Moving, SharingStrategy


def can_stack(network: SharingStrategy) -> bool:
    """Whether a network can be a member of a stack.

    A strategy says so (`SharingStrategy.stackable`). Not where its steps are its own: a step per
    task, or a mask over the embeddings, which are looked up by the rows of one table.
    """
    encoders = _encoders(network)
    plain = network.stackable and not network.turns()
    tables = {id(encoder.table) for encoder in encoders.values()}
    return plain and len(encoders) == 1 and not any(id(p) in tables for p in network.moving())


class Stack(SharingStrategy):
    """Networks of one structure, trained as one.

    Shape: features of all members' rows (`take`) -> logits `[members, batch, tasks]`.
    """

    def __init__(
        self, members: Sequence[SharingStrategy], generators: Sequence[torch.Generator]
    ) -> None:
        super().__init__()
        # In a tuple, so that no member's weights are counted twice.
        self.members, self.generators = tuple(members), tuple(generators)
        ((place, own),) = _encoders(members[0]).items()
        self.copies, self.vocabulary_size = own.copies, own.vocabulary_size
        self.encoder = _encoder_of_all(members, place)
        self.names = [n for n, _ in members[0].named_parameters() if n != f"{place}.table"]
        self.dense = nn.ParameterList([_stack_parameter(members, name) for name in self.names])
        held = [n for n, _ in members[0].named_buffers() if not n.startswith(f"{place}.")]
        self.held = [_stack_buffer(members, name) for name in held]
        tables = self.encoder.table.detach().chunk(len(members))
        for member, table in zip(members, tables, strict=True):
            member.get_parameter(f"{place}.table").data = table
        self.template = (_template(members[0], own),)
        self.slots = [_slot(self.template[0], name) for name in (*self.names, *held)]
        self.run = torch.vmap(self._run_one)

    def forward(self, features: Features) -> Output:
        """Return the logits `[members, batch, tasks]`."""
        encoded = self.encoder.look_up(features)  # [members * copies * batch, width]
        encoded = encoded.view(len(self.members), self.copies, -1, encoded.shape[1])
        encoded = encoded.squeeze(1) if self.copies == 1 else encoded
        with drawing_from(self.generators):
            logits, penalty, extra = self.run(encoded, *self.dense, *self.held)
        return Output(logits, extra, penalty)

    def auxiliary(self, output: Output, batch: Batch, objective: Objective) -> Tensor | None:
        """As the members, `[members]`."""
        return self.members[0].auxiliary(output, batch, objective)

    def rows_of(self, index: Tensor) -> Tensor:
        """Say which rows to gather for `forward`: `[members, batch]` -> `[rows]`.

        A member with a table per task reads its rows once for each.
        """
        return index[:, None].expand(-1, self.copies, -1).reshape(-1)

    def take(self, gathered: Batch) -> Batch:
        """Return all members' batch out of gathered rows, labels `[members, batch, tasks]`."""
        features = gathered.features
        n_tables, n = len(self.members) * self.copies, len(features.rows)
        batch = n // n_tables
        first = torch.arange(n_tables, device=features.rows.device) * self.vocabulary_size
        shift = first.repeat_interleave(batch)
        features = features._replace(
            rows=features.rows + shift[:, None],
            bag_rows=features.bag_rows + shift[features.bag_segments % n],
        )
        labels = gathered.labels.view(len(self.members), self.copies, batch, -1)[:, 0]
        return Batch(features, labels)

    def moving(self) -> Moving:
        """As the members, each in its own weights."""
        moving = [member.moving() for member in self.members]
        stacked: dict[nn.Parameter, Tensor] = {}
        for name, parameter in zip(self.names, self.dense, strict=True):
            masks = [
                of_one.get(member.get_parameter(name))
                for member, of_one in zip(self.members, moving, strict=True)
            ]
            if (known := [mask for mask in masks if mask is not None]) != []:
                assert len(known) == len(masks)
                stacked[parameter] = torch.stack([_as_deep(m, parameter.dim() - 1) for m in known])
        return stacked

    def release(self) -> None:
        """Give every member weights of its own again, as they are now."""
        for member in self.members:
            for tensor in (*member.parameters(), *member.buffers()):
                tensor.data = tensor.data.clone()
        del self.run  # it holds the stack, whose memory would wait for the garbage collector

    def _run_one(
        self, encoded: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Run the common code with one member's weights, in the order of the slots.

        They are put where the code looks for them, and stay: nothing else runs it. What
        `torch.func.functional_call` does besides takes as long as a small layer.
        """
        (template,) = self.template
        for (place, name), tensor in zip(self.slots, tensors, strict=True):
            place[name] = tensor
        output: Output = template(encoded)
        penalty = output.penalty
        if penalty is None:
            penalty = encoded.new_zeros(())
        return output.logits, penalty, dict(output.extra)


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


def stack_balancing(members: Sequence[Balancing]) -> Balancing:
    """Stack balancing methods: `[members, tasks]`, of which the members' own tensors are views."""
    stacked = copy.deepcopy(members[0])
    for name, _ in members[0].named_parameters():
        place, own_name = _slot(stacked, name)
        place[own_name] = _stack_parameter(members, name)
    for name, _ in members[0].named_buffers():
        place, own_name = _slot(stacked, name)
        place[own_name] = _stack_buffer(members, name)
    return stacked


def _encoders(network: nn.Module) -> dict[str, FeatureEncoder]:
    return {n: m for n, m in network.named_modules() if isinstance(m, FeatureEncoder)}


def _encoder_of_all(members: Sequence[SharingStrategy], place: str) -> FeatureEncoder:
    """One encoder over all members' tables, which it takes for one."""
    first = _encoders(members[0])[place]
    tables = [_encoders(member)[place].table.detach() for member in members]
    table = nn.Parameter(torch.cat(tables))
    encoder = copy.deepcopy(first, {id(first.table): table})
    encoder.copies, encoder.interaction = 1, None
    return encoder


def _stack_parameter(members: Sequence[nn.Module], name: str) -> nn.Parameter:
    own = [member.get_parameter(name) for member in members]
    stacked = nn.Parameter(torch.stack([parameter.detach() for parameter in own]))
    for parameter, now in zip(own, stacked.detach(), strict=True):
        parameter.data = now
    return stacked


def _stack_buffer(members: Sequence[nn.Module], name: str) -> Tensor:
    own = [member.get_buffer(name) for member in members]
    stacked = torch.stack(own)
    for buffer, now in zip(own, stacked, strict=True):
        buffer.data = now
    return stacked


def _template(member: SharingStrategy, encoder: FeatureEncoder) -> SharingStrategy:
    """The members' common code; it never reads its own weights, so that they are not copied."""
    known: dict[int, object] = {id(p): p for p in (*member.parameters(), *member.buffers())}
    known[id(encoder)] = _Given(copy.deepcopy(encoder.interaction, known))
    return copy.deepcopy(member, known).train()


def _slot(template: nn.Module, name: str) -> tuple[dict[str, Tensor | None], str]:
    """Where a module keeps one of its parameters or buffers."""
    owner, _, own_name = name.rpartition(".")
    module = template.get_submodule(owner)
    place: dict[str, Any] = (
        module._parameters if own_name in module._parameters else module._buffers
    )
    return place, own_name


def _as_deep(mask: Tensor, n_dims: int) -> Tensor:
    """Lead with dimensions of 1, as broadcasting would."""
    return mask.reshape(*[1] * (n_dims - mask.dim()), *mask.shape)
