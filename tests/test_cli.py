"""The command line as a user meets it: output, messages, exit codes, completion."""

import os
import re
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest

from cvrbench.config.folder import complete, datasets
from cvrbench.system import machine
from cvrbench.system.machine import AvailableMemory

SMALL = ("model.hidden=[8]", "model.tower=[]")
QUICK = ("experiment=quick_check", *SMALL)


@pytest.fixture
def compared(given, cvrbench, tmp_path) -> Path:
    """Two strategies of two seeds where the command looks."""
    for model, seed in product(("shared_bottom", "mmoe"), (0, 1)):
        given(f"model={model}", f"seed={seed}", *SMALL)
    return tmp_path / "results"


def test_a_run_prints_its_table_and_where_it_is(cvrbench):
    said = cvrbench("run", "model=shared_bottom", *QUICK)
    assert said.code == 0
    assert "CVR (clicked)" in said.out
    assert "best reachable" in said.out
    folder = Path(said.out.splitlines()[-1])
    assert (folder / "record.json").is_file()
    assert said.err == ""


def test_json_has_one_object_per_finished_cell(cvrbench):
    said = cvrbench("run", "-m", "model=shared_bottom,mmoe", "seed=range(0,2)", *QUICK, "--json")
    rows = said.json()
    assert [(row["model"], row["seed"]) for row in rows] == [
        ("shared_bottom", 0),
        ("shared_bottom", 1),
        ("mmoe", 0),
        ("mmoe", 1),
    ]
    for row in rows:
        assert set(row) == {
            "run_dir", "model", "dataset", "seed", "metrics", "parameters", "seconds",
            "examples_per_second",
        }  # fmt: skip
        assert {"ctr_auc", "cvr_auc", "ctcvr_auc", "cvr_logloss", "cvr_gauc"} <= set(
            row["metrics"]["test"]
        )
        assert Path(row["run_dir"], "record.json").is_file()


def test_finished_cells_are_skipped_and_still_reported(cvrbench, compared):
    words = ("run", "-m", "model=shared_bottom,mmoe,ple", *QUICK, "--json")
    plan = cvrbench(*words, "--dry-run").json()
    assert [cell["state"] for cell in plan] == ["finished", "finished", "new"]
    records = sorted(compared.rglob("record.json"))
    before = {file: file.read_bytes() for file in records}
    assert [row["model"] for row in cvrbench(*words).json()] == ["shared_bottom", "mmoe", "ple"]
    assert {file: file.read_bytes() for file in records} == before


def test_a_dry_run_trains_and_writes_nothing(cvrbench, tmp_path):
    said = cvrbench("run", "-m", "model=mmoe,ple", "seed=0,1", *QUICK, "--dry-run")
    assert said.code == 0
    assert len(said.out.partition("\n\n")[0].splitlines()) == 5
    assert not (tmp_path / "results").exists()


def test_a_dry_run_says_what_memory_each_configuration_needs_against_what_is_free(
    cvrbench, monkeypatch
):
    wide = ("model=mmoe", "model.hidden=[2048]", "trainer.batch_size=10,4000", "seed=0,1,2")
    words = ("run", "-m", *wide, "trainer.eval_batch_size=10", *QUICK[:1])
    said = cvrbench(*words, "--dry-run")
    head, small, large, _, time = said.out.partition("\n\n")[2].splitlines()
    assert time == "time: known once a run of these strategies is finished"
    assert head.split()[:3] == ["#", "memory", "free"]
    assert re.match(r"1-3 +0\.\d GB +[\d.]+ GB, .+  a training step 0.1", small)
    assert re.match(r"4-6 +[01]\.\d GB +[\d.]+ GB, .+  a training step", large)
    monkeypatch.setattr(
        machine, "available_memory", lambda: AvailableMemory(n_bytes=10**6, limit="a group")
    )
    said = cvrbench(*words, "--dry-run", "workers=2")
    assert "0.0 GB, a group  will not fit; " in said.out
    assert "2 at once: " in said.out
    rows = cvrbench(*words, "--dry-run", "--json").json()
    assert [row["memory"]["fits"] for row in rows] == [False] * 6
    assert all(row["memory"]["needed"] > row["memory"]["free"] == 10**6 for row in rows)


