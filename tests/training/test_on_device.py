"""What a step and a look do on a device that is no CPU: tensors without data stand in for a GPU's.

Whatever asks such a tensor for a value, or for a size that depends on values, fails, as it would
make a GPU wait for the host. What looks compute of values is compared on a CPU's tensors.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from cvrbench.config.compose import compose
from cvrbench.data.batches import SplitTensors
from cvrbench.data.registry import ensure
from cvrbench.data.schema import Categorical, Numeric, Schema, Task
from cvrbench.errors import RunError
from cvrbench.metrics.evaluation import score
from cvrbench.objectives import build_objective
from cvrbench.runs import experiment
from cvrbench.runs.store import ResultStore
from cvrbench.strategies import build_network, build_strategy
from cvrbench.training import evaluator
from cvrbench.training.evaluator import CPU, ON_TENSORS, metrics_of_tensors, predict, predict_there
from cvrbench.training.optimizers import build_optimizers
from cvrbench.training.step import train_step
from tests.models.conftest_models import KINDS, OBJECTIVES, balancing_of, objective_of

OPTIMIZERS = ("rowwise_adagrad", "lazy_adam")


@pytest.fixture
def schema():
    return Schema(
        name="shapes",
        categorical=(Categorical(name="user", size=40), Categorical(name="item", size=60)),
        multivalued=(),
        numeric=(Numeric(name="price", mean=0.0, std=1.0),),
        tasks=(
            Task(name="ctr", label="click"),
            Task(name="cvr", label="buy", parent="ctr", joint="ctcvr"),
        ),
        group=None,
        rows={},
        fingerprint="",
    )


@pytest.fixture
def split():
    """A hundred rows without data."""
    return SplitTensors(
        torch.empty(100, 2, dtype=torch.int32, device="meta"),
        torch.empty(100, 1, device="meta"),
        torch.empty(100, 2, dtype=torch.uint8, device="meta"),
        (),
        None,
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", KINDS)
def test_a_step_never_waits_for_a_value(schema, split, model, optimizer):
    config = compose([f"model={model}", f"trainer.embedding_optimizer={optimizer}"]).config
    network = build_network(config, schema).to("meta")
    balancing = balancing_of("equal", schema).to("meta")
    optimizers = build_optimizers(network, config.trainer, balancing)
    optimizers.dense.step = lambda: None  # torch's own, which knows no such tensors
    for _ in range(2):
        batch = split.gather(torch.empty(16, dtype=torch.int64, device="meta"))
        objective = build_objective(config.objective, schema)
        loss = train_step(network, objective, balancing, batch, optimizers)
    with pytest.raises((NotImplementedError, RuntimeError)):
        loss.item()  # so that the test is one


def test_a_prediction_pass_never_waits_for_a_value(schema, split):
    network = build_strategy(compose(["model=mmoe"]).config.model, schema).to("meta")
    for kind in OBJECTIVES:
        objective = objective_of(kind, schema)
        found = predict_there(network, split, objective, batch_size=32)
        assert [(t.shape, t.device.type) for t in found] == [((100, 2), "meta")] * 2
        with pytest.raises((NotImplementedError, RuntimeError)):
            predict(network, split, objective, batch_size=32)  # so that the test is one


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_rows_predicted_in_batches_are_those_predicted_at_once(quick, kind):
    config = quick("model=mmoe").config
    dataset = ensure(config.dataset, "synthetic", Path(config.data_dir))
    valid = SplitTensors.load(dataset.valid, dataset.schema, CPU)
    objective = objective_of(kind, dataset.schema)
    network = build_network(config, dataset.schema).eval()
    with torch.no_grad():
        at_once = objective.predictions(network(valid.gather(torch.arange(len(valid))).features))
    there = predict_there(network, valid, objective, batch_size=700)
    here = predict(network, valid, objective, batch_size=700)
    for whole, tensor, array in zip(at_once, there, here, strict=True):
        torch.testing.assert_close(tensor, whole, rtol=1e-5, atol=0)
        np.testing.assert_array_equal(tensor.numpy(), array)


def test_spaces_of_tensors_are_those_of_arrays():
    rng = np.random.default_rng(0)
    tasks = (
        Task(name="ctr", label="click"),
        Task(name="cvr", label="buy", parent="ctr", joint="ctcvr"),
        Task(name="rr", label="refund", parent="cvr", joint="ctcvrr"),
    )
    labels = np.cumprod(rng.integers(0, 2, (3000, 3)), axis=1, dtype=np.uint8)
    values = [rng.random((3000, 3)).round(3) for _ in range(2)]
    schema = Schema(
        name="toy",
        categorical=(),
        multivalued=(),
        numeric=(),
        tasks=tasks,
        group=None,
        rows={},
        fingerprint="",
    )
    on_host = score(schema, labels, *values)
    tensors = [torch.from_numpy(array) for array in (labels, *values)]
    found, undefined = score(schema, *tensors, metrics_of=metrics_of_tensors)
    of_spaces = {f"{n}_{k}" for n in ("ctr", "cvr", "ctcvr", "rr", "ctcvrr") for k in ON_TENSORS}
    assert set(found) == {*of_spaces, "cvr_auc_exposed", "rr_auc_exposed"}
    assert undefined == {}
    for name, value in found.items():
        same = value if "auc" in name else pytest.approx(value, rel=1e-13)
        assert on_host.metrics[name] == same, name


def test_a_tensor_that_is_no_probability_stops_the_run_as_an_array_does(schema):
    labels = torch.tensor([[1, 0], [0, 0]], dtype=torch.uint8)
    values = torch.tensor([[0.5, float("inf")], [0.5, 0.5]])
    with pytest.raises(RunError, match=r"1 of 2 predictions of task 'cvr'.*learning_rate"):
        score(schema, labels, values, values, metrics_of=metrics_of_tensors)


def test_only_a_gpu_scores_looks_itself_and_only_what_it_can():
    gpu = torch.device("cuda")
    assert evaluator.stay(gpu, ("auc",))
    assert evaluator.stay(gpu, ("auc", "logloss"))
    assert not evaluator.stay(gpu, ("auc", "gauc", "logloss"))
    assert not evaluator.stay(CPU, ("auc",))


@pytest.mark.parametrize("model", ["ncs", "shared_bottom"])
def test_a_run_whose_looks_are_scored_on_tensors_has_the_same_history(
    quick, tmp_path, monkeypatch, model
):
    on_arrays, history = run_and_history(quick(f"model={model}", f"results_dir={tmp_path / '1'}"))
    monkeypatch.setattr(evaluator, "stay", lambda _, kinds: set(kinds) <= set(ON_TENSORS))
    monkeypatch.setattr(evaluator, "predict", lambda *_, **__: pytest.fail("brought to the host"))
    cell = quick(f"model={model}", f"results_dir={tmp_path / '2'}")
    on_tensors, other_history = run_and_history(cell)
    assert on_tensors.metrics == on_arrays.metrics
    assert len(other_history) == len(history) > 1
    for look, other in zip(history, other_history, strict=True):
        one, two = look.pop("metrics"), other.pop("metrics")
        assert other == look
        assert list(two) == list(one)
        for name, value in one.items():
            same = value if name.endswith("_auc") else pytest.approx(value, rel=1e-13)
            assert two[name] == same, name


def run_and_history(cell):
    record = experiment.run(cell)
    return record, ResultStore(Path(cell.config.results_dir)).history(record.run_id)
