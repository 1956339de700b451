"""Trackers: optional services that follow a run while it lasts. The local record is the truth.

TensorBoard, Weights & Biases and MLflow are each imported when used. A tracker is called in turn
with the run, and may fail once: then one sentence says so, and the run goes on without it. A file
in the run's folder remembers what was logged, so that a resumed run, which repeats the evaluations
after its last checkpoint, logs none twice.
"""

import json
import logging
import math
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, assert_never

from cvrbench.config.compose import Composed
from cvrbench.config.schema import (
    LoggerConfig,
    MLflowConfig,
    NoLoggerConfig,
    TensorBoardConfig,
    WandbConfig,
)
from cvrbench.config.validate import config_to_dict, leaves
from cvrbench.errors import ConfigError, RunError
from cvrbench.runs.environment import versions, without_password
from cvrbench.runs.record import RunRecord
from cvrbench.system.files import check_no_links, lock, make_folder, read_json, write_text
from cvrbench.training.callbacks import Evaluation

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

HPARAMS = (bool, int, float, str)
"""Types that TensorBoard's table of hyper-parameters takes."""
WANDB_SECONDS = 20.0
"""Time that the server of Weights & Biases has to take a run, and the rest of it at the end."""
MLFLOW_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Variables of MLflow's client, where the user has not set them: no telemetry, and a server that
does not answer is given up."""
DATABASE_SECONDS = 60.0
"""Time to wait for another process that makes the tables of a new database."""
MLFLOW_BATCH = 100
"""Most parameters, and most metrics, in one request."""


class About(NamedTuple):
    """What is logged of a run as it begins."""

    run_id: str
    config: Mapping[str, object]
    """Flat: `{"model.hidden": [128, 64], ...}`; without the places where files lie."""
    tags: Mapping[str, str]
    """Dataset, model, seed, fingerprint of the data, versions."""


class Earlier(NamedTuple):
    """What a process has logged of a run."""

    run: str
    """The tracker's name for the run: what `Sink.begin` returned."""
    step: int
    """Step of the last evaluation that was logged, -1 without one."""


class Finished(NamedTuple):
    """What is logged of a run that has a record."""

    values: Mapping[str, float]
    """`test/ctr_auc`, `best_valid/ctr_auc`, `cost/parameters`, ..."""
    step: int
    """Step of the last evaluation."""
    record: str
    """The whole record, as the JSON in the run's folder."""


class Sink(Protocol):
    """One run's side of a tracker."""

    def begin(self, about: About, earlier: Earlier | None) -> str:
        """Open the run, or go on with an earlier process's; return the tracker's name for it."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log the metrics of an evaluation; steps only grow."""

    def end(self, finished: Finished | None) -> None:
        """Close the run; None if it stopped before its end."""


def open_sink(logger: LoggerConfig, results_dir: Path) -> Sink | None:
    """Return the sink of a configuration, None without a tracker.

    Nothing is written or sent yet, and no package is imported.
    """
    if getattr(logger, "folder", None) is None:
        check_no_links(results_dir / logger.kind, within=results_dir)
    match logger:
        case NoLoggerConfig():
            return None
        case TensorBoardConfig():
            return TensorBoard(Path(logger.folder or results_dir / "tensorboard"))
        case WandbConfig():
            return Wandb(logger, Path(logger.folder or results_dir))
        case MLflowConfig():
            return MLflow(logger, results_dir / "mlflow")
        case _:
            assert_never(logger)


class TensorBoard:
    """Event files, one folder per run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: Mapping[str, object] = {}
        self.writer: SummaryWriter | None = None

    def begin(self, about: About, earlier: Earlier | None) -> str:
        """Open a new event file. What a run that begins anew has left from before is removed."""
        from torch.utils.tensorboard import SummaryWriter

        self.config = about.config
        folder = make_folder(self.folder / about.run_id, within=self.folder)
        if earlier is None:
            for file in folder.glob("events.out.tfevents.*"):
                file.unlink()
        # Readers drop what the earlier process wrote after the last evaluation that it noted.
        purged = None if earlier is None else earlier.step + 1
        self.writer = SummaryWriter(str(folder), purge_step=purged)
        if earlier is None:
            lines = [f"    {key}: {v}" for key, v in {**about.tags, **about.config}.items()]
            self.writer.add_text("config", "\n".join(lines), 0)
        self.writer.flush()
        return about.run_id

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write one scalar per metric."""
        assert self.writer is not None
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def end(self, finished: Finished | None) -> None:
        """Write results, record and a row of hyper-parameters."""
        from torch.utils.tensorboard.summary import hparams

        assert self.writer is not None
        if finished is not None:
            self.log(finished.values, finished.step)
            self.writer.add_text("record", f"```\n{finished.record}\n```", finished.step)
            settings = {k: v if isinstance(v, HPARAMS) else str(v) for k, v in self.config.items()}
            for summary in hparams(settings, finished.values):
                self.writer._get_file_writer().add_summary(summary)
        self.writer.close()


