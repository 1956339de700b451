"""What a report compares with what, and what it says of the doubt."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console
from scipy import stats as scipy_stats

from cvrbench.record import RunRecord
from cvrbench.report.frames import compare
from cvrbench.report.grids import comparison_grid, interval, number
from cvrbench.report.plots.comparison import comparison_figure
from cvrbench.report.plots.style import save
from cvrbench.report.tables import comparison_json, grid_table, run_table
from cvrbench.stats import Estimate
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
    assert grid_table(grid).row_count == 1
    assert comparison_json(comparison)["strategies"][0]["seconds"] == 3.0
    assert run_table(run("mmoe", 0, 0.7)).row_count == 3


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


def test_a_comparison_of_two_tasks_fits_80_columns():
    records = [run("shared_embedding", seed, 0.7 + seed / 100) for seed in range(3)]
    (comparison,) = compare(records)
    console = Console(width=80, file=StringIO())
    console.print(grid_table(comparison_grid(comparison)))
    said = console.file.getvalue()
    assert "…" not in said
    for word in ("shared_embedding", "(exposures)", "(clicked)", "params", "(s)"):
        assert word in said


def test_what_most_variants_of_a_model_have_is_not_told():
    def ncs(name: str, **model):
        config = {"model": {"kind": "ncs", "search": name, "base": None, "rounds": 4, **model}}
        return run("ncs", 0, 0.7, run_id=f"{name}{model}", config=config)

    records = [ncs("imp"), ncs("random"), ncs("snip", rounds=2), ncs("unshared", base="random")]
    (comparison,) = compare(records)
    assert [variant.label for variant in comparison.variants] == [
        "ncs search=imp",
        "ncs search=random",
        "ncs search=snip rounds=2",
        "ncs search=unshared base=random",
    ]
