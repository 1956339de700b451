"""One run, from a config to a record: prepare, build, search, train, choose, test once.

The only place where all parts meet, and the only one that touches the test split. A cell of a plan
runs here (`run`), as a job of an engine (`run_cell`), or beside others that differ in their seed
(`run_stacked`), each with its own folder, lock, checkpoints, history and record.
"""

import logging
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import save_file

from cvrbench.config.compose import Composed, with_own_word
from cvrbench.config.dataset import SyntheticConfig
from cvrbench.config.validate import config_from_dict, config_from_saved, config_to_dict
from cvrbench.data.batches import Rows
from cvrbench.data.dataset import Dataset, Split, Verification, load_labels, read_key
from cvrbench.data.registry import ensure
from cvrbench.errors import CellBusy, RunError
from cvrbench.metrics.evaluation import Scores, counts, score
from cvrbench.nn import FeatureEncoder
from cvrbench.nn.multiply_adds import count_multiply_adds
from cvrbench.objectives import build_objective
from cvrbench.runs.environment import describe_environment
from cvrbench.runs.memory import check_memory
from cvrbench.runs.record import NUMBERS, RECORD_VERSION, RunRecord, run_id
from cvrbench.runs.store import ResultStore, RunFolder, read_run_config
from cvrbench.strategies import build_network
from cvrbench.strategies.base import SharingStrategy
from cvrbench.system.files import atomic_write, check_no_links
from cvrbench.system.rng import derive
from cvrbench.tracking import check_installed, tracked
from cvrbench.training.callbacks import (
    OnEvaluation,
    OnProgress,
    StopRequested,
    ignore,
    stop_on_interrupt,
)
from cvrbench.training.checkpoint import TrainingCache
from cvrbench.training.device import (
    Determinism,
    explain_memory,
    resolve_device,
    torch_settings,
)
from cvrbench.training.evaluator import PredictionArrays, predict
from cvrbench.training.seed_group import SeedGroup, in_seed_group
from cvrbench.training.session import TrainingSession

FLOP_ROWS = 64


def run(
    composed: Composed,
    *,
    force: bool = False,
    on_progress: OnProgress = ignore,
    on_evaluation: OnEvaluation = ignore,
    searches: Path | None = None,
    seed_group: SeedGroup | None = None,
) -> RunRecord:
    """Run one experiment and record it; a finished one is only read, a begun one goes on.

    Args:
        composed: What to run.
        force: Run a finished one again.
        on_progress: Told of every step.
        on_evaluation: Called at every evaluation during the final training; what it raises ends the
            run, whose folder then holds what it had.
        searches: A folder of trainings that mask searches of several runs share.
        seed_group: Runs that go on at the same time in other threads, and train together with this.

    Raises:
        DataError: The dataset is neither prepared nor to be prepared from files at hand.
        ConfigError: The package of the logger is not installed.
        RunError: The device is absent, the run will not fit into the free memory, the loss is not
            finite, or a metric is undefined.
        RunInterrupted: The user stopped it; `resume` goes on where it was.
        CellBusy: Another process runs this cell.
        StoreError: The results folder cannot be written.
    """
    config = composed.config
    device = resolve_device(config.trainer.device)
    dataset = ensure(config.dataset, composed.choices["dataset"], Path(config.data_dir))
    plain = config_to_dict(config)
    store = ResultStore(Path(config.results_dir))
    name = run_id(plain, composed.choices, dataset.schema.fingerprint)
    if not force and (record := store.find(name)) is not None:
        store.tidy(name)
        return record
    check_installed(config.logger)
    with (
        _stop_requested(seed_group) as stop_requested,
        store.open(name, config=plain, choices=composed.choices, fresh=force) as folder,
        torch_settings(config.trainer, device) as determinism,
        explain_memory(),
    ):
        if not force and (record := store.find(name)) is not None:
            return record  # another process has finished it meanwhile
        check_memory(config, dataset, device)
        store.keep_vocabularies(dataset)
        cache = None if searches is None else TrainingCache(searches, name)
        ties = (on_progress, stop_requested, on_evaluation, cache, seed_group)
        goal = build_objective(config.objective, dataset.schema)
        session = TrainingSession(config, dataset, goal, device, folder.checkpoints, *ties)
        with tracked(composed, dataset.schema.fingerprint, folder.path, fresh=force) as tracker:
            session.on_any_evaluation = tracker.log
            return tracker.finish(_Cell(composed, dataset, folder, session, determinism).run())


