"""What a report compares with what, and what it says of the doubt."""

import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from rich.console import Console
from scipy import stats as scipy_stats

from cvrbench.report.comparison import Missing, compare
from cvrbench.report.dataset_report import comparison_json
from cvrbench.report.figures.comparison import comparison_figure
from cvrbench.report.figures.style import save
from cvrbench.report.grids import comparison_grid, cost_grid, space_grids
from cvrbench.report.studies import Tuned
from cvrbench.report.tables import Grid, GridTable, cells, interval, number, run_grid
from cvrbench.runs.record import RunRecord
from cvrbench.runs.store import Unfinished
from cvrbench.stats.difference import Estimate, t_interval
from tests.test_store import RECORD

TASKS = [
    {"name": "ctr", "label": "click", "parent": None, "joint": None},
    {"name": "cvr", "label": "conversion", "parent": "ctr", "joint": "ctcvr"},
]
COUNTS = {
    "ctr": {"rows": 1000, "positives": 200},
    "cvr": {"rows": 200, "positives": 20},
    "ctcvr": {"rows": 1000, "positives": 20},
}


def run(model: str, seed: int, auc: float | None, **changes) -> RunRecord:
    metrics = {f"{name}_auc": auc for name in COUNTS}
    config = {"model": {"kind": model, "density": 0.2}, "seed": seed, "results_dir": "x"}
    values = {
        "run_id": f"{model}-{seed}",
        "model": model,
        "dataset": "log",
        "seed": seed,
        "config": config,
        "tasks": TASKS,
        "counts": {"test": COUNTS},
        "metrics": {"valid": metrics, "test": metrics},
        "parameters": 30,
        "embedding_parameters": 10,
        "seconds": {"search": 1.0, "train": 2.0, "total": 4.0},
    }
    return replace(RECORD, **{**values, **changes})


def test_seeds_become_a_mean_with_students_interval():
    (comparison,) = compare([run("mmoe", seed, auc) for seed, auc in enumerate((0.7, 0.72, 0.75))])
    (variant,) = comparison.variants
    mean, half_width, n = variant.estimate("cvr_auc")
    low, high = scipy_stats.t.interval(0.95, 2, loc=mean, scale=scipy_stats.sem([0.7, 0.72, 0.75]))
    assert (mean - half_width, mean + half_width, n) == pytest.approx((low, high, 3))


def test_other_rows_are_never_compared():
    found = compare([run("mmoe", 0, 0.7), run("ple", 0, 0.7, fingerprint="other")])
    assert [len(comparison.variants) for comparison in found] == [1, 1]


def test_what_sets_two_variants_apart_names_them():
    dense = run("ncs", 0, 0.7)
    sparse = run(
        "ncs", 0, 0.7, run_id="x", config={**dense.config, "model": {"kind": "ncs", "density": 0.1}}
    )
    (comparison,) = compare([dense, sparse, run("single_task", 0, 0.6)])
    labels = [variant.label for variant in comparison.variants]
    assert labels == ["single_task", "ncs density=0.1", "ncs density=0.2"]


def test_a_seed_without_the_metric_is_left_out_of_the_mean_and_counted_so():
    (comparison,) = compare([run("mmoe", 0, 0.7), run("mmoe", 1, None)])
    assert comparison.variants[0].estimate("ctr_auc") == Estimate(0.7, None, 1)


def test_runs_that_never_saw_the_test_are_no_part_of_a_report():
    assert compare([run("mmoe", 0, 0.7, metrics={"valid": {}})]) == []


def test_few_positives_blur_more():
    (comparison,) = compare([run("mmoe", 0, 0.7)])
    assert comparison.row_error("cvr_auc") > comparison.row_error("ctcvr_auc")
    assert comparison.row_error("ctcvr_auc") > comparison.row_error("ctr_auc") > 0


