"""The cells of a plan before they run: where and how far they are, whether they can, how long."""

import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from cvrbench.balancing import trained_tasks
from cvrbench.config.compose import Composed
from cvrbench.config.ncs import NCSConfig
from cvrbench.config.schema import NoLoggerConfig
from cvrbench.config.validate import config_to_dict
from cvrbench.data.dataset import Dataset, open_dataset
from cvrbench.data.label_subsampling import scarce_task
from cvrbench.data.raw import OnRows, silent
from cvrbench.data.registry import ensure, prepared_folder
from cvrbench.errors import ConfigError, did_you_mean
from cvrbench.metrics.evaluation import selectable
from cvrbench.objectives import build_objective
from cvrbench.runs.experiment import run
from cvrbench.runs.memory import check_together
from cvrbench.runs.record import run_id
from cvrbench.runs.store import ResultStore, State
from cvrbench.strategies import build_network
from cvrbench.system.files import check_writable
from cvrbench.tracking import check_installed
from cvrbench.training.callbacks import Progress
from cvrbench.training.device import resolve_device
from cvrbench.training.seed_group import can_go_together, most_that_pay

POLL_SECONDS = 1.0
"""Time between two checks whether another process has let go of a run."""


def state_of(composed: Composed) -> State:
    """Return whether a cell of a plan is finished, begun or new, without computing anything."""
    if not _prepared(composed).is_dir():
        return "new"
    return ResultStore(Path(composed.config.results_dir)).state(folder_of(composed).name)


def folder_of(composed: Composed) -> Path:
    """Return where a cell's run is, or will be; its dataset must be prepared."""
    config, schema = composed.config, open_dataset(_prepared(composed)).schema
    name = run_id(config_to_dict(config), composed.choices, schema.fingerprint)
    return ResultStore(Path(config.results_dir)).runs / name


def _prepared(composed: Composed) -> Path:
    """Return where a cell's prepared data are, or will be."""
    config = composed.config
    return prepared_folder(config.dataset, composed.choices["dataset"], Path(config.data_dir))


def groups_of(
    cells: Sequence[Composed],
    turn: Sequence[int],
    together: Literal["auto"] | int,
    *,
    force: bool,
) -> list[list[int]]:
    """Put cells that differ in nothing but their seed into groups that train as one program.

    Args:
        cells: Of the plan; their datasets are prepared.
        turn: Numbers of those to run.
        together: Most cells of a group; auto: as many as pay.
        force: Whether finished ones are run again; else each stays alone.

    Returns:
        The numbers, in the order of the plan but for those that go with an earlier one.
    """
    alike: dict[object, list[int]] = {}
    for index in turn:
        cell = cells[index]
        is_free = force or state_of(cell) != "finished"
        same = cell.config.all_but_seed if is_free and together != 1 else index
        alike.setdefault(same, []).append(index)
    groups: list[list[int]] = []
    for numbers in alike.values():
        n = 1 if len(numbers) == 1 else _most_together(cells[numbers[0]], together)
        groups += [numbers[start : start + n] for start in range(0, len(numbers), n)]
    return groups


def _most_together(cell: Composed, together: Literal["auto"] | int) -> int:
    config = cell.config
    if together != "auto":
        return together if can_go_together(config) else 1
    schema = open_dataset(_prepared(cell)).schema
    return most_that_pay(config, partial(build_network, config, schema))


def wait_for_others(cells: Sequence[Composed]) -> list[int]:
    """Wait until another process has let go of at least one of these cells.

    Returns:
        The numbers of those that are free: finished, or left by a process that died.
    """
    places = [(ResultStore(Path(c.config.results_dir)), folder_of(c).name) for c in cells]
    while True:
        free = [i for i, (store, name) in enumerate(places) if not store.is_busy(name)]
        if free:
            return free
        time.sleep(POLL_SECONDS)


