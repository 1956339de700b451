"""How well found masks match a known truth, for `benchmarks.mask_recovery`."""

import numpy as np
from torch import Tensor

from cvrbench.masks.mask_set import MaskSet
from cvrbench.metrics import auc

Scores = dict[str, float | None]


def connections(found: MaskSet, truth: MaskSet) -> Scores:
    """Score two tasks' masks against the true ones, connection by connection.

    Returns:
        `precision`, over all layers and per layer: share of the kept connections that are true,
            mean of the tasks; chance is the truth's density. At that density it is recall as well.
        `sharing`: among connections that the truth and the found masks both use somewhere, the
            balanced accuracy of "kept by both" for "true of both"; chance is 0.5.
        `own`: how often a task keeps what is truly its own alone, as a share of that and of how
            often it keeps what is truly the other's alone; chance is 0.5.
        `jaccard`: the found overlap of the tasks.
    """
    kept, true = found.flat(), truth.flat()  # [tasks, connections]
    scores: Scores = {"precision": _precision(kept, true)}
    for name, keep in found.keep.items():
        scores[f"precision_{name}"] = _precision(keep.flatten(1), truth.keep[name].flatten(1))
    used = kept.any(dim=0) & true.any(dim=0)
    together, shared = kept.all(dim=0), true.all(dim=0)
    hits = _share(together, used & shared), _share(~together, used & ~shared)
    scores["sharing"] = None if None in hits else sum(hits) / 2
    own, others = _share(kept, true & ~shared), _share(kept, true.flip(0) & ~shared)
    scores["own"] = own / (own + others) if own else (None if own is None else 0.0)
    scores["jaccard"] = found.overlap()[0, 1].item()
    return scores


def inputs(found: MaskSet, relevant: Tensor) -> Scores:
    """Score the first layer's masks against the inputs that matter to each task.

    Args:
        found: The masks.
        relevant: `[tasks, inputs]` bool.

    Returns:
        Means over the tasks: `share` of the kept first-layer connections that lie on a relevant
        input; `inputs`, AUC of an input's number of kept connections against its relevance; `own`,
        the same AUC among the private inputs only, where the other task's are the irrelevant ones.
        Also `jaccard`, the found overlap over all layers.
    """
    counts = found.keep["trunk_0"].sum(dim=2).numpy()  # [tasks, inputs]
    wanted = relevant.numpy()
    private = wanted.sum(axis=0) == 1
    pairs = list(zip(wanted, counts, strict=True))
    return {
        "share": float(np.mean([count[want].sum() / count.sum() for want, count in pairs])),
        "inputs": float(np.mean([auc(want, count) for want, count in pairs])),
        "own": float(np.mean([auc(want[private], count[private]) for want, count in pairs])),
        "jaccard": found.overlap()[0, 1].item(),
    }


def _precision(kept: Tensor, true: Tensor) -> float:
    """Mean over the tasks; a task that keeps nothing has found nothing."""
    hits = (kept & true).sum(dim=1) / kept.sum(dim=1).clamp_min(1)
    return hits.double().mean().item()


def _share(of: Tensor, among: Tensor) -> float | None:
    """Share of `among` in which `of` holds; None where there is nothing to look at."""
    return (of & among).sum().item() / n if (n := int(among.sum())) else None
