"""One run, from a config to a record: prepare, build, search, train, choose, test once.

The only place where all parts meet, and the only one that touches the test split.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from cvrbench.balancing import loss_weights
from cvrbench.config.compose import Composed, config_from_dict, config_to_dict
from cvrbench.config.schema import Config
from cvrbench.data.batches import SplitTensors
from cvrbench.data.dataset import Dataset, Split
from cvrbench.data.prepare import ensure
from cvrbench.errors import RunError, StoreError
from cvrbench.evaluation import Scores, counts, score, selection_score
from cvrbench.objectives import Objective, alone, build_objective
from cvrbench.rng import derive
from cvrbench.store import ResultStore, RunFolder, RunRecord, run_id
from cvrbench.strategies import build_strategy
from cvrbench.strategies.base import SharingStrategy
from cvrbench.training.checkpoint import StageFiles
from cvrbench.training.device import resolve_device, torch_settings
from cvrbench.training.fit import FitResult, Outside, Task, fit
from cvrbench.training.predict import Predictions, predict
from cvrbench.training.progress import OnProgress, Progress, stop_on_interrupt

State = Literal["new", "unfinished", "finished"]


def state_of(composed: Composed) -> State:
    """Say whether a cell of a plan is finished, begun or new, without computing anything."""
    config = composed.config
    folder = prepared_folder(config.dataset, composed.choices["dataset"], Path(config.data_dir))
    if not folder.is_dir():
        return "new"
    fingerprint = open_dataset(folder).schema.fingerprint
    store = ResultStore(Path(config.results_dir))
    return store.state(run_id(config_to_dict(config), composed.choices, fingerprint))


def run(
    composed: Composed, *, force: bool = False, on_progress: OnProgress | None = None
) -> RunRecord:
    """Run one experiment and record it; a finished one is only read, a begun one goes on.

    Raises:
        DataError: The dataset is neither prepared nor to be prepared from files at hand.
        RunError: The device is absent, the loss is not finite, or a metric is undefined.
        RunInterrupted: The user stopped it; `resume` goes on where it was.
        StoreError: The results folder cannot be written, or another process runs this cell.
    """
    config = composed.config
    device = resolve_device(config.trainer.device)
    dataset = ensure(config.dataset, composed.choices["dataset"], Path(config.data_dir))
    config_dict = config_to_dict(config)
    store = ResultStore(Path(config.results_dir))
    id_ = run_id(config_dict, composed.choices, dataset.schema.fingerprint)
    if not force and (record := store.find(id_)) is not None:
        return record
    with store.open(id_, config=config_dict, choices=composed.choices, fresh=force) as folder:
        with torch_settings(config.trainer), stop_on_interrupt() as stop_requested:
            cell = _Cell(composed, dataset, device, folder, on_progress or _ignore, stop_requested)
            return cell.run(id_)


def resume(run_dir: Path, *, on_progress: OnProgress | None = None) -> RunRecord:
    """Go on with an unfinished run; a finished one is only read.

    Raises:
        StoreError: The folder holds no run.
    """
    saved = read_run_config(run_dir)
    config = config_from_dict({**saved["config"], "results_dir": str(run_dir.parent.parent)})
    composed = Composed(config=config, choices=saved["choices"], overrides=())
    return run(composed, on_progress=on_progress)


@dataclass
class _Cell:
    """One run under way: what its stages have in common."""

    composed: Composed
    dataset: Dataset
    device: torch.device
    folder: RunFolder
    on_progress: OnProgress
    stop_requested: Callable[[], bool]

    def __post_init__(self) -> None:
        self.config: Config = self.composed.config
        self.schema = self.dataset.schema
        self.objective = build_objective(self.config.objective, self.schema)
        self.stages: list[dict[str, object]] = []

    def run(self, id_: str) -> RunRecord:
        """Search, train, choose, test once, record."""
        begun, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
        torch.manual_seed(derive(self.config.seed, "init"))
        network = build_strategy(self.config.model, self.schema).to(self.device)
        self.train = SplitTensors.load(self.dataset.train, self.schema, self.device)
        self.valid = SplitTensors.load(self.dataset.valid, self.schema, self.device)
        network.prepare(self._search)
        search_seconds = sum(float(str(stage["seconds"])) for stage in self.stages)
        final = self._fit(network, self._task(None), "train", self.config.trainer.epochs)
        metrics, undefined = {"valid": final.state.best_metrics}, {}
        n_tested = 0
        if self.config.protocol.score_test:
            scores = self._test(network)
            n_tested = 1
            metrics["test"], undefined["test"] = scores.values, scores.undefined
        self._save_weights(network)
        seconds = {
            "search": search_seconds,
            "train": final.state.seconds,
            "total": time.monotonic() - clock,
        }
        ...


def _ignore(_: Progress) -> None:
    """The progress of a run nobody watches."""
