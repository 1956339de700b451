"""A plan under way: its cells in this process or on an engine, and those that others are running.

Machines that share a results folder may be given the same plan. A cell that another process holds
is put last; what is left at the end is waited for, and read, or run if its process has died.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cvrbench.cli.console import note, out, plan_bar, print_json, training_bar, working
from cvrbench.errors import CellBusy, CvrbenchError, RunError, RunInterrupted

if TYPE_CHECKING:
    from cvrbench.config.compose import Composed
    from cvrbench.config.runtime import LauncherConfig
    from cvrbench.launch import Outcome
    from cvrbench.runs.record import RunRecord


def workers_here(launcher: "LauncherConfig") -> int:
    """Return how many runs share this machine's memory at any time."""
    return launcher.workers if launcher.kind == "processes" else 1


def run_plan(
    cells: "Sequence[Composed]",
    launcher: "LauncherConfig",
    *,
    force: bool,
    fail_fast: bool,
    as_json: bool,
    lonely: bool | None = None,
) -> "tuple[list[RunRecord], list[str]]":
    """Run the cells of a plan; print each as it is finished.

    Args:
        cells: What to run.
        launcher: What starts them.
        force: Run finished ones again.
        fail_fast: Raise what the first failure says.
        as_json: Print JSON.
        lonely: Whether nothing is left to do when a cell fails or is held; None: if it is the only
            one.

    Returns:
        The records, and a line for each cell that failed; both in the order of the plan.

    Raises:
        CvrbenchError: The only cell failed, or the first with `fail_fast`.
        RunInterrupted: The user stopped it.
    """
    alone = len(cells) == 1 if lonely is None else lonely
    plan = _Plan(cells=cells, fail_fast=fail_fast, as_json=as_json, lonely=alone)
    turn = list(range(len(cells)))
    while turn:
        if launcher.kind == "local":
            _run_here(plan, turn, force=force, together=launcher.together)
        else:
            _run_elsewhere(plan, turn, launcher, force=force)
        turn = plan.wait()
        force = False  # a cell that was held is not run anew behind the back of its holder
    failed = [line for _, line in sorted(plan.failed.items())]
    return [record for _, record in sorted(plan.records.items())], failed


@dataclass(kw_only=True)
class _Plan:
    """State of a plan's cells, by their number."""

    cells: "Sequence[Composed]"
    fail_fast: bool
    as_json: bool
    lonely: bool
    """Whether there is nothing else to do when a cell fails or is held."""
    records: "dict[int, RunRecord]" = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    busy: list[int] = field(default_factory=list)
    """Those that another process is running."""

    def title(self, index: int) -> str:
        """Return a cell's name for a person."""
        cell = self.cells[index]
        name = f"{cell.choices['model']} on {cell.choices['dataset']}, seed {cell.config.seed}"
        return f"{index + 1}/{len(self.cells)} {name}"

    def settle(self, index: int, outcome: "RunRecord | CvrbenchError") -> None:
        """Print a record; note why there is none, or raise it; put a cell that is held last.

        Raises:
            CvrbenchError: The outcome, where nothing else is left to do.
            RunInterrupted: The user stopped it.
        """
        cell = self.cells[index]
        if isinstance(outcome, RunInterrupted):
            from cvrbench.runs import planning

            raise with_advice(outcome, planning.folder_of(cell), cell.overrides) from None
        if isinstance(outcome, CellBusy) and not self.lonely:
            self.busy.append(index)
            note(f"{self.title(index)}: another process is running it; it comes last")
        elif isinstance(outcome, CvrbenchError):
            if self.fail_fast or self.lonely:
                raise outcome
            self.failed[index] = f"failed: {' '.join(cell.overrides)}: {outcome}"
            note(self.failed[index])
        else:
            self.records[index] = outcome
            if self.as_json:
                print_json(summary(outcome, Path(cell.config.results_dir, "runs", outcome.run_id)))
            elif not self.lonely:
                out.print(_line(outcome))

    def wait(self) -> list[int]:
        """Wait for the cells that others are running; return those to look at again."""
        from cvrbench.runs import planning

        if not self.busy:
            return []
        with working(f"waiting for {len(self.busy)} runs of another process"):
            free = planning.wait_for_others([self.cells[index] for index in self.busy])
        turn = [self.busy[number] for number in free]
        self.busy = [index for index in self.busy if index not in turn]
        return turn


def _run_here(
    plan: _Plan, turn: Sequence[int], *, force: bool, together: "Literal['auto'] | int" = 1
) -> None:
    """Run cells in this process, one after another, or several seeds of one at once."""
    from cvrbench.runs import planning

    for group in planning.groups_of(plan.cells, turn, together, force=force):
        if len(group) > 1:
            _run_group(plan, group, force=force)
            continue
        try:
            plan.settle(group[0], _run_cell(plan, group[0], force=force))
        except CvrbenchError as error:
            plan.settle(group[0], error)


