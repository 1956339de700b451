"""What a step costs under every balancing method, in times of `equal` on the same batch.

    python -m benchmarks.balancing_cost [--model shared_bottom] [--turns 5]

The small shape of `training_throughput`, in one process: a step of `equal` and one of the method in
turns, the median of the ratios. Not part of the suite.
"""

import argparse
import statistics
import time
from itertools import islice

import torch
from benchmarks.figures import Figure, print_table
from benchmarks.training import ours
from benchmarks.training.shapes import SMALL, draw, schema_of

from cvrbench.balancing import build_balancing
from cvrbench.config.compose import compose
from cvrbench.config.folder import find_conf
from cvrbench.data.batches import Batch, SplitTensors
from cvrbench.objectives import build_objective
from cvrbench.strategies.base import SharingStrategy
from cvrbench.training.optimizers import build_optimizers
from cvrbench.training.step import train_step

LOSSES_AIM, GRADIENTS_AIM = 1.15, 1.5


class Steps:
    """One network and what it takes to train it by a method."""

    def __init__(self, network: SharingStrategy, kind: str) -> None:
        config = compose(["model=shared_bottom", f"balancing={kind}"]).config
        schema = schema_of(SMALL.sizes)
        names = [task.name for task in schema.tasks]
        self.network = network.train()
        self.balancing = build_balancing(config.balancing, names, names)
        self.objective = build_objective(config.objective, schema)
        self.optimizers = build_optimizers(network, ours.TRAINER, self.balancing)

    def seconds(self, batch: Batch) -> float:
        """Take a step; return how long it took."""
        begun = time.perf_counter()
        train_step(self.network, self.objective, self.balancing, batch, self.optimizers)
        return time.perf_counter() - begun


def measure(model: str, n_turns: int) -> list[Figure]:
    """Time every method against `equal`."""
    data = draw(SMALL, 4)
    starts = torch.tensor([0, *SMALL.sizes]).cumsum(0)[:-1]
    rows = (torch.from_numpy(data.ids) + starts).int()
    split = SplitTensors(rows, torch.zeros(len(rows), 0), torch.from_numpy(data.labels), (), None)
    batches = [*islice(split.batches(SMALL.batch, seed=0), 4)]
    equal = Steps(ours.network_of(model, SMALL), "equal")
    figures = []
    for kind in find_conf().groups["balancing"]:
        one = Steps(ours.network_of(model, SMALL), kind)
        pairs = [(one.seconds(batch), equal.seconds(batch)) for batch in batches * n_turns][3:]
        aim = GRADIENTS_AIM if one.balancing.compares_gradients else LOSSES_AIM
        figures.append(
            Figure(
                name=f"balancing/{model}/{kind}",
                value=statistics.median(a / b for a, b in pairs),
                unit="of equal",
                at_most=aim,
                detail=f"{1e3 * statistics.median(b for _, b in pairs):.1f} ms of equal",
            )
        )
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="shared_bottom")
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print_table(measure(given.model, given.turns))