def test_a_dry_run_says_where_there_is_no_estimate_and_asks_none_for_finished_cells(
    cvrbench, given
):
    said = cvrbench("run", *QUICK, "--dry-run", "dataset.rows=7000")
    assert "not estimated: synthetic is not prepared yet" in said.out
    cell = ("run", "model=shared_bottom", *QUICK)
    given("model=shared_bottom", *SMALL)
    assert "memory" not in cvrbench(*cell, "--dry-run").out
    told = cvrbench(*cell, "seed=1", "--dry-run").out.splitlines()[-1]
    assert re.fullmatch(r"time: about \d+ s one after another, [\d.]+ kB on disk", told)
    assert "memory" in cvrbench(*cell, "--dry-run", "--force").out
    (row,) = cvrbench(*cell, "--dry-run", "--json").json()
    assert row["memory"] is None


def test_one_wrong_cell_stops_the_whole_plan_before_it_starts(cvrbench, tmp_path):
    said = cvrbench("run", "-m", "model=mmoe,ple", "model.dropout=0.1,1.5", *QUICK)
    assert said.code == 2
    assert "model.dropout must be less than 1; got 1.5" in said.err
    assert not (tmp_path / "results").exists()


def test_failed_cells_are_listed_last_and_the_others_still_run(cvrbench):
    said = cvrbench(
        "run", "-m", "model=shared_bottom", "trainer.learning_rate=1e30,0.001", *QUICK, "--json"
    )
    assert said.code == 1
    assert len(said.json()) == 1
    assert "1 of 2 runs failed" in said.err
    assert "trainer.learning_rate" in said.err
    stopped = cvrbench(
        "run",
        "-m",
        "model=mmoe",
        "trainer.learning_rate=1e30,0.001",
        *QUICK,
        "--json",
        "--fail-fast",
    )
    assert (stopped.code, stopped.out) == (1, "")


MISUSES = {
    "model=nsc": "Did you mean 'ncs'",
    "modle=ncs": "Did you mean 'model'",
    "model.desnity=0.3": "Did you mean 'model.search.density'",
    "trainer.lr=0.1": "Did you mean 'trainer.learning_rate'",
    "model.density=2": "model.search.density must be less than or equal to 1; got 2",
    "seed=one": "seed must be a whole number; got 'one'",
    "+model.x=1": "every key is declared already",
    "seed=0,1": "add -m",
    "model.n_experts=3": "belongs to model=dselect_k, mmoe, omoe, snr_trans; you have model=ncs",
    "dataset=table": "dataset.path",
    "launcher.together=zero": "launcher.together must be auto or a whole number (at least 1, at",
}


@pytest.mark.parametrize("override", MISUSES)
def test_misuse_is_answered_with_the_nearest_right_thing(cvrbench, override):
    said = cvrbench("run", override)
    assert said.code == 2
    assert MISUSES[override] in said.err
    assert len(said.err.splitlines()) == 1
    assert said.out == ""


def test_a_mistyped_option_or_command_exits_with_2(cvrbench):
    assert cvrbench("run", "--forse").code == 2
    assert cvrbench("rum").code == 2


def test_absent_raw_data_say_how_to_get_them(cvrbench, tmp_path):
    said = cvrbench("run", "dataset=kuairand", "data_dir=elsewhere")
    assert said.code == 1
    assert "cvrbench data fetch kuairand" in said.err
    assert not (tmp_path / "results" / "runs").exists()


def test_a_results_folder_that_cannot_be_written_is_one_line(cvrbench, tmp_path):
    (tmp_path / "results").write_text("a file")
    said = cvrbench("run", *QUICK)
    assert said.code == 1
    assert "results_dir=" in said.err
    assert len(said.err.splitlines()) == 1


def test_a_gpu_that_is_not_there_is_one_line(cvrbench):
    said = cvrbench("run", *QUICK, "trainer.device=cuda:9")
    assert said.code == 1
    assert "trainer.device=cpu" in said.err