def test_tables_name_the_space_and_call_no_value_the_best():
    (comparison,) = compare([run("mmoe", 0, 0.7)])
    grid = comparison_grid(comparison)
    assert "CVR AUC (clicked)" in grid.headers
    assert "CTCVR AUC (exposures)" in grid.headers
    assert not any(cell.strong for row in grid.rows for cell in row)
    assert len(grid.rows) == 1
    assert comparison_json(comparison)["strategies"][0]["seconds"] == 3.0
    assert len(run_grid(run("mmoe", 0, 0.7)).rows) == 3


def test_undefined_is_shown_as_a_dash():
    assert number(None) == interval(None) == "-"
    assert interval(Estimate(0.7, None, 1)) == "0.7000"
    assert interval(Estimate(0.7, 0.01, 3)) == "0.7000 ± 0.0100"


@pytest.mark.parametrize("n_variants", [1, 6])
def test_figures_can_be_drawn_with_few_rows_and_with_many(n_variants, tmp_path):
    planted = {f"{name}_best_auc": 0.8 for name in COUNTS}
    models = ("single_task", "mmoe", "ple", "cgc", "omoe", "ncs")[:n_variants]
    records = []
    for seed, model in enumerate(models):
        record = run(model, seed, 0.6 + 0.01 * seed)
        metrics = {"valid": {}, "test": {**record.metrics["test"], **planted}}
        records.append(replace(record, metrics=metrics))
    (comparison,) = compare(records)
    file = save(comparison_figure(comparison), tmp_path / "deep" / "figure.png")
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_figure_is_written_whole_or_not_at_all(ending, tmp_path):
    class Torn(Figure):
        def savefig(self, path, **_):
            Path(path).write_bytes(b"half of it")
            raise KeyboardInterrupt

    whole = save(Figure(), tmp_path / f"figure.{ending}").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        save(Torn(), tmp_path / f"figure.{ending}")
    assert [file.name for file in tmp_path.iterdir()] == [f"figure.{ending}"]
    assert (tmp_path / f"figure.{ending}").read_bytes() == whole


def test_a_comparison_of_two_tasks_fits_80_columns():
    records = [run("shared_embedding", seed, 0.7 + seed / 100) for seed in range(3)]
    (comparison,) = compare(records)
    console = Console(width=80, file=StringIO())
    console.print(GridTable(comparison_grid(comparison)))
    console.print(GridTable(cost_grid(comparison, {"shared_embedding": Tuned("a", 99, 10**9)})))
    said = console.file.getvalue()
    assert "…" not in said
    for word in ("shared_embedding", "(exposures)", "(clicked)", "params", "99: 1000.00"):
        assert word in said


def test_what_most_variants_of_a_model_have_is_not_told():
    def ncs(name: str, **search):
        keys = {"kind": name, "density": 0.2, "rounds": 4 if name == "imp" else 1, **search}
        config = {"model": {"kind": "ncs", "search": keys}}
        return run("ncs", 0, 0.7, run_id=f"{name}{search}", config=config)

    of_random = {"kind": "random", "density": 0.2, "rounds": 1}
    records = [
        ncs("imp"),
        ncs("learned", gate_rate=100),
        ncs("learned", gate_rate=100, seeds=1),
        ncs("learned", gate_rate=50),
        ncs("snip", density=0.1),
        ncs("unshared", base=of_random),
    ]
    (comparison,) = compare(records)
    # A key of a search is compared with rows of that search, the density with all rows.
    assert [variant.label for variant in comparison.variants] == [
        "ncs search=imp",
        "ncs search=learned",
        "ncs search=learned gate_rate=50",
        "ncs search=learned seeds=1",
        "ncs search=snip density=0.1",
        "ncs search=unshared search.base=random",
    ]


def begun(model, seed, failure, **protocol):
    config = {**run(model, seed, None).config, "protocol": protocol}
    choices = {"model": model, "dataset": "log"}
    return Unfinished(folder=Path("x"), config=config, choices=choices, failure=failure)


