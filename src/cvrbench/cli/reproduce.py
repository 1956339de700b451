"""`cvrbench reproduce`: a run again, from its record."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvrbench.cli.console import errors, out, print_json, training_bar
from cvrbench.cli.options import RESULTS, AsJson, Own, ResultsDir, Run
from cvrbench.errors import RunInterrupted

if TYPE_CHECKING:
    from cvrbench.runs.reproduce import Reproduction


def reproduce(
    run: Run,
    overrides: Own = None,
    results_dir: ResultsDir = RESULTS,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the second run, and say where it lies")
    ] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            show_default="0.0001",
            help="How far a metric may be off; on another processor more than the default",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a finished run again from its record, elsewhere, and say whether it reproduced.

    Exits with 0 where it did, bit for bit or within float noise, and with 1 where it did not.

    Examples:
        cvrbench reproduce RUN
    """
    from cvrbench.runs.environment import describe_environment, differences
    from cvrbench.runs.reproduce import NOISE, read_original, run_again
    from cvrbench.runs.store import ResultStore

    original = read_original(ResultStore(results_dir).folder(run), overrides or [])
    # Device and threads are known only once it has run again.
    if changed := differences(original.record.environment, describe_environment()):
        _say(errors, f"{original.record.run_id} ran on something else: {_changes(changed)}")
    with _scratch(keep=keep) as scratch:
        with training_bar(f"{original.record.run_id} again") as on_progress:
            noise = NOISE if tolerance is None else tolerance
            found = run_again(original, scratch, noise=noise, on_progress=on_progress)
        copy = scratch / "runs" / found.copy.run_id if keep else None
        if as_json:
            print_json(_json(found, copy))
        else:
            _say(out, f"{found.original.run_id}: {_words(found)}")
            if copy is not None:
                _say(out, f"the second run is {copy}")
    if found.verdict == "different":
        raise typer.Exit(1)


@contextmanager
def _scratch(*, keep: bool) -> Iterator[Path]:
    """Yield a results folder of its own, removed afterwards unless it is to be kept."""
    folder = Path(tempfile.mkdtemp(prefix="cvrbench-reproduce-"))
    try:
        yield folder
    except RunInterrupted as stop:
        left = f"what there was of it is in {folder}" if keep else "nothing of it is kept"
        raise RunInterrupted(f"{stop}; {left}") from None
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _words(found: "Reproduction") -> str:
    """Return the outcome as a sentence."""
    n = len(found.metrics)
    weights = f"{found.n_weights} tensors of weights"
    if found.verdict == "identical":
        if found.weights is None:
            return f"its {n} metrics are the same bit for bit; it has no weights to compare"
        return f"reproduced bit for bit: {n} metrics, {weights}"
    if found.verdict == "noise":
        off, apart = found.largest, found.weights
        metric = "no metric deviates" if off is None else f"largest deviation {_deviation(off)}"
        of_weights = f", of a weight {apart:.1e}" if apart else ""
        return f"reproduced within float noise: {metric}{of_weights}; {_why(found)}"
    first = found.first
    if first is None:
        return f"not reproduced: its weights have other names or shapes; {_why(found)}"
    off = found.largest
    largest = "" if off is None or off == first else f", largest {_deviation(off)}"
    return f"not reproduced: first {_deviation(first)}{largest}; {_why(found)}"


def _deviation(off: Any) -> str:
    return f"{off.size:.1e} in {off.name} ({off.then} then, {off.now} now)"


def _why(found: "Reproduction") -> str:
    """Return what may be the cause of a deviation."""
    if found.changed:
        return f"what may be why: {_changes(found.changed)}"
    return "nothing that the records tell is another; another processor, or a GPU, rounds otherwise"


def _changes(changed: Mapping[str, tuple[str, str]]) -> str:
    return ", ".join(f"{key} {then} then, {now} now" for key, (then, now) in changed.items())


def _say(console: Any, text: str) -> None:
    console.print(text, soft_wrap=True)


def _json(found: "Reproduction", copy: Path | None) -> dict[str, Any]:
    def plain(one: Any) -> dict[str, Any] | None:
        return None if one is None else one._asdict()

    known = found.weights is not None and found.weights != float("inf")
    return {
        "run_id": found.original.run_id,
        "verdict": found.verdict,
        "largest_deviation": plain(found.largest),
        "first_difference": plain(found.first),
        "metrics": len(found.metrics),
        "weights": {"compared": found.n_weights, "deviation": found.weights if known else None},
        "changed": {k: {"then": a, "now": b} for k, (a, b) in found.changed.items()},
        "copy": None if copy is None else str(copy),
    }
