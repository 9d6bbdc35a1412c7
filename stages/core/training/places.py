"""Places of trials in a search, so that several processes, some of them killed, choose as one would.

Optuna numbers trials as they are created, those included that a kill cuts off. A trial's place is its number without
the repeats before it; a repeat of a cut-off trial takes that trial's place and point. Places are read off the list of
trials alone, so every process that shares the list agrees on them. What a place draws is seeded by the place.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import MedianPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from stages.core.params import SEEDS
from stages.core.training.space import Point

REPEATS = "repeats"  # user attribute of a repeat: the number of the trial it stands for
RANDOM_TRIALS = 3  # ended trials before the sampler learns from them


def places(trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """Return each trial's place by its number; `trials` are all of a study's, in the order of their numbers."""
    found: dict[int, int] = {}
    fresh = 0
    for trial in trials:
        if REPEATS in trial.user_attrs:
            found[trial.number] = found[trial.user_attrs[REPEATS]]
        else:
            found[trial.number] = fresh
            fresh += 1
    return found


def place_of(study: optuna.Study, trial: FrozenTrial) -> int:
    """Return the place of one trial of a study."""
    return places(study.get_trials(deepcopy=False))[trial.number]


def hand_back(study: optuna.Study, number: int) -> None:
    """Queue a repeat of a running trial and mark the trial as failed: its process is gone or gives it up.

    In this order a kill between the two loses nothing.
    """
    trials = study.get_trials(deepcopy=False)
    if not any(trial.user_attrs.get(REPEATS) == number for trial in trials):
        study.enqueue_trial(trials[number].params, user_attrs={REPEATS: number})
    with contextlib.suppress(UpdateFinishedTrialError):  # it may end this very moment
        study.tell(number, state=TrialState.FAIL, skip_if_finished=True)


class PlaceSampler(BaseSampler):
    """Optuna's TPE, seeded anew for each trial by its place; place 0 draws the default point.

    Source: Bergstra et al. 2011, TPE.
    """

    def __init__(self, default: Point, seed: int) -> None:
        self._default, self._seed = default, seed
        self._is_first = False
        self._tpe = TPESampler(seed=seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Seed for the trial that is about to draw."""
        place = place_of(study, trial)
        self._is_first = place == 0
        self._tpe = TPESampler(seed=(self._seed + place) % SEEDS, n_startup_trials=RANDOM_TRIALS)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the knobs that are drawn together."""
        return {} if self._is_first else self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw them."""
        return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw one knob by itself."""
        if self._is_first:
            return self._default[param_name]
        return self._tpe.sample_independent(study, trial, param_name, param_distribution)


class SparingPruner(MedianPruner):
    """Stops a trial that lags behind the median of the complete ones, once these are enough; never the default point.

    So the default is always among the complete trials, and the best of them is never below it.
    """

    def __init__(self, enough: int) -> None:
        super().__init__(n_startup_trials=enough)

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial is to stop now."""
        return place_of(study, trial) != 0 and super().prune(study, trial)
