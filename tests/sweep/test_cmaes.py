"""sampler=cmaes: what Optuna's would know, and nothing unpickled."""

import os
import pickle  # noqa: TID251 -- made here, to see that none is read

import numpy as np
import optuna
import pytest
from optuna.samplers import CmaEsSampler, RandomSampler
from optuna.trial import TrialState, create_trial

from cvrbench.sweep.samplers import CmaEs, quiet

pytest.importorskip("cmaes")
STARTUP = 5


def objective(trial):
    x = trial.suggest_float("x", 1e-4, 1.0, log=True)
    y = trial.suggest_int("y", 1, 64, log=True)
    z = trial.suggest_float("z", 0.0, 3.0, step=0.5)
    n = trial.suggest_int("n", -4, 6, step=2)
    trial.suggest_categorical("kind", ["a", "b"])
    return (np.log10(x) + 2) ** 2 + (np.log2(y) - 3) ** 2 + (z - 1) ** 2 + 0.1 * n**2


def minimized(sampler_of, n):
    quiet()
    study = optuna.create_study()
    for number in range(n):
        study.sampler = sampler_of(number)
        study.optimize(objective, n_trials=1)
    return study


@pytest.mark.filterwarnings("ignore")
def test_the_optimiser_is_the_one_that_optuna_would_have_kept():
    theirs = CmaEsSampler(seed=0, n_startup_trials=STARTUP)
    study = minimized(lambda _number: theirs, 61)
    kept = theirs._restore_optimizer(study.get_trials())
    told = study.get_trials()[STARTUP : STARTUP + kept.generation * kept.population_size]
    ours = CmaEs(1, STARTUP)
    space = ours.infer_relative_search_space(study, study.ask())
    found = ours.optimizer(study, told, dict(sorted(space.items())))
    assert kept.generation >= 5
    assert found.generation == kept.generation
    assert sorted(space) == ["n", "x", "y", "z"]
    for name in ("mean", "_C", "_sigma", "_pc", "_p_sigma"):
        assert np.allclose(getattr(found, name), getattr(kept, name), rtol=1e-9, atol=1e-12), name


def test_it_finds_more_than_chance_and_keeps_nothing_in_the_study():
    study = minimized(lambda number: CmaEs(number, STARTUP), 80)
    chance = minimized(lambda number: RandomSampler(seed=number), 80)
    best = [np.mean([t.value for t in s.trials[-20:]]) for s in (study, chance)]
    assert best[0] < 0.3 * best[1]
    assert all(not trial.system_attrs for trial in study.trials)


class Bomb:
    """Unpickled, it leaves a canary."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


def test_a_study_of_somebody_else_runs_none_of_their_code(tmp_path):
    pickled = pickle.dumps(Bomb(tmp_path / "canary")).hex()
    study = minimized(lambda number: RandomSampler(seed=number), STARTUP + 1)
    last = study.trials[-1]
    planted = {f"{prefix}optimizer:0": pickled for prefix in ("cma:", "sepcma:", "cmawm:")}
    study.add_trial(
        create_trial(
            state=TrialState.COMPLETE,
            params=last.params,
            distributions=last.distributions,
            value=1.0,
            system_attrs=planted,
        )
    )
    study.sampler = CmaEs(0, STARTUP)
    study.optimize(objective, n_trials=2)
    assert not (tmp_path / "canary").exists()
    study.sampler = CmaEsSampler(seed=0, n_startup_trials=STARTUP)
    study.optimize(objective, n_trials=1)  # to see that the bomb works, in Optuna's own
    assert (tmp_path / "canary").exists()