def _stop_requested(seed_group: SeedGroup | None) -> AbstractContextManager[StopRequested]:
    return stop_on_interrupt() if seed_group is None else nullcontext(seed_group.stop_requested)


def resume(
    run_dir: Path, *, words: Sequence[str] | None = None, on_progress: OnProgress = ignore
) -> RunRecord:
    """Go on with an unfinished run; a finished one is only read.

    Args:
        run_dir: Its folder.
        words: What the user says of data folder and tracker, for a run that may be somebody
            else's; None: as the run has them.
        on_progress: Called after every step.

    Raises:
        StoreError: The folder holds no run.
        ConfigError: The run's data folder is not the user's own.
        RunError: The prepared data or the versions changed since it began.
    """
    check_no_links(run_dir, within=run_dir.parent)
    saved = read_run_config(run_dir)
    config = config_from_saved(saved.config)
    config = replace(config, results_dir=str(run_dir.resolve().parent.parent))
    composed = Composed(config=config, choices=saved.choices, overrides=())
    if words is not None:
        composed = with_own_word(composed, words, f"cvrbench resume {run_dir}")
        if config.logger.kind not in ("none", composed.config.logger.kind):
            logging.getLogger(__name__).warning(
                "the run was begun with logger=%s, which goes on only if you add that here",
                config.logger.kind,
            )
    config = composed.config
    dataset = ensure(config.dataset, composed.choices["dataset"], Path(config.data_dir))
    name = run_id(config_to_dict(config), composed.choices, dataset.schema.fingerprint)
    if name != run_dir.resolve().name:
        raise RunError(
            f"{run_dir} was begun with other data or versions (it would be {name} now); start it "
            "anew with `cvrbench run`"
        )
    return run(composed, on_progress=on_progress)


@dataclass
class _Cell:
    """One run under way: what its steps have in common."""

    composed: Composed
    dataset: Dataset
    folder: RunFolder
    session: TrainingSession
    determinism: Determinism

    def __post_init__(self) -> None:
        self.config = self.composed.config
        self.schema = self.dataset.schema
        self.device = self.session.device

    def run(self) -> RunRecord:
        """Search, train, choose, test once, record, the data being verified meanwhile."""
        with Verification(self.dataset) as self.session.verification:
            return self._run()

    def _run(self) -> RunRecord:
        begun, clock, cpu = datetime.now(UTC), time.monotonic(), time.process_time()
        torch.manual_seed(derive(self.config.seed, "init"))
        network = build_network(self.config, self.schema).to(self.device)
        session = self.session
        network.prepare(session)
        final = session.finish(network)
        scores = {"valid": self._score(network, session.answers, session.valid)[0]}
        n_scored = 0
        if self.config.protocol.score_test:
            n_scored = self.folder.count_test()
            scores["test"] = self._test(network)
        self._save_weights(network)
        self.folder.write_history(session.history)
        record = RunRecord(
            **self._identity(),
            metrics={split: found.metrics for split, found in scores.items()},
            undefined={split: found.undefined for split, found in scores.items()},
            **_count(network, session.valid),
            **session.cost(time.monotonic() - clock, time.process_time() - cpu),
            best_step=final.state.best_step,
            best_epoch=round(session.epochs_of(final.state.best_step), 3),
            test_scored=n_scored,
            diagnostics={**network.diagnostics(), **session.sharing},
            environment={
                **_environment(self.device, begun, self.determinism),
                "together": session.together,
                "data": session.keeping.where,
            },
        )
        return self.folder.finish(record)

    def _score(
        self, network: SharingStrategy, split: Split, rows: Rows
    ) -> tuple[Scores, PredictionArrays]:
        """Predict a whole split and compute every metric."""
        size = self.config.trainer.eval_batch_size
        predictions = predict(network, rows, self.session.objective, batch_size=size)
        # A GPU's host has cores to spare; on a CPU, what a second space needs may be too much.
        workers = 1 if self.device.type == "cpu" else torch.get_num_threads()
        planted = self.config.dataset
        scores = score(
            self.schema,
            split.labels,
            *predictions,
            split.groups,
            split.truth,
            selection_bias=planted.selection_bias if isinstance(planted, SyntheticConfig) else 0.0,
            workers=workers,
        )
        self.session.verification.finish()
        return scores, predictions

    def _test(self, network: SharingStrategy) -> Scores:
        split = load_labels(self.dataset.test, self.schema.name)
        # Read once, in order: no reason to have it in memory.
        keeping = replace(self.session.keeping, where="disk")
        rows = keeping.open(split, self.schema, self.device)
        scores, predictions = self._score(network, split, rows)
        columns: dict[str, Any] = read_key(self.dataset)
        for index, task in enumerate(self.schema.tasks):
            label = split.labels[:, index]
            columns[f"label_{task.name}"] = label if task.is_ratio else label.astype(np.uint8)
            columns[f"p_{task.name}"] = predictions.conditional[:, index]
            if task.joint is not None:
                columns[f"p_{task.joint}"] = predictions.joint[:, index]
        if split.groups is not None:
            columns["group"] = split.groups
        self.folder.write_predictions(pl.DataFrame(columns))
        return scores

    def _save_weights(self, network: SharingStrategy) -> None:
        state = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}
        masks = {name: tensor for name, tensor in state.items() if tensor.dtype == torch.bool}
        others = {name: tensor for name, tensor in state.items() if name not in masks}
        for name, tensors in (("best", others), ("masks", masks)):
            if tensors:
                with atomic_write(self.folder.path / f"{name}.safetensors") as temporary:
                    save_file(tensors, temporary)

    def _identity(self) -> dict[str, Any]:
        # Who watched a run is no part of what it was.
        config, choices = config_to_dict(self.config), dict(self.composed.choices)
        del config["logger"]
        choices.pop("logger", None)
        others = (self.dataset.valid, self.dataset.test)
        of_others = {split.name: counts(self.schema, split.labels) for split in others}
        return {
            "record_version": RECORD_VERSION,
            "run_id": self.folder.path.name,
            "model": self.composed.choices["model"],
            "dataset": self.composed.choices["dataset"],
            "seed": self.config.seed,
            "choices": choices,
            "config": config,
            "fingerprint": self.schema.fingerprint,
            "tasks": [task.plain for task in self.schema.tasks],
            "counts": {"train": self.session.learnt(), **of_others},
        }


