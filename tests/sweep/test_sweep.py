"""A sweep as its user meets it: trials, what is tested, resuming, budgets, failures."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import torch

from cvrbench.errors import ConfigError, RunError, RunInterrupted
from cvrbench.runs.environment import describe_environment
from cvrbench.runs.store import ResultStore
from cvrbench.runs.study import Studies, StudySummary
from cvrbench.sweep.run_study import _importances, work
from cvrbench.sweep.samplers import quiet
from cvrbench.sweep.study import check_studies, plan_studies
from cvrbench.training.session import TrainingSession

ROOT = Path(__file__).parents[2]
SMALL = ("experiment=quick_check", "trainer.threads=1", "final_seeds=[0,1]")
UNSEARCHED = (*SMALL, "model.search=random")
"""Trials that cost a training alone, without a search for masks before it."""


@pytest.fixture
def study(quick_data, tmp_path):
    """Plan one small study in this test's own folder."""

    def planned(*words: str, folder: str = "r"):
        places = [f"data_dir={quick_data}", f"results_dir={tmp_path / folder}"]
        (plan,) = plan_studies([*SMALL, *places, *words], multirun=False)
        check_studies([plan])
        return plan

    return planned


def trials(plan) -> list[optuna.trial.FrozenTrial]:
    quiet()
    from cvrbench.sweep.study import open_study

    return open_study(plan).study.get_trials(deepcopy=False)


def summaries(folder: Path) -> list[StudySummary]:
    studies = Studies(folder / "results")
    return [studies.folder(name).read() for name in studies.names()]


def essence(plan) -> list[tuple]:
    """What two studies must agree in to be the same."""
    return [
        (t.number, t.state, t.params, t.values, t.intermediate_values, t.user_attrs["runs"])
        for t in trials(plan)
    ]


def test_a_sweep_tunes_on_validation_and_tests_the_best_on_fresh_seeds(cvrbench, tmp_path):
    said = cvrbench("sweep", *UNSEARCHED, "trials=4", "--json")
    assert said.code == 0, said.err
    *runs, found = said.json()
    assert len(runs) == 2
    store = ResultStore(tmp_path / "results")
    summary = summaries(tmp_path)[0]
    assert [t.state for t in summary.trials] == ["complete"] * 4
    assert summary.trials[0].preset
    assert summary.trials[0].params == {"model.density": 0.2}
    assert found["study"]["name"] == summary.name

    tuned = {run for trial in summary.trials for run in trial.runs}
    for record in store.records():
        if record.run_id in tuned:
            assert record.seed == 1000
            assert record.test_scored == 0
            assert set(record.metrics) == {"valid"}
        else:
            assert record.run_id in summary.chosen["runs"]
            assert record.seed in (0, 1)
            assert record.test_scored == 1
    best = max(summary.trials, key=lambda t: t.values)
    assert summary.best == (best.number,)
    assert summary.chosen["trial"] == best.number
    for run in summary.chosen["runs"]:
        config = next(r for r in store.records() if r.run_id == run).config
        assert config["model"]["search"]["density"] == best.params["model.density"]
    for trial in summary.trials:  # its value is its runs' on validation
        (record,) = [r for r in store.records() if r.run_id in trial.runs]
        assert trial.values == (record.metrics["valid"]["cvr_auc"],)


def test_the_same_command_again_does_nothing_and_more_trials_go_on(cvrbench, tmp_path):
    assert cvrbench("sweep", *UNSEARCHED, "trials=2").code == 0
    files = sorted((tmp_path / "results" / "runs").glob("*/record.json"))
    before = {file: file.stat().st_mtime_ns for file in files}
    assert cvrbench("sweep", *UNSEARCHED, "trials=2").code == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before
    said = cvrbench("sweep", *UNSEARCHED, "trials=3")
    assert said.code == 0
    assert "Tuned: ncs (sweep" in " ".join(said.out.split())
    (summary,) = summaries(tmp_path)
    assert len(summary.trials) == 3


