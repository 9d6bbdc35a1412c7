"""What a student's training starts from: the teacher, the prepared data, the teacher's cached answers, matched."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from stages.core.data.batches import Heard
from stages.core.data.carry import best_windows
from stages.core.data.logits import OWN, load_logits
from stages.core.data.prepared import UNLABELLED, Questions, has_own_windows, has_unlabelled, load_split, load_taught
from stages.core.data.windows import fingerprint_tokenizer
from stages.core.errors import InputError
from stages.core.models.checkpoint import load_checkpoint
from stages.core.models.encoder import cut_layers, fingerprint, load_qa_model, load_tokenizer
from stages.core.models.families import move
from stages.core.models.source import resolve_model
from stages.core.training.fit import TrainingSet
from stages.core.training.settings import StudentParams

_OTHER_WINDOWS = "params.yaml: student.encoder is {!r}, but the windows were cut for another one; run prepare again"


@dataclass(frozen=True)
class Lessons:
    """The teacher, training windows with its logits, and dev questions to judge by: windows as the students read.

    Of the training windows those without labels come last.
    """

    teacher: PreTrainedModel
    training: TrainingSet
    dev: Questions
    own_windows: bool = False  # cut by another tokenizer than the teacher's

    def are_read_by(self, model: Path) -> bool:
        """Whether the tokenizer of the model saved in `model` is the one that has cut the windows."""
        return fingerprint_tokenizer(load_tokenizer(model)) == self.training.windows.metadata["tokenizer"]


def load_lessons(data: Path, teacher: Path, cache: Path, device: torch.device, *, run_teacher: bool = False) -> Lessons:
    """Load all of it, with `run_teacher` the teacher's windows too where it reads other tokens than its students.

    Raises InputError where the cache is not this teacher's on these windows.
    """
    training = _load_training(data, cache, "train", fingerprint(teacher), run_teacher)
    if has_unlabelled(data):
        training = training.join(_load_training(data, cache, UNLABELLED, fingerprint(teacher), run_teacher))
    return Lessons(move(load_checkpoint(teacher), device), training, load_taught(data, "dev"), has_own_windows(data))


def in_the_teachers_tokens(lessons: Lessons, data: Path, teacher: Path, cache: Path) -> Lessons:
    """Return the lessons as the teacher itself reads them, the same ones where its students read its tokens.

    Raises InputError where the cache is not this teacher's on these windows.
    """
    if not lessons.own_windows:
        return lessons

    def taught(name: str) -> TrainingSet:
        windows = load_split(data, name).windows
        return TrainingSet(windows, load_logits(cache / f"{OWN}{name}.safetensors", windows, fingerprint(teacher)))

    training = taught("train")
    if has_unlabelled(data):
        training = training.join(taught(UNLABELLED))
    return Lessons(lessons.teacher, training, load_split(data, "dev"))


def lessons_of(model: Path, data: Path, teacher: Path, cache: Path, device: torch.device) -> Lessons:
    """Load the lessons in the tokens of the model saved in `model`: those of students, or of the teacher itself.

    Raises InputError where its tokenizer has cut neither, or the cache is not this teacher's on these windows.
    """
    lessons = load_lessons(data, teacher, cache, device)
    if not lessons.are_read_by(model):
        lessons = in_the_teachers_tokens(lessons, data, teacher, cache)
    require_read_by(model, lessons)
    return lessons


def require_read_by(model: Path, lessons: Lessons) -> None:
    """Raise InputError where the tokenizer of the model saved in `model` is not the one that has cut the windows."""
    if not lessons.are_read_by(model):
        raise InputError(f"{model}: reads other tokens than the windows are cut to; name a model made with these data")


def _load_training(data: Path, cache: Path, name: str, teacher: str, run_teacher: bool) -> TrainingSet:
    windows = load_taught(data, name).windows
    logits = load_logits(cache / f"{name}.safetensors", windows, teacher)
    if not (run_teacher and has_own_windows(data)):
        return TrainingSet(windows, logits)
    its = load_split(data, name).windows
    rows = torch.from_numpy(best_windows(its, windows))
    return TrainingSet(windows, logits, Heard(its, rows, its.same_tokens(windows)))


def new_student(lessons: Lessons, student: StudentParams, seed: int) -> PreTrainedModel:
    """Return an untrained student: layers of the teacher, or of its own encoder with a head drawn from `seed`.

    Raises InputError where the windows that students read were cut by another tokenizer than its own.
    """
    if not student.encoder:
        if lessons.own_windows:
            raise InputError(_OTHER_WINDOWS.format(student.encoder))
        return cut_layers(lessons.teacher, student.layers)
    source = resolve_model(student.encoder, student.sha256)
    if fingerprint_tokenizer(load_tokenizer(source)) != lessons.training.windows.metadata["tokenizer"]:
        raise InputError(_OTHER_WINDOWS.format(student.encoder))
    return cut_layers(load_qa_model(source, seed=seed), student.layers)


def some(training: TrainingSet, count: int, seed: int) -> TrainingSet:
    """Return a training set of `count` windows (all, if there are fewer), drawn at random, in their order."""
    drawn = torch.randperm(len(training.windows), generator=torch.Generator().manual_seed(seed))[:count]
    return training.take(drawn.sort().values)