def _count(network: SharingStrategy, rows: Rows) -> dict[str, Any]:
    """Parameters, and multiply-adds of one example's forward pass (embedding look-ups are none)."""
    n = min(FLOP_ROWS, len(rows))
    features = rows.gather(torch.arange(n, device=rows.device)).features
    network.eval()
    tables = [m.table.numel() for m in network.modules() if isinstance(m, FeatureEncoder)]
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "embedding_parameters": sum(tables),
        "multiply_adds": count_multiply_adds(lambda: network(features)) // n,
    }


def _environment(device: torch.device, begun: datetime, determinism: Determinism) -> dict[str, Any]:
    return {
        **describe_environment(),
        "numbers": NUMBERS,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        **determinism.facts(),
        "begun": begun.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def cell_argument(cell: Composed, *, force: bool) -> dict[str, Any]:
    """Return a cell as plain values, for `run_cell`."""
    return {
        "config": config_to_dict(cell.config),
        "choices": cell.choices,
        "overrides": list(cell.overrides),
        "force": force,
        "argv": sys.argv,
    }


def run_cell(argument: dict[str, Any]) -> dict[str, Any] | None:
    """Run a cell; return its record as plain values, None where another process is running it."""
    sys.argv = list(argument["argv"])  # the command that a record names is the plan's
    cell = Composed(
        config=config_from_dict(argument["config"]),
        choices=argument["choices"],
        overrides=tuple(argument["overrides"]),
    )
    try:
        return run(cell, force=argument["force"]).to_json()
    except CellBusy:
        return None


def record_of(value: dict[str, Any] | None) -> RunRecord | None:
    """Return the record in what `run_cell` returned."""
    return None if value is None else RunRecord.from_json(value, Path(value["run_id"]))


def run_stacked(
    cells: Sequence[Composed], *, force: bool = False, on_progress: OnProgress = ignore
) -> list[RunRecord | BaseException]:
    """Run cells as `run` does each.

    Args:
        cells: They differ in nothing but their seed.
        force: Run finished ones again.
        on_progress: Told of every step of the first that is left.

    Returns:
        Of each the record, or what `run` would have raised.
    """
    with stop_on_interrupt() as stop_requested:
        runs = [partial(_run, cell, force, on_progress) for cell in cells]
        return in_seed_group(runs, stop_requested)


def _run(cell: Composed, force: bool, on_progress: OnProgress, seed_group: SeedGroup) -> RunRecord:
    return run(cell, force=force, on_progress=on_progress, seed_group=seed_group)
