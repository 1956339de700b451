"""Parts that networks are made of: look-up, parallel networks, gates, towers."""

from cvrbench.nn.embedding import FeatureEncoder
from cvrbench.nn.layers import Gates, ParallelMLP, Towers, mix, parallel_linear, parallel_mlp
from cvrbench.nn.output import Output

__all__ = [
    "FeatureEncoder",
    "Gates",
    "Output",
    "ParallelMLP",
    "Towers",
    "mix",
    "parallel_linear",
    "parallel_mlp",
]
