"""The page: whole, honest in its numbers, careful with names that others chose."""

import re
from base64 import b64encode
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from jinja2 import UndefinedError

from cvrbench.report import as_written
from cvrbench.report.comparison import compare
from cvrbench.report.dataset_report import DatasetReport
from cvrbench.report.differences import against, transfer
from cvrbench.report.grids import rows_grid
from cvrbench.report.page import (
    differing_settings,
    inline,
    render,
    runs_grid,
    templates,
    warnings_between,
    warnings_of,
    write,
)
from cvrbench.report.studies import budgets_grid, trials_grid, tuned
from cvrbench.report.tables import Cell, Grid
from cvrbench.report.verdict import InfluenceKeeper, primary, recommend
from cvrbench.runs.record import RunRecord
from cvrbench.runs.store import ResultStore
from cvrbench.runs.study import StudySummary
from tests.report.made_up_studies import params, searched, study, trial
from tests.report.test_comparison import run
from tests.report.test_differences import ROWS
from tests.report.test_differences import write as write_run

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=y>&amp;\x1b[31m\u202e\ud800 $x^{"
ENVIRONMENT = {
    "command": "cvrbench run -m model=a,b",
    "device": "cpu",
    "threads": 2,
    "versions": {"cvrbench": "1.0", "torch": "2.0"},
}


class Page(HTMLParser):
    """What a browser would find; fails where an element is not closed or closed twice."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.strong: Counter[str] = Counter()
        self.texts: list[tuple[str, str]] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.tags.append((name, dict(attributes)))
        assert len(dict(attributes)) == len(attributes)
        if name != "meta":
            self.open.append(name)
        if name == "table":
            self.rows: list[list[str]] = []
            self.caption = ""
        elif name == "tr":
            self.rows.append([])
        elif name in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, name, attributes):
        self.tags.append((name, dict(attributes)))

    def handle_endtag(self, name):
        assert self.open.pop() == name
        if name == "table":
            self.tables[self.caption] = self.rows

    def handle_data(self, data):
        if not self.open:
            return
        self.texts.append((self.open[-1], data))
        if self.open[-1] == "caption":
            self.caption += data
        elif {"td", "th"} & set(self.open[-2:]):
            self.rows[-1][-1] += data
            self.strong[data] += self.open[-1] == "strong"

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.tags if found == name]

    def said(self, *names: str) -> str:
        return "".join(data for name, data in self.texts if not names or name in names)


def part_of(records: list[RunRecord], sweeps: tuple[StudySummary, ...] = ()) -> DatasetReport:
    (comparison,) = compare(records)
    return DatasetReport(
        comparison=comparison,
        verdict=recommend(comparison, InfluenceKeeper(()), primary(comparison)),
        differences=None,
        transfer=None,
        tuned=tuned(comparison, sweeps),
        sweeps=sweeps,
    )


def fair(**changes) -> list[RunRecord]:
    """Two rows of two seeds that had equal chances."""
    values = {"environment": ENVIRONMENT, **changes}
    return [run(model, seed, 0.7, **values) for model in ("mmoe", "ple") for seed in (0, 1)]


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    """Three rows of five seeds on disk, tested; `ple` is better."""
    folder = tmp_path_factory.mktemp("results")
    rng = np.random.default_rng(0)
    merit = rng.standard_normal(ROWS)
    click = merit + rng.standard_normal(ROWS) > 0.5
    conversion = click & (merit + rng.standard_normal(ROWS) > 1.2)
    for model, noise in (("single_task", 1.5), ("shared_bottom", 1.5), ("ple", 1.0)):
        for seed in range(5):
            score = merit + noise * rng.standard_normal(ROWS)
            write_run(folder, model, seed, score, click, conversion)
    store = ResultStore(folder)
    (comparison,) = compare(store.records())
    found = against(comparison, ["shared_bottom", "single_task"], store)
    return DatasetReport(
        verdict=recommend(comparison, InfluenceKeeper(()), primary(comparison)),
        comparison=comparison,
        differences=found["shared_bottom"],
        transfer=transfer(comparison, found["single_task"]),
        tuned=dict.fromkeys((v.label for v in comparison.variants), None),
    )


@pytest.fixture(scope="module")
def sweep():
    lost = trial(24, params=params(24))
    return replace(searched(), trials=(*searched().trials, lost))


@pytest.fixture(scope="module")
def source(part, sweep):
    return render([part], [sweep])


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


def test_the_page_is_whole(page, source):
    assert source.startswith("<!DOCTYPE html>")
    assert page.all("html") == [{"lang": "en"}]
    assert page.said("title") == "cvrbench report: log"
    for name in ("header", "nav", "main", "h1"):
        assert len(page.all(name)) == 1, name


def test_every_id_is_there_once_and_every_link_arrives(page, source):
    ids = Counter(attributes["id"] for _, attributes in page.tags if "id" in attributes)
    assert [name for name, times in ids.items() if times > 1] == []
    links = [attributes["href"] for _, attributes in page.tags if "href" in attributes]
    inside = {link.removeprefix("#") for link in links if link.startswith("#")}
    inside |= set(re.findall(r"url\(#([^)]+)\)", source))
    inside |= {a["aria-describedby"] for _, a in page.tags if "aria-describedby" in a}
    assert inside <= set(ids)
    assert {"data-1", "data-1-values", "data-1-runs", "sweeps", "sweep-1"} <= inside


def test_the_page_needs_nothing_from_elsewhere(page, source):
    names = {name for name, _ in page.tags}
    assert [attributes for name, attributes in page.tags if name == "script"] == [{}]
    assert not names & {"link", "img", "iframe", "object", "embed", "base", "form"}
    outside = [
        value
        for _, attributes in page.tags
        for key, value in attributes.items()
        if key in ("href", "src", "xlink:href") and not value.startswith(("#", "data:"))
    ]
    assert outside == []
    assert "@import" not in source
    assert "url(http" not in source


def named(label):
    """A row's label, beside what papers call it."""
    first = label.split(" ")[0]
    return label if as_written(first) == first else f"{label} {as_written(first)}"


def test_tables_have_the_cells_of_the_grids(page, part, sweep):
    titles = [grid.title for grid in part.grids(full=True)]
    assert len(set(titles)) == len(titles) == 5
    runs = [runs_grid(variant) for variant in part.comparison.variants]
    grids = [*part.grids(full=True), rows_grid(part.comparison), *runs]
    for grid in [*grids, budgets_grid([sweep]), trials_grid(sweep)]:
        head, *rows = page.tables[grid.title]
        assert head == [header.replace("\n", " ") for header in grid.headers]
        wanted = [*grid.rows, *([] if grid.last is None else [grid.last])]
        assert rows == [[named(row[0].text), *(c.text for c in row[1:])] for row in wanted]
        for cell in [cell for row in wanted for cell in row if cell.strong]:
            assert page.strong[cell.text]


def test_the_verdict_comes_first_and_is_the_terminals(page, part):
    assert part.verdict.title in page.said("strong")
    for line in part.verdict.lines:
        assert line in page.said("p") or line.startswith("cvrbench ")


def test_headers_name_the_population(page, part):
    for grid in (part.values, part.differences_grid, part.transfer_grid):
        assert "CVR AUC (clicked)" in page.tables[grid.title][0]
    rows = page.tables["log: what was tested"]
    assert rows[0][1:] == ["CTR (exposures)", "CVR (clicked)", "CTCVR (exposures)"]
    assert rows[2][1:] == ["200", "20", "20"]


def test_every_figure_has_words(page):
    figures = page.all("figure")
    first = ["data-1-figure-comparison", "data-1-figure-forest", "data-1-figure-transfer"]
    assert [f["id"] for f in figures[:3]] == first
    assert "sweep-1-history" in {f["id"] for f in figures}
    drawings = page.all("svg")
    assert len(drawings) == len(figures) == len(page.all("figcaption"))
    assert all(d["role"] == "img" and len(d["aria-label"]) > 40 for d in drawings)


def test_a_drawing_keeps_only_the_names_it_needs_and_they_are_its_own():
    drawing = (
        '<?xml version="1.0"?><svg width="1pt" viewBox="0 0 30 20"><!-- <b> --><metadata>x'
        '</metadata><g id="axes_1"><path id="m1" d="M 0.123456 1"/><use xlink:href="#m1" '
        'clip-path="url(#p1)" transform="scale(0.015625)"/><clipPath id="p1"/></g></svg>'
    )
    found = inline(drawing, "here", 'a "label"')
    assert Page(found).all("svg")[0]["aria-label"] == 'a "label"'
    assert 'id="here-m1"' in found
    assert 'href="#here-m1"' in found
    assert 'url(#here-p1)"' in found
    assert 'd="M 0.12 1"' in found
    assert "scale(0.015625)" in found
    for gone in ("axes_1", "metadata", "<!--", "xlink", "<?xml"):
        assert gone not in found


def test_the_same_records_give_the_same_bytes(part, sweep, source):
    assert render([part], [sweep]) == source
    assert source.isascii()


def test_a_row_tells_what_is_behind_it():
    config = {"model": {"kind": "ple", "rate": 0.1, "hidden": [64, 32]}, "data_dir": "/home"}
    other = run("ple", 1, 0.7, config=config, environment={"command": "cvrbench run again"})
    undefined = {"test": {"cvr_gauc": "no user has both"}}
    records = [*fair()[:2], replace(other, undefined=undefined)]
    page = Page(render([part_of(records)], []))
    told = page.said("code")
    assert "cvrbench run -m model=a,b" in told
    assert "cvrbench run again" in told
    assert "model.hidden=[64,32]" in told
    assert "/home" not in told
    assert "no cvr_gauc (no user has both), seed 1" in page.said("li")


def test_settings_that_differ_are_those_that_both_rows_have():
    a = run("mmoe", 0, 0.7, config={"model": {"kind": "mmoe", "gates": 2}, "rate": 1, "same": 0})
    b = run("ple", 0, 0.7, config={"model": {"kind": "ple", "levels": 2}, "rate": 2, "same": 0})
    (comparison,) = compare([a, b])
    assert differing_settings(comparison) == {"mmoe": ["rate=1"], "ple": ["rate=2"]}


def test_the_command_that_a_sweep_chose_is_told():
    records = fair()
    chosen = {"overrides": ["model=ple", "model.rate=0.5"], "runs": [records[2].run_id]}
    page = Page(render([part_of(records, (study([], chosen=chosen),))], []))
    assert "cvrbench run model=ple model.rate=0.5" in page.said("code")


# Warnings


@pytest.fixture
def without_figures(monkeypatch):
    """Pages of words and tables: where only they are looked at."""
    monkeypatch.setattr("cvrbench.report.page._drawn", lambda *_: [])


def planted(**changes) -> list[RunRecord]:
    """The fair runs, the last one changed."""
    *others, last = fair()
    environment = {**last.environment, **changes.pop("environment", {})}
    return [*others, replace(last, environment=environment, **changes)]


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (planted(seed=2), "different seeds (0, 1 for mmoe; 0, 2 for ple)"),
        (
            planted(environment={"versions": {"cvrbench": "1.1", "torch": "2.0"}}),
            "different versions of cvrbench (1.0 for mmoe, ple; 1.1 for ple)",
        ),
        (
            planted(environment={"versions": {"cvrbench": "1.0", "torch": "2.1"}}),
            "different versions of torch (2.0 for mmoe, ple; 2.1 for ple)",
        ),
        (planted(test_scored=3), "saw: ple (3 times)"),
        (
            planted(environment={"device": "H100"}),
            "different devices (cpu for mmoe, ple; H100 for ple)",
        ),
        (planted(environment={"threads": 1}), "numbers of threads (2 for mmoe, ple; 1 for ple)"),
        (fair()[::2], "no test: mmoe, ple."),
    ],
)
@pytest.mark.usefixtures("without_figures")
def test_a_warning_for_what_is_not_fair_and_for_nothing_else(records, words):
    (warning,) = warnings_of(part_of(records))
    assert words in warning
    page = Page(render([part_of(records)], []))
    assert words in page.said("li")
    assert "log (f): 1 warning" in page.said("a")


