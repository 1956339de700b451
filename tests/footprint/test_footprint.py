"""What a run will need, told before it begins: for every strategy, and as it then is measured."""

import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks import memory_estimate
from safetensors.numpy import load_file

from cvrbench import experiment, footprint, machine
from cvrbench.data.batches import SplitReader, SplitTensors
from cvrbench.data.registry import ensure
from cvrbench.data.streaming import rows_bytes
from cvrbench.errors import RunError
from cvrbench.footprint import check_memory, check_together, estimate, rough_bound
from cvrbench.footprint.rows import resident

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
CELLS = (
    "model=single_task",
    "model=shared_embedding model.embedding_dim=64",
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
    found = estimate(*opened(quick(*words)), CPU)
    assert found is not None
    return found.needed


@pytest.mark.parametrize("words", CELLS)
def test_every_kind_of_run_can_be_told_and_its_rough_bound_is_none_too_low(quick, words):
    config, dataset = opened(quick(*words.split()))
    found = estimate(config, dataset, CPU)
    assert found is not None
    state = sum(p for name, p in found.parts.items() if name in {"parameters", "copies"})
    assert state > dataset.schema.vocabulary_size * config.model.embedding_dim * 4 * 2
    assert found.needed < rough_bound(config, dataset)


def test_the_rehearsal_leaves_no_trace(quick):
    config, dataset = opened(quick("model=ncs", "model.search=imp"))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    estimate(config, dataset, CPU)
    assert torch.equal(torch.rand(3), expected)
    network = torch.nn.Linear(2, 2)
    assert network(torch.ones(1, 2)).shape == (1, 2)


def test_what_costs_more_is_told_to_cost_more(quick):
    base = needs(quick, "model=mmoe")
    assert needs(quick, "model=mmoe", "trainer.batch_size=4000") > base + 4_000_000
    assert needs(quick, "model=mmoe", "trainer.eval_batch_size=1") <= base
    wide = ["model=shared_bottom", "model.embedding_dim=4096", "trainer.batch_size=2"]
    adam = needs(quick, *wide, "trainer.embedding_optimizer=adam")
    assert adam > needs(quick, *wide) + 2_000_000


def test_a_step_of_the_test_rows_counts_where_they_are_more_than_those_of_validation(quick):
    wide = ("model=shared_bottom", "model.hidden=[2048]", "trainer.batch_size=1")
    config, dataset = opened(quick(*wide, "trainer.eval_batch_size=10000"))
    long = replace(dataset, test=dataset.train)
    layer = 4 * 2048 * len(dataset.train)  # its output alone, in float32
    assert estimate(config, long, CPU).parts["evaluation"] >= layer
    assert estimate(config, dataset, CPU).parts["evaluation"] < layer


def test_a_run_that_will_not_fit_says_so_before_anything_is_made(quick, monkeypatch):
    cell = quick("model=mmoe", "trainer.batch_size=4000", "model.hidden=[2048]")
    config, dataset = opened(cell)
    found = estimate(config, dataset, CPU)
    room = machine.Room(n_bytes=found.needed - 1, limit="its control group")
    monkeypatch.setattr(footprint, "room", lambda _: room)
    with pytest.raises(RunError) as told:
        experiment.run(cell)
    size = f"{found.needed / 1e9:.1f} GB"
    assert f"needs about {size} of memory (a training step" in str(told.value)
    assert f"{room.n_bytes / 1e9:.1f} GB are free (its control group)" in str(told.value)
    assert "lower trainer.batch_size" in str(told.value)
    assert "trainer.check_memory=false to try" in str(told.value)
    monkeypatch.setattr(footprint, "room", lambda _: replace(room, n_bytes=found.needed))
    check_memory(config, dataset, CPU)


def test_the_check_can_be_left_out_and_changes_no_run(quick, monkeypatch):
    room = machine.Room(n_bytes=1, limit="the machine")
    monkeypatch.setattr(footprint, "room", lambda _: room)
    with pytest.raises(RunError, match="GB are free"):
        experiment.run(quick("model=shared_bottom"))
    tried = experiment.run(quick("model=shared_bottom", "trainer.check_memory=false"))
    monkeypatch.undo()
    assert experiment.run(quick("model=shared_bottom")).run_id == tried.run_id


def test_workers_that_will_not_fit_beside_each_other_are_fewer(quick, monkeypatch):
    runs = [opened(quick("model=mmoe", f"seed={seed}")) for seed in range(4)]
    need = estimate(*runs[0], CPU).needed + footprint.PROCESS
    limit = machine.Room(n_bytes=2 * need, limit="the machine")
    monkeypatch.setattr(machine, "room", lambda: limit)
    check_together(runs, CPU, 2)
    check_together(runs[:2], CPU, 4)
    with pytest.raises(RunError, match=r"3 of these runs at once need .* launcher\.workers=2,"):
        check_together(runs, CPU, 3)


def test_where_not_even_one_worker_fits_another_number_of_workers_is_no_advice(quick, monkeypatch):
    runs = [opened(quick("model=mmoe", f"seed={seed}")) for seed in range(2)]
    monkeypatch.setattr(machine, "room", lambda: machine.Room(n_bytes=1000, limit="the machine"))
    with pytest.raises(RunError, match="not even one fits: make the largest smaller, or"):
        check_together(runs, CPU, 2)


def test_the_bytes_of_a_split_are_those_that_loading_it_takes(quick):
    _, dataset = opened(quick("model=mmoe"))
    for name in ("train", "valid"):
        split = dataset.split(name)
        loaded = SplitTensors.load(split, dataset.schema, CPU)
        bags = [tensor for bag in loaded.bags for tensor in bag[:3]]
        tensors = [loaded.rows, loaded.numeric, loaded.labels, loaded.contexts, *bags]
        assert rows_bytes(split) == sum(t.nbytes for t in tensors if t is not None)


def test_ids_of_a_vast_vocabulary_are_rehearsed_in_the_type_that_they_are_read_in(quick):
    _, dataset = opened(quick("model=mmoe"))
    vast = replace(dataset.schema.categorical[0], size=2**31)
    fields = (vast, *dataset.schema.categorical[1:])
    schema = replace(dataset.schema, categorical=fields)
    for one in (dataset.schema, schema):
        read = SplitReader(dataset.valid, one, CPU).read([(0, 3)]).rows
        assert resident(replace(dataset, schema=one), "valid").rows.dtype == read.dtype
    assert read.dtype == torch.int64


def test_an_operation_that_cannot_be_pretended_stops_no_run(quick, monkeypatch):
    def unknown(*_, **__):
        raise NotImplementedError("no meta kernel")

    monkeypatch.setattr(footprint, "rehearse", unknown)
    monkeypatch.setattr(footprint, "room", lambda _: machine.Room(n_bytes=1, limit="the machine"))
    assert experiment.run(quick("model=shared_bottom")).metrics


def test_a_gpu_is_told_what_lies_on_it_alone(quick):
    config, dataset = opened(quick("model=mmoe"))
    on_cpu, on_gpu = (estimate(config, dataset, torch.device(name)) for name in ("cpu", "cuda"))
    assert "predictions" not in on_gpu.parts
    assert on_gpu.parts["parameters"] == on_cpu.parts["parameters"]
    assert on_gpu.parts["data"] == on_cpu.parts["data"]


SQUEEZED = """
import resource, sys
import torch
from cvrbench import experiment
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
@pytest.mark.parametrize("shape", memory_estimate.QUICK)
def test_the_estimate_is_within_a_fifth_of_the_measured_peak(shape, tmp_path):
    told, measured = memory_estimate.compare(memory_estimate.SHAPES[shape], tmp_path)
    assert told == pytest.approx(measured, rel=0.2)