def test_best_prints_a_line_that_runs_as_it_stands(cvrbench, tmp_path):
    cvrbench("sweep", *UNSEARCHED, "trials=3")
    said = cvrbench("sweep", "--best", "ncs_sparsity")
    command = said.out.splitlines()[0].split()
    assert command[:2] == ["cvrbench", "run"]
    (summary,) = summaries(tmp_path)
    again = cvrbench(*command[1:], "--json")  # seed 0 of the final runs: finished before
    assert again.code == 0
    assert Path(again.json()[0]["run_dir"]).name in summary.chosen["runs"]
    status = cvrbench("sweep", "--status", "ncs_sparsity", "--json")
    assert len(status.json()[0]["trials"]) == 3
    nothing = cvrbench("sweep", "--status", "other")
    assert nothing.code == 1
    assert "no sweep 'other'" in nothing.err


SAMPLERS = ["tpe", *(pytest.param(s, marks=pytest.mark.slow) for s in ("gp", "cmaes", "nsga2"))]
SAMPLERS += [pytest.param(s, marks=pytest.mark.slow) for s in ("qmc", "random")]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_goes_on_after_a_stop_as_if_there_had_been_none(study, sampler):
    words = [f"sampler={sampler}", "startup_trials=2", "trials=5", "trainer.epochs=3"]
    words += ["model.dropout=interval(0,0.5)", "model.search=random"]
    straight, stopped = study(*words, folder="a"), study(*words, folder="b")
    work(straight)
    steps = iter(range(10**6))
    for stop_after in (3, 20, 25):
        begun = next(steps)

        def stop(_number, _now, begun=begun, after=stop_after) -> None:
            if next(steps) - begun == after:
                signal.raise_signal(signal.SIGINT)

        with pytest.raises(RunInterrupted):
            work(stopped, stop)
        assert any(t.state == optuna.trial.TrialState.RUNNING for t in trials(stopped))
    work(stopped)
    assert essence(stopped) == essence(straight)
    assert [t.user_attrs["attempts"] for t in trials(stopped)] == [1] * 5


def test_a_grid_is_walked_once_and_ends(study):
    plan = study("sampler=grid", "model.density=choice(0.1,0.2,0.5)", "trials=100")
    work(plan)
    densities = [t.params["model.density"] for t in trials(plan)]
    assert densities == [0.2, 0.1, 0.5]  # the preset first, and only once


def test_a_continuous_grid_is_refused_before_anything_runs(study, tmp_path):
    with pytest.raises(ConfigError, match="is continuous"):
        study("sampler=grid")
    assert not (tmp_path / "r" / "sweeps").exists()


@pytest.mark.parametrize(
    ("pruner", "words"),
    [
        ("median", ["startup_trials=2", "trainer.patience=100"]),
        ("hyperband", ["trainer.patience=100"]),
    ],
)
def test_pruned_trials_leave_their_cost_and_no_run(study, pruner, words):
    bad = "trainer.learning_rate=tag(log,interval(1e-7,1e-2))"
    plan = study(
        f"pruner={pruner}", "trials=12", "trainer.epochs=4", "sampler=random", bad,
        "model=shared_bottom", "sweep=equal_budget", "model.hidden=[16]", *words,
    )  # fmt: skip
    work(plan)
    found = trials(plan)
    pruned = [t for t in found if t.state == optuna.trial.TrialState.PRUNED]
    assert pruned
    assert len(found) == 12
    whole = max(t.user_attrs["examples"] for t in found)
    store = ResultStore(Path(plan.study.base.config.results_dir))
    for trial in pruned:
        assert 0 < trial.user_attrs["examples"] < whole
        assert pruner in trial.user_attrs["reason"]
    finished = {run for t in found for run in t.user_attrs.get("runs", [])}
    assert {r.run_id for r in store.records()} == finished
    assert store.unfinished() == []


@pytest.mark.slow
def test_wilcoxon_ends_a_trial_whose_seeds_are_worse_one_by_one(study, monkeypatch):
    def planted(_study, record):
        distance = abs(math.log10(record.config["trainer"]["learning_rate"]) + 3)
        return (0.01 * record.seed - distance,)  # seeds differ more than most rates

    monkeypatch.setattr("cvrbench.sweep.run_study.of_record", planted)
    plan = study(
        "pruner=wilcoxon", "seeds=[5,6,7,8,9]", "trials=6", "sampler=random", "trainer.epochs=1",
        "sweep=equal_budget", "model=shared_bottom", "model.hidden=[16]",
    )  # fmt: skip
    work(plan)
    preset, *others = trials(plan)
    assert preset.values == pytest.approx([0.07])
    assert {t.state.name for t in others} == {"PRUNED"}
    assert {len(t.user_attrs["by_seed"]) for t in others} == {4}  # p = 1/16 is below 0.1