def test_what_is_missing_shows_with_its_reason():
    records = [run("mmoe", seed, 0.7) for seed in (0, 1, 2)]
    records += [run("ple", seed, 0.7) for seed in (0, 1)]
    unfinished = [
        begun("ple", 2, "the loss is not finite by step 7"),
        begun("cgc", 0, None),
        begun("cgc", 1, None),
        begun("mmoe", 9, None, score_test=False),  # a sweep's trial
        begun("mmoe", 0, "a --force that failed"),  # its seed has a record
        replace(begun("mmoe", 7, None), choices={"model": 3, "dataset": "log"}),
        replace(begun("mmoe", 8, None), choices={"model": "mmoe", "dataset": "other"}),
    ]
    (comparison,) = compare(records, unfinished)
    mmoe, ple = comparison.variants
    assert mmoe.missing == ()
    assert ple.missing == (Missing(2, "failed: the loss is not finite by step 7"),)
    assert [(one.label, [m.seed for m in one.missing]) for one in comparison.absent] == [
        ("cgc", [0, 1, 2])
    ]
    grid = comparison_grid(comparison)
    assert [row[1].text for row in grid.rows] == ["3", "2 of 3", "0 of 3"]
    assert {cell.text for cell in grid.rows[2][2:]} == {"-"}
    assert (
        "Missing: ple seed 2 (failed: the loss is not finite by step 7); "
        "cgc seeds 0, 1 (unfinished); cgc seed 2 (not run)."
    ) in grid.caption
    (row,) = comparison_json(comparison)["absent"]
    assert row["missing"][0] == {"seed": 0, "reason": "unfinished"}


def test_other_shares_of_the_labels_are_never_compared():
    whole = run("mmoe", 0, 0.7)
    scarce = [
        run("mmoe", 0, 0.6, run_id=f"x{share}", config={**whole.config, "protocol": protocol})
        for share, protocol in (
            (0.1, {"label_share": 0.1, "label_share_task": None}),
            (0.01, {"label_share": 0.01, "label_share_task": "ctr"}),
        )
    ]
    found = compare([whole, *scarce])
    assert [(one.name, len(one.variants)) for one in found] == [
        ("log", 1),
        ("log with 10 % of cvr labels", 1),
        ("log with 1 % of ctr labels", 1),
    ]
    assert len({one.slug for one in found}) == 3


def test_costs_include_searches_and_tuning():
    examples = {"search": 500_000, "train": 1_000_000}
    records = [
        run(
            "ncs",
            seed,
            0.7,
            seconds={"search": s, "train": 2.0},
            examples=examples,
        )
        for seed, s in ((0, 1.0), (1, 3.0))
    ]
    (comparison,) = compare(records)
    grid = cost_grid(comparison, {"ncs": Tuned("a", 40, 12_000_000)})
    assert [cell.text for cell in grid.rows[0]] == [
        "ncs", "20", "1", "2.0", "2.0", "1", "1.50", "40: 12.00"
    ]  # fmt: skip
    assert "Tuned: ncs (sweep a, 40 trials, 12,000,000 examples)." in grid.caption


def test_seconds_of_seeds_trained_as_one_program_are_marked_beside_others():
    def trained(model, at_once):
        together = {"environment": {"together": at_once}}
        return [run(model, seed, 0.7, **together) for seed in (0, 1)]

    records = [*trained("ncs", 3), *trained("mmoe", 1), *trained("ple", 1)]
    grid = cost_grid(compare(records)[0], {})
    seconds = {row[0].text: row[3].text for row in grid.rows}
    assert seconds == {"mmoe": "2.0", "ple": "2.0", "ncs": "2.0*"}
    assert "ncs (3 at once)" in grid.caption
    for alike in (trained("ncs", 3) + trained("mmoe", 3), trained("ncs", 1) + trained("mmoe", 1)):
        grid = cost_grid(compare(alike)[0], {})
        assert "*" not in grid.caption + "".join(cell.text for row in grid.rows for cell in row)
    old = replace(run("ple", 2, 0.7), environment={})  # before it was recorded seeds trained alone
    (variant,) = compare([*trained("ple", 3), old])[0].variants
    assert variant.seeds_at_once == "1 or 3"