@pytest.mark.usefixtures("without_figures")
def test_no_warning_without_a_reason():
    assert warnings_of(part_of(fair())) == []
    assert Page(render([part_of(fair())], [])).all("aside") == []


def test_records_that_do_not_tell_what_they_ran_on_are_no_reason():
    assert warnings_of(part_of([*fair()[:3], replace(fair()[3], environment={})])) == []


def test_tuned_rows_beside_presets_and_unequal_budgets():
    records = fair()
    sweeps = [
        study([], name=f"of {n}", chosen={"runs": [records[n].run_id]}, limits=limits)
        for n, limits in ((0, {"trials": 30, "epochs": None}), (2, {"trials": 40, "epochs": None}))
    ]
    (warning,) = warnings_of(part_of(records, (sweeps[0],)))
    assert "A sweep tuned mmoe, while ple ran as preset" in warning
    (warning,) = warnings_of(part_of(records, tuple(sweeps)))
    told = "30 trials, 1 tuning seed for mmoe; 40 trials, 1 tuning seed for ple"
    assert f"different budgets ({told})" in warning
    equal = (sweeps[0], replace(sweeps[1], limits=sweeps[0].limits))
    assert warnings_of(part_of(records, equal)) == []


def test_data_that_were_prepared_in_two_ways():
    parts = [part_of(fair()), part_of(fair(fingerprint="other"))]
    (warning,) = warnings_between(parts)
    assert "log was prepared in 2 ways (f, other)" in warning
    assert warning in Page(render(parts, [])).said("li")
    assert warnings_between(parts[:1]) == []


