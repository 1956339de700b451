"""Trackers: optional services that follow a run while it lasts. The local record is the truth.

A tracker is called in turn with the run, and may fail once: then one sentence says so, and the run
goes on without it. A file in the run's folder remembers what was logged, so that a resumed run,
which repeats the evaluations after its last checkpoint, logs none twice.
"""

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from cvrbench.config.compose import Composed
from cvrbench.config.schema import LoggerConfig
from cvrbench.config.validate import config_to_dict, leaves
from cvrbench.errors import ConfigError
from cvrbench.runs.environment import versions, without_password
from cvrbench.runs.record import RunRecord
from cvrbench.system.files import read_json, write_text
from cvrbench.tracking.sinks import About, Earlier, Finished, Sink, open_sink
from cvrbench.training.callbacks import Evaluation

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
