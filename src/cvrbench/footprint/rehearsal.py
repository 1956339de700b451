"""A run rehearsed: its steps in their order, on tensors that have shapes and no memory.

The strategy, its search, the optimisers, the losses and the batches are the run's own code, so that
what a new one of them holds is counted without a line here. Every training takes two steps, looks
at validation once and finds that it was the best look so far, which is when most is held.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, repeat
from typing import NamedTuple

import torch
from torch import Tensor

from cvrbench.balancing import loss_weights
from cvrbench.config.schema import Config
from cvrbench.data.batches import Batch, SplitTensors
from cvrbench.data.dataset import Dataset
from cvrbench.data.sampler import BLOCK_BYTES, WINDOW_BLOCKS
from cvrbench.data.streaming import SEQUENTIAL_BLOCKS, rows_bytes
from cvrbench.footprint.live import ELSEWHERE, LiveBytes, pretending
from cvrbench.footprint.rows import answers_bytes, expected_rows, resident
from cvrbench.nn import FeatureEncoder
from cvrbench.objectives import Objective, alone, build_objective
from cvrbench.strategies import build_strategy
from cvrbench.strategies.base import SharingStrategy, Training, Turn
from cvrbench.training.observe import Probe, probe_rows
from cvrbench.training.optimizers import Optimizers, build_optimizers
from cvrbench.training.schedule import count_steps
from cvrbench.training.under_way import copy_weights

WINDOWS = 2 * WINDOW_BLOCKS * BLOCK_BYTES
"""Bytes of rows in memory where the rest is left on disk."""
PART = SEQUENTIAL_BLOCKS * BLOCK_BYTES
"""Bytes of rows that are read at once where they are taken as they lie."""
SCORE_BYTES = 36
"""Of the arrays that the metrics of one row need at once, the most that tracemalloc saw in
`evaluation.score` on 3 million rows of two tasks: 12, with groups 28, with truth as well 36."""
LOOK_BYTES = 12
"""The same at a look during training, which computes AUC and log loss alone."""
LOOK_BYTES_ON_GPU = 51
"""The same of tensors on a GPU: 27 counted, and a guess at what the sort itself needs."""
IDLE = 0.7
"""Of the activations: what the C library keeps free beside them, since a block seldom fits exactly
where another one was. Measured between 0.5 and 0.8 (benchmarks/memory_estimate.py)."""
IDLE_ON_GPU = 0.2
"""The same of torch's own allocator; a guess, not measured yet."""
FRAME_COPIES = 2
"""Of the test predictions while they are written: as columns, and encoded."""


def rehearse(
    config: Config, dataset: Dataset, *, on_gpu: bool, on_disk: bool = False
) -> dict[str, int]:
    """Go through a run without computing it.

    Args:
        config: Of the run.
        dataset: Its prepared data, of which only the sizes are read.
        on_gpu: Whether to count a GPU's memory, where what is no tensor does not lie.
        on_disk: Whether rows stay on disk but for two windows.

    Returns:
        Part of the run -> bytes, at the moment when their sum is largest.
    """
    with pretending(expected_rows(dataset), host=not on_gpu) as live:
        with live.of(ELSEWHERE if on_disk else "data"):
            train = resident(dataset, "train", weighted=config.protocol.label_share < 1)
            valid = resident(dataset, "valid")
        with live.of("data"):
            arrays = dataset.train.ids.nbytes + dataset.train.numeric.nbytes
            n_bytes = min(WINDOWS, 2 * arrays) if on_disk else 0
            windows = torch.empty(n_bytes, dtype=torch.uint8)
        with live.beside("answers", answers_bytes(dataset.valid)):
            with live.of("parameters"):
                network = build_strategy(config.model, dataset.schema)
            lab = _Lab(config, dataset, train, valid, live)
            with live.of("copies"):
                network.prepare(lab)
            lab.finish(network)
            lab.score(network, valid, SCORE_BYTES)
            lab.test(network)
        with live.beside("copies", state_bytes(network)):  # the file is made in memory
            pass
        del windows
    come_and_go = max(live.largest["activations"], live.largest["evaluation"])
    return live.peak | {"idle": round((IDLE_ON_GPU if on_gpu else IDLE) * come_and_go)}


class _Fitted(NamedTuple):
    """A training that never was; it makes no difference how good."""

    score: float
    scores: Mapping[str, float]


