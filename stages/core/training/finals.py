"""The finals of a search: its best points distilled in full beside the default, and the best of these students.

A trial is short, and a learning rate, say, that wins a short run may lose a long one. Only students that have had the
whole training are fit to be compared for it; the search says which points are worth one (successive halving with one
halving, Jamieson & Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization").
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from stages.core.training.distillation import distil
from stages.core.training.fit import History
from stages.core.training.settings import DistilParams
from stages.core.training.space import Point
from stages.core.training.trials import TrialRun


@dataclass(frozen=True)
class Finalist:
    """A student distilled in full."""

    settings: DistilParams
    student: PreTrainedModel
    history: History
    dev: dict[str, float]  # exact_match and f1, in percent


def finals(
    trial: TrialRun,
    default: Finalist,
    points: Mapping[int, Point],
    checkpoints: Callable[[DistilParams], AbstractContextManager[Path]],
) -> tuple[Finalist, dict[int, float]]:
    """Return the student that is best on dev and the dev F1 of all, by trial; trial 0 is the default.

    `points` are those of further trials; each is distilled in full with the default's settings for the rest. Where
    students tie, the default and then the earlier in `points` is kept. `checkpoints(settings)` is the folder that an
    interrupted training goes on from; all are kept until the last student is trained.
    """
    best, full_f1 = default, {0: default.dev["f1"]}
    with ExitStack() as folders:
        for place, point in points.items():
            settings = default.settings.at(point)
            scratch, name = folders.enter_context(checkpoints(settings)), f"finalist {place}"
            student, history = distil(trial.lessons, trial.student, settings, trial.runtime, scratch=scratch, name=name)
            finalist = Finalist(settings, student, history, trial.dev_quality(student))
            full_f1[place] = finalist.dev["f1"]
            if finalist.dev["f1"] > best.dev["f1"]:
                best = finalist
    return best, full_f1
