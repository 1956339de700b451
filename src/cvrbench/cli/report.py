"""`cvrbench report`."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cvrbench.cli.console import errors, out, print_json
from cvrbench.cli.report_sweeps import draw_sweeps, print_sweeps_json, read_sweeps, sweep_grids
from cvrbench.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cvrbench.report.differences import Differences
    from cvrbench.report.frames import Comparison
    from cvrbench.report.grids import Grid
    from cvrbench.report.sharing import Agreement
    from cvrbench.report.studies import Tuned
    from cvrbench.report.transfer import Transfer
    from cvrbench.store import ResultStore, RunRecord
    from cvrbench.studies import StudySummary


class Format(StrEnum):
    """What a report is printed as."""

    terminal = "terminal"
    md = "md"
    latex = "latex"
    csv = "csv"
    json = "json"


def report(
    results_dir: Annotated[Path, typer.Argument(help="Folder of results")] = Path("results"),
    figures: Annotated[
        Path | None,
        typer.Option("--figures", metavar="DIR", help="Draw what there is of every dataset there"),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="ROW",
            help="Row to compare with; default: shared_bottom, shared_embedding or single_task",
        ),
    ] = None,
    layout: Annotated[
        Format, typer.Option("--format", help="How tables are printed; `json` is --json")
    ] = Format.terminal,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, one object per dataset and sweep")
    ] = False,
) -> None:
    """Compare all finished runs: per dataset the values, and which differences are real."""
    from cvrbench.store import ResultStore

    store = ResultStore(results_dir)
    layout = Format.json if as_json else layout
    sweeps = read_sweeps(results_dir)
    some = present(
        store.records(), store, baseline=baseline, layout=layout, figures=figures, sweeps=sweeps
    )
    if not some and not sweeps:
        raise StoreError(
            f"{results_dir} holds no finished run with a scored test; run `cvrbench run model=ncs`"
        )
    if (unfinished := store.unfinished()) and layout is Format.terminal:
        errors.print(f"{len(unfinished)} unfinished runs are not counted; `cvrbench ls` lists them")


def present(
    records: "Sequence[RunRecord]",
    store: "ResultStore",
    *,
    baseline: str | None = None,
    layout: Format = Format.terminal,
    figures: Path | None = None,
    sweeps: "Sequence[StudySummary]" = (),
) -> bool:
    """Print, and draw where wanted, what runs say against each other; False if none was tested."""
    from cvrbench.report.differences import choose_baselines
    from cvrbench.report.frames import compare

    comparisons = compare(records)
    rows = choose_baselines(comparisons, baseline) if comparisons else []
    compared = [(c, _differences(c, row, store)) for c, row in zip(comparisons, rows, strict=True)]
    transfers = [_transfer(comparison, found, store) for comparison, found in compared]
    _print(compared, transfers, layout, sweeps)
    if figures is not None:
        for comparison, gain in zip(comparisons, transfers, strict=True):
            _draw(comparison, gain, store, figures)
        draw_sweeps(sweeps, figures)
    return bool(comparisons)


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


def _transfer(
    comparison: "Comparison", found: "Differences | None", store: "ResultStore"
) -> "Transfer | None":
    """Gain over the tasks alone, where they were run; no word where differences had theirs."""
    from cvrbench.report.transfer import transfer

    if found is None:
        return None
    try:
        return transfer(comparison, store, found)
    except StoreError as problem:
        errors.print(f"no transfer for {comparison.dataset}: {problem}", soft_wrap=True)
        return None


def _draw(
    comparison: "Comparison", gain: "Transfer | None", store: "ResultStore", folder: Path
) -> None:
    from cvrbench.report.plots.comparison import comparison_figure
    from cvrbench.report.plots.masks_compared import masks_figure
    from cvrbench.report.plots.sharing import agreement_figure, gates_figure
    from cvrbench.report.plots.style import save
    from cvrbench.report.plots.transfer import transfer_figure
    from cvrbench.report.sharing import gatings

    dataset = comparison.dataset
    figures = {
        "": comparison_figure(comparison),
        "masks-": masks_figure(comparison),
        "gradients-": agreement_figure(dataset, _agreements(comparison, store)),
        "gates-": gates_figure(dataset, gatings(comparison)),
        "transfer-": None if gain is None else transfer_figure(comparison, gain),
    }
    for kind, figure in figures.items():
        if figure is not None:
            name = f"{kind}{dataset}-{comparison.fingerprint[:6]}.png"
            errors.print(f"wrote {save(figure, folder / name)}", soft_wrap=True, markup=False)


def _agreements(comparison: "Comparison", store: "ResultStore") -> "Sequence[Agreement]":
    from cvrbench.report.sharing import agreements

    try:
        return agreements(comparison, store)
    except StoreError as problem:
        errors.print(f"no gradients for {comparison.dataset}: {problem}", soft_wrap=True)
        return []


def _print(
    compared: "Sequence[tuple[Comparison, Differences | None]]",
    transfers: "Sequence[Transfer | None]",
    layout: Format,
    sweeps: "Sequence[StudySummary]",
) -> None:
    from cvrbench.report.export import to_csv
    from cvrbench.report.studies import tuned

    if layout is Format.csv:
        print(to_csv(compared), end="")
        return
    grids: list[Grid] = []
    for (comparison, found), gain in zip(compared, transfers, strict=True):
        chosen = tuned(comparison, sweeps)
        if layout is Format.json:
            _print_json(comparison, found, gain, chosen)
        else:
            grids += _grids(comparison, found, gain, chosen if sweeps else None)
    if layout is Format.json:
        print_sweeps_json(sweeps)
        return
    for grid in [*grids, *sweep_grids(sweeps)]:
        _print_grid(grid, layout)


def _print_json(
    comparison: "Comparison",
    found: "Differences | None",
    gain: "Transfer | None",
    chosen: "dict[str, Tuned | None]",
) -> None:
    from cvrbench.report.tables import comparison_json
    from cvrbench.report.transfer import transfer_json

    print_json(
        {
            **comparison_json(comparison, found),
            "transfer": None if gain is None else transfer_json(gain),
            "tuned": {label: one and one._asdict() for label, one in chosen.items()},
        }
    )


def _print_grid(grid: "Grid", layout: Format) -> None:
    from cvrbench.report.export import to_latex, to_markdown
    from cvrbench.report.tables import grid_table

    match layout:
        case Format.md:
            print(to_markdown(grid))
        case Format.latex:
            print(to_latex(grid))
        case _:
            out.print(grid_table(grid))


def _grids(
    comparison: "Comparison",
    found: "Differences | None",
    gain: "Transfer | None",
    chosen: "dict[str, Tuned | None] | None",
) -> "list[Grid]":
    """Values, differences to the baseline, and gains over the tasks alone if those are others."""
    from cvrbench.report.grids import comparison_grid, difference_grid
    from cvrbench.report.studies import tuned_words
    from cvrbench.report.transfer import transfer_grid

    values = comparison_grid(comparison)
    if chosen is not None:
        values = replace(values, caption=f"{values.caption} {tuned_words(chosen)}")
    grids = [values]
    if found is not None and any(found.verdicts.values()):
        grids.append(difference_grid(comparison, found))
    if gain is not None and gain.gains is not found:
        grids.append(transfer_grid(comparison, gain))
    return grids
