"""A network whose dense part torch compiles: `trainer.compile=true`."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cvrbench.nn import FeatureEncoder
from cvrbench.strategies.base import SharingStrategy
from cvrbench.training.step import Forward


@contextmanager
def forward_of(network: SharingStrategy, *, compiled: bool) -> Iterator[Forward]:
    """Give what computes a network's logits: itself, or what torch compiles of it.

    On a GPU as CUDA graphs, since launches cost most there. The compiler knows no sparse gradients,
    so that encoders stay as they are.
    """
    if not compiled:
        yield network
        return
    encoders = [module for module in network.modules() if isinstance(module, FeatureEncoder)]
    on_gpu = next(network.parameters()).device.type == "cuda"
    for encoder in encoders:
        encoder.look_up = torch.compiler.disable(encoder.look_up)  # type: ignore[method-assign]
    try:
        yield torch.compile(network, mode="reduce-overhead" if on_gpu else "default")
    finally:
        for encoder in encoders:  # a copy of the network would call this one's
            del encoder.look_up
