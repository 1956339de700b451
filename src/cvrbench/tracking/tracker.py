"""One run's tracker, kept where it can do no harm.

The sink works in a thread of its own. What it raises ends the telling with one line of warning, and
a run waits for it at its end alone, and not for long. A file in the run's folder remembers what was
told, so that a resumed run, which repeats the looks after its last checkpoint, tells none twice.
"""

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from cvrbench.config.compose import Composed
from cvrbench.config.logger import LoggerConfig
from cvrbench.config.validate import config_to_dict, leaves
from cvrbench.environment import versions, without_password
from cvrbench.files import write_text
from cvrbench.record import RunRecord
from cvrbench.tracking import open_sink
from cvrbench.tracking.sink import About, Earlier, Finished, Sink
from cvrbench.training.progress import Look

PATIENCE = 30.0
"""Seconds that a run waits at its end for a tracker that has not taken everything yet."""
LONGEST = 300
"""Characters of a tracker's complaint that are shown."""
PLACES = ("data_dir", "results_dir")
FINAL = "train"
"""Name of a run's last stage; the others are searches."""


@contextmanager
def tracked(
    composed: Composed, fingerprint: str, folder: Path, *, fresh: bool
) -> Iterator["Tracker"]:
    """Tell the configured tracker of a run while the block lasts.

    Args:
        composed: The run.
        fingerprint: Of its data.
        folder: Of its results; its name is the run's.
        fresh: Whether the run begins anew, whatever was told before.

    Yields:
        Who is to be told. If the block ends without `finish`, the run counts as stopped.
    """
    config = composed.config
    about = describe(composed, fingerprint, folder.name)
    memory = _Memory(file=folder / "tracked.json", logger=config.logger, fresh=fresh)
    tracker = Tracker(open_sink(config.logger, Path(config.results_dir)), about, memory)
    try:
        yield tracker
    finally:
        tracker.close()


def describe(composed: Composed, fingerprint: str, run_id: str) -> About:
    """Say what a tracker is told of a run as it begins."""
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
    """Tells a sink of one run, from another thread; without a sink it tells nobody."""

    def __init__(self, sink: Sink | None, about: About, memory: "_Memory") -> None:
        self._sink = sink
        self._about = about
        self._memory = memory
        self._warned = False
        self._inbox: SimpleQueue[Look | RunRecord | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name=f"tracker of {about.run_id}", daemon=True)
        if sink is not None:
            self._thread.start()

    def look(self, look: Look) -> None:
        """Tell of a look at validation."""
        if self._thread.is_alive():
            self._inbox.put(look)

    def finish(self, record: RunRecord) -> RunRecord:
        """Tell of the record, which is written by now; give it back."""
        self._inbox.put(record)
        return record

    def close(self) -> None:
        """Wait until the sink has taken everything, or for as long as a run may be kept waiting."""
        if self._sink is None:
            return
        self._inbox.put(None)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._warn(f"has not taken everything {PATIENCE:.0f} s after the run's end")

    def _work(self) -> None:
        assert self._sink is not None
        earlier, finished = self._memory.read(), None
        try:
            run = self._sink.begin(self._about, earlier)
            step = -1 if earlier is None else earlier.step
            self._memory.write(Earlier(run, step))
            while (message := self._inbox.get()) is not None:
                if isinstance(message, RunRecord):
                    finished = summarize(message, max(step, 0))
                elif (now := message.examples) > step:
                    self._sink.look(numbers(_prefix(message.stage), message.metrics), now)
                    step = now
                    self._memory.write(Earlier(run, step))
            self._sink.end(finished)
        except Exception as error:  # whatever a tracker does, the run goes on
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self._warn(lines[0])

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            name = f"logger={self._memory.logger.kind}"
            shown = without_password(what)[:LONGEST]
            logging.getLogger(__name__).warning("%s: %s; the run does without it", name, shown)


@dataclass(frozen=True, kw_only=True)
class _Memory:
    """A file that says what this run's tracker was told."""

    file: Path
    logger: LoggerConfig
    fresh: bool
    """Whether what an earlier process told is of no interest."""

    def read(self) -> Earlier | None:
        """Give what an earlier process told the same tracker; None without one."""
        if self.fresh:
            return None
        try:
            saved = json.loads(self.file.read_text())
            same = saved["logger"] == asdict(self.logger)
            return Earlier(str(saved["run"]), int(saved["step"])) if same else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, now: Earlier) -> None:
        saved = {"logger": asdict(self.logger), **now._asdict()}
        write_text(self.file, json.dumps(saved) + "\n")


def summarize(record: RunRecord, step: int) -> Finished:
    """Take from a record what a tracker shows as numbers."""
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
    return Finished(values=values, step=step, record=json.dumps(record.to_json(), indent=1))


def numbers(prefix: str, values: Mapping[str, float | None]) -> dict[str, float]:
    """Give the defined ones, under names that every tracker takes."""
    return {
        re.sub(r"[^\w./-]", "_", f"{prefix}/{name}", flags=re.ASCII): float(value)
        for name, value in values.items()
        if value is not None and math.isfinite(value)
    }


def _prefix(stage: str) -> str:
    """Name a stage's curves: `valid` of the final training, `search_ctr` of all rounds on ctr."""
    return "valid" if stage == FINAL else re.sub(r" [\d./]+$", "", stage).replace(" ", "_")
