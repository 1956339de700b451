"""Trainings that several runs have in common, kept so that each is done once.

A training follows from the weights it begins with and from settings, so that a hash of both names
its result. Results lie as finished stages do; each is kept under the name of the run that computed
it, so that every run can tell what it computed from what it was given, resumed or not.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cvrbench.files import explain_write
from cvrbench.training.checkpoint import StageFiles


@dataclass(frozen=True)
class SharedStages:
    """A folder of finished trainings, as one run sees it."""

    folder: Path
    run: str
    """Name of the run that looks."""

    def lend(self, key: str, files: StageFiles) -> bool:
        """Give a stage the result that another run computed.

        Returns:
            Whether the stage is answered by another run's work, be it from an earlier try.
        """
        if self._own(key).is_file():
            return False
        others = sorted(self.folder.glob(f"{key}-*.pt"))
        if not others:
            return False
        if files.finished_file.is_file():
            return True
        with explain_write(files.finished_file):
            files.folder.mkdir(parents=True, exist_ok=True)
            _link(others[0], files.finished_file)
        return True

    def keep(self, key: str, files: StageFiles) -> None:
        """Keep what this run computed for others."""
        own = self._own(key)
        with explain_write(own):
            own.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                _link(files.finished_file, own)

    def _own(self, key: str) -> Path:
        return self.folder / f"{key}-{self.run}.pt"


def training_key(state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> str:
    """Name a training by the weights that it begins with, and all else that decides its end."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in state.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]


def _link(source: Path, target: Path) -> None:
    """Make `target` the same file, or a copy where the disk knows no links; whole or not at all."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        temporary = target.with_suffix(".tmp")
        shutil.copyfile(source, temporary)
        temporary.replace(target)