def test_a_budget_in_examples_counts_searches_and_ends_the_study(study):
    plan = study("trials=null", "budget_examples=100000", "trainer.epochs=2")
    work(plan)
    costs = [t.user_attrs["examples"] for t in trials(plan)]
    store = ResultStore(Path(plan.study.base.config.results_dir))
    computed = [r.examples["search"] + r.examples["train"] - r.examples["reused"]
                for r in store.records()]  # fmt: skip
    assert sorted(costs) == sorted(computed)
    assert sum(costs) >= 100000 > sum(costs[:-1])


LACK = (
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
)


@pytest.mark.parametrize("error", LACK, ids=lambda error: type(error).__name__)
def test_a_trial_that_runs_out_of_memory_is_recorded_and_the_study_goes_on(
    study, monkeypatch, error
):
    plan = study("trials=3", "trainer.epochs=1")
    real, calls = TrainingSession.finish, []

    def sometimes(stages, network):
        calls.append(network)
        if len(calls) == 2:
            raise error
        return real(stages, network)

    monkeypatch.setattr(TrainingSession, "finish", sometimes)
    work(plan)
    states = [t.state.name for t in trials(plan)]
    assert states == ["COMPLETE", "FAIL", "COMPLETE"]
    reason = trials(plan)[1].user_attrs["reason"]
    assert reason.startswith("out of memory")
    assert "lower trainer.batch_size" in reason


def test_a_diverging_trial_fails_by_itself(study):
    plan = study(
        "sweep=equal_budget", "model=shared_bottom", "trials=3", "sampler=grid", "preset=false",
        "trainer.learning_rate=choice(0.001,1e30)", "model.dropout=0", "model.hidden=[8]",
        "trainer.weight_decay=0", "trainer.embedding_learning_rate=0.03",
    )  # fmt: skip
    work(plan)
    assert [t.state.name for t in trials(plan)] == ["COMPLETE", "FAIL"]
    assert "not finite" in trials(plan)[1].user_attrs["reason"]


def test_several_objectives_end_in_a_pareto_front(cvrbench, tmp_path):
    said = cvrbench(
        "sweep", *UNSEARCHED, "objectives=[cvr_auc,density]", "sampler=nsga2", "startup_trials=4",
        "trials=6", "trainer.epochs=1",
    )  # fmt: skip
    assert said.code == 0, said.err
    (summary,) = summaries(tmp_path)
    points = {t.number: t.values for t in summary.trials}
    dominated = {
        n
        for n, (auc, density) in points.items()
        if any(a >= auc and d <= density and (a, d) != (auc, density) for a, d in points.values())
    }
    assert set(summary.best) == set(points) - dominated
    assert summary.chosen["trial"] == max(summary.best, key=lambda n: points[n][0])


def test_another_search_under_the_same_name_is_refused_and_nothing_is_harmed(cvrbench, tmp_path):
    assert cvrbench("sweep", *UNSEARCHED, "trials=2", "name=mine").code == 0
    journal = (tmp_path / "results" / "sweeps" / "mine" / "journal.log").read_bytes()
    said = cvrbench(
        "sweep", *UNSEARCHED, "trials=2", "name=mine", "model.density=interval(0.1,0.9)"
    )
    assert said.code == 2
    assert len(said.err.strip().splitlines()) == 1
    assert "a study 'mine' already" in said.err
    assert "space.model.density" in said.err
    assert (tmp_path / "results" / "sweeps" / "mine" / "journal.log").read_bytes() == journal


