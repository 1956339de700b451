"""Configuration of what is no part of a run: what starts runs (`launcher=`), a sweep (`sweep=`).

Both decide which runs there are and where, and nothing of what one run computes, so that they are
no part of its `Config` nor of its identity.
"""

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, MaxLen, MinLen

from cvrbench.config.types import Count, Options, Seed, Text, Threads

SIZES = ("density", "multiply_adds", "parameters")
"""Objectives that are no metric of the validation rows; all are better when lower."""


@dataclass(frozen=True, kw_only=True)
class LocalConfig(Options):
    """In this process, one after another; several seeds of one configuration at once."""

    kind: Literal["local"]
    together: Literal["auto"] | Count
    """Most seeds that are trained as one program; 1: none are, auto: as many as pay."""


@dataclass(frozen=True, kw_only=True)
class ProcessesConfig(Options):
    """Several processes of this machine."""

    kind: Literal["processes"]
    workers: Threads
    """Processes at once."""


@dataclass(frozen=True, kw_only=True)
class SubmititConfig(Options):
    """Jobs of a Slurm cluster."""

    kind: Literal["submitit"]
    workers: Threads
    """Most jobs at once."""
    cluster: Literal["auto", "slurm", "local"]
    partition: Text | None
    minutes: Count
    """Time limit of a job."""
    memory_gb: Annotated[float, Gt(0)]
    cpus: Threads
    gpus: Annotated[int, Ge(0), Le(1024)]


@dataclass(frozen=True, kw_only=True)
class RayConfig(Options):
    """Tasks of a Ray cluster."""

    kind: Literal["ray"]
    workers: Threads
    """Most tasks at once."""
    address: Text | None
    """Address of a running cluster; null starts one on this machine."""
    cpus: Threads
    gpus: Annotated[float, Ge(0), Le(1024)]


LauncherConfig = LocalConfig | ProcessesConfig | SubmititConfig | RayConfig


@dataclass(frozen=True, kw_only=True)
class SweepConfig(Options):
    """A search for the best configuration of one strategy on one dataset."""

    objectives: Annotated[tuple[str, ...], MaxLen(3)]
    """Validation metrics (`cvr_auc`, `mean_auc`), or sizes; of several the Pareto front. None: the
    dataset's own (`DatasetOptions.metric`)."""
    trials: Count | None
    """Configurations to try; null: as many as the budget lets."""
    budget_epochs: Annotated[float, Gt(0)] | None
    """Passes over the training rows that all trials together may take, searches included."""
    budget_examples: Annotated[float, Gt(0)] | None
    """The same in rows that gradients are computed on."""
    budget_seconds: Annotated[float, Gt(0)] | None
    """The same in seconds of all workers together."""
    sampler: Literal["tpe", "gp", "cmaes", "nsga2", "qmc", "grid", "random"]
    startup_trials: Count
    """Trials drawn at random before tpe, gp or cmaes model the results."""
    pruner: Literal["none", "hyperband", "median", "wilcoxon"]
    """What ends a trial early: by its looks at validation, or (wilcoxon) by its seeds."""
    seeds: Annotated[tuple[Seed, ...], MinLen(1)]
    """Every trial is run with each of them; its value is their mean."""
    final_seeds: tuple[Seed, ...]
    """Fresh seeds with which the best configuration is trained and tested; none: it is not."""
    preset: bool
    """Try the configuration as it is first, so that tuning can never look worse than it."""
    share_searches: bool
    """Compute once what the mask searches of several trials have in common."""
    heartbeat_seconds: Annotated[float, Gt(0)]
    """Time between two signs of life of a worker; without five in a row its trial is taken over."""
    storage: Text | None
    """A file in the study's folder (null), or a URL: sqlite, postgresql, mysql, grpc."""
    name: Text | None
    """Name of the study; null: made of model, dataset, sweep and a hash of what it searches."""
    overrides: tuple[str, ...]
    """What all trials have in common, unless the command line says otherwise."""
    space: dict[str, str]
    """Key -> values in Hydra's grammar: `tag(log,interval(0.05,1))`, `choice(2,4,8)`."""
    when: dict[str, dict[str, str]]
    """Condition, such as `model=mmoe` or `model.search=learned`, -> a space that counts then."""

    def __post_init__(self) -> None:
        """Refuse what cannot be searched."""
        budgets = (self.trials, self.budget_epochs, self.budget_examples, self.budget_seconds)
        if all(budget is None for budget in budgets):
            raise ValueError(
                "the sweep has no end; set trials, budget_epochs, budget_examples or budget_seconds"
            )
        for name in ("objectives", "seeds", "final_seeds"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"a value is listed twice in {name}")
        if both := sorted(set(self.seeds) & set(self.final_seeds)):
            raise ValueError(
                f"seed {both[0]} is in seeds and in final_seeds; the final configuration is "
                "trained on seeds that did not choose it"
            )
        if len(self.objectives) > 1 and self.pruner != "none":
            raise ValueError(f"pruner={self.pruner} needs one objective; set pruner=none")
        if len(self.objectives) > 1 and self.sampler == "cmaes":
            raise ValueError("sampler=cmaes needs one objective; nsga2 or tpe take many")
        if self.sampler == "nsga2" and self.startup_trials < 2:
            raise ValueError("sampler=nsga2 breeds from startup_trials; give two or more")
        if self.objectives and self.objectives[0] in SIZES:
            raise ValueError(f"the first objective must be a metric; {self.objectives[0]} is none")
        if self.pruner == "wilcoxon" and len(self.seeds) < 5:
            raise ValueError("pruner=wilcoxon compares seeds: give five or more in seeds")


SETTINGS = tuple(field.name for field in fields(SweepConfig))
"""Words of the command line that speak of the sweep and need no `sweep.` before them."""
