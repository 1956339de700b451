"""What a study may cost, and what it has cost: all that its trials computed, searches included."""

from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from cvrbench.config.sweep import SweepConfig


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The ends of a study; the first that is reached ends it. Trials under way are finished."""

    trials: int | None
    epochs: float | None
    examples: float | None
    seconds: float | None
    rows: int
    """Of the training split, which an epoch passes over."""

    @classmethod
    def of(cls, settings: SweepConfig, rows: int, grid: int | None) -> "Budget":
        """Read the budget off a sweep's settings; a grid ends when it is walked."""
        counts = [n for n in (settings.trials, grid) if n is not None]
        return cls(
            trials=min(counts) if counts else None,
            epochs=settings.budget_epochs,
            examples=settings.budget_examples,
            seconds=settings.budget_seconds,
            rows=rows,
        )

    def limits(self) -> dict[str, float | None]:
        """Give the ends by name."""
        return {
            "trials": self.trials,
            "epochs": self.epochs,
            "examples": self.examples,
            "seconds": self.seconds,
        }

    def spent(self, trials: Sequence[FrozenTrial]) -> dict[str, float]:
        """Add up what trials cost; `reused` are the examples that sharing saved."""
        examples = sum(int(t.user_attrs.get("examples", 0)) for t in trials)
        return {
            "trials": sum(t.state.is_finished() for t in trials),
            "epochs": examples / max(self.rows, 1),
            "examples": examples,
            "seconds": sum(float(t.user_attrs.get("seconds", 0.0)) for t in trials),
            "reused": sum(int(t.user_attrs.get("reused", 0)) for t in trials),
        }

    def is_spent(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether no further trial may begin; the number of trials is not asked for here."""
        spent = self.spent(trials)
        limits = {name: limit for name, limit in self.limits().items() if name != "trials"}
        return any(limit is not None and spent[name] >= limit for name, limit in limits.items())
