"""Parts that networks are made of: look-up, parallel networks, gates, towers."""

from cvrbench.nn.embedding import FeatureEncoder
from cvrbench.nn.layers import (
    Gates,
    Output,
    ParallelMLP,
    Towers,
    glorot,
    mix,
    parallel_linear,
    parallel_mlp,
    select_networks,
)

__all__ = [
    "FeatureEncoder",
    "Gates",
    "Output",
    "ParallelMLP",
    "Towers",
    "glorot",
    "mix",
    "parallel_linear",
    "parallel_mlp",
    "select_networks",
]