def check_plan(cells: Sequence[Composed], *, at_once: int = 1, on_rows: OnRows = silent) -> None:
    """Check what must hold before the first run of a plan starts, and prepare every dataset.

    Args:
        cells: Of the plan.
        at_once: How many of them will share this machine's memory.
        on_rows: Told of the rows that are prepared.

    Raises:
        ConfigError: A loss weight, a loss, the selection metric or the task of scarce labels names
            no task of its dataset, or one that it does not fit.
        RunError: A device is absent, or so many runs do not fit into memory beside each other.
        DataError: A dataset cannot be prepared.
        StoreError: A results folder is not writable.
    """
    for cell in cells:
        resolve_device(cell.config.trainer.device)
        check_installed(cell.config.logger)
        if state_of(cell) != "finished":  # what is only read may lie in a folder that is read-only
            check_writable(Path(cell.config.results_dir))
    prepared: dict[Path, Dataset] = {}
    runs = []
    for cell in cells:
        config = cell.config
        name, folder = cell.choices["dataset"], _prepared(cell)
        if folder not in prepared:  # many cells share a dataset
            data_dir = Path(config.data_dir)
            prepared[folder] = ensure(config.dataset, name, data_dir, on_rows=on_rows)
        runs.append((config, prepared[folder]))
        tasks = prepared[folder].schema.tasks
        trained_tasks(config.balancing, [task.name for task in tasks])
        scarce_task(tasks, config.protocol.label_share_task)
        build_objective(config.objective, prepared[folder].schema)
        metric = config.protocol.selection
        if metric not in (valid := ["mean_auc", *selectable(tasks)]):
            raise ConfigError(
                f"protocol.selection={metric!r} is no metric of {name}."
                f"{did_you_mean(metric, valid)} Choices: {', '.join(valid)}"
            )
    if at_once > 1:
        check_together(runs, resolve_device(cells[0].config.trainer.device), at_once)


WARM_STEPS, LEAST_STEPS, SECONDS = 3, 20, 2.0
"""Steps before the clock starts, and how many steps and seconds are timed."""
FORWARD = 3.0
"""How much longer a training step takes than a prediction of the same rows."""
START_SECONDS = 3.0
"""What a run takes beside its passes: opening, scoring, writing."""
MOST_SEEDS, USUAL_SEEDS, FEWEST_SEEDS, FEW_EPOCHS = 5, 3, 2, 4
"""Seeds where there is time, before epochs become fewer, and before they are too few."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """The measured speed of a strategy, and the rows that a run of it passes."""

    model: str
    rate: float
    """Rows per second that gradients are computed on."""
    train: int
    valid: int
    test: int
    searched: float
    """Passes of a mask search over the training rows."""
    evaluations: int

    def seconds(self, epochs: int) -> float:
        """Return the most that a run of so many epochs takes."""
        learnt = self.train * (epochs + self.searched)
        scored = self.valid * self.evaluations * (epochs + self.searched) + self.test
        return START_SECONDS + (learnt + scored / FORWARD) / self.rate


class _Enough(Exception):  # noqa: N818
    """The end of a timed training."""


def measure(cell: Composed) -> Pace:
    """Train a cell for a few steps, of which nothing is kept.

    Raises:
        CvrbenchError: As `experiment.run`.
    """
    config, seen = cell.config, list[tuple[float, int]]()

    def watch(now: Progress) -> None:
        seen.append((time.perf_counter(), now.examples))
        if len(seen) > WARM_STEPS + LEAST_STEPS and seen[-1][0] - seen[WARM_STEPS][0] > SECONDS:
            raise _Enough

    with tempfile.TemporaryDirectory(prefix="cvrbench-timing-") as folder:
        logger = NoLoggerConfig(kind="none")
        timed = replace(cell, config=replace(config, results_dir=folder, logger=logger))
        with suppress(_Enough):
            run(timed, on_progress=watch)
    (begun, before), (ended, after) = seen[min(WARM_STEPS, len(seen) - 2)], seen[-1]
    rows = ensure(config.dataset, cell.choices["dataset"], Path(config.data_dir)).schema.rows
    searched = 0.0
    if isinstance(config.model, NCSConfig):
        searched = (getattr(config.model.search, "epochs", 0) or 0) + config.model.warmup_epochs
    return Pace(
        model=cell.choices["model"],
        rate=max(after - before, 1) / max(ended - begun, 1e-6),
        searched=searched,
        evaluations=config.trainer.evaluations_per_epoch,
        **rows,
    )


def afford(paces: Sequence[Pace], epochs: int, seconds: float) -> tuple[int, int, float]:
    """Return seeds, epochs and the most seconds of the largest comparison that fits into a time.

    Seeds are given up first, down to `USUAL_SEEDS`, then epochs, down to `FEW_EPOCHS`. Where not
    even one epoch of `FEWEST_SEEDS` fits, that is what is returned, with its time.
    """
    few = min(FEW_EPOCHS, epochs)
    choices = [(seeds, epochs) for seeds in range(MOST_SEEDS, USUAL_SEEDS, -1)]
    choices += [(USUAL_SEEDS, fewer) for fewer in range(epochs, few - 1, -1)]
    choices += [(FEWEST_SEEDS, fewer) for fewer in range(few, 0, -1)]
    timed = [(n, e, n * sum(pace.seconds(e) for pace in paces)) for n, e in choices]
    return next((one for one in timed if one[2] <= seconds), timed[-1])
