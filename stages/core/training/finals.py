"""The finals of a search: its best points distilled in full beside the default, and what is made of these students.

A trial is short, and a learning rate, say, that wins a short run may lose a long one. Only students that have had the
whole training are fit to be compared for it; the search says which points are worth one (successive halving with one
halving, Jamieson & Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization").

They start from the same weights, so their mean is a student too: see `soup`. It gains from students that differ, so
those that may be averaged read the windows in different orders.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedModel

from stages.core.params import SEEDS
from stages.core.qa.scoring import Scores
from stages.core.training.distillation import distil
from stages.core.training.fit import History
from stages.core.training.settings import DistilParams
from stages.core.training.soup import ranked, soup
from stages.core.training.space import Point
from stages.core.training.trials import TrialRun


@dataclass(frozen=True)
class Finalist:
    """A student distilled in full."""

    settings: DistilParams
    student: PreTrainedModel
    history: History
    dev: Scores


@dataclass(frozen=True)
class Ended:
    """What the finals end with."""

    tuned: Finalist  # settings and history are those of the student that is best on dev by itself
    full_f1: dict[int, float]  # dev F1 of each student distilled in full, by trial
    averaged: tuple[int, ...]  # trials whose students the tuned one is the mean of, the best first; none where it is it


def finals(
    trial: TrialRun,
    default: Finalist,
    points: Mapping[int, Point],
    checkpoints: Callable[[DistilParams], Path],
    *,
    average: bool,
    seed: int,
) -> Ended:
    """Return the tuned student and the dev F1 of all students, by trial; trial 0 is the default.

    `points` are those of further trials; each is distilled in full with the default's settings for the rest. The best
    on dev is kept, of those that tie the default and then the earlier in `points`; or, with `average`, the `soup` of
    all, never below the default on dev: then their training seeds count up from the default's, while a head or
    projections drawn before training are the same in all. `checkpoints(settings)` is the folder that an interrupted
    training goes on from.
    """
    students = {0: default}
    for number, (place, point) in enumerate(points.items(), start=1):
        settings = default.settings.at(point)
        if average:
            settings = replace(settings, seed=(settings.seed + number) % SEEDS)
        student, history = distil(
            trial.lessons,
            trial.student,
            settings,
            trial.runtime,
            scratch=checkpoints(settings),
            name=f"finalist {place}",
            start_seed=default.settings.seed,
        )
        students[place] = Finalist(settings, student, history, trial.dev_scores(student))
    full_f1 = {place: round(each.dev.mean_f1, 4) for place, each in students.items()}
    places, dev = list(students), [each.dev for each in students.values()]
    best = students[places[ranked(dev)[0]]]
    if not average:
        return Ended(best, full_f1, ())
    found = soup(
        [each.student for each in students.values()],
        dev,
        trial.dev_scores,
        [example.context for example in trial.lessons.dev.examples],
        floor=default.dev.mean_f1,
        seed=seed,
    )
    tuned = replace(best, student=found.model, dev=found.dev)
    return Ended(tuned, full_f1, tuple(places[each] for each in found.averaged))
