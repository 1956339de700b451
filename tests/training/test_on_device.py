"""What a step does on a device that is no CPU: tensors without data stand in for a GPU's.

Whatever asks such a tensor for a value, or for a size that depends on values, fails, as it would
make a GPU wait for the host.
"""

import pytest
import torch

from cvrbench.config.compose import compose
from cvrbench.data.batches import SplitTensors
from cvrbench.data.schema import Categorical, Numeric, Schema, Task
from cvrbench.objectives import build_objective
from cvrbench.strategies import build_strategy
from cvrbench.training.optimizers import build_optimizers

MODELS = ("single_task", "shared_embedding", "shared_bottom", "mmoe", "ple", "ncs")
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


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_a_step_never_waits_for_a_value(schema, model, optimizer):
    config = compose([f"model={model}", f"trainer.embedding_optimizer={optimizer}"]).config
    network = build_strategy(config.model, schema).to("meta")
    optimizers = build_optimizers(network, config.trainer)
    objective = build_objective(config.objective, schema)
    split = SplitTensors(
        torch.empty(100, 2, dtype=torch.int32, device="meta"),
        torch.empty(100, 1, device="meta"),
        torch.empty(100, 2, dtype=torch.uint8, device="meta"),
        (),
        None,
    )
    for _ in range(2):
        batch = split.gather(torch.empty(16, dtype=torch.int64, device="meta"))
        loss = objective.losses(network(batch.features), batch.labels, batch.weights).sum()
        optimizers.zero_grad()
        loss.backward()
        optimizers.table.step()  # the dense one is torch's, which knows no such tensors
    with pytest.raises((NotImplementedError, RuntimeError)):
        loss.item()  # so that the test is one