@pytest.mark.slow
def test_shared_searches_change_no_trial_and_cost_less(study):
    words = ["trials=4", "trainer.epochs=1"]
    shared = study(*words, folder="a")
    alone = study(*words, "share_searches=false", folder="b")
    work(shared)
    work(alone)
    assert essence(shared) == essence(alone)
    spent = [sum(t.user_attrs["examples"] for t in trials(plan)) for plan in (shared, alone)]
    reused = sum(t.user_attrs["reused"] for t in trials(shared))
    assert reused > 0
    assert spent[0] + reused == spent[1]


def _progress(results: Path) -> int:
    """How often a journal says that a trial got further."""
    return sum(
        journal.read_bytes().count(b'"further"') for journal in results.glob("sweeps/*/journal.log")
    )


@pytest.mark.slow
def test_a_sweep_killed_at_random_moments_ends_as_one_that_was_left_alone(quick_data, tmp_path):
    words = [*SMALL, "trials=4", "trainer.epochs=3", "trainer.checkpoint_seconds=0.05"]
    words += [f"data_dir={quick_data}", "final_seeds=[]"]
    command = [sys.executable, "-m", "cvrbench", "sweep", *words]
    env = os.environ | {"CVRBENCH_CONF": str(ROOT / "conf"), "OMP_NUM_THREADS": "1"}
    straight, killed = (tmp_path / name for name in ("straight", "killed"))
    begun = time.monotonic()
    subprocess.run([*command, f"results_dir={straight}"], env=env, check=True, timeout=300)
    took = time.monotonic() - begun
    draw, kills = random.Random(0), 0
    for attempt in range(40):
        before = _progress(killed)
        process = subprocess.Popen([*command, f"results_dir={killed}"], env=env)
        # Stopped at any moment, or killed once it got further, on machines of any speed: a trial at
        # which two workers in a row die without getting further is failed, and rightly so.
        any_moment = attempt % 2 == 1
        while not any_moment and process.poll() is None and _progress(killed) == before:
            time.sleep(0.02)
        try:
            # Early enough that the first two cannot reach the end.
            moment = took * draw.uniform(0.0, 0.4 if any_moment else 0.1)
            code = process.wait(timeout=moment if kills < 4 else 300)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT if any_moment else signal.SIGKILL)
            process.wait(timeout=60)
            kills += 1
            continue
        if code == 0:
            break
    else:
        pytest.fail("the sweep never came to its end")
    assert kills >= 2
    one, other = (
        Studies(folder).folder(Studies(folder).names()[0]).read() for folder in (straight, killed)
    )
    told = [(t.number, t.state, t.params, t.values, t.looks, t.runs) for t in one.trials]
    assert [(t.number, t.state, t.params, t.values, t.looks, t.runs) for t in other.trials] == told
    for trial in one.trials:
        for run in trial.runs:
            weights = [f / "runs" / run / "best.safetensors" for f in (straight, killed)]
            assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_dry_run_says_what_would_be_searched(cvrbench, tmp_path):
    said = cvrbench("sweep", "-m", "model=mmoe,ncs", "sweep=equal_budget", "--dry-run", "--json")
    assert [plan["name"].split("-")[1] for plan in said.json()] == ["mmoe", "ncs"]
    assert said.json()[0]["space"]["model.n_experts"] == "range(2, 9)"
    assert not (tmp_path / "results").exists()


def test_importances_say_what_makes_good_trials_good():
    """In planted results `b` decides disasters, `a` which of the others are best."""
    study = optuna.create_study(direction="maximize")
    draw = random.Random(0)
    for _ in range(120):
        a, b = draw.random(), draw.random()
        value = a if b > 0.3 else -10.0 + 0.01 * a
        place = {name: optuna.distributions.FloatDistribution(0, 1) for name in ("a", "b")}
        study.add_trial(
            optuna.trial.create_trial(params={"a": a, "b": b}, distributions=place, value=value)
        )
    found = _importances(study, study.trials)
    assert found["a"] > 0.6 > 0.4 > found["b"]