class Wandb:
    """Weights & Biases: a run on its server, or files for `wandb sync`.

    It logs what every sink logs, and nothing that the client would gather by itself.
    """

    def __init__(self, config: WandbConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.run: Any = None

    def begin(self, about: About, earlier: Earlier | None) -> str:
        """Open a run under an id of our own, or go on with the earlier one's."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        mode = self.config.mode
        if mode == "online" and not wandb.login(prompt=False):
            raise RunError("no key; set WANDB_API_KEY, or call `wandb login` once")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=self.config.project,
            entity=self.config.entity,
            mode=mode,
            dir=str(self.folder.resolve()),  # its service stands where its first run began
            id=earlier.run if earlier else secrets.token_hex(4),
            resume="allow",
            reinit="create_new",  # runs of one process, one after another, are runs of their own
            name=about.run_id,
            group="-".join([about.tags["dataset"], about.tags["model"]]),
            config={**about.tags, **about.config},
            settings=wandb.Settings(
                silent=True,
                console="off",
                save_code=False,
                disable_git=True,
                host="",
                init_timeout=WANDB_SECONDS,
                finish_timeout=WANDB_SECONDS,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )
        return str(self.run.id)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log one row."""
        self.run.log(dict(values), step=step)

    def end(self, finished: Finished | None) -> None:
        """Put results into the run's summary, and the record among its files."""
        if finished is not None:
            self.run.summary.update(dict(finished.values))
            record = Path(self.run.dir) / "record.json"
            record.write_text(finished.record)
            self.run.save(str(record), base_path=self.run.dir, policy="now")
        self.run.finish(exit_code=1 if finished is None else 0)


class MLflow:
    """A run on a tracking server, or in a database file.

    It goes through the client alone: MLflow's global state stays as the program has it.
    """

    def __init__(self, config: MLflowConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.client: Any = None
        self.run = ""

    def begin(self, about: About, earlier: Earlier | None) -> str:
        """Make a run in the experiment, or set the earlier one running again."""
        for name, value in MLFLOW_SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        named = self.config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if named is None:
            make_folder(self.folder, within=self.folder.parent)
        database = f"sqlite:///{self.folder.resolve()}/mlflow.db"
        artifacts = None if named else (self.folder.resolve() / "artifacts").as_uri()
        # Of two processes that make the tables of one file, one would fail.
        with nullcontext() if named else lock(self.folder / "lock", seconds=DATABASE_SECONDS):
            self.client = MlflowClient(tracking_uri=named or database)
            experiment = self._experiment(artifacts)
        if earlier is not None:
            self.run = earlier.run
            self.client.update_run(self.run, status="RUNNING")
            return self.run
        tags = {f"cvrbench.{key}": value for key, value in about.tags.items()}
        run = self.client.create_run(experiment, run_name=about.run_id, tags=tags)
        self.run = str(run.info.run_id)
        params = [Param(key, str(value)) for key, value in about.config.items()]
        for start in range(0, len(params), MLFLOW_BATCH):
            self.client.log_batch(self.run, params=params[start : start + MLFLOW_BATCH])
        return self.run

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log one point per metric."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        points = [Metric(name, value, now, step) for name, value in values.items()]
        for start in range(0, len(points), MLFLOW_BATCH):
            self.client.log_batch(self.run, metrics=points[start : start + MLFLOW_BATCH])

    def end(self, finished: Finished | None) -> None:
        """Log results, and the record as an artifact."""
        if finished is None:
            self.client.set_terminated(self.run, "KILLED")
            return
        self.log(finished.values, finished.step)
        self.client.log_text(self.run, finished.record, "record.json")
        self.client.set_terminated(self.run, "FINISHED")

    def _experiment(self, artifacts: str | None) -> str:
        """Return the experiment, or make it; another process may be making it, too."""
        from mlflow.exceptions import MlflowException

        name = self.config.experiment
        if (found := self.client.get_experiment_by_name(name)) is None:
            try:
                return str(self.client.create_experiment(name, artifacts))
            except MlflowException:
                if (found := self.client.get_experiment_by_name(name)) is None:
                    raise
        return str(found.experiment_id)


LONGEST = 300
"""Characters of a tracker's complaint that are shown."""
PLACES = ("data_dir", "results_dir")
FINAL = "train"
"""Name of a run's last stage; the others are searches."""


def check_installed(logger: LoggerConfig) -> None:
    """Make sure that the tracker's package is there, before anything is trained.

    Raises:
        ConfigError: It is not; the message names what to install.
    """
    if logger.kind != "none" and find_spec(logger.kind) is None:
        raise ConfigError(
            f"logger={logger.kind} needs a package that is not installed: "
            f"pip install 'cvrbench[{logger.kind}]'"
        )


@contextmanager
def tracked(
    composed: Composed, fingerprint: str, folder: Path, *, fresh: bool
) -> Iterator["Tracker"]:
    """Log a run to the configured tracker while the block lasts.

    Args:
        composed: The run.
        fingerprint: Fingerprint of its data.
        folder: Its results folder, which has the run's name.
        fresh: Whether the run begins anew, whatever was logged before.

    Yields:
        The tracker. If the block ends without `finish`, the run is logged as stopped.
    """
    config = composed.config
    sink = open_sink(config.logger, Path(config.results_dir))
    tracker = Tracker(sink, config.logger, folder / "tracked.json")
    tracker.begin(describe(composed, fingerprint, folder.name), fresh=fresh)
    try:
        yield tracker
    finally:
        tracker.end(None)


def describe(composed: Composed, fingerprint: str, run_id: str) -> About:
    """Return what a tracker logs of a run as it begins."""
    config, choices = composed.config, composed.choices
    kept = {k: v for k, v in config_to_dict(config).items() if k not in (*PLACES, "logger")}
    tags = {
        "run_id": run_id,
        "dataset": choices["dataset"],
        "model": choices["model"],
        "seed": str(config.seed),
        "fingerprint": fingerprint,
        **{f"version.{package}": version for package, version in versions().items()},
    }
    return About(run_id=run_id, config=leaves(kept), tags=tags)


class Tracker:
    """One run's tracker; without a sink it does nothing."""

    def __init__(self, sink: Sink | None, logger: LoggerConfig, file: Path) -> None:
        self.sink = sink
        """None where no tracker is configured, or once it has failed or ended."""
        self.logger, self.file = logger, file
        self.now = Earlier("", -1)

    def begin(self, about: About, *, fresh: bool) -> None:
        """Open the run in the tracker, or go on with it."""
        with self._switched_off_by_errors() as sink:
            earlier = None if fresh or sink is None else self._read()
            if sink is not None:
                run = sink.begin(about, earlier)
                self._write(Earlier(run, -1 if earlier is None else earlier.step))

    def log(self, found: Evaluation) -> None:
        """Log an evaluation on validation, unless an earlier process has."""
        with self._switched_off_by_errors() as sink:
            if sink is not None and found.examples > self.now.step:
                sink.log(numbers(_prefix(found.stage), found.metrics), found.examples)
                self._write(self.now._replace(step=found.examples))

    def finish(self, record: RunRecord) -> RunRecord:
        """Log the record, which is written by now, and return it."""
        self.end(summarize(record, max(self.now.step, 0)))
        return record

    def end(self, finished: Finished | None) -> None:
        """Close the run in the tracker once; None if it stopped before its end."""
        with self._switched_off_by_errors() as sink:
            self.sink = None
            if sink is not None:
                sink.end(finished)

    @contextmanager
    def _switched_off_by_errors(self) -> Iterator[Sink | None]:
        try:
            yield self.sink
        except Exception as error:  # whatever a tracker does, the run goes on
            self.sink = None
            first, *_ = str(error).strip().splitlines() or [type(error).__name__]
            words = without_password(first)[:LONGEST]
            name = f"logger={self.logger.kind}"
            logging.getLogger(__name__).warning("%s: %s; the run does without it", name, words)

    def _read(self) -> Earlier | None:
        """Return what an earlier process logged to the same tracker; None without one."""
        try:
            saved = read_json(self.file)
            same = saved["logger"] == asdict(self.logger)
            return Earlier(str(saved["run"]), int(saved["step"])) if same else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _write(self, now: Earlier) -> None:
        self.now = now
        saved = {"logger": asdict(self.logger), **now._asdict()}
        write_text(self.file, json.dumps(saved) + "\n")


def summarize(record: RunRecord, step: int) -> Finished:
    """Return of a record what a tracker shows as numbers."""
    costs = {
        **{f"seconds_{part}": value for part, value in record.seconds.items()},
        **{f"examples_{part}": value for part, value in record.examples.items()},
        "examples_per_second": record.examples_per_second,
        "parameters": record.parameters,
        "embedding_parameters": record.embedding_parameters,
        "multiply_adds": record.multiply_adds,
        "best_epoch": record.best_epoch,
    }
    names = {"valid": "best_valid", "test": "test"}
    values = numbers("cost", costs)
    for split, metrics in record.metrics.items():
        values |= numbers(names[split], metrics)
    return Finished(values, step, json.dumps(record.to_json(), indent=1))


def numbers(prefix: str, values: Mapping[str, float | None]) -> dict[str, float]:
    """Return the defined ones, under names that every tracker takes."""
    return {
        re.sub(r"[^\w./-]", "_", f"{prefix}/{name}", flags=re.ASCII): float(value)
        for name, value in values.items()
        if value is not None and math.isfinite(value)
    }


def _prefix(stage: str) -> str:
    """Return the name of a stage's curves: `valid` at last, `search_ctr` of all rounds on ctr."""
    return "valid" if stage == FINAL else re.sub(r" [\d./]+$", "", stage).replace(" ", "_")
