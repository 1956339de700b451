"""Tables for papers: what they say, and that no name in them can do harm."""

import csv
import io
import shutil
import subprocess
from dataclasses import replace

import pytest

from cvrbench.cli.console import SafeConsole
from cvrbench.report.comparison import compare
from cvrbench.report.dataset_report import to_csv
from cvrbench.report.grids import comparison_grid
from cvrbench.report.tables import Cell, Grid, GridTable, to_latex, to_markdown
from tests.report.test_comparison import run

HOSTILE = r"a|b_c\d{e}$f$ &g% #h ~i ^j [bold]k[/bold] <script>l</script> `m` *n*" + "\nnext"


def grid(text: str) -> Grid:
    return Grid(
        title=text,
        headers=("strategy", "CTR\nAUC"),
        rows=((Cell(text), Cell("+0.1 ± 0.2 p<0.001", strong=True)),),
        last=(Cell("best"), Cell("0.9")),
        caption="95 % of it",
    )


def test_markdown_is_a_table_of_equal_rows():
    lines = to_markdown(grid("mmoe")).splitlines()
    assert lines[0] == "### mmoe"
    assert lines[2:6] == [
        "| strategy | CTR AUC |",
        "|---|---:|",
        r"| mmoe | **+0.1 ± 0.2 p\<0.001** |",
        "| best | 0.9 |",
    ]


def test_markdown_of_a_hostile_name_keeps_its_columns_and_runs_nothing():
    text = to_markdown(grid(HOSTILE))
    row = next(line for line in text.splitlines() if line.startswith("| a"))
    bars = [i for i, c in enumerate(row) if c == "|" and row[i - 1] != "\\"]
    assert len(bars) == 3
    assert "<script>" not in text.replace(r"\<script\>", "")
    assert len(text.splitlines()) == len(to_markdown(grid("mmoe")).splitlines())


def test_latex_is_a_booktabs_table():
    lines = to_latex(grid("mmoe")).splitlines()
    assert r"\caption{MMoE. 95 \% of it}\label{tab:mmoe}" in lines
    assert r"MMoE & \textbf{\boldmath $+0.1 \pm 0.2$ $p<0.001$} \\" in lines
    assert [line for line in lines if line.endswith("rule")] == [
        r"\toprule",
        r"\midrule",
        r"\midrule",
        r"\bottomrule",
    ]


def test_latex_of_a_hostile_name_has_no_active_character_left():
    row = next(line for line in to_latex(grid(HOSTILE)).splitlines() if line.startswith("a|b"))
    name = row.split(" & ")[0]
    for character in "&%#_":
        assert name.count(character) == name.count(f"\\{character}") == 1
    assert r"\textbackslash{}d\{e\}\$f\$" in name
    assert r"\textasciitilde{}i \textasciicircum{}j" in name


def test_the_terminal_shows_a_hostile_name_as_it_is():
    console = SafeConsole(file=io.StringIO(), width=200)
    console.print(GridTable(grid(HOSTILE)))
    assert "[bold]k[/bold]" in console.file.getvalue()


def test_csv_holds_every_metric_and_quotes_what_it_must():
    records = [run("mmoe", seed, auc) for seed, auc in enumerate((0.7, 0.72))]
    records.append(replace(run("ple", 0, None), dataset='odd, "log"'))
    rows = list(csv.DictReader(io.StringIO(to_csv([(c, None) for c in compare(records)]))))
    assert {row["dataset"] for row in rows} == {"log", 'odd, "log"'}
    (row,) = [r for r in rows if (r["dataset"], r["metric"]) == ("log", "cvr_auc")]
    assert float(row["mean"]) == pytest.approx(0.71)
    assert (row["seeds"], row["difference"]) == ("2", "")
    undefined = [r for r in rows if r["strategy"] == "ple"]
    assert all((r["mean"], r["seeds"]) == ("", "0") for r in undefined)


def test_planted_data_show_what_can_be_reached():
    planted = {"ctr_best_auc": 0.8, "cvr_best_auc": 0.8, "ctcvr_best_auc": 0.8}
    record = run("mmoe", 0, 0.7)
    metrics = {"valid": {}, "test": {**record.metrics["test"], **planted}}
    (comparison,) = compare([replace(record, metrics=metrics)])
    assert "| best reachable |" in to_markdown(comparison_grid(comparison))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_takes_what_we_write(tmp_path):
    hostile = Cell("a_b & 50 % $x^2$ #1 {} \\frac ~ <b> ± -0.5", strong=True)
    grid = Grid(
        title="hostile_name: 100 % & more",
        headers=("strategy", "CTR\nAUC", "p < 0.05"),
        rows=((hostile, Cell("-0.0012 ± 0.0004 p<0.001"), Cell("-")),),
        last=(hostile, Cell("1"), Cell("2")),
        caption="± is half of it; # is no macro.",
    )
    source = tmp_path / "t.tex"
    head = r"\documentclass{article}\usepackage{adjustbox,booktabs}\begin{document}"
    source.write_text(f"{head}\n{to_latex(grid)}\n\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", source.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "t.pdf").stat().st_size > 1000
    assert r"$-0.0012 \pm 0.0004$ $p<0.001$" in source.read_text()
