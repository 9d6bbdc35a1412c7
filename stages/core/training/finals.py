"""The finals of a search: its best points distilled in full beside the default, and what is made of these students.

A trial is short, and a learning rate, say, that wins a short run may lose a long one. Only students that have had the
whole training are fit to be compared for it; the search says which points are worth one (successive halving with one
halving, Jamieson & Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization").

They start from the same weights, so the mean of their weights is a student too, often a better one than any of them
and no slower (Wortsman et al. 2022, "Model soups"). The best on dev is the best partly by luck with its questions. The
mean owes them less: so it need not be above the best on dev, only not clearly below.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from stages.core.qa.scoring import Scores
from stages.core.qa.significance import paired_difference
from stages.core.training.distillation import distil
from stages.core.training.fit import History
from stages.core.training.settings import DistilParams
from stages.core.training.space import Point
from stages.core.training.trials import TrialRun, is_finite

RESAMPLES = 2000  # of dev's paragraphs, for whether a mean is clearly worse than the best


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
    checkpoints: Callable[[DistilParams], AbstractContextManager[Path]],
    *,
    average: bool,
    seed: int,
) -> Ended:
    """Return the tuned student and the dev F1 of all students, by trial; trial 0 is the default.

    `points` are those of further trials; each is distilled in full with the default's settings for the rest. The best
    on dev is kept, of those that tie the default and then the earlier in `points`. Or, with `average`, the mean of all
    students, if it is neither clearly worse on dev than the best (the 95 % interval of the paired difference, drawn
    from `seed`, lies below 0) nor below the default; else that of all but the last on dev, and so on down to two.
    `checkpoints(settings)` is the folder that an interrupted training goes on from; all are kept until the last student
    is trained.
    """
    students = {0: default}
    with ExitStack() as folders:
        for place, point in points.items():
            settings = default.settings.at(point)
            scratch, name = folders.enter_context(checkpoints(settings)), f"finalist {place}"
            student, history = distil(trial.lessons, trial.student, settings, trial.runtime, scratch=scratch, name=name)
            students[place] = Finalist(settings, student, history, trial.dev_scores(student))
    full_f1 = {place: round(each.dev.mean_f1, 4) for place, each in students.items()}
    ranked = sorted(students, key=lambda place: -full_f1[place])  # of equals the first stays first
    best, paragraphs = students[ranked[0]], [example.context for example in trial.lessons.dev.examples]
    for count in range(len(ranked), 1, -1) if average else ():
        student = mean_weights([students[place].student for place in ranked[:count]])
        scores = trial.dev_scores(student)
        clearly = paired_difference(scores.f1, best.dev.f1, paragraphs, resamples=RESAMPLES, seed=seed).high < 0
        if is_finite(student) and not clearly and scores.mean_f1 >= default.dev.mean_f1:
            return Ended(replace(best, student=student, dev=scores), full_f1, tuple(ranked[:count]))
    return Ended(best, full_f1, ())


def mean_weights(students: Sequence[PreTrainedModel]) -> PreTrainedModel:
    """Return a new model with the mean of the models' weights; all have the same shapes."""
    states = [student.state_dict() for student in students]
    mean = copy.deepcopy(students[0])
    weights = {
        name: torch.stack([state[name].double() for state in states]).mean(dim=0).to(weight.dtype)
        for name, weight in states[0].items()
        if weight.is_floating_point()
    }
    mean.load_state_dict({**states[0], **weights})
    return mean
