"""The search over temperature, alpha and learning rate: Optuna's TPE, seeded, stored so that it survives a kill.

A trial is a short distillation run on a share of the training windows, judged on dev after each epoch and stopped early
when it lags behind the median of the trials before it. The first trial is the default point, so that the search can
only end at or above it. Each trial's sampler is seeded by the trial's number: a search that was interrupted and
went on chooses as one that was not. Source: Akiba et al. 2019, "Optuna"; Bergstra et al. 2011, TPE.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, Trial, TrialState

from stages.core.errors import InputError

KNOBS = ("temperature", "alpha", "learning_rate")
Point = dict[str, float]


@dataclass(frozen=True)
class Space:
    """Bounds of each knob; temperature and learning rate are searched on a logarithmic scale."""

    temperature: tuple[float, ...]
    alpha: tuple[float, ...]
    learning_rate: tuple[float, ...]

    def suggest(self, trial: Trial) -> Point:
        """Draw a point, rounded to three significant digits so that it reads well in a parameter file."""
        drawn = {
            "temperature": trial.suggest_float("temperature", *self.temperature, log=True),
            "alpha": trial.suggest_float("alpha", *self.alpha),
            "learning_rate": trial.suggest_float("learning_rate", *self.learning_rate, log=True),
        }
        return {name: float(f"{value:.3g}") for name, value in drawn.items()}


def search(
    objective: Callable[[Trial, Point], float], space: Space, default: Point, *, trials: int, seed: int, storage: Path
) -> optuna.Study:
    """Run trials until `trials` of them are done, counting those `storage`, an SQLite file, already holds.

    `objective` returns dev F1 and may raise optuna.TrialPruned. Raises InputError if the default lies outside `space`.
    """
    for name in KNOBS:
        low, high = getattr(space, name)
        if not low <= default[name] <= high:
            raise InputError(
                f"params.yaml: tune.{name}: {[low, high]} leaves out the default {default[name]}; widen it"
            )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{storage}",
        study_name="tune",
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2),
        load_if_exists=True,
    )
    _drop_interrupted(study)
    while len(done := _ended(study)) < trials:
        number = len(done)
        study.sampler = optuna.samplers.TPESampler(seed=seed + number, n_startup_trials=3)
        if number == 0 and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            study.enqueue_trial(default)
        study.optimize(lambda trial: objective(trial, space.suggest(trial)), n_trials=1)
    return study


def best_point(study: optuna.Study) -> Point:
    """Return the knobs of the trial with the highest dev F1, the earliest where several tie."""
    complete = [trial for trial in _ended(study) if trial.state == TrialState.COMPLETE]
    best = max(complete, key=lambda trial: (_value(trial), -trial.number))
    return {name: float(f"{best.params[name]:.3g}") for name in KNOBS}


def trials_table(study: optuna.Study) -> pd.DataFrame:
    """Return a row per trial: trial, the knobs, f1 (the last one judged), epochs run, state (complete or pruned)."""
    rows: list[dict[str, Any]] = [
        {
            "trial": number,
            **{name: float(f"{trial.params[name]:.3g}") for name in KNOBS},
            "f1": round(trial.intermediate_values[max(trial.intermediate_values)], 4),
            "epochs": len(trial.intermediate_values),
            "state": trial.state.name.lower(),
        }
        for number, trial in enumerate(_ended(study))
    ]
    return pd.DataFrame(rows)


def on_boundary(point: Point, space: Space) -> list[str]:
    """Return the knobs whose best value lies within two percent of a bound: a wider search may find better."""
    return [
        name for name in KNOBS if min(abs(point[name] - bound) for bound in getattr(space, name)) <= 0.02 * point[name]
    ]


def _ended(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _drop_interrupted(study: optuna.Study) -> None:
    """Mark trials that a kill left running as failed; their place is drawn again from the same seed."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value
