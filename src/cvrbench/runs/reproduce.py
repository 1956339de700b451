"""A finished run, run again from its record elsewhere, and compared with what it was."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from cvrbench.config.compose import with_own_word
from cvrbench.config.schema import NoLoggerConfig
from cvrbench.errors import StoreError
from cvrbench.runs import experiment
from cvrbench.runs.environment import differences
from cvrbench.runs.load import FILES, Finished, read_finished, read_weights
from cvrbench.runs.record import RunRecord
from cvrbench.runs.store import ResultStore
from cvrbench.training.callbacks import OnProgress, ignore

NOISE = 1e-4
"""Deviation of a metric that still counts as rounding, by default. Rounding grows while a network
trains: another instruction set moves an AUC by 1e-8 for the first hundreds of steps, and by some
1e-4 once a unit has gone over to the other side of its ReLU (docs/how-to/compare-two-runs.md)."""
Weights = dict[str, npt.NDArray[Any]]
Verdict = Literal["identical", "noise", "different"]


class Deviation(NamedTuple):
    """A metric, or the weights, then and now."""

    name: str
    then: float | None
    now: float | None

    @property
    def size(self) -> float:
        """Absolute difference; infinite where only one value is defined."""
        if self.then is None or self.now is None:
            return 0.0 if self.then is self.now else float("inf")
        return abs(self.now - self.then)


@dataclass(frozen=True, kw_only=True)
class Original(Finished):
    """A finished run with all that is needed to run it again."""

    weights: Weights
    """Empty where they are not there any more."""


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A run and its copy."""

    original: RunRecord
    copy: RunRecord
    metrics: tuple[Deviation, ...]
    """Every metric of every split: `test ctr_auc`."""
    weights: float | None
    """Largest deviation of a weight; None where there is nothing to compare with."""
    n_weights: int
    """Tensors compared."""
    noise: float = NOISE
    """Deviation of a metric that counts as rounding."""

    @property
    def verdict(self) -> Verdict:
        """Whether the copy is the same bit for bit, within float noise, or not."""
        sizes = [one.size for one in self.metrics]
        if max(sizes, default=0.0) > self.noise or self.weights == float("inf"):
            return "different"
        return "identical" if not any(sizes) and not self.weights else "noise"

    @property
    def largest(self) -> Deviation | None:
        """The metric of the largest deviation, if there is any."""
        off = max(self.metrics, key=lambda one: one.size, default=None)
        return off if off is not None and off.size > 0 else None

    @property
    def first(self) -> Deviation | None:
        """The first metric that deviates by more than noise, if there is one."""
        return next((one for one in self.metrics if one.size > self.noise), None)

    @property
    def changed(self) -> dict[str, tuple[str, str]]:
        """Versions and parts of the machine that differ between the two runs, as then and now."""
        return differences(self.original.environment, self.copy.environment)


def read_original(run_dir: Path, words: Sequence[str] | None = None) -> Original:
    """Read a finished run, and check that its data are there and unchanged.

    Args:
        run_dir: Its folder.
        words: What the user says of the data folder, for a run that may be somebody else's; None:
            as the run has it.

    Raises:
        StoreError: The folder holds no run, or something in it is damaged.
        RunError: The run is unfinished.
        ConfigError: The run's data folder is not the user's own.
        DataError: Its data are missing, or have changed.
    """
    run = read_finished(run_dir)
    if words is not None:
        composed = with_own_word(run.composed, words, f"cvrbench reproduce {run_dir}")
        run = replace(run, composed=composed)
    run.open_dataset(prepare=True)
    return Original(**vars(run), weights=_weights(run_dir))


def run_again(
    original: Original,
    results_dir: Path,
    *,
    noise: float = NOISE,
    on_progress: OnProgress = ignore,
) -> Reproduction:
    """Run a finished run again in another results folder, with as many threads, and compare.

    Args:
        original: The finished run.
        results_dir: Folder of the copy.
        noise: Deviation of a metric that counts as rounding.
        on_progress: Called after every step.

    Raises:
        StoreError: The results folder is the original's own, or cannot be written.
        RunError, RunInterrupted: As `experiment.run`.
    """
    if results_dir.resolve() in original.folder.resolve().parents:
        raise StoreError(
            f"{results_dir} is where {original.record.run_id} lies, which must stay as it is; name "
            "another folder"
        )
    config = original.composed.config
    threads = original.record.environment.get("threads", config.trainer.threads)
    config = replace(
        config,
        results_dir=str(results_dir),
        trainer=replace(config.trainer, threads=threads),
        logger=NoLoggerConfig(kind="none"),
    )
    copy = experiment.run(replace(original.composed, config=config), on_progress=on_progress)
    folder = ResultStore(results_dir).runs / copy.run_id
    n, weights = _compare(original.weights, _weights(folder))
    return Reproduction(
        original=original.record,
        copy=copy,
        metrics=tuple(_deviations(original.record, copy)),
        weights=weights,
        n_weights=n,
        noise=noise,
    )


def _weights(folder: Path) -> Weights:
    files = [read_weights(folder, name) or {} for name in FILES]
    return {name: tensor.numpy() for file in files for name, tensor in file.items()}


def _deviations(then: RunRecord, now: RunRecord) -> Iterator[Deviation]:
    for split in dict.fromkeys([*reversed(then.metrics), *now.metrics]):  # test before valid
        before, after = then.metrics.get(split, {}), now.metrics.get(split, {})
        for name in dict.fromkeys([*before, *after]):
            yield Deviation(f"{split} {name}", before.get(name), after.get(name))


def _compare(then: Weights, now: Weights) -> tuple[int, float | None]:
    """Return how many tensors there are, and the largest deviation: infinite for other names."""
    if not then:
        return 0, None
    if then.keys() != now.keys():
        return len(then), float("inf")
    return len(then), max(_apart(then[name], now[name]) for name in then)


def _apart(then: npt.NDArray[Any], now: npt.NDArray[Any]) -> float:
    if then.shape != now.shape or then.dtype != now.dtype:
        return float("inf")
    if then.tobytes() == now.tobytes():
        return 0.0
    off = np.abs(then.astype(np.float64) - now.astype(np.float64)).max()
    # Bits that differ without a distance: a zero of another sign.
    return max(float(off), float(np.finfo(np.float64).tiny))
