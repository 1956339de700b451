"""What a run needs, said before it begins: parts that follow from sizes; what is refused."""

import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks import memory_estimate as benchmark
from safetensors.numpy import load_file

from cvrbench.cli.plan import spans
from cvrbench.config.compose import take_launcher
from cvrbench.data.batches import SplitTensors
from cvrbench.data.dataset import Bag, open_dataset
from cvrbench.data.registry import ensure
from cvrbench.data.streaming import rows_bytes
from cvrbench.errors import ConfigError, RunError
from cvrbench.runs import experiment, memory
from cvrbench.runs.memory import (
    PROCESS,
    REFUSED,
    check_memory,
    check_together,
    estimate,
    needs_of_plan,
)
from cvrbench.system import machine
from cvrbench.system.machine import AvailableMemory
from tests.data.stores import write_store

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
FEW = ("trainer.eval_batch_size=1",)
WIDE = ("model=mmoe", "trainer.batch_size=4000", "model.hidden=[2048]")
CELLS = (
    "model=single_task",
    "model=shared_embedding",
    "model=mmoe trainer.precision=bf16",
    "model=ple objective=entire_space",
    "model=ncs model.search=imp model.choice=validation",
    "model=ncs model.search=imp model.together=false protocol.label_share=0.1",
    "model=ncs model.search=learned trainer.embedding_optimizer=lazy_adam",
    "model=ncs model.search=rigl model.step=alternate",
    "model=ncs model.search=grasp trainer.embedding_optimizer=adam",
)


def opened(cell):
    config = cell.config
    return config, ensure(config.dataset, cell.choices["dataset"], Path(config.data_dir))


def needs(quick, *words: str) -> int:
    return estimate(*opened(quick(*words)), CPU).needed


def launcher(*words: str):
    return take_launcher(words)[0]


@pytest.fixture
def free(monkeypatch):
    """Set how many bytes are free."""

    def limited(n_bytes: float, limit: str = "its control group") -> AvailableMemory:
        found = AvailableMemory(n_bytes=int(n_bytes), limit=limit)
        monkeypatch.setattr(machine, "available_memory", lambda: found)
        return found

    return limited


@pytest.mark.parametrize("words", CELLS)
def test_every_kind_of_run_needs_its_tables_twice_and_their_optimiser(quick, words):
    config, dataset = opened(quick(*words.split(), "model.embedding_dim=4096", *FEW))
    found = estimate(config, dataset, CPU)
    table = 4 * dataset.schema.vocabulary_size * config.model.embedding_dim
    copies = len(dataset.schema.tasks) if config.model.kind == "single_task" else 1
    assert found.parts["weights and copies of them"] > 2 * copies * table
    of_row = {"rowwise_adagrad": table / config.model.embedding_dim, "lazy_adam": 2 * table}
    assert found.parts["optimiser"] > of_row.get(config.trainer.embedding_optimizer, 4 * table)
    assert found.needed == sum(found.parts.values()) + memory.LATER


def test_what_costs_more_is_estimated_higher(quick):
    base = needs(quick, "model=mmoe")
    assert needs(quick, "model=mmoe", "trainer.batch_size=4000") > base + 4_000_000
    assert needs(quick, "model=mmoe", "trainer.eval_batch_size=1") <= base
    wide = ["model=shared_bottom", "model.embedding_dim=4096", "trainer.batch_size=2", *FEW]
    adam = needs(quick, *wide, "trainer.embedding_optimizer=adam")
    assert adam > needs(quick, *wide) + 2_000_000


COMPARED = ("model.search.rounds=3", "model.search.choice=joint", "model.search.epochs=1")


def test_a_search_counts_the_copies_that_it_holds(quick):
    small = ("model.hidden=[1]", "trainer.batch_size=2", *FEW)
    table = ("model=ncs", "model.embedding_dim=4096", *small)
    size = opened(quick(*table))[1].schema.vocabulary_size * 4096 * 4
    drawn = needs(quick, *table, "model.search=random")
    joint = needs(quick, *table, "model.search=random", *COMPARED)
    imp = needs(quick, *table, "model.search=imp", "model.choice=last")
    assert joint - drawn == pytest.approx(2 * size, rel=0.1)
    assert imp - joint == pytest.approx(size, rel=0.2)


def test_a_step_of_the_test_rows_counts_where_they_are_more_than_those_of_validation(quick):
    wide = ("model=shared_bottom", "model.hidden=[2048]", "trainer.batch_size=1")
    config, dataset = opened(quick(*wide, "trainer.eval_batch_size=10000"))
    long = replace(dataset, test=dataset.train)
    layer = 4 * 2048 * len(dataset.train)  # its output alone, in float32
    assert estimate(config, long, CPU).parts["an evaluation step"] >= layer
    assert estimate(config, dataset, CPU).needed < estimate(config, long, CPU).needed


