"""Jobs that tests launch: other processes import them from here."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from cvrbench.errors import RunError


def double(number: int) -> int:
    return 2 * number


def after_the_next(argument: tuple[str, int]) -> int:
    """Wait for the job that began after this one."""
    folder, number = Path(argument[0]), argument[1]
    while number < 2 and not (folder / str(number + 1)).exists():
        time.sleep(0.01)
    time.sleep(0.5)
    (folder / str(number)).touch()
    return number


def obey(order: str) -> Any:
    """End in the way that is asked for."""
    match order:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "refuse":
            raise RunError("the loss is not finite")
        case "bug":
            raise KeyError("no such thing")
        case "unplain":
            return {1, 2}
    return order


def surroundings(name: str) -> dict[str, Any]:
    import torch

    return {
        "cwd": str(Path.cwd()),
        "variable": os.environ.get(name),
        "threads": torch.get_num_threads(),
        "pid": os.getpid(),
    }


def count_neighbours(folder: str) -> int:
    """How many of these jobs, this one included, are under way at once."""
    mine = Path(folder) / str(os.getpid())
    mine.touch()
    time.sleep(0.3)
    seen = len(list(Path(folder).iterdir()))
    mine.unlink()
    return seen


def wait_for_ever(folder: str) -> None:
    """Leave a file while it runs, and note that it was asked to end."""
    running = Path(folder) / f"running-{os.getpid()}"
    running.touch()
    try:
        while True:
            time.sleep(0.05)
    finally:
        running.rename(Path(folder) / f"asked-{os.getpid()}")


def pools(_: Any) -> dict[str, Any]:
    """How many threads each library takes, and how many cores the process kept busy."""
    import polars as pl
    import torch

    begun, used = time.monotonic(), time.process_time()
    square = torch.rand(900, 900)
    while time.monotonic() - begun < 2.0:
        square @ square
        pl.DataFrame({"x": range(100_000)}).sort("x", descending=True)
    busy = (time.process_time() - used) / (time.monotonic() - begun)
    return {"torch": torch.get_num_threads(), "polars": pl.thread_pool_size(), "busy": busy}
