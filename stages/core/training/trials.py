"""One trial of the search: a short distillation run at one point, judged on dev after each epoch."""

from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import Trial
from transformers import PreTrainedModel

from stages.core.data.batches import count_batches
from stages.core.qa.decoding import DecodeParams
from stages.core.qa.evaluation import score_model
from stages.core.qa.scoring import Scores, score
from stages.core.runtime import Runtime
from stages.core.training.distillation import distil
from stages.core.training.fit import TrainingSet, is_finite
from stages.core.training.lessons import Lessons
from stages.core.training.scratch import passing_folder
from stages.core.training.settings import DistilParams, StudentParams
from stages.core.training.space import Point


@dataclass(frozen=True)
class TrialRun:
    """The objective of the search: called with a trial and its point, it returns dev F1."""

    lessons: Lessons
    training: TrainingSet  # the windows a trial sees
    student: StudentParams
    settings: DistilParams  # of a trial, the knobs apart
    decode: DecodeParams
    runtime: Runtime
    scratch: Path  # holds the checkpoints of a trial while it runs

    @property
    def epoch_updates(self) -> int:
        """Updates in one epoch of a trial."""
        return count_batches(self.training.windows, self.settings.batch_size)

    def __call__(self, trial: Trial, point: Point) -> float:
        """Train at `point`; raises optuna.TrialPruned where dev F1 lags behind the median of the complete trials.

        A trial that was cut off starts anew: what it had reported before is part of the trial that failed. One that
        diverges ends there, with 0 for the epoch that it was in.
        """
        dev_f1: list[float] = []

        def judge(epoch: int, model: PreTrainedModel) -> None:
            dev_f1.append(round(self.dev_scores(model).mean_f1, 4))
            trial.report(dev_f1[-1], epoch)
            if epoch + 1 < self.settings.epochs and trial.should_prune():
                raise optuna.TrialPruned

        with passing_folder(self.scratch) as checkpoints:
            distil(
                self.lessons,
                self.student,
                self.settings.at(point),
                self.runtime,
                scratch=checkpoints,
                name=f"trial {trial.number}",
                training=self.training,
                after_epoch=judge,
            )
        return dev_f1[-1]

    def dev_scores(self, model: PreTrainedModel) -> Scores:
        """Return how a model answers the questions of dev.

        One that has diverged answers nothing: a bad point of the search, not its end.
        """
        if not is_finite(model):
            return score(self.lessons.dev.examples, {})
        return score_model(model, self.lessons.dev, self.decode, self.runtime.device, self.settings.batch_size)