def _run_group(plan: _Plan, group: Sequence[int], *, force: bool) -> None:
    """Run cells that differ in their seed alone at once."""
    from cvrbench.runs.experiment import run_stacked

    cells = [plan.cells[index] for index in group]
    first, seeds = cells[0], ", ".join(str(cell.config.seed) for cell in cells)
    place = f"{spans(group)}/{len(plan.cells)}"
    name = f"{place} {first.choices['model']} on {first.choices['dataset']}, seeds {seeds}"
    with training_bar(name) as on_progress:
        ended = run_stacked(cells, force=force, on_progress=on_progress)
    stopped = None
    for index, outcome in zip(group, ended, strict=True):
        if isinstance(outcome, RunInterrupted):
            stopped = outcome
        elif isinstance(outcome, BaseException) and not isinstance(outcome, CvrbenchError):
            raise outcome
        else:
            plan.settle(index, outcome)
    if stopped is not None:
        raise RunInterrupted(f"{stopped}; the same command goes on with seeds {seeds}")


def _run_cell(plan: _Plan, index: int, *, force: bool) -> "RunRecord":
    from cvrbench.runs import experiment

    cell = plan.cells[index]
    if not force and _is_finished(cell):
        note(f"{plan.title(index)}: finished before")
        return experiment.run(cell)
    with training_bar(plan.title(index)) as on_progress:
        return experiment.run(cell, force=force, on_progress=on_progress)


def _run_elsewhere(
    plan: _Plan, turn: Sequence[int], launcher: "LauncherConfig", *, force: bool
) -> None:
    """Run cells on an engine; those that are finished are only read."""
    from cvrbench.launch import Failed, launch
    from cvrbench.runs.experiment import cell_argument, record_of, run_cell

    finished = [index for index in turn if not force and _is_finished(plan.cells[index])]
    _run_here(plan, finished, force=False)
    left = [index for index in turn if index not in finished]
    if not left:
        return
    arguments = [cell_argument(plan.cells[index], force=force) for index in left]
    folder = Path(plan.cells[left[0]].config.results_dir)
    with plan_bar(len(plan.cells)) as update:
        update(len(plan.records), len(plan.failed))

        def on_done(number: int, outcome: "Outcome") -> None:
            index = left[number]
            if isinstance(outcome, Failed):
                plan.settle(index, RunError(outcome.reason))
            else:
                busy = CellBusy(f"{plan.title(index)}: another process is running this cell")
                plan.settle(index, record_of(outcome.value) or busy)
            update(len(plan.records) + len(plan.failed), len(plan.failed))

        try:
            launch(run_cell, arguments, launcher, folder=folder, on_done=on_done)
        except RunInterrupted:
            raise RunInterrupted(
                f"stopped with {len(plan.records)} of {len(plan.cells)} runs finished; the same "
                "command goes on with the others where they were"
            ) from None


def _is_finished(cell: "Composed") -> bool:
    from cvrbench.runs import planning

    return planning.state_of(cell) == "finished"


def spans(places: Sequence[int]) -> str:
    """Return places of a plan, counted from 1: `1-3, 7`."""
    runs = groupby(enumerate(places), key=lambda pair: pair[1] - pair[0])
    ends = [(group[0][1] + 1, group[-1][1] + 1) for group in (list(run) for _, run in runs)]
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ends)


def with_advice(stop: RunInterrupted, folder: Path, overrides: Sequence[str]) -> RunInterrupted:
    """Return an interruption that says how to go on, with the words on data and tracker."""
    own = [word for word in overrides if word.startswith(("data_dir=", "logger=", "logger."))]
    return RunInterrupted(
        f"{stop}; go on with `{shlex.join(['cvrbench', 'resume', str(folder), *own])}`"
    )


def _line(record: "RunRecord") -> str:
    split = "test" if "test" in record.metrics else "valid"
    values = record.metrics[split]
    spaces = record.counts[split]
    of = [(n, kind, values.get(f"{n}_{kind}")) for n in spaces for kind in ("auc", "xauc")]
    found = [f"{n}{' XAUC' * (kind != 'auc')} {v:.4f}" for n, kind, v in of if v is not None]
    return f"{record.run_id}  {split} AUC: {'  '.join(found)}"


def summary(record: "RunRecord", folder: Path) -> dict[str, object]:
    """Return what `--json` says of a run."""
    return {
        "run_dir": str(folder),
        "model": record.model,
        "dataset": record.dataset,
        "seed": record.seed,
        "metrics": record.metrics,
        "parameters": record.parameters,
        "seconds": record.seconds,
        "examples_per_second": record.examples_per_second,
    }