def test_lists_count_with_the_rows_and_with_the_step(quick, tmp_path):
    dataset = open_dataset(write_store(tmp_path / "toy", 3000))
    train = dataset.train
    offsets, ids, weights = train.bags[1]
    bags = (train.bags[0], Bag(offsets * 100, ids.repeat(100), weights.repeat(100)))
    longer = replace(dataset, train=replace(train, bags=bags))
    config = quick("model=mmoe", "trainer.eval_batch_size=1").config
    short, long = estimate(config, dataset, CPU), estimate(config, longer, CPU)
    values = 99 * len(ids)
    assert long.parts["data"] - short.parts["data"] == 8 * values  # an id and a weight
    assert long.parts["a training step"] > short.parts["a training step"]


def test_the_bytes_of_a_split_are_those_that_loading_it_takes(tmp_path):
    dataset = open_dataset(write_store(tmp_path / "toy", 300))
    loaded = SplitTensors.load(dataset.train, dataset.schema, CPU)
    bags = [tensor for bag in loaded.bags for tensor in bag[:3]]
    tensors = [loaded.rows, loaded.numeric, loaded.labels, loaded.contexts, *bags]
    assert rows_bytes(dataset.train) == sum(t.nbytes for t in tensors if t is not None)


def test_the_estimate_leaves_no_trace(quick):
    config, dataset = opened(quick("model=ncs", "model.search=imp"))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    estimate(config, dataset, CPU)
    assert torch.equal(torch.rand(3), expected)
    assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).shape == (1, 2)


def test_a_run_that_will_not_fit_says_so_before_anything_is_made(quick, free, caplog):
    config, dataset = opened(quick(*WIDE))
    found = estimate(config, dataset, CPU)
    limit = free(found.needed / REFUSED - 10)
    with pytest.raises(RunError) as told:
        experiment.run(quick(*WIDE))
    size = f"{found.needed / 1e9:.1f} GB"
    assert f"needs about {size} of memory (a training step" in str(told.value)
    assert f"{limit.n_bytes / 1e9:.1f} GB are free (its control group)" in str(told.value)
    assert "lower trainer.batch_size" in str(told.value)
    assert "trainer.check_memory=false to try" in str(told.value)
    assert not caplog.records


def test_a_run_that_may_not_fit_is_warned_about_and_begins(quick, free, caplog):
    config, dataset = opened(quick(*WIDE))
    needed = estimate(config, dataset, CPU).needed
    free(needed - 1)
    check_memory(config, dataset, CPU)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "GB are free (its control group), which may not be enough; if so, lower" in said
    caplog.clear()
    free(needed)
    check_memory(config, dataset, CPU)
    assert not caplog.records


def test_the_check_can_be_left_out_and_changes_no_run(quick, free, monkeypatch):
    free(1)
    with pytest.raises(RunError, match="GB are free"):
        experiment.run(quick("model=shared_bottom"))
    tried = experiment.run(quick("model=shared_bottom", "trainer.check_memory=false"))
    monkeypatch.undo()
    assert experiment.run(quick("model=shared_bottom")).run_id == tried.run_id


def test_workers_that_will_not_fit_beside_each_other_are_fewer(quick, free, caplog):
    runs = [opened(quick("model=mmoe", f"seed={seed}")) for seed in range(4)]
    need = estimate(*runs[0], CPU).needed + PROCESS
    free(2 * need)
    check_together(runs, CPU, 2)
    check_together(runs[:2], CPU, 4)
    assert not caplog.records
    check_together(runs, CPU, 3)
    assert "may not be enough; if so, set launcher.workers=2" in caplog.text
    with pytest.raises(RunError, match=r"4 of these runs at once need .* launcher\.workers=2,"):
        check_together(runs, CPU, 4)


def test_where_not_even_one_worker_fits_another_number_of_workers_is_no_advice(quick, free):
    runs = [opened(quick("model=mmoe", f"seed={seed}")) for seed in range(2)]
    free(1000)
    with pytest.raises(RunError, match="not even one fits: make the largest smaller, or"):
        check_together(runs, CPU, 2)


def test_runs_that_differ_in_their_seed_alone_are_one_line_of_a_plan(quick):
    cells = [quick(f"model={m}", f"seed={s}") for m in ("mmoe", "ple") for s in range(3)]
    found, at_once = needs_of_plan(cells, [0, 2, 3, 4, 5], launcher())
    assert [need.runs for need in found] == [(0, 2), (3, 4, 5)]
    assert all(need.times_free < 1 for need in found)
    assert at_once is None


def test_a_plan_says_what_does_not_fit_and_what_to_lower(quick, free):
    cell = quick(*WIDE)
    ((need,), _) = needs_of_plan([cell], [0], launcher())
    limit = free(need.estimate.needed - 1)
    ((told,), _) = needs_of_plan([cell], [0], launcher())
    assert told.words.startswith("lower trainer.batch_size")
    assert told.plain() == {
        "needed": limit.n_bytes + 1,
        "free": limit.n_bytes,
        "limit": "its control group",
        "fits": False,
        "reason": None,
    }


