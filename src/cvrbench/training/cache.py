"""Trainings that several runs have in common, kept so that each is done once.

A training follows from the weights it begins with and from settings, so that a hash of both names
its result. Results lie as finished stages do. A run marks the stages that it was lent, so that it
can tell them from what it computed, resumed or not.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cvrbench.config.schema import Config
from cvrbench.config.validate import config_to_dict
from cvrbench.errors import RunInterrupted
from cvrbench.runs.environment import versions
from cvrbench.runs.record import NUMBERS, decisive
from cvrbench.system.files import atomic_write, explain_write, lock
from cvrbench.training.callbacks import StopRequested
from cvrbench.training.checkpoint import StageFiles, is_whole

NAMED_OTHERWISE = ("model", "dataset", "protocol.selection", "protocol.score_test")
"""Keys of a config that do not distinguish shared trainings: the strategy states what of its
settings a training depends on, the fingerprint names the data, and every training of a search is
chosen by the mean AUC and sees no test row."""


@dataclass(frozen=True)
class TrainingCache:
    """A folder of finished trainings, as one run sees it."""

    folder: Path
    run: str
    """Name of the run that looks."""

    @contextmanager
    def lock(self, key: str, stop_requested: StopRequested) -> Iterator[None]:
        """Keep other processes from computing the same at the same time: they wait and take it.

        Raises:
            RunInterrupted: The user stopped the run while it waited.
        """
        with explain_write(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        while True:
            with lock(self.folder / f"{key}.lock", seconds=1.0) as held:
                if held:
                    yield
                    return
            if stop_requested():
                raise RunInterrupted("stopped by the user while another run computes its search")

    @contextmanager
    def answer(self, key: str, files: StageFiles, stop_requested: StopRequested) -> Iterator[None]:
        """Answer a stage that another run has computed, or keep what is computed meanwhile.

        Args:
            key: Name of what the stage computes, by `training_key`.
            files: Its files.
            stop_requested: Asked while another process computes the same.

        Raises:
            RunInterrupted: As `turn`.
        """
        with self.lock(key, stop_requested):
            lent = self.get(key, files)
            yield
            if not lent:
                self.put(key, files)

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
            files.folder.mkdir(parents=True, exist_ok=True)
            marker.touch()
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
            own.parent.mkdir(parents=True, exist_ok=True)
            if own.is_file() and not is_whole(own):
                own.unlink()
            with suppress(FileExistsError):
                _link(files.finished_file, own)


def conditions(
    config: Config, fingerprint: str, scarce: int, device: torch.device
) -> dict[str, object]:
    """Return what the trainings of two runs must have in common to be one.

    Args:
        config: Of a run.
        fingerprint: Of its prepared data.
        scarce: Number of the task whose labels are partly hidden, where some are.
        device: Where it trains.
    """
    return {
        "config": decisive(config_to_dict(config), NAMED_OTHERWISE),
        "scarce": scarce,
        "fingerprint": fingerprint,
        "device": device.type,
        "numbers": NUMBERS,
        "versions": versions(),
    }


def training_key(state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> str:
    """Name a training by the weights that it begins with, and all else that decides its end."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in state.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:24]


def _link(source: Path, target: Path) -> None:
    """Make `target` the same file, or a copy where the disk knows no links; whole or not at all."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        with atomic_write(target) as temporary:
            shutil.copyfile(source, temporary)
