"""Checkpoints of an unfinished run: one file per finished stage, two for the stage under way.

A run is a sequence of trainings (NCS: every search training, then the final one). Their order is
fixed by the config, so resuming needs no logic in a strategy: the run starts over, each finished
stage is answered from its file, and the one under way goes on from its own.

    stage-0.pt                   what a finished stage ended with
    stage-1-partial.pt           where the stage under way was when it was last saved
    stage-1-partial-before.pt    and the time before, should the last one be damaged

Files hold tensors and plain values only and are read with `weights_only=True`. torch writes them as
a zip archive with a CRC-32 of every entry, but does not check it when it reads; we do. What is
damaged is put aside and named, and the run goes on from what lies before it: to the same end.

`TrainingCache` keeps trainings that several runs have in common, so that each is done once. A
training follows from the weights it begins with and from settings, so that a hash of both names
its result. A run marks the stages that it took from there, so that it can tell them from what it
computed, resumed or not.
"""

import hashlib
import json
import logging
import os
import shutil
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cvrbench.config.schema import Config
from cvrbench.config.validate import config_to_dict
from cvrbench.errors import RunInterrupted, StoreError
from cvrbench.runs.environment import versions
from cvrbench.runs.record import NUMBERS, decisive
from cvrbench.system.files import (
    atomic_write,
    explain_write,
    lock,
    make_folder,
    open_regular,
    write_text,
)
from cvrbench.training.callbacks import StopRequested

NAMED_OTHERWISE = ("model", "dataset", "protocol.selection", "protocol.score_test")
"""Keys of a config that do not distinguish shared trainings: the strategy states what of its
settings a training depends on, the fingerprint names the data, and every training of a search is
chosen by the mean AUC and sees no test row."""
SHARE = 0.03
"""Share of the time of training that may go into checkpoints of a stage under way."""
SLOW_DISK = 200e6
"""Bytes per second that the first save is expected to write; the next ones as fast as it did."""