def test_report_compares_what_is_there(cvrbench, compared):
    said = cvrbench("report", "results", "--figures", "figures")
    assert said.code == 0
    assert "CTR AUC (exposures)" in said.out
    assert "CVR AUC (clicked)" in said.out
    assert "±" in said.out
    (figure,) = Path("figures").glob("synthetic-*.png")
    assert figure.read_bytes().startswith(b"\x89PNG")
    (compared,) = cvrbench("report", "--json").json()
    strategies = {row["strategy"]: row for row in compared["strategies"]}
    assert list(strategies) == ["shared_bottom", "mmoe"]
    runs = cvrbench("run", "-m", "model=mmoe", "seed=0,1", *QUICK, "--json").json()
    mean = sum(run["metrics"]["test"]["cvr_auc"] for run in runs) / 2
    assert strategies["mmoe"]["metrics"]["cvr_auc"]["mean"] == pytest.approx(mean)
    assert strategies["mmoe"]["seeds"] == [0, 1]
    assert "difference to shared_bottom" in said.out
    assert compared["baseline"] == "shared_bottom"
    gain = strategies["mmoe"]["differences"]["cvr_auc"]
    other = strategies["shared_bottom"]["metrics"]["cvr_auc"]["mean"]
    assert gain["mean"] == pytest.approx(mean - other)
    assert gain["p"] <= gain["adjusted_p"] <= 1


def test_report_compares_with_the_row_that_is_asked_for(cvrbench, compared):
    assert "difference to mmoe" in cvrbench("report", "--baseline", "mmoe", "--no-html").out
    wrong = cvrbench("report", "--baseline", "mmoo")
    assert wrong.code == 2
    assert wrong.out == ""
    assert "there are shared_bottom, mmoe" in wrong.err


def test_report_prints_for_papers_and_notebooks(cvrbench, compared):
    assert "| mmoe | 2 |" in cvrbench("report", "--format", "md").out
    assert r"\toprule" in cvrbench("report", "--format", "latex").out
    lines = cvrbench("report", "--format", "csv").out.splitlines()
    assert lines[0].startswith("dataset,fingerprint,label_share,strategy,metric,mean")
    assert any(",mmoe,cvr_auc," in line and ",shared_bottom," in line for line in lines)
    assert cvrbench("report", "--format", "json").out == cvrbench("report", "--json").out


def test_report_keeps_the_runs_that_are_asked_for(cvrbench, compared):
    (kept,) = cvrbench("report", "model=mmoe", "seed=1", "--json").json()
    assert [(row["strategy"], row["seeds"]) for row in kept["strategies"]] == [("mmoe", [1])]
    assert cvrbench("report", "results", "model=mmoe", "--no-html").code == 0
    wrong = cvrbench("report", "model=mmo")
    assert (wrong.code, wrong.out) == (2, "")
    assert "model=mmo: no run has it; there are mmoe, shared_bottom" in wrong.err
    assert "one folder of results at a time" in cvrbench("report", "results", "others").err


def test_a_run_that_failed_shows_in_the_report_with_its_reason(cvrbench, compared):
    bad = cvrbench("run", "model=mmoe", "seed=2", "trainer.learning_rate=1e30", *QUICK)
    assert bad.code == 1
    said = cvrbench("report", "--no-html")
    words = " ".join(said.out.split())
    assert "seed 2 (failed: the loss is not finite" in words
    assert "mmoe trainer.learning_rate=1e+30 0 of 2" in words


def test_report_without_predictions_shows_the_values_and_says_what_is_missing(cvrbench, compared):
    for file in Path("results").rglob("predictions.parquet"):
        file.unlink()
    said = cvrbench("report", "--no-html")
    assert said.code == 0
    assert "CVR AUC (clicked)" in said.out
    assert "difference to" not in said.out
    assert "predictions.parquet cannot be read" in said.err


def test_report_without_runs_says_what_to_do(cvrbench):
    said = cvrbench("report", "nothing")
    assert said.code == 1
    assert "cvrbench run" in said.err


def test_ls_and_show_find_a_run_by_a_part_of_its_name(cvrbench, given):
    name = given("model=ncs", *SMALL).name
    assert name in cvrbench("ls").out
    shown = cvrbench("show", name[-6:])
    assert "test scored" in shown.out
    assert "once" in shown.out
    assert "overlap" in shown.out
    (record,) = cvrbench("show", name[-6:], "--json").json()
    assert record["run_id"] == name
    assert "ls" in cvrbench("show", "nothing").err