# Names that others chose


def hostile_records() -> list[RunRecord]:
    task = {"name": HOSTILE, "label": HOSTILE, "parent": None, "joint": None}
    metrics = {"test": {f"{HOSTILE}_auc": 0.7}, "valid": {f"{HOSTILE}_auc": 0.7}}
    values = {
        "dataset": HOSTILE,
        "fingerprint": HOSTILE,
        "tasks": [task],
        "counts": {"test": {HOSTILE: {"rows": 100, "positives": 10}}},
        "metrics": metrics,
        "undefined": {"test": {HOSTILE: HOSTILE}},
        "choices": {HOSTILE: HOSTILE},
        "environment": {
            **dict.fromkeys(("command", "device", "threads"), HOSTILE),
            "versions": {"cvrbench": HOSTILE, "torch": HOSTILE},
            "git": {"commit": HOSTILE, "dirty": True},
        },
    }
    return [
        run(HOSTILE, seed, None, run_id=f"{HOSTILE}{seed}", config={HOSTILE: seed}, **values)
        for seed in (0, 1)
    ]


def hostile_study() -> StudySummary:
    lost = trial(1, params={HOSTILE: HOSTILE}, reason=HOSTILE)
    kept = trial(0, [0.7], params={HOSTILE: HOSTILE})
    names = dict.fromkeys(("name", "sweep", "model", "dataset", "sampler", "pruner"), HOSTILE)
    chosen = {"overrides": [HOSTILE], "runs": [f"{HOSTILE}0"]}
    return study([kept, lost], chosen=chosen, objectives=(HOSTILE,), **names)


