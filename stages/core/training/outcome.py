"""What a search has found: the best points, all trials, which knobs matter, and how flat the optimum is."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import optuna
import pandas as pd
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial

from stages.core.training.places import places
from stages.core.training.search import Budget
from stages.core.training.space import Point, Space

NEAR_F1 = 1.0  # points of dev F1 below the best that still count as near it
TOP_SHARE = 0.25  # of the trials: what importance is importance for getting into
ENOUGH_TRIALS = 20  # for an importance: five in the top share, as Optuna advises


def finalists(study: optuna.Study, space: Space, count: int) -> dict[int, Point]:
    """Return the `count` points of the trials with the highest dev F1, by trial, the default's apart.

    A trial that was stopped early stands right before the best of the complete ones that were worse than it at the pass
    it was stopped after, behind all of them where there is none: to be stopped it need not have been the worst. Of
    trials that tie the earlier comes first, and of trials at one point only the best counts. There are fewer where
    fewer trials have ended.
    """
    ended, standings = _ended(study), _standings(study)
    found: dict[int, Point] = {}
    for place in sorted(ended, key=standings.__getitem__):
        point = space.point(ended[place].params)
        if point != space.default and point not in found.values():
            found[place] = point
    return dict(list(found.items())[:count])


def paid(study: optuna.Study, budget: Budget) -> optuna.Study:
    """Return a study of those trials that ended, in their places, that a search under this budget runs.

    The storage may hold more: of a search that was interrupted and goes on under a smaller budget, or of one that is
    shared and had a larger one before.
    """
    kept, spent = optuna.create_study(direction="maximize"), 0
    for place, trial in _ended(study).items():
        if spent >= budget.updates:
            break
        spent += budget.spent(trial)
        for _ in range(len(kept.trials), place):  # of one that another process had made superfluous
            kept.add_trial(create_trial(state=TrialState.FAIL))
        kept.add_trial(
            create_trial(
                state=trial.state,
                value=trial.value,
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values=trial.intermediate_values,
            )
        )
    return kept


def trials_table(
    study: optuna.Study, space: Space, full_f1: Mapping[int, float] = MappingProxyType({})
) -> pd.DataFrame:
    """Return a row per trial.

    Columns: trial, the knobs, f1 (the last one judged), epochs run, state (complete or pruned), full_f1 (of the student
    distilled in full at that point, from `full_f1` by trial; else empty).
    """
    rows: list[dict[str, Any]] = [
        {
            "trial": place,
            **space.point(trial.params),
            "f1": round(_last_f1(trial), 4),
            "epochs": len(trial.intermediate_values),
            "state": trial.state.name.lower(),
            "full_f1": round(full_f1[place], 4) if place in full_f1 else None,
        }
        for place, trial in _ended(study).items()
    ]
    return pd.DataFrame(rows)


def knobs_table(study: optuna.Study, space: Space, chosen: Point) -> pd.DataFrame:
    """Return a row per knob: what was searched, what was found, what it matters.

    Columns: knob, low, high, scale, default, chosen; boundary (low or high where the chosen value lies on that bound,
    else empty); near_low and near_high, the knob's extremes among the complete trials within 1 F1 of the best;
    near_share, how much of the knob's range on its scale they span, 0 to 1: a wide span says that the optimum is flat
    along the knob, or that other knobs make up for it; importance (see `importances`; empty without one).
    """
    near = [space.point(trial.params) for trial in near_best(study)]
    boundary, matters = space.on_boundary(chosen), importances(study, space)
    rows = []
    for name, knob in space.knobs.items():
        low, high = min(point[name] for point in near), max(point[name] for point in near)
        rows.append(
            {
                "knob": name,
                "low": knob.low,
                "high": knob.high,
                "scale": knob.scale,
                "default": space.default[name],
                "chosen": chosen[name],
                "boundary": boundary.get(name, ""),
                "near_low": low,
                "near_high": high,
                "near_share": round(knob.position(high) - knob.position(low), 3),
                "importance": round(matters[name], 4) if matters else None,
            }
        )
    return pd.DataFrame(rows)


def near_best(study: optuna.Study) -> list[FrozenTrial]:
    """Return the complete trials within 1 F1 of the best, the best included.

    A fixed step, not the width of dev's interval: all trials answer the same questions, so their differences are less
    noisy than the interval of one of them, and the step means the same whatever the size of dev.
    """
    floor = _f1(_best(study)) - NEAR_F1
    return [trial for trial in _ended(study).values() if trial.state == TrialState.COMPLETE and _f1(trial) >= floor]


def importances(study: optuna.Study, space: Space) -> dict[str, float]:
    """Return each knob's share in what sets the best quarter of the trials apart from all; the shares sum to 1.

    By PED-ANOVA (Watanabe et al. 2023): how far a knob's distribution among the best trials departs from that among
    all, one knob at a time. It asks only which trials are among the best, so stopped ones count too, where `finalists`
    has them. Nothing is drawn at random. Empty with fewer than 20 trials, and where no best quarter stands out.
    """
    trials, standings = list(_ended(study).values()), _standings(study).values()
    order = sorted(set(standings), reverse=True)
    ranks = [float(order.index(standing)) for standing in standings]
    cutoff = sorted(ranks, reverse=True)[math.ceil(TOP_SHARE * len(ranks)) - 1]
    if len(trials) < ENOUGH_TRIALS or cutoff == min(ranks):
        return {}
    ranked = optuna.create_study(direction="maximize")
    for trial, rank in zip(trials, ranks, strict=True):
        ranked.add_trial(create_trial(value=rank, params=trial.params, distributions=trial.distributions))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=TOP_SHARE)
    return get_param_importances(ranked, evaluator=evaluator, params=list(space.knobs))


def summary(
    study: optuna.Study, space: Space, budget: Budget, full_f1: Mapping[int, float], chosen: Point
) -> dict[str, float]:
    """Return what a search has cost and found, as numbers.

    `full_f1` is the dev F1 of the students distilled in full, by trial, and `chosen` the point of the one that is kept.
    """
    ended = _ended(study)
    return {
        "trials": len(ended),
        "trials_pruned": sum(trial.state == TrialState.PRUNED for trial in ended.values()),
        "trials_near_best": len(near_best(study)),
        "updates": sum(budget.spent(trial) for trial in ended.values()),
        "default_trial_f1": round(_f1(ended[0]), 4),
        "best_trial_f1": round(_f1(_best(study)), 4),
        "near_f1": NEAR_F1,
        "importance_from_trials": ENOUGH_TRIALS,
        "knobs_on_boundary": len(space.on_boundary(chosen)),
        "finalists": len(full_f1) - 1,
        "default_full_f1": round(full_f1[0], 4),
        "best_full_f1": round(max(full_f1.values()), 4),
    }


def _ended(study: optuna.Study) -> dict[int, FrozenTrial]:
    """Return the trials that ran to an end of their own, by place, in its order."""
    trials = study.get_trials(deepcopy=False)
    by_number = places(trials)
    ended = {by_number[t.number]: t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)}
    return dict(sorted(ended.items()))


def _standings(study: optuna.Study) -> dict[int, tuple[float, bool, float]]:
    """Return what orders the trials that ended, the best first, as `finalists` says, by place."""
    ended = _ended(study)
    complete = [trial for trial in ended.values() if trial.state == TrialState.COMPLETE]

    def standing(trial: FrozenTrial) -> tuple[float, bool, float]:
        if trial.state == TrialState.COMPLETE:
            return -_f1(trial), True, 0.0
        last, f1 = max(trial.intermediate_values), _last_f1(trial)
        beaten = [_f1(each) for each in complete if each.intermediate_values.get(last, 0.0) < f1]  # 0: it diverged
        return -max(beaten, default=-math.inf), False, -f1

    return {place: standing(trial) for place, trial in ended.items()}


def _best(study: optuna.Study) -> FrozenTrial:
    complete = [trial for trial in _ended(study).values() if trial.state == TrialState.COMPLETE]
    return max(complete, key=_f1)  # the first of the highest


def _f1(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


def _last_f1(trial: FrozenTrial) -> float:
    return trial.intermediate_values[max(trial.intermediate_values)]
