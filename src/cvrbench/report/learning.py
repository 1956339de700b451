"""How validation went in the last training of every strategy, brought together over seeds."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cvrbench.errors import StoreError
from cvrbench.record import RunRecord
from cvrbench.report.curves import Curve, over_seeds
from cvrbench.report.frames import Comparison, Variant
from cvrbench.store import ResultStore

LAST_STAGE = "train"
"""What a history calls the training after all searches."""


@dataclass(frozen=True, kw_only=True)
class Learning:
    """Validation of one variant over its last training."""

    label: str
    """The variant's."""
    seeds: int
    curves: Mapping[str, Curve]
    """Metric -> its curve."""
    best: Mapping[str, tuple[tuple[float, float], ...]]
    """Metric -> per seed the epoch that validation chose, and the value there."""


def learnings(comparison: Comparison, store: ResultStore) -> list[Learning]:
    """Read the AUC of every task in its own space at every look at validation.

    Searches are left out: their networks are other ones, trained for their masks.

    Raises:
        StoreError: A history cannot be read.
    """
    metrics = [f"{task.name}_auc" for task in comparison.tasks]
    found = (_learning(variant, metrics, store) for variant in comparison.variants)
    return [one for one in found if one.curves]


def _learning(variant: Variant, metrics: list[str], store: ResultStore) -> Learning:
    looks = {run.run_id: list(_looks(run, store)) for run in variant.runs}
    curves, best = {}, {}
    for metric in metrics:
        of_seeds = {
            name: {epoch: values[metric] for epoch, _, values in seen if metric in values}
            for name, seen in looks.items()
        }
        curve = over_seeds([seed for seed in of_seeds.values() if seed])
        if curve is None:
            continue
        curves[metric] = curve
        best[metric] = tuple(
            (epoch, values[metric])
            for seen in looks.values()
            for epoch, is_best, values in seen
            if is_best and metric in values
        )
    return Learning(label=variant.label, seeds=len(variant.runs), curves=curves, best=best)


def _looks(run: RunRecord, store: ResultStore) -> Iterator[tuple[float, bool, dict[str, float]]]:
    """Give epoch, whether validation chose this step, and the metrics that are defined."""
    history = store.history(run.run_id)
    try:
        for look in history:
            if look["stage"] == LAST_STAGE:
                values = {name: v for name, v in look["metrics"].items() if v is not None}
                yield look["epoch"], look["step"] == run.best_step, values
    except (AttributeError, KeyError, TypeError) as error:
        raise StoreError(
            f"{run.run_id}: its history has another form ({error!r}); run the cell again with "
            "--force"
        ) from None