@pytest.mark.parametrize("budget", ["trials=3", "budget_examples=1000000"])
def test_what_always_raises_ends_as_a_failed_trial(study, monkeypatch, budget):
    def broken(stages, network):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(TrainingSession, "finish", broken)
    plan = study(budget, *([] if "trials" in budget else ["trials=null"]), "model.search=random")
    if "trials" in budget:
        work(plan)
        assert [t.state.name for t in trials(plan)] == ["FAIL"] * 3
    else:  # nothing is spent, so that only hopelessness ends it
        with pytest.raises(RunError, match="failed before their first step: RuntimeError: CUDA"):
            work(plan)
    assert "illegal memory access" in trials(plan)[0].user_attrs["reason"]


def test_a_lower_limit_leaves_what_was_tried_and_chosen(cvrbench, tmp_path):
    assert cvrbench("sweep", *UNSEARCHED, "trials=4", "final_seeds=[]").code == 0
    (before,) = summaries(tmp_path)
    assert cvrbench("sweep", *UNSEARCHED, "trials=2", "final_seeds=[]").code == 0
    (after,) = summaries(tmp_path)
    assert after.trials == before.trials
    assert after.best_words() == before.best_words() != []


def test_an_objective_that_looks_do_not_hold_is_read_at_the_end(study):
    plan = study("objectives=[cvr_ece]", "trials=2", "trainer.epochs=1")
    work(plan)
    assert [t.state.name for t in trials(plan)] == ["COMPLETE"] * 2


def test_a_final_run_that_fails_is_told_and_the_exit_code_says_so(cvrbench, monkeypatch):
    real = TrainingSession.finish

    def only_tuning(stages, network):
        if stages.config.protocol.score_test:
            raise RunError("planted")
        return real(stages, network)

    monkeypatch.setattr(TrainingSession, "finish", only_tuning)
    for seeds in ("[0]", "[0,1]"):
        said = cvrbench("sweep", *SMALL[:2], "trials=2", f"final_seeds={seeds}")
        assert said.code == 1
        assert "planted" in said.err
        assert "sweeps: what tuning cost" in said.out


def test_one_study_that_fails_stops_no_other(cvrbench, monkeypatch, tmp_path):
    real = TrainingSession.finish

    def only_bottom(stages, network):
        if stages.config.model.kind != "shared_bottom":
            raise RunError("planted")
        return real(stages, network)

    monkeypatch.setattr(TrainingSession, "finish", only_bottom)
    words = ["model=mmoe,shared_bottom", "model.dropout=interval(0,0.5)", "trials=2"]
    said = cvrbench("sweep", "-m", *SMALL, *words, "sweep.space={}")
    assert said.code == 1
    assert "no trial of synthetic-mmoe" in said.err
    assert len([s for s in summaries(tmp_path) if s.chosen]) == 1


def test_a_password_is_shown_and_written_down_nowhere(cvrbench, tmp_path, monkeypatch):
    monkeypatch.setattr("cvrbench.sweep.storage.PATIENCE", 1.0)
    url = "postgresql://me:se#c,r&et@127.0.0.1:1/db"
    said = cvrbench("sweep", *SMALL, "trials=1", f"storage={url}")
    assert said.code == 1
    assert "me:***@127.0.0.1:1/db" in said.err
    assert "se#c" not in said.out + said.err
    monkeypatch.setattr(sys, "argv", ["cvrbench", "sweep", f"storage={url}"])
    assert "se#c" not in json.dumps(describe_environment())
    refused = cvrbench("sweep", *SMALL, f"storage={url}", "launcher=submitit")
    assert "has a password in it" in refused.err


def test_an_experiment_speaks_before_the_yaml_of_the_sweep():
    (plan,) = plan_studies(["experiment=ncs_paper"], multirun=False)
    assert plan.study.base.choices["model"] == "ncs_paper"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("seed=interval(0,5)", "cannot be searched"),
        ("dataset=choice(synthetic,adult)", "cannot be searched"),
        ("trainer.threads=range(1,3)", "cannot be searched"),
        ("model.rounds=shuffle(choice(1,2,3))", "leave shuffle out"),
        ("trainer.learning_rate=interval(0.001,inf)", "finite"),
        ("budget_seconds=inf", "finite"),
        ("name=a/b", "no name of a folder"),
    ],
)
def test_what_means_nothing_is_refused(word, said):
    with pytest.raises(ConfigError, match=said):
        plan_studies([word], multirun=False)
