"""Ways in which a file goes wrong, and what a run must have come to for all that."""

import hashlib
import signal
from collections.abc import Callable
from pathlib import Path

from cvrbench.training.callbacks import OnProgress, Progress

WEIGHED = ("best.safetensors", "masks.safetensors", "predictions.parquet", "history.jsonl")


def truncate(file: Path) -> None:
    """Lose the second half."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    """Lose everything but the name."""
    file.write_bytes(b"")


def flip(file: Path, at: float = 0.5) -> None:
    """Flip one bit round, at some part of the file."""
    content = bytearray(file.read_bytes())
    content[int(at * (len(content) - 1))] ^= 0b100
    file.write_bytes(content)


def vanish(file: Path) -> None:
    """Lose the file."""
    file.unlink()


def digests(folder: Path) -> dict[str, str]:
    """Hash what must be the same bit for bit after a run, whatever happened during it."""
    there = [folder / name for name in WEIGHED if (folder / name).is_file()]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in there}


def at_step(stage: str, step: int, act: Callable[[], object]) -> OnProgress:
    """Do something once, when a stage has come to a step."""
    done = []

    def on_progress(now: Progress) -> None:
        if now.stage.startswith(stage) and now.step >= step and not done:
            done.append(now)
            act()

    return on_progress


def press_ctrl_c() -> None:
    """Ask the run to stop."""
    signal.raise_signal(signal.SIGINT)