def test_hostile_names_are_text_and_nothing_else():
    one = replace(part_of(hostile_records(), (hostile_study(),)), problems=(HOSTILE,))
    source = render([one], [hostile_study()])
    page = Page(source)
    names = {name for name, _ in page.tags}
    assert sum(name == "script" for name, _ in page.tags) == 1
    assert "img" not in names
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    assert source.isascii()
    assert "\x1b" not in source
    assert "\u202e" not in page.said()
    assert "<script>alert(1)</script>\"'><img src=x onerror=y>&amp;" in page.said("code")
    ids = Counter(attributes["id"] for _, attributes in page.tags if "id" in attributes)
    assert max(ids.values()) == 1


def test_attributes_and_text_are_escaped():
    grid = Grid(title='"><t>', headers=("<h>",), rows=cells_of("<b> & \x1b"), caption="<c>")
    drawn = str(templates().get_template("macros.html.j2").module.table(grid, "x"))
    assert [name for name in ("<t>", "<h>", "<b>", "<c>", "\x1b") if name in drawn] == []
    assert 'aria-label="&#34;&gt;&lt;t&gt;"' in drawn
    assert r"&lt;b&gt; &amp; \x1b" in drawn


def cells_of(*texts: str) -> tuple[tuple[Cell, ...], ...]:
    return tuple((Cell(text),) for text in texts)


