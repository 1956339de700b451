"""What `report --paper` writes: LaTeX that is whole, and cites only what it brings."""

import re

import pytest

from cvrbench.cli.report import report
from cvrbench.config.compose import compose
from cvrbench.report import NAMES
from cvrbench.report.page import TEMPLATES
from cvrbench.report.paper import ENTRY, SAME
from cvrbench.report.tables import Cell, Grid, to_latex
from cvrbench.runs import experiment
from tests.choices import CONF

PIECES = {"main.tex", "methods.tex", "verdict.tex", "tables.tex", "figures.tex", "references.bib"}


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    base = tmp_path_factory.mktemp("paper")
    places = [f"data_dir={base / 'datasets'}", f"results_dir={base / 'results'}"]
    for model in ("shared_bottom", "mmoe"):
        for seed in range(2):
            words = ["experiment=quick_check", "trainer.threads=1", *places, f"seed={seed}"]
            experiment.run(compose([*words, f"model={model}"]))
    report([str(base / "results")], no_html=True, paper=base / "paper")
    return base / "paper"


def test_a_paper_has_every_piece_and_names_them(paper):
    assert {file.name for file in paper.iterdir()} == {*PIECES, "figures"}
    main = (paper / "main.tex").read_text()
    for name in re.findall(r"\\input\{(\w+)\}", main):
        assert (paper / f"{name}.tex").is_file()
    drawn = re.findall(r"\\includegraphics\[.*?\]\{(.*?)\}", (paper / "figures.tex").read_text())
    assert len(drawn) >= 4
    for name in drawn:
        assert (paper / name).read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("name", sorted(PIECES))
def test_braces_and_environments_close(paper, name):
    text = re.sub(r"\\[{}\\]", "", (paper / name).read_text())
    assert text.count("{") == text.count("}")
    assert text.replace(r"\$", "").count("$") % 2 == 0
    begun = re.findall(r"\\begin\{(.*?)\}", text)
    assert sorted(begun) == sorted(re.findall(r"\\end\{(.*?)\}", text))
    labels = re.findall(r"\\label\{(.*?)\}", text)
    assert len(set(labels)) == len(labels)


def test_rows_have_as_many_cells_as_columns_and_no_character_is_active(paper):
    text = (paper / "tables.tex").read_text()
    tables = re.findall(r"\\begin\{tabular\}\{(lr*)\}(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert len(tables) >= 3
    for columns, body in tables:
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(rows) >= 2
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(columns)}
    for name in ("methods.tex", "verdict.tex", "tables.tex"):
        words = re.sub(r"\\(?:label|cite|texttt)\{.*?\}", "", (paper / name).read_text())
        words = re.sub(r"(?<!\\)\$.*?(?<!\\)\$", "", words)  # mathematics
        assert re.findall(r"(?<!\\)[_%#^~<>](?!\\cite)", words.replace(r"~", "")) == []
        assert re.findall(r"[0-9] ?± ?[0-9]", words) == []


def test_strategies_and_shipped_datasets_are_called_as_papers_call_them(paper):
    options = [
        file.stem for group in ("model", "dataset") for file in (CONF / group).glob("*.yaml")
    ]
    assert set(NAMES) <= set(options)
    nameless = {name for name in options if name not in NAMES}
    assert all(name == "table" or name.startswith("synthetic") for name in nameless)
    tables = (paper / "tables.tex").read_text()
    assert "MMoE &" in tables
    assert "Shared-Bottom &" in tables
    assert not re.search(r"mmoe|shared.?.bottom &", tables)


def test_all_that_is_cited_is_in_the_bibliography_and_nothing_else(paper):
    cited = set(re.findall(r"\\cite\{([\w-]+)\}", (paper / "methods.tex").read_text()))
    assert cited == set(ENTRY.findall((paper / "references.bib").read_text()))
    assert {"mmoe", "shared_bottom", "holm", "hansen"} <= cited


def test_methods_say_what_the_records_hold(paper):
    methods = (paper / "methods.tex").read_text()
    for words in ("$4{,}200$ rows train", "2 seeds", "batches of 512", "numbers"):
        assert words in methods


def test_kinds_that_share_a_paper_have_it():
    known = set(ENTRY.findall((TEMPLATES / "references.bib").read_text()))
    assert set(SAME.values()) <= known


def test_numbers_of_a_table_are_mathematics_and_names_are_not():
    row = (Cell("ncs density=0.3"), Cell("-0.0012 ± 0.0004 p<0.001 *", strong=True), Cell("24,600"))
    grid = Grid(title="a: b", headers=("s", "d", "n"), rows=(row,), last=None, caption="")
    (line,) = [line for line in to_latex(grid).splitlines() if line.startswith("NCS")]
    assert line.startswith(r"NCS density=0.3 & ")
    assert r"\textbf{\boldmath $-0.0012 \pm 0.0004$ $p<0.001$ *}" in line
    assert r"$24{,}600$ \\" in line