@dataclass
class _Lab:
    """To a strategy, its `Lab`; every training in it is a rehearsal."""

    config: Config
    dataset: Dataset
    train_rows: SplitTensors
    valid: SplitTensors
    live: LiveBytes

    def __post_init__(self) -> None:
        self.schema = self.dataset.schema
        self.tasks = tuple(task.name for task in self.schema.tasks)
        self.objective = build_objective(self.config.objective, self.schema)
        self.weights = loss_weights(self.config.balancing, self.tasks)

    @property
    def seed(self) -> int:
        return self.config.seed

    def steps(self, epochs: float) -> int:
        return count_steps(len(self.train_rows), self.config.trainer.batch_size, epochs)

    def batches(self, n: int) -> Iterator[Batch]:
        """Give at most two: the third would hold what the second did."""
        return islice(repeat(self._batch()), min(n, 2))

    def losses(self, logits: Tensor, batch: Batch) -> Tensor:
        return alone(self.objective).losses(logits.float(), batch.labels, batch.weights)

    def train(self, training: Training) -> _Fitted:
        """Rehearse a training of a mask search."""
        self._fit(training.network, apart=training.apart, probe=None)
        return _Fitted(0.5, dict.fromkeys(self.tasks, 0.5))

    def finish(self, network: SharingStrategy) -> None:
        """Rehearse the last training, which also observes how the tasks share."""
        rows = len(self.train_rows) / self.config.trainer.evaluations_per_epoch
        with self.live.of("activations"):
            probe = Probe.draw(
                self.train_rows,
                self.objective,
                self.tasks,
                seed=self.seed,
                n_rows=probe_rows(rows),
            )
        self._fit(network, apart=False, probe=probe)

    def score(
        self, network: SharingStrategy, rows: SplitTensors, row_bytes: int, copies: int = 0
    ) -> None:
        """Predict, hold the predictions while metrics are computed, and while they are written."""
        n, tasks = rows.labels.shape
        predictions = 2 * 8 * n * tasks
        with self.live.beside("predictions", predictions):
            self._predict(network, rows)
            with self.live.beside("predictions", row_bytes * n):
                pass
            with self.live.beside("predictions", copies * (predictions + n * (tasks + 8))):
                pass

    def test(self, network: SharingStrategy) -> None:
        """Score the test rows, which are read from disk part by part, one ahead of its use."""
        split = self.dataset.test
        with self.live.of(ELSEWHERE):
            rows = resident(self.dataset, "test")
        n, n_bytes = max(1, len(rows)), rows_bytes(split)
        part = max(PART, self.config.trainer.eval_batch_size * n_bytes // n)
        with self.live.beside("answers", answers_bytes(split)):
            with self.live.of("data"):
                parts = torch.empty(2 * min(part, n_bytes), dtype=torch.uint8)
            self.score(network, rows, SCORE_BYTES, FRAME_COPIES)
            del parts

    def _fit(self, network: SharingStrategy, *, apart: bool, probe: Probe | None) -> None:
        """Rehearse one training: as `training.fit.fit`, from its start to its first best look."""
        live, config = self.live, self.config.trainer
        with live.of("optimiser"):
            optimizers = build_optimizers(network, config)
        with live.of("copies"):
            best = copy_weights(network)
        with live.of("data"):
            order = torch.empty(len(self.train_rows), dtype=torch.int64)
        objective = alone(self.objective) if apart else self.objective
        network.train()
        turns: tuple[Turn | None, ...] = network.turns() or (None,)
        for turn in (*turns, *turns):
            self._step(network, optimizers, objective, turn)
        with live.of("data"):
            other = order.clone()  # of the next epoch, made before this one's is let go
        del order, other
        self._look(network, probe)
        del best

    def _step(
        self,
        network: SharingStrategy,
        optimizers: Optimizers,
        objective: Objective,
        turn: Turn | None,
    ) -> None:
        precision = self.config.trainer.precision
        with self.live.of("activations"):
            batch = self._batch()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                logits = network(batch.features)
            losses = objective.losses(logits.float(), batch.labels, batch.weights)
            loss = (losses * self.weights).sum()
            if (penalty := network.penalty()) is not None:
                loss = loss + penalty
            optimizers.zero_grad()
            loss.backward()
            _with_rows(network, batch)
        with self.live.of("optimiser"):
            optimizers.step(None if turn is None else turn.moving)

    def _look(self, network: SharingStrategy, probe: Probe | None) -> None:
        self.score(network, self.valid, LOOK_BYTES)
        if not self.live.host:  # predictions stay where they are
            n, tasks = self.valid.labels.shape
            with self.live.of("predictions"):
                torch.empty((17 * tasks + LOOK_BYTES_ON_GPU) * n, dtype=torch.uint8)
        if probe is not None:
            with self.live.of("evaluation"):
                probe(network)

    def _predict(self, network: SharingStrategy, rows: SplitTensors) -> None:
        size = min(self.config.trainer.eval_batch_size, len(rows))
        network.eval()
        with self.live.of("evaluation"), torch.inference_mode():
            logits = network(rows.gather(torch.arange(size)).features)
            self.objective.probabilities(logits)
        network.train()

    def _batch(self) -> Batch:
        size = min(self.config.trainer.batch_size, len(self.train_rows))
        with self.live.of("activations"):
            return self.train_rows.gather(torch.arange(size))


def _with_rows(network: SharingStrategy, batch: Batch) -> None:
    """Give tables the gradient that they would have: a pretended sparse one has lost its rows."""
    rows = batch.features.rows.numel() + len(batch.features.bag_rows)
    for encoder in network.modules():
        if isinstance(encoder, FeatureEncoder) and encoder.sparse:
            table = encoder.table
            n = encoder.copies * rows
            table.grad = torch.sparse_coo_tensor(
                batch.features.rows.new_empty(1, n),
                table.new_empty(n, encoder.embedding_dim),
                table.shape,
                check_invariants=False,
            )


def state_bytes(network: SharingStrategy) -> int:
    """Count the bytes of all weights and buffers."""
    return sum(t.numel() * t.element_size() for t in network.state_dict().values())