def test_a_browser_runs_the_script_of_the_page_and_no_other(source):
    script = re.search(r"<script>(.*?)</script>", source, re.DOTALL)[1]
    allowed = b64encode(sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{allowed}'" in source.replace("&#39;", "'")
    assert "innerHTML" not in script


def test_a_name_that_the_context_lacks_is_an_error():
    with pytest.raises(UndefinedError, match="undefined"):
        templates().get_template("page.html.j2").render(css="", chapters=[])


def test_cells_keep_their_lines_and_get_no_white_space():
    rows = ((Cell("x\ny"), Cell("1\n2", strong=True)),)
    grid = Grid(title="t", headers=("a", "b"), rows=rows, caption="")
    drawn = str(templates().get_template("macros.html.j2").module.table(grid, "x"))
    assert "<td><strong>1\n2</strong></td></tr>" in drawn
    assert '<th scope="row">x\ny</th><td>' in drawn


def test_a_figure_that_cannot_be_drawn_costs_only_itself(monkeypatch):
    def undrawable(_comparison):
        raise ValueError("planted")

    monkeypatch.setattr("cvrbench.report.figures.comparison.comparison_figure", undrawable)
    page = Page(render([part_of([run("$x^{$", 0, 0.7, environment=ENVIRONMENT)])], []))
    assert "AUC of every strategy in every space: could not be drawn" in page.said("p")
    assert "$x^{$" in page.said("th")


# The command


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = ResultStore.survey
    monkeypatch.setattr(ResultStore, "survey", lambda store: replace(there(store), records=fair()))
    monkeypatch.setattr(ResultStore, "history", lambda _store, _run: [])
    return tmp_path


def test_report_writes_the_page_and_says_where(results, cvrbench):
    said = cvrbench("report")
    assert said.code == 0
    assert "wrote results/report/index.html" in said.err
    assert "CVR AUC (clicked)" in said.out
    page = Page(Path("results/report/index.html").read_text())
    assert page.tables["log: 1,000 test rows"][1][0] == "mmoe MMoE"
    # No baseline and no predictions: the page says so.
    assert "Nothing could be tested" in page.said("p")


def test_the_page_goes_elsewhere_or_nowhere(results, cvrbench):
    assert "wrote pages/one.html" in cvrbench("report", "--html", "pages/one.html").err
    assert Path("pages/one.html").is_file()
    assert "wrote" not in cvrbench("report", "--no-html").err
    assert "wrote" not in cvrbench("report", "--json").err
    assert not Path("results").exists()


@pytest.mark.parametrize("option", [["--json"], ["--format", "md"], ["--no-html"]])
def test_a_page_with_another_format_is_misuse(option, results, cvrbench):
    said = cvrbench("report", "--html", "one.html", *option)
    assert said.code == 2
    assert "leave out" in said.err
    assert said.out == ""


def test_results_that_cannot_be_written_to_are_still_reported(results, cvrbench):
    Path("results").mkdir()
    Path("results/report").write_text("a file")
    said = cvrbench("report")
    assert said.code == 0
    assert "no page: cannot write results/report/index.html" in said.err
    assert "--html FILE" in said.err
    assert cvrbench("report", "--html", "results/report/x.html").code == 1


def test_a_reason_why_nothing_was_tested_is_on_the_page(results, cvrbench):
    cvrbench("report", "--baseline", "mmoe")
    page = Page(Path("results/report/index.html").read_text())
    assert "predictions.parquet cannot be read" in page.said("p")


def test_a_record_that_cannot_be_read_is_named_and_left_out(results, cvrbench):
    Path("results/runs/broken").mkdir(parents=True)
    Path("results/runs/broken/record.json").write_text("{")
    said = cvrbench("report", "--no-html")
    assert said.code == 0
    assert "left out: results/runs/broken/record.json cannot be read" in said.err


def test_sweeps_alone_are_a_page(tmp_path):
    write(render([], [searched()]), tmp_path / "a" / "index.html")
    page = Page((tmp_path / "a" / "index.html").read_text())
    assert page.said("title") == "cvrbench report: sweeps"
    assert "sweeps: what tuning cost" in page.tables


def test_figures_of_more_rows_than_anybody_sees_are_left_out():
    records = [
        run("ncs", 0, 0.7, run_id=f"r{n}", config={"model": {"kind": "ncs", "density": n / 100}})
        for n in range(41)
    ]
    page = Page(render([part_of(records)], []))
    assert page.all("figure") == []
    assert "No figures of 41 rows" in page.said("p")
    assert len(Page(render([part_of(records[:40])], [])).all("figure")) > 0


def test_what_no_run_has_is_said_once():
    undefined = {"test": {"ctr_gauc": "no users", "cvr_gauc": "no users"}}
    one = {"test": {**undefined["test"], "cvr_auc": "one class"}}
    records = fair(undefined=undefined)
    page = Page(render([part_of([*records[:-1], replace(records[-1], undefined=one)])], []))
    words = [data for name, data in page.texts if name == "li" and "no" in data.lower()]
    assert "No ctr_gauc, cvr_gauc (no users)." in words
    assert "ple: no cvr_auc (one class), seed 1" in words
    assert sum("gauc" in data for data in words) == 1
