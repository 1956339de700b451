"""Dynamic sparse training of a common trunk: every task's mask changes while all are trained.

Every task starts with a random mask. Now and then its weakest connections make room for others:
random ones (`set`: Mocanu et al., Nature Communications 2018), or those of largest gradient of its
own loss (`rigl`: Evci et al., ICML 2020). The weights are common, so that a connection that is new
to one task may be in use by another.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cvrbench.config.ncs import Regrowing, RiglSearch
from cvrbench.data.batches import Features
from cvrbench.errors import RunError
from cvrbench.masks.mask_set import MaskSet
from cvrbench.masks.ranking import Scope, keep_best, random_scores
from cvrbench.nn import Output
from cvrbench.strategies.base import (
    PretrainContext,
    SharingStrategy,
    Training,
    UpdateMask,
    UpdateStep,
)
from cvrbench.strategies.ncs import NCS
from cvrbench.strategies.ncs.candidates import Candidate
from cvrbench.system.rng import derive

END = 0.75
"""Share of the training after which masks change no more (T_end of Evci et al.)."""


def dynamic(ncs: NCS, context: PretrainContext, search: Regrowing) -> list[Candidate]:
    """Train under changing masks; the only candidate are those with which it validated best."""
    steps = context.steps(search.epochs)
    if steps * END <= search.regrow_every:
        raise RunError(
            f"model.search would never change a mask: {steps} steps of search, the first change "
            f"after model.search.regrow_every={search.regrow_every}; lower it, or raise "
            "model.search.epochs"
        )
    evolving = DynamicSparse(ncs, search, seed=context.seed, steps=steps)
    epochs = search.epochs
    context.train(Training(evolving, label="search all tasks", epochs=epochs, per_task=True))
    return [Candidate(density=search.density, masks=ncs.masks)]


class DynamicSparse(SharingStrategy):
    """An NCS whose masks change during its training."""

    def __init__(self, ncs: NCS, settings: Regrowing, *, seed: int, steps: int) -> None:
        super().__init__()
        self.ncs, self.settings = ncs, settings
        self.by_gradient = isinstance(settings, RiglSearch)
        self.seed, self.steps = seed, steps
        scores = random_scores(ncs.masks, derive(seed, "masks", "regrown"), identical=False)
        ncs.set_masks(keep_best(scores, ncs.masks, settings.density, settings.scope))
        # The optimiser reads these tensors at every step, so they change in place; being buffers
        # they come back from a checkpoint.
        self.used = nn.Module()
        for name, where in self._used_now().items():
            self.used.register_buffer(name, where.clone())
        self.effective: dict[str, Tensor] = {}

    def forward(self, features: Features) -> Output:
        """Return the logits `[batch, tasks]`."""
        effective = self.ncs.effective()
        if self.by_gradient and torch.is_grad_enabled():
            # Dense: theta * M_t has a gradient where M_t is 0, too.
            for weight in effective.values():
                weight.retain_grad()
            self.effective = effective
        return self.ncs.through(features, effective)

    def update_mask(self) -> UpdateMask:
        """A weight may move where at least one task keeps it; up to date at all times."""
        return {p: self.used.get_buffer(name) for name, p in self.ncs.masked().items()}

    def update_steps(self) -> tuple[UpdateStep, ...]:
        """One strict step on all tasks: a dropped weight does not go on by its momentum."""
        return (UpdateStep(None, self.update_mask()),)

    @torch.no_grad()
    def after_step(self, step: int) -> bool:
        """Replace connections when it is time to."""
        share = share_at(step, self.steps, self.settings.regrow_share)
        if share > 0 and step % self.settings.regrow_every == 0:
            self._regrow(step, share)
        return False

    def _regrow(self, step: int, share: float) -> None:
        masked = self.ncs.masked()
        masks = regrow(
            self.ncs.masks,
            {name: parameter.abs() for name, parameter in masked.items()},
            self._gains(step),
            density=self.settings.density,
            share=share,
            scope=self.settings.scope,
        )
        self.ncs.set_masks(masks)
        for name, now in self._used_now().items():
            used = self.used.get_buffer(name)
            # What no task used starts at 0; what another uses keeps the value that it has learned.
            masked[name].masked_fill_(now & ~used, 0.0)
            used.copy_(now)

    def _gains(self, step: int) -> dict[str, Tensor]:
        """What decides about growth, layer -> `[tasks, in, out]`."""
        seed = derive(self.seed, "masks", "regrown", step)
        chance = random_scores(self.ncs.masks, seed, identical=False)
        if not self.by_gradient:
            return chance
        gains = {}
        for name, weight in self.effective.items():
            assert weight.grad is not None
            # Chance decides where there is no gradient: a batch may hold no row of a task's.
            gains[name] = weight.grad.abs() + 1e-30 * chance[name]
        return gains

    def _used_now(self) -> dict[str, Tensor]:
        """Where any task uses a parameter, layer -> broadcasts to the parameter."""
        update_mask = self.ncs.update_mask()
        return {name: update_mask[parameter] for name, parameter in self.ncs.masked().items()}


def share_at(step: int, steps: int, share: float) -> float:
    """Share of a task's connections to replace: share / 2 (1 + cos(pi step / T_end)).

    (Evci et al., eq. 1.) It falls to 0 at T_end and stays there.

    Args:
        step: Steps done.
        steps: Of the whole training; T_end is `END` of them.
        share: At first.
    """
    progress = step / (END * steps)
    return share / 2 * (1 + math.cos(math.pi * progress)) if progress < 1 else 0.0


def regrow(
    masks: MaskSet,
    magnitudes: Mapping[str, Tensor],
    gains: Mapping[str, Tensor],
    *,
    density: float,
    share: float,
    scope: Scope,
) -> MaskSet:
    """Drop, per task, the kept connections of smallest magnitude, and grow as many.

    What was just dropped may grow again (Evci et al., algorithm 1).

    Args:
        masks: Those so far, of `density`.
        magnitudes: Layer -> `[1 or tasks, in, out]`; the smallest go.
        gains: Layer -> `[tasks, in, out]`; of what is not kept, the largest come.
        density: Share of all connections that a task keeps, before and after.
        share: Share of a task's connections that is replaced.
        scope: Drop and grow over all layers together, or in each as many as it loses.
    """
    left = keep_best(magnitudes, masks, density * (1 - share), scope)
    everything = MaskSet(masks.tasks, {n: torch.ones_like(k) for n, k in masks.keep.items()})
    first = {name: gains[name].masked_fill(keep, torch.inf) for name, keep in left.keep.items()}
    return keep_best(first, everything, density, scope)
