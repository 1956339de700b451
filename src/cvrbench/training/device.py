"""The device of a run, and the process settings a training needs."""

import errno
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from cvrbench.config.schema import TrainerConfig
from cvrbench.errors import ConfigError, RunError
from cvrbench.system.machine import keep_freed_memory

LOOSE = " does not have a deterministic implementation"
"""What torch says of an operation, after its name."""
NO_MEMORY = ("can't allocate memory", "Cannot allocate memory", "bad_alloc")
REFUSED = re.compile(r"ried to allocate (\d+ bytes|[\d.]+ [KMGT]iB)")
"""How much torch was refused, as it says on a CPU and on a GPU."""


def resolve_device(name: str) -> torch.device:
    """Resolve `auto`, `cpu`, `cuda` or `cuda:N` into a device that is there.

    Raises:
        ConfigError: The name is none of these.
        RunError: A GPU is asked for that torch cannot use.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in {"cpu", "cuda"}:
        raise ConfigError(f"trainer.device must be auto, cpu, cuda or cuda:N; got {name!r}")
    if device.type == "cuda" and (
        not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()
    ):
        raise RunError(
            f"trainer.device={name} is asked for, but torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} GPUs; use trainer.device=cpu, or install a CUDA build"
        )
    return device


@contextmanager
def explain_memory() -> Iterator[None]:
    """Turn a lack of memory into a `RunError` that says what to make smaller."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        # On a CPU torch has no type of its own for it.
        told = any(words in str(error) for words in NO_MEMORY)
        kinds = (MemoryError, torch.OutOfMemoryError)
        if not (told or isinstance(error, kinds) or getattr(error, "errno", 0) == errno.ENOMEM):
            raise
        refused = REFUSED.search(str(error))
        size = "" if refused is None else f" ({refused[1]} more were refused)"
        raise RunError(
            f"out of memory{size}; lower trainer.batch_size, trainer.eval_batch_size or the widths "
            "of the network. Or make room or run fewer at once: the same command then goes on from "
            "the last checkpoint"
        ) from None


@dataclass(frozen=True)
class Determinism:
    """Whether the same run on the same machine gives the same bits."""

    asked: bool
    """Whether nothing but fixed orders of computation was asked for, or there is nothing else."""
    loose: set[str] = field(default_factory=set)
    """Operations that ran, of which torch has none in a fixed order."""

    def facts(self) -> dict[str, Any]:
        """What a record says of it."""
        known = {"not_deterministic": sorted(self.loose)} if self.loose else {}
        return {"deterministic": self.asked and not self.loose, **known}


@contextmanager
def torch_settings(config: TrainerConfig, device: torch.device) -> Iterator[Determinism]:
    """Set threads, determinism and the random state for one run, and put them back after it.

    Yields:
        What is known of the run's determinism, once it has ended.
    """
    keep_freed_memory()
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    # Our operations are deterministic on a CPU as they are; there the switch would only cost two
    # seconds of imports and the filling of every fresh tensor.
    switch = config.deterministic and device.type == "cuda"
    found = Determinism(asked=switch or device.type == "cpu")
    with torch.random.fork_rng(), collect_loose(found.loose):
        if switch:
            torch.use_deterministic_algorithms(mode=True, warn_only=True)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        try:
            yield found
        finally:
            torch.set_num_threads(threads)
            if switch:
                torch.use_deterministic_algorithms(deterministic)


@contextmanager
def collect_loose(names: set[str]) -> Iterator[None]:
    """Note operations of which torch warns that they have no fixed order, instead of warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=f".*{LOOSE}")
        show = warnings.showwarning

        def note(message: Warning | str, *others: Any, **more: Any) -> None:
            operation, said, _ = str(message).partition(LOOSE)
            if said:
                names.add(operation.strip())
            else:
                show(message, *others, **more)

        warnings.showwarning = note
        yield
