"""The search for the best point of a space: Optuna's TPE on dev F1, under a budget of updates, by one process or many.

A trial is a short distillation run on a share of the training windows, judged on dev after each epoch and, once enough
trials are complete, stopped early when it lags behind their median. The default point is the first trial and never
stopped, so that the search can only end at or above it. What a stopped trial saves buys further trials. Every draw is
seeded by the trial's place: a search that was interrupted and went on chooses as one that was not. Processes share
nothing but the storage. Source: Akiba et al. 2019, "Optuna".
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from stages.core.errors import InputError
from stages.core.training.places import REPEATS, PlaceSampler, SparingPruner, hand_back
from stages.core.training.presence import Listener, counting
from stages.core.training.space import Point, Space

Objective = Callable[[Trial, Point], float]

POLL_SECONDS = 2.0  # between two looks at trials that run elsewhere


@dataclass(frozen=True)
class Budget:
    """What a search may spend, in updates."""

    updates: int  # trials are started while fewer than these are spent or under way
    epoch_updates: int  # of one epoch of a trial
    epochs: int  # of a trial that is not stopped
    unstopped: int  # complete trials, the default's among them, before others are stopped early

    def spent(self, trial: FrozenTrial) -> int:
        """Return what a trial has spent, or will if it has not ended; one that was cut off counts nothing."""
        if trial.state == TrialState.FAIL:
            return 0
        ended = trial.state.is_finished()
        return self.epoch_updates * (len(trial.intermediate_values) if ended else self.epochs)


def search(
    objective: Objective,
    space: Space,
    budget: Budget,
    *,
    seed: int,
    name: str,
    storage: BaseStorage,
    shared: bool = False,
    join: bool = False,
) -> optuna.Study:
    """Run trials until the budget is spent, counting those that the study `name` in `storage` already holds.

    `objective` reports dev F1 to its trial after each epoch, returns the last and may raise optuna.TrialPruned. With
    `shared`, trials may run elsewhere too: they count in full, and one whose process is gone is run again here; the
    search ends when all have ended. With `join` it ends when there is nothing left to start. Raises InputError if a
    search to join does not exist.
    """
    study = _open_study(name, storage, space, budget.unstopped, seed, join)
    listener = Listener()
    while True:
        # One look at the storage: what ends elsewhere between two would be missing from both.
        trials = study.get_trials(deepcopy=False)
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        if lost := listener.lost(running) if shared else [trial.number for trial in running]:
            for number in lost:
                hand_back(study, number)
        elif _wants_a_trial(trials, budget):
            _run_trial(study, objective, space, budget, shared)
        elif join or not running:
            return study
        else:
            time.sleep(POLL_SECONDS)


def _open_study(name: str, storage: BaseStorage, space: Space, unstopped: int, seed: int, join: bool) -> optuna.Study:
    if join and name not in optuna.get_all_study_names(storage):
        raise InputError(
            f"tune --join: the storage holds no search {name}; start the tune stage first, and join it with the same"
            " params.yaml, code, packages, prepared data, teacher, cache, kind of device and precision"
        )
    return optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize",
        sampler=PlaceSampler(space.default, seed),
        pruner=SparingPruner(unstopped),
        load_if_exists=True,
    )


def _wants_a_trial(trials: Sequence[FrozenTrial], budget: Budget) -> bool:
    """Whether a repeat waits or the budget is not yet spent or under way."""
    waiting = any(trial.state == TrialState.WAITING for trial in trials)
    return waiting or sum(budget.spent(trial) for trial in trials) < budget.updates


def _run_trial(study: optuna.Study, objective: Objective, space: Space, budget: Budget, shared: bool) -> None:
    trial = study.ask()
    if _is_superfluous(study, trial.number, budget):
        with contextlib.suppress(UpdateFinishedTrialError):
            study.tell(trial, state=TrialState.FAIL)
        return
    try:
        with counting(trial) if shared else contextlib.nullcontext():
            f1 = objective(trial, space.suggest(trial))
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
    except UpdateFinishedTrialError:
        pass  # this process was silent for so long that another has taken the trial over
    except BaseException:
        hand_back(study, trial.number)
        raise
    else:
        study.tell(trial, f1, skip_if_finished=True)


def _is_superfluous(study: optuna.Study, number: int, budget: Budget) -> bool:
    """Whether another process was quicker: the trials numbered before this one are enough without it.

    Numbers are given out one at a time, so of processes that start trials at once only the last find this.
    """
    trials = study.get_trials(deepcopy=False)
    repeats = trials[number].user_attrs.get(REPEATS)
    if repeats is not None:
        return any(trial.user_attrs.get(REPEATS) == repeats for trial in trials[:number])
    return sum(budget.spent(trial) for trial in trials[:number]) >= budget.updates
