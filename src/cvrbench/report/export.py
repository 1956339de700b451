"""A report for papers and notebooks: Markdown and LaTeX of the terminal's tables, tidy CSV."""

import re
from collections.abc import Sequence

import polars as pl

from cvrbench.report.differences import Differences
from cvrbench.report.frames import Comparison
from cvrbench.report.grids import Cell, Grid
from cvrbench.report.harmless import harmless, inert

LATEX_SPECIAL = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"$<$",
        ">": r"$>$",
        "±": r"$\pm$",
        "\n": " ",
    }
)
MINUS = re.compile(r"(?<!\w)-(?=\d)")
"""A hyphen that is a sign."""
MARKDOWN_SPECIAL = str.maketrans(
    {character: f"\\{character}" for character in "\\`*_{}[]<>|"} | {"\n": " "}
)


def to_markdown(grid: Grid) -> str:
    """Write a grid as a heading, a table and its caption."""

    def plain(text: str) -> str:
        return harmless(text).translate(MARKDOWN_SPECIAL)

    def line(cells: Sequence[Cell]) -> str:
        texts = [plain(cell.text) for cell in cells]
        strong = [f"**{t}**" if c.strong else t for t, c in zip(texts, cells, strict=True)]
        return f"| {' | '.join(strong)} |"

    rows = [*grid.rows, *([grid.last] if grid.last is not None else [])]
    return "\n".join(
        [
            f"### {plain(grid.title)}",
            "",
            line([Cell(header) for header in grid.headers]),
            "|---|" + "---:|" * (len(grid.headers) - 1),
            *map(line, rows),
            "",
            plain(grid.caption),
            "",
        ]
    )


def to_latex(grid: Grid) -> str:
    """Write a grid as a floating table; needs the package booktabs."""

    def plain(text: str) -> str:
        return harmless(text).translate(LATEX_SPECIAL)

    def line(cells: Sequence[Cell]) -> str:
        texts = [MINUS.sub("$-$", plain(cell.text)) for cell in cells]
        strong = [rf"\textbf{{{t}}}" if c.strong else t for t, c in zip(texts, cells, strict=True)]
        return " & ".join(strong) + r" \\"

    last = [] if grid.last is None else [r"\midrule", line(grid.last)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{plain(f'{grid.title}. {grid.caption}')}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(grid.headers) - 1)}}}",
            r"\toprule",
            line([Cell(header) for header in grid.headers]),
            r"\midrule",
            *map(line, grid.rows),
            *last,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def to_csv(compared: Sequence[tuple[Comparison, Differences | None]]) -> str:
    """Write every metric of every row of every dataset, a line each; no name is a formula."""
    lines = []
    for comparison, found in compared:
        for variant in comparison.variants:
            for metric in variant.runs[0].metrics["test"]:
                estimate = variant.estimate(metric)
                verdict = found.of(metric, variant.label) if found is not None else None
                difference = verdict.difference if verdict is not None else None
                lines.append(
                    {
                        "dataset": comparison.dataset,
                        "fingerprint": comparison.fingerprint,
                        "label_share": comparison.label_share,
                        "strategy": variant.label,
                        "metric": metric,
                        "mean": estimate.mean if estimate is not None else None,
                        "half_width": estimate.half_width if estimate is not None else None,
                        "seeds": estimate.n if estimate is not None else 0,
                        "baseline": found.baseline if found is not None else None,
                        "difference": difference.mean if difference is not None else None,
                        "difference_half_width": difference.half_width if difference else None,
                        "adjusted_p": verdict.adjusted_p if verdict is not None else None,
                        "equivalence_p": verdict.equivalence_p if verdict is not None else None,
                    }
                )
    frame = pl.DataFrame(lines, infer_schema_length=None)
    names = [name for name, kind in frame.schema.items() if kind == pl.String]
    return frame.with_columns(
        pl.col(names).map_elements(lambda text: inert(harmless(text)), return_dtype=pl.String)
    ).write_csv()
