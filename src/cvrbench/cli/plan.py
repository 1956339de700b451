"""A plan under way: its cells in this process or on an engine, and those that others are running.

Machines that share a results folder may be given the same plan. A cell that another process holds
is put last; what is left at the end is waited for, and read, or run if its process has died.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
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

    def finish(self, index: int, record: "RunRecord") -> None:
        """Keep and print a record."""
        self.records[index] = record
        if self.as_json:
            folder = Path(self.cells[index].config.results_dir) / "runs" / record.run_id
            print_json(summary(record, folder))
        elif not self.lonely:
            out.print(_line(record))

    def fail(self, index: int, error: CvrbenchError) -> None:
        """Note why a cell has no record, or raise it."""
        if self.fail_fast or self.lonely:
            raise error
        self.failed[index] = f"failed: {' '.join(self.cells[index].overrides)}: {error}"
        note(self.failed[index])

    def put_last(self, index: int) -> None:
        """Leave a cell that another process is running for the end."""
        self.busy.append(index)
        note(f"{self.title(index)}: another process is running it; it comes last")

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
        (index,) = group
        try:
            record = _run_cell(plan, index, force=force)
        except CvrbenchError as error:
            _settle(plan, index, error)
        else:
            plan.finish(index, record)


def _run_group(plan: _Plan, group: Sequence[int], *, force: bool) -> None:
    """Run cells that differ in their seed alone at once."""
    from cvrbench.launch.stacked import run_stacked

    cells = [plan.cells[index] for index in group]
    first, seeds = cells[0], ", ".join(str(cell.config.seed) for cell in cells)
    name = f"{first.choices['model']} on {first.choices['dataset']}, seeds {seeds}"
    with training_bar(name) as on_progress:
        ended = run_stacked(cells, force=force, on_progress=on_progress)
    stopped = None
    for index, outcome in zip(group, ended, strict=True):
        if isinstance(outcome, RunInterrupted):
            stopped = outcome
        elif isinstance(outcome, CvrbenchError):
            _settle(plan, index, outcome)
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            plan.finish(index, outcome)
    if stopped is not None:
        raise RunInterrupted(f"{stopped}; the same command goes on with seeds {seeds}")


def _settle(plan: _Plan, index: int, error: CvrbenchError) -> None:
    """Raise, note or put last a cell that has no record."""
    if isinstance(error, RunInterrupted):
        from cvrbench.runs import planning

        cell = plan.cells[index]
        raise with_advice(error, planning.folder_of(cell), cell.overrides) from None
    if not isinstance(error, CellBusy):
        plan.fail(index, error)
    elif plan.lonely:
        raise error
    else:
        plan.put_last(index)


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
    from cvrbench.launch import launch
    from cvrbench.launch.cells import cell_argument, run_cell

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
            _take(plan, left[number], outcome)
            update(len(plan.records) + len(plan.failed), len(plan.failed))

        try:
            launch(run_cell, arguments, launcher, folder=folder, on_done=on_done)
        except RunInterrupted:
            raise RunInterrupted(
                f"stopped with {len(plan.records)} of {len(plan.cells)} runs finished; the same "
                "command goes on with the others where they were"
            ) from None


def _take(plan: _Plan, index: int, outcome: "Outcome") -> None:
    from cvrbench.launch import Failed
    from cvrbench.launch.cells import record_of

    if isinstance(outcome, Failed):
        plan.fail(index, RunError(outcome.reason))
    elif (record := record_of(outcome.value)) is not None:
        plan.finish(index, record)
    elif plan.lonely:
        raise CellBusy(f"{plan.title(index)}: another process is running this cell")
    else:
        plan.put_last(index)


def _is_finished(cell: "Composed") -> bool:
    from cvrbench.runs import planning

    return planning.state_of(cell) == "finished"


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
    aucs = [f"{n} {v:.4f}" for n in spaces if (v := values.get(f"{n}_auc")) is not None]
    return f"{record.run_id}  {split} AUC: {'  '.join(aucs)}"


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
