"""Checkpoints of an unfinished run: one file per finished stage, one for the stage under way.

A run is a sequence of trainings (NCS: every search training, then the final one). Their order is
fixed by the config, so resuming needs no logic in a strategy: the run starts over, each finished
stage is answered from its file, and the one under way goes on from its own.

Files hold tensors and plain values only and are read with `weights_only=True`.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cvrbench.errors import StoreError


@dataclass(frozen=True)
class StageFiles:
    """The checkpoint files of one stage of a run."""

    folder: Path
    number: int

    @property
    def finished_file(self) -> Path:
        """Where what the stage ended with is, or will be."""
        return self.folder / f"stage-{self.number}.pt"

    def finished(self) -> dict[str, Any] | None:
        """What the stage ended with, if it did."""
        return _load(self.finished_file)

    def under_way(self) -> dict[str, Any] | None:
        """Where the stage was when it was last saved, if it was."""
        return _load(self.folder / f"stage-{self.number}-partial.pt")

    def save_under_way(self, state: dict[str, Any]) -> None:
        """Save a stage that goes on."""
        _save(self.folder / f"stage-{self.number}-partial.pt", state)

    def save_finished(self, state: dict[str, Any]) -> None:
        """Save what a stage ended with; its partial file is no longer needed."""
        _save(self.finished_file, state)
        (self.folder / f"stage-{self.number}-partial.pt").unlink(missing_ok=True)


def _save(path: Path, state: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(f"cannot write the checkpoint {path}: {error}") from None


def _load(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise StoreError(
            f"the checkpoint {path} cannot be read ({type(error).__name__}); delete it, and the "
            "run resumes from the checkpoint before"
        ) from None
    return state