def test_a_plan_says_how_many_processes_fit_beside_each_other(quick, free):
    cells = [quick("model=mmoe", f"seed={seed}") for seed in range(4)]
    ((need,), _) = needs_of_plan(cells, range(4), launcher())
    each = need.estimate.needed + PROCESS
    free(2 * each)
    found = needs_of_plan(cells, range(4), launcher("workers=3"))[1]
    assert (found.runs, found.needed, found.advice) == (3, 3 * each, "set launcher.workers=2")
    assert needs_of_plan(cells, range(4), launcher("workers=2"))[1].advice == ""
    assert needs_of_plan(cells, range(4), launcher())[1] is None


def test_a_dataset_that_is_not_prepared_is_said_to_be_so(quick, tmp_path):
    cell = quick("model=mmoe", f"data_dir={tmp_path}")
    ((need,), _) = needs_of_plan([cell], [0], launcher())
    assert need.plain()["reason"] == "not estimated: synthetic is not prepared yet"
    assert need.times_free is None
    assert list(tmp_path.iterdir()) == []


def test_what_runs_elsewhere_is_compared_with_what_it_asks_for(quick):
    cell = quick("model=mmoe")
    small = launcher("launcher=submitit", "launcher.memory_gb=0.2")
    ((need,), _) = needs_of_plan([cell], [0], small)
    assert need.free.limit == "launcher.memory_gb"
    assert need.times_free > 1
    ((on_ray,), _) = needs_of_plan([cell], [0], launcher("launcher=ray"))
    assert on_ray.times_free is None
    ((on_gpu,), _) = needs_of_plan([quick("trainer.device=cuda:63")], [0], launcher())
    assert on_gpu.times_free is None
    assert on_gpu.estimate.needed > 0
    with pytest.raises(ConfigError, match=r"trainer\.device must be"):
        needs_of_plan([quick("trainer.device=gpu")], [0], launcher())


def test_places_of_a_plan_are_joined():
    assert spans([0, 1, 2, 6]) == "1-3, 7"
    assert spans([4]) == "5"


SQUEEZED = """
import resource, sys
import torch
from cvrbench.runs import experiment
from cvrbench.config.compose import compose
from cvrbench.errors import RunError

ballast = []

def squeeze(progress):
    # From the fourth step on there is room for small things alone, in what is free already, too.
    if progress.step != 4:
        return
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    limit = int(status["VmData"].split()[0]) * 1024 + (8 << 20)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        while True:
            ballast.append(torch.empty(1 << 20))
    except RuntimeError:
        pass

try:
    experiment.run(compose(sys.argv[1:]), on_progress=squeeze)
except RunError as error:
    print(error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the data segment")
def test_out_of_memory_in_the_middle_is_one_clear_line_and_the_run_goes_on_bit_for_bit(
    quick, quick_data, tmp_path
):
    words = [
        "experiment=quick_check",
        "model=mmoe",
        "model.hidden=[2048,64]",
        "trainer.checkpoint_seconds=1e-9",
        f"data_dir={quick_data}",
    ]
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    done = subprocess.run(
        [sys.executable, "-c", SQUEEZED, *words, f"results_dir={broken}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("out of memory (")
    assert done.stdout.count("\n") == 1
    (folder,) = (broken / "runs").iterdir()
    assert "out of memory" in (folder / "failure.json").read_text()
    cells = [quick(*words[1:-1], f"results_dir={place}") for place in (broken, whole)]
    resumed, straight = (experiment.run(cell) for cell in cells)
    assert resumed.metrics == straight.metrics
    weights = [
        load_file(place / "runs" / resumed.run_id / "best.safetensors") for place in (broken, whole)
    ]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[1])
    assert not (folder / "failure.json").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the data segment")
def test_a_limit_of_the_shell_refuses_the_run_before_it_begins(quick_data, tmp_path):
    def narrow():
        resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))

    words = ["experiment=quick_check", f"data_dir={quick_data}", f"results_dir={tmp_path}"]
    wide = ["model=mmoe", "model.hidden=[4096,2048]", "trainer.batch_size=4000"]
    done = subprocess.run(
        [sys.executable, "-m", "cvrbench", "run", *words, *wide],
        cwd=ROOT,
        preexec_fn=narrow,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "error: the run needs about" in done.stderr
    assert "(ulimit -d)" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("shape", benchmark.QUICK)
def test_the_estimate_is_within_one_and_a_half_times_of_the_measured_peak(shape, tmp_path):
    told, measured = benchmark.compare(shape, tmp_path)
    assert measured / 1.5 < told < measured * 1.5