def test_a_seed_counts_once_in_a_row_and_other_numbers_are_another_row():
    def made(seed, auc, when, path="log.csv", torch="2.9", numbers=4):
        environment = {"finished": when, "versions": {"torch": torch}, "numbers": numbers}
        dataset = {"dataset": {"kind": "table", "path": path}}
        config = {**run("mmoe", seed, auc).config, **dataset}
        return run("mmoe", seed, auc, config=config, environment=environment)

    paths = ("log.csv", "/data/log.csv", "moved.csv")
    copies = [
        made(s, 0.7 + s / 10 + k / 100, f"{k}", p) for s in (0, 1) for k, p in enumerate(paths)
    ]
    (variant,) = compare(copies)[0].variants
    assert variant.estimate("cvr_auc") == t_interval([0.72, 0.82])  # the last time stands
    later = [made(0, 0.9, "5", torch="3.0"), made(1, 0.9, "5", torch="3.0")]
    (variant,) = compare([*later, *copies])[0].variants  # the page warns of two versions in a row
    assert [run.metrics["test"]["cvr_auc"] for run in variant.runs] == [0.9, 0.9]
    other = [made(0, 0.5, "6", numbers=5), made(1, 0.5, "6", numbers=5)]
    (old, new) = compare([*copies, *other])[0].variants
    assert (old.label, new.label) == ("mmoe numbers=4", "mmoe numbers=5")
    assert old.estimate("cvr_auc").n == new.estimate("cvr_auc").n == 2


def test_each_space_is_judged_by_more_than_its_auc():
    metrics = {
        "ctr_auc": 0.7,
        "ctr_logloss": 0.5,
        "ctr_pcoc": 1.25,
        "cvr_auc": 0.6,
        "ctcvr_auc": 0.6,
    }
    (comparison,) = compare([run("mmoe", 0, None, metrics={"test": metrics})])
    (grid,) = space_grids(comparison)
    assert grid.headers == ("strategy", "log loss", "PCOC")
    assert [cell.text for cell in grid.rows[0]] == ["mmoe", "0.5000", "1.2500"]
    assert grid.title == "log: CTR beyond AUC (exposures)"


def printed(table: GridTable, width: int) -> str:
    console = Console(width=width, file=StringIO())
    console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
@pytest.mark.parametrize("columns", [1, 3, 9])
def test_every_number_stands_whole_and_no_line_is_wider_than_the_terminal(width, columns):
    numbers = [f"{place}.{place}234" for place in range(columns)]
    grid = Grid(
        title="t",
        headers=("strategy", *(f"CTCVR AUC {place} (exposures)" for place in range(columns))),
        rows=(cells("ncs " + "x" * 90, *(f"{one} ± 0.0011" for one in numbers)),),
        last=cells("best reachable", *("9,999,999,999" for _ in numbers)),
        caption="c",
    )
    said = printed(GridTable(grid), width)
    assert max(map(len, said.splitlines())) <= width
    assert "…" not in said
    assert [one for one in numbers if one not in said] == []
    assert said.count("9,999,999,999") == columns
    folded = "".join(line.split()[0] for line in said.splitlines() if "xx" in line)
    assert folded.count("x") % 90 == 0


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_runs_table_holds_every_number_of_planted_data(width):
    names = ("auc", "best_auc", "regret", "gauc", "logloss", "pcoc")
    values = {f"{space}_{n}": 13.59447 for space in COUNTS for n in names}
    counts = {space: {"rows": 12_345_678, "positives": 1_234_567} for space in COUNTS}
    record = run("mmoe", 0, 0.7, metrics={"valid": values, "test": values}, counts={"test": counts})
    said = printed(GridTable(run_grid(record)), width)
    assert "…" not in said
    assert said.count("13.5945") == 3 * (1 + len(names))
    assert (said.count("12,345,678"), said.count("1,234,567")) == (3, 3)


