r"""A folder for a paper: tables and figures that fit, a paragraph on methods, the bibliography.

`main.tex` puts everything into one document, to look at it; a paper takes the pieces by `\input`.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Template
from typing import Any

from cvrbench.metrics.evaluation import describe_metric
from cvrbench.report import as_written, escape_control
from cvrbench.report.dataset_report import DatasetReport
from cvrbench.report.page import TEMPLATES, version_of
from cvrbench.report.tables import LATEX_SPECIAL, to_latex, words_to_latex
from cvrbench.runs.record import NUMBERS, RunRecord
from cvrbench.system.files import write_text

ENTRY = re.compile(r"^@\w+\{([\w-]+),.*$", re.MULTILINE)
SAME = {"omoe": "mmoe", "cgc": "ple", "ncs_paper": "ncs", "escm2_ipw": "escm2", "escm2_dr": "escm2"}
"""Kinds that come from the paper of another."""
MAIN = r"""\documentclass[twocolumn]{article}
\usepackage[T1]{fontenc}
\usepackage{adjustbox,booktabs,graphicx}
\begin{document}
\input{methods}
\input{verdict}
\input{tables}
\input{figures}
\bibliographystyle{plain}
\bibliography{references}
\end{document}
"""
FIGURE = Template(r"""\begin{figure*}
\centering
\includegraphics[width=\linewidth]{$file}
\caption{$caption}\label{fig:$label}
\end{figure*}
""")


def write_paper(
    reports: Sequence[DatasetReport], figures: Sequence[tuple[str, str]], folder: Path
) -> list[Path]:
    """Write everything but the figures, and return the files.

    Args:
        reports: What is compared.
        figures: File below `folder`, and caption, of every figure.
        folder: Where to.

    Raises:
        StoreError: The folder is not writable.
    """
    tables = [to_latex(grid) for report in reports for grid in report.grids(full=False)]
    drawn = [
        FIGURE.substitute(file=file, caption=_plain(caption), label=Path(file).stem)
        for file, caption in figures
    ]
    texts = {
        "main.tex": MAIN,
        "methods.tex": "\n\n".join(map(methods, reports)) + "\n",
        "verdict.tex": "\n".join(words_to_latex(r.verdict.title, r.verdict.lines) for r in reports),
        "tables.tex": "\n".join(tables),
        "figures.tex": "\n".join(drawn),
    }
    texts["references.bib"] = "".join(_cited(texts["methods.tex"]))
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def methods(report: DatasetReport) -> str:
    """Return a paragraph on how one dataset's numbers were made, as LaTeX."""
    runs = [run for _, run in report.runs()]
    comparison, first = report.comparison, runs[0]
    trainer, protocol = first.config["trainer"], first.config["protocol"]
    seeds = sorted({len(variant.runs) for variant in comparison.variants})
    rows = {split: next(iter(first.counts[split].values()))["rows"] for split in first.counts}
    spaces = ", ".join(
        describe_metric(metric, comparison.tasks).header for metric in comparison.auc_metrics
    )
    strategies = ", ".join(_kinds(runs, "model"))
    return " ".join(
        [
            rf"\paragraph{{{_plain(as_written(comparison.name))}.}}",
            f"We compare {strategies} on {_plain(as_written(comparison.dataset))}, of which "
            f"${_number(rows['train'])}$ rows train, ${_number(rows['valid'])}$ validate and "
            f"${_number(rows['test'])}$ test.",
            f"Objective: {', '.join(_kinds(runs, 'objective'))}; balancing: "
            f"{', '.join(_kinds(runs, 'balancing'))}; {_plain(spaces)}.",
            f"Each strategy is trained with {' to '.join(map(str, seeds[:1] + seeds[1:][-1:]))} "
            f"seeds for at most {trainer['epochs']} epochs in batches of {trainer['batch_size']}; "
            f"validation ({_plain(protocol['selection'])}) chooses the epoch, and the test rows "
            "are scored once, after all choices. Under one seed all strategies see the same "
            "batches in the same order.",
            r"Differences are paired over seeds and test rows, redrawn by user where users are "
            r"known, and adjusted after Holm~\cite{holm}; the best set is a model confidence "
            r"set~\cite{hansen} at 95\,\%, and what test rows alone leave open of an AUC follows "
            r"Hanley and McNeil~\cite{hanley}.",
            f"Made with cvrbench {_plain(version_of('cvrbench', first) or '?')} (numbers "
            f"{first.environment.get('numbers', NUMBERS)}), torch "
            f"{_plain(version_of('torch', first) or '?')}; fingerprint of the data: "
            rf"\texttt{{{_plain(comparison.fingerprint)}}}.",
        ]
    )


def _kinds(runs: Sequence[RunRecord], group: str) -> Iterator[str]:
    """Yield the options of a group that runs have, each with its citation if we know one."""
    known = set(ENTRY.findall((TEMPLATES / "references.bib").read_text(encoding="utf-8")))
    for name in dict.fromkeys(run.choices.get(group, "") for run in runs):
        key = SAME.get(name, name)
        yield _plain(as_written(name)) + (rf"~\cite{{{key}}}" if key in known else "")


def _cited(text: str) -> Iterator[str]:
    """Yield the entries of the bibliography that a text cites."""
    cited = set(re.findall(r"\\cite\{([\w-]+)\}", text))
    for entry in ENTRY.finditer((TEMPLATES / "references.bib").read_text(encoding="utf-8")):
        if entry.group(1) in cited:
            yield entry.group() + "\n"


def _plain(text: Any) -> str:
    return escape_control(str(text)).translate(LATEX_SPECIAL)


def _number(n: int) -> str:
    return f"{n:,}".replace(",", "{,}")
