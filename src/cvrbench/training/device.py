"""The device of a run, and the process settings a training needs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cvrbench.config.schema import TrainerConfig
from cvrbench.errors import ConfigError, RunError
from cvrbench.memory import keep_freed_memory


def resolve_device(name: str) -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:N` into a device that is there.

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
    except (MemoryError, RuntimeError) as error:
        # On a CPU torch has no type of its own for it.
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and "can't allocate memory" not in str(error):
            raise
        said = str(error).partition("\n")[0] or type(error).__name__
        raise RunError(
            "out of memory; lower trainer.batch_size, trainer.eval_batch_size or the widths of the "
            f"network, or run fewer at once ({said})"
        ) from None


@contextmanager
def torch_settings(config: TrainerConfig, device: torch.device) -> Iterator[None]:
    """Set threads, determinism and the random state for one run, and put them back after it."""
    keep_freed_memory()
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    # Our operations are deterministic on a CPU as they are; there the switch would only cost two
    # seconds of imports and the filling of every fresh tensor.
    switch = config.deterministic and device.type == "cuda"
    with torch.random.fork_rng():
        if switch:
            torch.use_deterministic_algorithms(mode=True, warn_only=True)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            if switch:
                torch.use_deterministic_algorithms(deterministic)