class StageFiles:
    """The checkpoint files of one stage of a run.

    Attributes:
        finished_file: What the stage ended with.
        partial_file, before_file: Where it was when it was last saved, and the time before.
        reused_file: A mark that another run computed the finished stage; empty.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.finished_file = folder / f"stage-{number}.pt"
        self.partial_file = folder / f"stage-{number}-partial.pt"
        self.before_file = folder / f"stage-{number}-partial-before.pt"
        self.reused_file = folder / f"stage-{number}.lent"

    def finished(self) -> dict[str, Any] | None:
        """What the stage ended with, if it did."""
        return self._read(self.finished_file, "the stage is computed again")

    def under_way(self) -> dict[str, Any] | None:
        """Where the stage was when it was last saved, if it was."""
        last = self._read(self.partial_file, "the run goes on from the one before")
        return last or self._read(self.before_file, "the stage begins anew")

    def save_under_way(self, state: Mapping[str, Any]) -> None:
        """Save a stage that goes on, and keep what was saved last.

        Raises:
            StoreError: The disk is full, though room was made of the older save, or not writable.
        """
        try:
            _save(self.partial_file, state, keep_as=self.before_file)
        except StoreError:
            if not self.before_file.is_file() or not self.partial_file.is_file():
                raise
            self.before_file.unlink()
            _save(self.partial_file, state, keep_as=self.before_file)

    def save_finished(self, state: Mapping[str, Any]) -> None:
        """Save what a stage ended with; its partial files are no longer needed.

        Raises:
            StoreError: The disk is full or not writable.
        """
        _save(self.finished_file, state)
        for file in (self.partial_file, self.before_file):
            file.unlink(missing_ok=True)

    def _read(self, path: Path, otherwise: str) -> dict[str, Any] | None:
        """Read a file that may be there; put it aside where it is damaged."""
        if not path.is_file():
            return None
        if is_whole(path):
            with suppress(Exception):  # whatever torch says of a header that zip does not mind
                state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
                return state
        aside = path.with_suffix(".damaged")
        with explain_write(aside):
            path.replace(aside)
            if path == self.finished_file:
                self.reused_file.unlink(missing_ok=True)
        words = "the checkpoint %s is damaged; it is put aside as %s, and %s"
        logging.getLogger(__name__).warning(words, path, aside.name, otherwise)
        return None


@dataclass
class Pace:
    """Saves a stage under way at intervals.

    Not sooner than the user asked for, and not while more than `SHARE` of the training would have
    gone into saving: a table of gigabytes is saved more seldom than a small network.
    """

    files: StageFiles
    seconds: float
    """Least time between two saves."""
    spent: float = 0.0
    """Seconds that went into saving."""
    expected: float | None = None
    """Seconds that the next save will take; None before the first."""

    def __post_init__(self) -> None:
        """Begin with an interval."""
        self.due = time.monotonic() + self.seconds

    def is_due(self) -> bool:
        """Return whether it is time to think of a save."""
        return time.monotonic() > self.due

    def save(self, state: Mapping[str, Any], *, trained: float, at_once: bool) -> None:
        """Save, or put it off for as long as it would cost too much.

        Args:
            state: What to save.
            trained: Seconds of training since this was made.
            at_once: Whatever it costs.

        Raises:
            StoreError: As `StageFiles.save_under_way`.
        """
        expected = _n_bytes(state) / SLOW_DISK if self.expected is None else self.expected
        early = 0.0 if at_once else (self.spent + expected) / SHARE - trained
        if early > 0:
            self.due = time.monotonic() + early
            return
        begun = time.monotonic()
        self.files.save_under_way(state)
        self.expected = time.monotonic() - begun
        self.spent += self.expected
        self.due = time.monotonic() + self.seconds


@dataclass(frozen=True)
class TrainingCache:
    """A folder of finished trainings, as one run sees it."""

    folder: Path
    run: str
    """Name of the run that reads and adds to it."""

    @contextmanager
    def answer(self, key: str, files: StageFiles, stop_requested: StopRequested) -> Iterator[None]:
        """Answer a stage that another run has computed, or keep what is computed meanwhile.

        Other processes that want the same wait for it.

        Args:
            key: Name of what the stage computes, by `training_key`.
            files: Its files.
            stop_requested: Asked while another process computes the same.

        Raises:
            RunInterrupted: The user stopped the run while it waited.
        """
        # RESULTS_DIR/sweeps/NAME/searches
        make_folder(self.folder, within=self.folder.parent.parent.parent)
        while True:
            with lock(self.folder / f"{key}.lock", seconds=1.0) as held:
                if held:
                    reused = self.get(key, files)
                    yield
                    if not reused:
                        self.put(key, files)
                    return
            if stop_requested():
                raise RunInterrupted("stopped by the user while another run computes its search")

    def get(self, key: str, files: StageFiles) -> bool:
        """Answer a stage by the result that another run computed.

        Returns:
            Whether the stage is answered by another run's work, be it from an earlier try.
        """
        marker = files.reused_file
        if is_whole(files.finished_file):
            return marker.is_file()
        files.finished_file.unlink(missing_ok=True)
        marker.unlink(missing_ok=True)
        other = next(filter(is_whole, sorted(self.folder.glob(f"{key}-*.pt"))), None)
        if other is None:
            return False
        with explain_write(files.finished_file):
            files.folder.mkdir(exist_ok=True)
            write_text(marker, "")
            try:
                _link(other, files.finished_file)
            except FileNotFoundError:  # the study is over, for whoever removed it
                marker.unlink()
                return False
        return True

    def put(self, key: str, files: StageFiles) -> None:
        """Keep what this run computed for others."""
        own = self.folder / f"{key}-{self.run}.pt"
        with explain_write(own):
            if own.is_file() and not is_whole(own):
                own.unlink()
            with suppress(FileExistsError):
                _link(files.finished_file, own)


def training_key(
    state: Mapping[str, Tensor], training: Sequence[Any], config: Config, **other: Any
) -> str:
    """Name a training by the weights that it begins with, and all else that decides its end.

    Args:
        state: The network's weights and masks.
        training: What a strategy asks for.
        config: Of the run.
        other: What else the trainings of two runs must have in common to be one.
    """
    plain = decisive(config_to_dict(config), NAMED_OTHERWISE)
    settings = {"training": training, "config": plain, "numbers": NUMBERS, **other}
    settings["versions"] = versions()
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in state.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:24]


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is there, readable, and each of its entries has its checksum."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, ValueError, NotImplementedError):
        return False


def _save(path: Path, state: Mapping[str, Any], *, keep_as: Path | None = None) -> None:
    with explain_write(path):
        path.parent.mkdir(exist_ok=True)  # nor the folder around it, if it was removed meanwhile
    with atomic_write(path) as temporary:
        _write(temporary, state)
        # Between here and the end there is no last save, but the one before.
        if keep_as is not None and path.is_file():
            path.replace(keep_as)


def _write(temporary: Path, state: Mapping[str, Any]) -> None:
    with temporary.open("wb") as file:
        torch.save(dict(state), file)


def _n_bytes(value: object) -> int:
    """Bytes of all tensors in plain containers."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(_n_bytes, value.values()))
    return sum(map(_n_bytes, value)) if isinstance(value, list | tuple) else 0


def _link(source: Path, target: Path) -> None:
    """Make `target` the same file, or a copy where the disk knows no links; whole or not at all."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        with atomic_write(target) as temporary:
            shutil.copyfile(source, temporary)
