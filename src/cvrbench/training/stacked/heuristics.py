"""How many trainings of one structure are worth training as one program.

A step of a small network spends more time on starting operations than on computing; of several at
once they start once. A step of a large one computes all the time, and several take as long as one
after another: then only memory is lost.
"""

from collections.abc import Callable

import torch

from cvrbench.config.schema import Config, TrainerConfig
from cvrbench.nn import FeatureEncoder
from cvrbench.strategies.base import SharingStrategy
from cvrbench.system import machine
from cvrbench.training.device import resolve_device

MOST = 8
"""More gain little: what starts once is then a small part of a step."""
MOST_WORK = 100_000_000
"""Multiply-adds of a step's forward pass above which it does not pay. Measured in processor time
of a step, eight seeds against one eight times: 0.6 at 15 million (`shared_bottom` as by default),
0.8 at 60 million (`mmoe`)."""
COPIES = 6
"""Copies of a run's weights while it is one of many: its own, the stack's, gradients and moments,
its best, and what an optimiser makes on the way."""
SHARE = 0.5
"""Share of the free memory that a group may take."""


def can_go_together(config: Config) -> bool:
    """Whether runs of a configuration can share a process and a program at all."""
    trainer = config.trainer
    untracked = config.logger.kind == "none"  # trackers know of one run in a process
    return untracked and trainer.precision == "fp32" and not trainer.compile


def most_that_pay(config: Config, build: Callable[[], SharingStrategy]) -> int:
    """Return how many runs of a configuration to train at once; 1 where it does not pay.

    Args:
        config: Of all of them, but for the seed.
        build: Gives their network, of which the sizes alone are wanted.
    """
    if not can_go_together(config) or resolve_device(config.trainer.device).type != "cpu":
        return 1
    with torch.device("meta"):
        network = build()
    if not _is_light(network, config.trainer):
        return 1
    free = machine.available_memory().n_bytes
    return max(1, min(MOST, int(SHARE * free / _n_bytes(network))))


def _is_light(network: SharingStrategy, trainer: TrainerConfig) -> bool:
    """Whether a step spends much of its time on starting operations."""
    encoders = (m for m in network.modules() if isinstance(m, FeatureEncoder))
    dense = _n_weights(network) - sum(encoder.table.numel() for encoder in encoders)
    return dense * trainer.batch_size <= MOST_WORK


def _n_bytes(network: SharingStrategy) -> int:
    """How much memory a network takes while it is one of many."""
    return _n_weights(network) * COPIES * torch.finfo(torch.float32).bits // 8


def _n_weights(network: SharingStrategy) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