def test_config_tells_where_each_value_comes_from(cvrbench):
    said = cvrbench("config", "model=mmoe", "model.dropout=0.3", "experiment=quick_check")
    lines = {line.split()[0]: line for line in said.out.splitlines() if line.split()}
    assert "override model.dropout=0.3" in lines["model.dropout"]
    assert "model/mmoe.yaml" in lines["model.n_experts"]
    assert "experiment/quick_check.yaml" in lines["dataset.rows"]
    assert "trainer/smoke.yaml" in lines["trainer.epochs"]
    assert "config.yaml" in lines["seed"]
    assert cvrbench("config", "--where").out.strip() == os.environ["CVRBENCH_CONF"]
    (plain,) = cvrbench("config", "model=ple", "--json").json()
    assert plain["model"]["kind"] == "ple"


def test_data_commands_on_the_planted_log(cvrbench, quick_data):
    small = ("rows=6000", "users=300", "items=200")
    overrides = [f"dataset.{word}" for word in small]
    (prepared,) = cvrbench("data", "prepare", "synthetic", *overrides, "--json").json()
    assert prepared["rows"] == {"train": 4200, "valid": 600, "test": 1200}
    said = cvrbench("data", "describe", "synthetic", *overrides, "--figure", "labels.png")
    assert "ctcvr" in said.out
    assert "user_id" in said.out
    assert Path("labels.png").read_bytes().startswith(b"\x89PNG")
    (facts,) = cvrbench("data", "describe", "synthetic", *overrides, "--json").json()
    assert facts["counts"]["test"]["ctr"]["rows"] == 1200
    assert "as they were written" in cvrbench("data", "verify", "synthetic", *overrides).out
    listed = cvrbench("data", "list", "--json").json()
    assert {row["dataset"] for row in listed} >= {"kuairand", "census_income", "table", "synthetic"}


def test_data_prepare_refuses_a_raw_folder_that_is_not_there(cvrbench):
    said = cvrbench("data", "prepare", "adult", "--raw", "nowhere")
    assert said.code == 1
    assert "nowhere does not exist" in said.err


def test_ctrl_c_ends_cleanly_and_says_how_to_resume(quick_data, tmp_path):
    (tmp_path / "datasets").symlink_to(quick_data)
    command = [sys.executable, "-m", "cvrbench"]
    long = [
        "model=ncs",
        *QUICK,
        "model.search_epochs=40",
        "trainer.batch_size=16",
        "trainer.patience=999",
    ]
    conf = {"CVRBENCH_CONF": str(Path(__file__).parents[1] / "conf")}
    running = subprocess.Popen(
        [*command, "run", *long],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **conf},
    )
    checkpoints = tmp_path / "results" / "runs"
    while not list(checkpoints.glob("*/checkpoints")) and running.poll() is None:
        time.sleep(0.1)
    time.sleep(1.0)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "cvrbench resume results/runs/synthetic-ncs" in err
    assert "Traceback" not in err
    (folder,) = checkpoints.iterdir()
    assert not (folder / "record.json").exists()
    listed = subprocess.check_output([*command, "ls"], cwd=tmp_path, text=True)
    assert "unfinished" in listed


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("model=n", ["model=ncs", "model=ncs_paper"]),
        ("model.dens", ["model.density=0.2"]),
        ("trainer.b", ["trainer.batch_size=512"]),
        ("see", ["seed=0"]),
        ("dataset=kuairand_l", ["dataset=kuairand_like"]),
        ("dataset=census_", ["dataset=census_education", "dataset=census_income"]),
        ("nothing", []),
    ],
)
def test_completion_offers_whole_assignments(typed, offered):
    assert complete(typed) == offered


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        (
            "cvrbench run model=n",
            ["ncs", "ncs_paper"],
        ),  # bash splits at =, and puts the answer behind it
        ("cvrbench run model=", ["adatt", "aitm", "cgc"]),
        ("cvrbench run model=ncs trainer.pat", ["trainer.patience=8"]),
        ("cvrbench run model=ncs dataset=kuairand_l", ["kuairand_like"]),
        ("cvrbench data describe hill", ["hillstrom"]),
        ("cvrbench res", ["resume"]),
    ],
)
def test_bash_completes_a_typed_line(line, offered):
    words = line.replace("=", " = ").split()
    asked = {
        "_CVRBENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    command = "from cvrbench.cli.app import app; app(prog_name='cvrbench')"
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, env={**os.environ, **asked}
    )
    assert done.stdout.split()[: len(offered)] == offered


def test_completion_knows_datasets():
    assert datasets("kuairand_l") == ["kuairand_like"]


