"""One distillation run as `distil` makes it once and `tune` many times: cut, align, train."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel

from stages.core.models.families import move
from stages.core.models.kernels import set_training_kernel
from stages.core.runtime import Runtime, seed_everything
from stages.core.training.fit import History, TrainingSet, fit
from stages.core.training.lessons import Lessons, new_student
from stages.core.training.losses import DistillationLoss, IntermediateLoss, Loss
from stages.core.training.settings import DistilParams, StudentParams


def distil(
    lessons: Lessons,
    student_params: StudentParams,
    params: DistilParams,
    runtime: Runtime,
    *,
    scratch: Path,
    name: str,
    start_seed: int | None = None,
    training: TrainingSet | None = None,
    after_epoch: Callable[[int, PreTrainedModel], None] | None = None,
) -> tuple[PreTrainedModel, History]:
    """Return a student cut from the teacher, or from its own encoder, and distilled, with its loss history.

    Everything is seeded again, so that equal settings give equal students. What is drawn before training, a head or
    projections that are not there yet, is drawn from `start_seed`, for students that are to start from the same
    weights; None is the seed of `params`. `training` replaces the lessons' windows; `after_epoch(epoch, student)` is
    called after each epoch. Where the teacher is to be run and reads other tokens the windows come with its own.
    """
    drawn_from = params.seed if start_seed is None else start_seed
    seed_everything(drawn_from)
    student = move(new_student(lessons, student_params, drawn_from), runtime.device)
    learned = training or lessons.training
    if params.needs_teacher():
        assert not lessons.own_windows or learned.heard is not None
        set_training_kernel(lessons.teacher, runtime.device)
    else:
        learned = replace(learned, heard=None)  # its windows would but widen the batches
    loss = loss_of(params, student, lessons.teacher)
    seed_everything(params.seed)
    losses = fit(
        student,
        loss,
        learned,
        params,
        runtime,
        scratch=scratch,
        name=name,
        after_epoch=None if after_epoch is None else lambda epoch: after_epoch(epoch, student),
    )
    return student, losses


def loss_of(params: DistilParams, student: PreTrainedModel, teacher: PreTrainedModel) -> Loss:
    """Return the loss that `distil` trains with: of the answers alone where no weight asks for what lies inside."""
    answers = DistillationLoss(params.temperature, params.alpha)
    if not params.needs_teacher():
        return answers
    return IntermediateLoss(
        answers,
        student,
        teacher,
        list(zip(params.student_layers, params.teacher_layers, strict=True)),
        params.hidden_weight,
        relation_weight=params.relation_weight,
        relation_heads=params.relation_heads,
    )
