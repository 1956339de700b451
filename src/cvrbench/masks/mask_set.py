"""Which connections of a shared network each task keeps: True = kept, everywhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

OWNED = "tower"
"""Layers whose name begins so belong to one task each, so that nothing in them can be shared."""


@dataclass(frozen=True, eq=False)
class MaskSet:
    """One mask per task and layer.

    Attributes:
        tasks: The tasks, in the order of the masks' first axis.
        keep: Layer -> `[tasks, ...]` bool, `[tasks, in, out]` for a weight matrix. The layers of
            the trunk are named `trunk_0`, `trunk_1`, ...
    """

    tasks: tuple[str, ...]
    keep: Mapping[str, Tensor]

    @classmethod
    def of_tasks(cls, tasks: Sequence[str], sets: Sequence["MaskSet"]) -> Self:
        """Take task t's masks from the t-th of several sets with the same layers."""
        layers = sets[0].keep
        keep = {n: torch.stack([one.keep[n][t] for t, one in enumerate(sets)]) for n in layers}
        return cls(tuple(tasks), keep)

    @classmethod
    def from_flat(cls, tasks: Sequence[str], flat: Tensor, like: "MaskSet") -> Self:
        """Cut `[tasks, connections]` into the layers of another set."""
        sizes = [keep[0].numel() for keep in like.keep.values()]
        parts = flat.split(sizes, dim=1)
        shaped = zip(like.keep.items(), parts, strict=True)
        return cls(tuple(tasks), {name: part.view_as(keep) for (name, keep), part in shaped})

    def flat(self, *, shareable: bool = False) -> Tensor:
        """All layers of a task in a row, `[tasks, connections]`.

        Args:
            shareable: Leave out layers that belong to one task each.
        """
        chosen = [k for name, k in self.keep.items() if not (shareable and is_owned(name))]
        none = torch.ones(len(self.tasks), 0, dtype=torch.bool)
        return torch.cat([keep.flatten(1) for keep in chosen], dim=1) if chosen else none

    def density(self) -> dict[str, float]:
        """Share of connections that each task keeps, over all layers."""
        kept = self.flat().double().mean(dim=1)
        return dict(zip(self.tasks, kept.tolist(), strict=True))

    def overlap(self) -> Tensor:
        """Jaccard similarity of the tasks' kept connections, `[tasks, tasks]`."""
        return jaccard(self.flat(shareable=True))

    def union_density(self) -> float:
        """Share of the connections that tasks can share which at least one keeps; 1 of none."""
        flat = self.flat(shareable=True)
        return flat.any(dim=0).double().mean().item() if flat.shape[1] else 1.0

    def trunk(self) -> dict[str, Tensor]:
        """The weight matrices of the trunk, `[tasks, in, out]` each, from the input up."""
        names = [n for n in self.keep if n.startswith("trunk_") and not n.endswith("_bias")]
        return {name: self.keep[name] for name in names}

    def dead_units(self) -> dict[str, tuple[int, ...]]:
        """Units per trunk layer that carry nothing of a task's.

        A unit is dead where the task keeps no connection to it, or none from it to the next
        layer of the trunk. Towers are not looked at.
        """
        layers = [*self.trunk().values()]
        found = []
        for number, keep in enumerate(layers):
            alive = keep.any(dim=1)  # [tasks, out]
            if number + 1 < len(layers):
                alive = alive & layers[number + 1].any(dim=2)
            found.append((~alive).sum(dim=1))
        return {task: tuple(int(layer[t]) for layer in found) for t, task in enumerate(self.tasks)}

    def severed(self) -> tuple[str, str] | None:
        """Return a task without a way from input to logit, and the layer where it ends, if any."""
        reached: Tensor | None = None  # [tasks, units]
        for name, keep in self.keep.items():
            if name == "embedding" or name.endswith("_bias"):
                continue
            reached = (keep if reached is None else keep & reached[..., None]).any(dim=1)
            for task, alive in zip(self.tasks, reached.any(dim=1), strict=True):
                if not alive:
                    return task, name
        return None

    def facts(self) -> dict[str, dict[str, Any]]:
        """Plain numbers per layer and, under `all`, over every shareable layer together.

        Returns:
            Layer -> `connections`; `density` and `private` (kept by no other task) per task;
            `shared` (kept by two tasks or more), `union` and `unused`, as shares of the layer's
            connections; `jaccard`, `[tasks][tasks]`.
        """
        layers = {name: k.flatten(1) for name, k in self.keep.items() if not is_owned(name)}
        if layers:
            layers["all"] = self.flat(shareable=True)
        return {name: self._facts(flat) for name, flat in layers.items()}

    def _facts(self, flat: Tensor) -> dict[str, Any]:
        times = flat.sum(dim=0)  # [connections], how many tasks keep each
        private = (flat & (times == 1)).double().mean(dim=1)
        return {
            "connections": flat.shape[1],
            "density": dict(zip(self.tasks, flat.double().mean(dim=1).tolist(), strict=True)),
            "private": dict(zip(self.tasks, private.tolist(), strict=True)),
            "shared": (times > 1).double().mean().item(),
            "union": (times > 0).double().mean().item(),
            "unused": (times == 0).double().mean().item(),
            "jaccard": jaccard(flat).tolist(),
        }


def jaccard(flat: Tensor) -> Tensor:
    """Size of the common part over that of the union, `[n, connections]` bool -> `[n, n]`.

    Two empty sets are alike.
    """
    flat = flat.double()
    both = flat @ flat.T
    size = flat.sum(dim=1)
    either = size[:, None] + size[None, :] - both
    return torch.where(either > 0, both / either.clamp_min(1), torch.ones_like(both))


def is_owned(name: str) -> bool:
    """Whether a layer belongs to one task each."""
    return name.startswith(OWNED)
