"""What sparsity buys: a network as it was trained, one task's part of it, and that part compacted.

The step from all tasks to one saves the other tasks' work, masks or not; only the step from the
task's masked network to its compacted one is the masks' doing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cvrbench.data.batches import Features
from cvrbench.data.schema import Schema
from cvrbench.serving.compaction import Compaction, compact, masked_network, select
from cvrbench.serving.costs import Cost, cost_as_trained, cost_of_task
from cvrbench.serving.latency import Contender, Latency, Spread, measure_latency
from cvrbench.strategies.base import SharingStrategy
from cvrbench.strategies.ncs import NCS

AS_TRAINED, MASKED, COMPACTED = "as trained", "masked", "compacted"
Times = Mapping[int, Spread]
"""By batch size."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network among those compared."""

    task: str | None
    """None: all of them."""
    state: str
    """As trained, masked or compacted."""
    cost: Cost
    seconds: Times
    """Of one call."""
    to_trained: Times
    """Its time over that of the network as trained, call by call."""
    to_masked: Times
    """A compacted network's time over that of the task's masked one; else empty."""

    @property
    def name(self) -> str:
        """The row's heading."""
        return f"{self.task} {self.state}" if self.task else self.state

    def to_json(self) -> dict[str, Any]:
        """Give the plain form."""
        times = {"seconds": self.seconds, "ratio_to_as_trained": self.to_trained}
        if self.to_masked:
            times["ratio_to_masked"] = self.to_masked
        plain = {name: {str(n): s._asdict() for n, s in by.items()} for name, by in times.items()}
        return {"task": self.task, "state": self.state, **asdict(self.cost), **plain}


@dataclass(frozen=True, kw_only=True)
class Savings:
    """All tasks' network as trained, and what each task's own one comes to."""

    rows: tuple[Row, ...]
    """As trained first; then per task masked and, beside it, compacted."""
    compactions: Mapping[str, Compaction]
    """Task -> what was left out; empty for a strategy without masks."""

    @property
    def sentences(self) -> tuple[str, ...]:
        """What it comes to, in words."""
        if not self.compactions:
            return ("This strategy has no masks: one task is served by the whole network.",)
        pairs = zip(self.rows[1::2], self.rows[2::2], self.compactions.items(), strict=True)
        return tuple(
            in_words(task, masked.cost, compacted.cost, compaction)
            for masked, compacted, (task, compaction) in pairs
        )

    def to_json(self) -> dict[str, Any]:
        """Give the plain form; times as median and quartiles."""
        found = self.compactions
        return {
            "networks": [row.to_json() for row in self.rows],
            "removed_units": {task: c.removed for task, c in found.items()},
            "unread_columns": {task: c.unread_columns for task, c in found.items()},
            "unread_fields": {task: c.unread_fields for task, c in found.items()},
            "summary": list(self.sentences),
        }


@dataclass(frozen=True)
class _Candidate:
    task: str | None
    state: str
    network: SharingStrategy
    reads: Schema
    cost: Cost


def compare(
    network: SharingStrategy,
    schema: Schema,
    tasks: Sequence[str],
    batches: Mapping[int, Features],
    *,
    rounds: int = 100,
) -> Savings:
    """Count and time a network as trained and its tasks' parts, all in turns.

    Args:
        network: In the state to be served.
        schema: Of the data that it was trained on.
        tasks: Those of interest.
        batches: Batch size -> features to time the networks on.
        rounds: Calls of each network per batch size.
    """
    whole = cost_as_trained(network, schema)
    candidates = [_Candidate(None, AS_TRAINED, network, schema, whole)]
    found: dict[str, Compaction] = {}
    for task in tasks:
        if not isinstance(network, NCS):
            break  # no part of the network is one task's alone
        alone = masked_network(network, schema, network.tasks.index(task))
        found[task] = compact(alone)
        small = found[task].network
        candidates += [
            _Candidate(task, MASKED, alone, schema, cost_of_task(alone)),
            _Candidate(task, COMPACTED, small, small.schema, cost_of_task(small)),
        ]
    timed = {size: _timed(candidates, schema, f, rounds) for size, f in batches.items()}
    rows = tuple(_row(candidates, number, timed) for number in range(len(candidates)))
    return Savings(rows=rows, compactions=found)


def _timed(
    candidates: Sequence[_Candidate], schema: Schema, features: Features, rounds: int
) -> list[Latency]:
    contenders = [
        Contender(c.network, features if c.reads is schema else select(features, schema, c.reads))
        for c in candidates
    ]
    return measure_latency(contenders, rounds=rounds)


def _row(
    candidates: Sequence[_Candidate], number: int, timed: Mapping[int, Sequence[Latency]]
) -> Row:
    one = candidates[number]
    before = timed if one.state == COMPACTED else {}
    return Row(
        task=one.task,
        state=one.state,
        cost=one.cost,
        seconds={size: times[number].spread() for size, times in timed.items()},
        to_trained={size: times[number].ratio_to(times[0]) for size, times in timed.items()},
        to_masked={n: times[number].ratio_to(times[number - 1]) for n, times in before.items()},
    )


def in_words(task: str, masked: Cost, compacted: Cost, compaction: Compaction) -> str:
    """Say in one sentence what a task's masks save, and plainly where they save nothing."""
    zeros = 1 - masked.connections / masked.multiply_adds
    units, fields = sum(compaction.removed), len(compaction.unread_fields)
    if zeros == 0:
        return f"{task} keeps every connection: there is nothing to save."
    if not units and not fields:
        return (
            f"The masks of {task} save nothing: {zeros:.1%} of its connections are 0, but every "
            "unit and field keeps at least one, and a 0 is multiplied like any other number."
        )
    gone = [f"{units:,} units"] if units else []
    gone += [f"{fields} fields"] if fields else []
    left = compacted.multiply_adds / masked.multiply_adds
    full = compacted.connections / max(compacted.multiply_adds, 1)
    return (
        f"{task}: {' and '.join(gone)} carry nothing and are left out, which leaves {left:.1%} of "
        f"the multiply-adds; {full:.1%} of those have a weight that is not 0. The mask alone saves "
        "nothing."
    )
