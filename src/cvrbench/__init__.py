"""Compare ways of sharing a network between click and conversion prediction.

The functions do what the commands of the same names do, with the same words:

>>> import cvrbench
>>> found = cvrbench.compare(["shared_bottom", "mmoe", "ncs"], "dataset=kuairand", seeds=5)
... # doctest: +SKIP
>>> found.to_polars()                                                  # doctest: +SKIP
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvrbench import errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cvrbench.config.compose import Composed
    from cvrbench.report.results import Results
    from cvrbench.runs.record import RunRecord
    from cvrbench.serving.predict import Predictor

__version__ = "0.1.0"
__all__ = ["__version__", "compare", "compose", "errors", "load", "results", "run"]

# Each function imports its worker when called: `import cvrbench` must not cost a second of torch.


def compose(*overrides: str, **settings: Any) -> "Composed":
    """Compose and validate a configuration, as `cvrbench config` does.

    Args:
        overrides: Words of the command line: `"model=ncs"`, `"model.density=0.2"`.
        settings: The same as values: `seed=1`, `model="ncs"`, `trainer={"epochs": 2}`.

    Raises:
        ConfigError: A key or a value is wrong.
    """
    from cvrbench.config.compose import compose as worker

    return worker(_words(overrides, settings))


def run(*overrides: str, force: bool = False, **settings: Any) -> "RunRecord":
    """Run one experiment, or read it if it is finished, as `cvrbench run` does.

    Args:
        overrides: Words of the command line.
        force: Run a finished one again.
        settings: The same as values.

    Raises:
        CvrbenchError: What the command would print.
    """
    (record,) = _run([compose(*overrides, **settings)], force=force)
    return record


def compare(
    models: "Iterable[str]",
    *overrides: str,
    seeds: "int | Sequence[int]" = 5,
    force: bool = False,
    **settings: Any,
) -> "Results":
    """Train strategies under the same settings and seeds, and compare them on the test rows.

    Args:
        models: Strategies, each with settings of its own if it has any: `"mmoe"`,
            `"ncs model.density=0.2"`.
        overrides: Words of the command line for all of them.
        seeds: How many seeds, from 0, or which.
        force: Run finished cells again.
        settings: The same as `overrides`, as values.

    Raises:
        CvrbenchError: What `cvrbench run -m` would print, at the first run that fails.
    """
    from cvrbench.config.compose import plan
    from cvrbench.report.results import Results
    from cvrbench.runs.store import ResultStore

    several = range(seeds) if isinstance(seeds, int) else seeds
    if not (models := list(models)) or not several:
        raise errors.ConfigError(
            'name strategies and at least one seed: compare(["shared_bottom", "mmoe"], seeds=5)'
        )
    common = [*_words(overrides, settings), f"seed={','.join(map(str, several))}"]
    words = [[f"model={model.split()[0]}", *common, *model.split()[1:]] for model in models]
    cells = [cell for one in words for cell in plan(one, multirun=True)]
    records = _run(cells, force=force)
    return Results(records, ResultStore(Path(cells[0].config.results_dir)))


def results(results_dir: str | Path = "results", *filters: str) -> "Results":
    """Read all finished runs that fit, as `cvrbench report` does; warn of unreadable ones.

    Args:
        results_dir: The folder that runs are written to.
        filters: `"dataset=kuairand"`, `"model=ncs,mmoe"`, `"model.density=0.2"`.

    Raises:
        ConfigError: No run has a filter's key or value.
    """
    import warnings

    from cvrbench.report.comparison import Filters
    from cvrbench.report.results import Results
    from cvrbench.runs.store import ResultStore

    store = ResultStore(Path(results_dir))
    survey = store.survey()
    for one in survey.unreadable:
        warnings.warn(f"left out: {one.why}", stacklevel=2)
    return Results(Filters.parse(filters).records(survey.records), store)


def load(run: str | Path, results_dir: str | Path = "results") -> "Predictor":
    """Load a finished run's network, to predict rows of another table by it.

    Args:
        run: A run's folder, or a part of its name.
        results_dir: Where a name is looked for.

    Raises:
        StoreError: There is no such run, or its weights are missing or damaged.
        DataError: Its vocabularies are missing.
    """
    from cvrbench.runs.load import load_trained
    from cvrbench.runs.store import ResultStore
    from cvrbench.serving.predict import Predictor

    return Predictor(load_trained(ResultStore(Path(results_dir)).folder(str(run))))


def _words(overrides: "Sequence[str]", settings: "dict[str, Any]") -> list[str]:
    from cvrbench.report.comparison import flat_settings

    return [*overrides, *(f"{key}={value}" for key, value in flat_settings(settings))]


def _run(cells: "list[Composed]", *, force: bool) -> "list[RunRecord]":
    """Check and run the cells of a plan here, with the command line's bars where they show."""
    from cvrbench.cli.console import preparing_bar
    from cvrbench.cli.plan import run_plan
    from cvrbench.config.runtime import LocalConfig
    from cvrbench.runs.planning import check_plan

    with preparing_bar() as on_rows:
        check_plan(cells, on_rows=on_rows)
    here = LocalConfig(kind="local", together="auto")
    return run_plan(cells, here, force=force, fail_fast=True, as_json=False, lonely=True)[0]
