"""Neuron-connection sharing: the network, and the searches for its masks."""

from cvrbench.strategies.ncs.network import NCS, MaskSearch, SearchResult, SingleTaskView

__all__ = ["NCS", "MaskSearch", "SearchResult", "SingleTaskView"]
