"""Lessons for the teacher itself, as when it is pruned: in its own tokens, whatever its students read."""

from dataclasses import replace
from pathlib import Path

from stages.core.data.prepared import UNLABELLED, has_unlabelled, load_split
from stages.core.qa.inference import predict_logits
from stages.core.runtime import Runtime
from stages.core.training.fit import TrainingSet
from stages.core.training.lessons import Lessons, load_lessons


def load_own_lessons(data: Path, teacher: Path, cache: Path, runtime: Runtime, *, batch_size: int) -> Lessons:
    """The cached lessons where students read the teacher's tokens; else the teacher answers its own windows here.

    Raises InputError where the cache is not this teacher's on these windows.
    """
    lessons = load_lessons(data, teacher, cache, runtime.device)
    if not lessons.own_windows:
        return lessons

    def answered(name: str) -> TrainingSet:
        windows = load_split(data, name).windows
        logits = predict_logits(
            lessons.teacher, windows, batch_size=batch_size, device=runtime.device, precision="fp32"
        )
        return TrainingSet(windows, logits)

    training = answered("train")
    if has_unlabelled(data):
        training = training.join(answered(UNLABELLED))
    return replace(lessons, training=training, dev=load_split(data, "dev"), own_windows=False)
