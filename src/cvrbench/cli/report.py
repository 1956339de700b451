"""`cvrbench report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cvrbench.cli.console import errors, out, print_json
from cvrbench.errors import StoreError

if TYPE_CHECKING:
    from cvrbench.report.differences import Differences
    from cvrbench.report.frames import Comparison
    from cvrbench.store import ResultStore


def report(
    results_dir: Annotated[Path, typer.Argument(help="Folder of results")] = Path("results"),
    figures: Annotated[
        Path | None,
        typer.Option("--figures", metavar="DIR", help="Write one PNG per dataset there"),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="ROW",
            help="Row to compare with; default: shared_bottom, shared_embedding or single_task",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, one object per dataset")
    ] = False,
) -> None:
    """Compare all finished runs: per dataset the values, and which differences are real."""
    from cvrbench.report.differences import choose_baselines
    from cvrbench.report.frames import compare
    from cvrbench.store import ResultStore

    store = ResultStore(results_dir)
    comparisons = compare(store.records())
    if not comparisons:
        raise StoreError(
            f"{results_dir} holds no finished run with a scored test; run `cvrbench run model=ncs`"
        )
    for comparison, row in zip(comparisons, choose_baselines(comparisons, baseline), strict=True):
        _print(comparison, _differences(comparison, row, store), as_json=as_json)
        if figures is not None:
            from cvrbench.report.plots import comparison_figure, save

            name = f"{comparison.dataset}-{comparison.fingerprint[:6]}.png"
            written = save(comparison_figure(comparison), figures / name)
            errors.print(f"wrote {written}", soft_wrap=True)
    if (unfinished := store.unfinished()) and not as_json:
        errors.print(f"{len(unfinished)} unfinished runs are not counted; `cvrbench ls` lists them")


def _differences(
    comparison: "Comparison", baseline: str | None, store: "ResultStore"
) -> "Differences | None":
    """Differences to the baseline; None, with the reason on stderr, where there can be none."""
    from cvrbench.report.differences import against

    if baseline is None:
        return None
    try:
        return against(comparison, baseline, store)
    except StoreError as problem:
        errors.print(f"no differences for {comparison.dataset}: {problem}", soft_wrap=True)
        return None


def _print(comparison: "Comparison", found: "Differences | None", *, as_json: bool) -> None:
    from cvrbench.report.tables import comparison_json, comparison_table, difference_table

    if as_json:
        print_json(comparison_json(comparison, found))
        return
    out.print(comparison_table(comparison))
    if found is not None and any(found.verdicts.values()):
        out.print(difference_table(comparison, found))