def test_help_names_every_command(cvrbench):
    text = cvrbench("--help").out
    names = (
        "run",
        "resume",
        "sweep",
        "report",
        "diff",
        "reproduce",
        "check",
        "config",
        "ls",
        "show",
    )
    for command in (*names, "data", "export"):
        assert command in text


FEW_ROWS = ("--rows", "4e3", "--test-rows", "2e3", "--cvr", "0.3", "--ctr", "0.3")
SMALL_WORLD = ("--card", "0.002", "--hist", "0.05", "--workers", "1")


@pytest.mark.slow
def test_generated_files_are_prepared_and_run(cvrbench):
    made = cvrbench("data", "generate", "aliccp", *FEW_ROWS, *SMALL_WORLD, "--out", "made")
    assert made.code == 0
    assert "train: 4,000 rows" in made.out
    assert "cvrbench data prepare aliccp --raw made" in made.out
    own = "data_dir=own"  # the shared datasets folder stays as it is
    prepared = cvrbench("data", "prepare", "aliccp", own, "--raw", "made")
    assert prepared.code == 0
    assert "read: 6,000 rows" in prepared.out
    assert "not the published training file: 4,000 rows" in prepared.out
    assert prepared.err == ""
    said = cvrbench("run", "model=shared_bottom", "dataset=aliccp", "trainer=smoke", own, "--json")
    (record,) = said.json()
    assert record["metrics"]["test"]["cvr_best_auc"] > 0.5


def test_a_preset_is_a_dataset_of_its_own_name(cvrbench):
    cvrbench("data", "generate", "aliccp", *FEW_ROWS, *SMALL_WORLD, "--out", "made")
    said = cvrbench("data", "prepare", "aliccp", "preset=aitm", "data_dir=own", "--raw", "made")
    assert said.code == 0
    assert "aliccp_aitm" in said.out
    assert "validation rows are drawn at random" in said.out
    unknown = cvrbench("data", "prepare", "aliccp", "preset=aitn", "--raw", "made")
    assert unknown.code == 2
    assert "aliccp_aitm" in unknown.err


def test_a_faulty_line_is_named_and_can_be_left_out(cvrbench):
    cvrbench("data", "generate", "aliccp", *FEW_ROWS, *SMALL_WORLD, "--out", "made")
    path = Path("made/sample_train/sample_skeleton_train.csv")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:6], b"7,1\n", *lines[6:]]))
    Path("made/truth_train.csv").unlink()
    stopped = cvrbench("data", "prepare", "aliccp", "data_dir=own", "--raw", "made")
    assert stopped.code == 1
    assert "sample_skeleton_train.csv, line 7: 2 columns" in stopped.err
    assert "--on-error skip" in stopped.err
    assert sorted(p.name for p in Path("own/prepared").iterdir()) == [".locks"]
    skip = ("--on-error", "skip", "--json")
    said = cvrbench("data", "prepare", "aliccp", "data_dir=own", "--raw", "made", *skip)
    assert said.json()[0]["accounting"]["dropped: column count"] == 1


def test_a_generation_refuses_a_folder_with_something_in_it(cvrbench):
    Path("taken").mkdir()
    Path("taken/thesis.tex").write_text("years of work")
    said = cvrbench("data", "generate", "aliccp", *FEW_ROWS, *SMALL_WORLD, "--out", "taken")
    assert said.code == 1
    assert "taken" in said.err
    assert Path("taken/thesis.tex").read_text() == "years of work"
    wrong = cvrbench("data", "generate", "aliccp", "--rows", "many", "--out", "made")
    assert wrong.code == 2
    assert "many" in wrong.err


def test_a_folder_that_is_gone_is_one_sentence(cvrbench, monkeypatch, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for command in ("run", "ls", "report"):
        said = cvrbench(command)
        assert (said.code, said.out) == (2, "")
        assert said.err == (
            "error: the folder that this command was called in no longer exists; go to one that "
            "does\n"
        )


def test_a_killed_helper_process_is_one_sentence(cvrbench, monkeypatch):
    def killed(_: object) -> None:
        raise EOFError("unexpected EOF")  # as multiprocessing does where its fork server is gone

    monkeypatch.setattr("cvrbench.runs.store.ResultStore.survey", killed)
    said = cvrbench("ls")
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("error: a helper process of this command has ended")
    assert said.err.count("\n") == 1
