"""Which connections of a shared network each task keeps: True = kept, everywhere."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class MaskSet:
    """One mask per task and layer.

    Attributes:
        tasks: The tasks, in the order of the masks' first axis.
        keep: Per layer `[tasks, in, out]` bool.
    """

    tasks: tuple[str, ...]
    keep: tuple[Tensor, ...]

    def density(self) -> dict[str, float]:
        """Share of connections that each task keeps, over all layers."""
        kept = self._flat().double().mean(dim=1)
        return dict(zip(self.tasks, kept.tolist(), strict=True))

    def overlap(self) -> Tensor:
        """Jaccard similarity of the tasks' kept connections, `[tasks, tasks]`."""
        flat = self._flat().double()
        both = flat @ flat.T
        size = flat.sum(dim=1)
        either = size[:, None] + size[None, :] - both
        return torch.where(either > 0, both / either.clamp_min(1), torch.ones_like(both))

    def union_density(self) -> float:
        """Share of connections that at least one task keeps."""
        return self._flat().any(dim=0).double().mean().item()

    def dead_units(self) -> dict[str, tuple[int, ...]]:
        """Units per layer to which a task keeps no connection."""
        dead = [(~keep.any(dim=1)).sum(dim=1) for keep in self.keep]
        return {task: tuple(int(layer[t]) for layer in dead) for t, task in enumerate(self.tasks)}

    def _flat(self) -> Tensor:
        """All layers of a task in a row, `[tasks, connections]`."""
        return torch.cat([keep.flatten(1) for keep in self.keep], dim=1)