@pytest.mark.parametrize("width", [80, 100, 160])
def test_long_names_break_and_no_number_is_cut(width):
    value = "+0.0018 ± 0.0014 p=0.024"
    grid = Grid(
        title="t",
        headers=("strategy", "CTR AUC (exposures)", "CVR AUC (clicked)", "CTCVR AUC (exposures)"),
        rows=(cells("ncs search=unshared base=imp", value, value, value),),
        caption="c",
    )
    for one in (grid, replace(grid, headers=(*grid.headers, "mean gain (%)"), rows=(
        (*grid.rows[0], *cells("-0.03 ± 0.17")),
    ))):  # fmt: skip
        said = printed(GridTable(one), width)
        assert "…" not in said
        for word in ("(exposures)", "p=0.024", "search=unshared", "0.0014"):
            assert word in said, said
        if one is grid:
            assert said.count("+0.0018 ± 0.0014") == 3
        else:
            assert "0.17" in said


def test_keys_that_hide_no_label_split_no_row():
    old = [run("mmoe", seed, 0.7) for seed in (0, 1)]
    protocol = {"label_share": 1.0, "label_share_task": None}
    new = run("mmoe", 2, 0.7, config={**old[0].config, "seed": 2, "protocol": protocol})
    (comparison,) = compare([*old, new])
    assert [(v.label, len(v.runs)) for v in comparison.variants] == [("mmoe", 3)]


def test_an_unfinished_run_is_one_of_the_newest_code():
    made = run("ncs", 0, 0.7, environment={"numbers": 5})
    config = {**made.config, "model": {"kind": "ncs", "density": 0.5}}
    (comparison,) = compare([made], [replace(begun("ncs", 0, None), config=config)])
    assert [v.label for v in comparison.variants] == ["ncs density=0.2"]
    assert [a.label for a in comparison.absent] == ["ncs density=0.5"]


def test_a_balancing_method_is_named_without_the_settings_that_all_its_rows_have():
    def labels(*balancings):
        records = [
            run("mmoe", 0, 0.7, run_id=str(n), config={"model": {"kind": "mmoe"}, "balancing": b})
            for n, b in enumerate(balancings)
        ]
        (comparison,) = compare(records)
        return sorted(variant.label for variant in comparison.variants)

    equal, norm = {"kind": "equal"}, {"kind": "gradnorm", "alpha": "1.0"}
    assert labels(equal, norm) == ["mmoe balancing=equal", "mmoe balancing=gradnorm"]
    assert labels(equal, norm, {**norm, "alpha": "0.5"}) == [
        "mmoe balancing.alpha=0.5",
        "mmoe balancing.alpha=1.0",
        "mmoe balancing=equal",  # the other two have what most rows have
    ]


@pytest.mark.parametrize("dataset", ["../../evil<b>", "a/b", ".hidden", ""])
def test_a_figures_name_stays_in_its_folder(dataset):
    (comparison,) = compare([run("mmoe", 0, 0.7, dataset=dataset, fingerprint="../x")])
    assert re.fullmatch(r"[\w-][\w.-]*", comparison.slug)


def test_names_have_short_numbers_unless_these_are_the_same():
    def labels(*densities):
        records = [
            run("ncs", 0, 0.7, run_id=str(d), config={"model": {"kind": "ncs", "density": d}})
            for d in densities
        ]
        (comparison,) = compare(records)
        return [variant.label for variant in comparison.variants]

    assert labels(0.0517894736, 0.25) == ["ncs density=0.0518", "ncs density=0.25"]
    assert labels(0.05178941, 0.05178942) == ["ncs density=0.05178941", "ncs density=0.05178942"]
