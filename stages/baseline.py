"""A student cut from the teacher, trained on gold spans and the teacher's cached answers; beside it, the control.

Reads prepared data, the teacher and its cache; writes two students, cut from the teacher or from `student.encoder`,
with the same initialisation and number of updates: `baseline` learns from labels and the teacher's logits (Hinton et
al. 2015), the control `hard_label` from labels only. What lies between the two is what distillation buys. Without
`unlabelled` inputs both see the same windows in the same order; with them `baseline` sees those too, and the control
goes over its labelled ones more often.
"""

import argparse
from pathlib import Path

from stages.core.errors import clean_exit
from stages.core.params import load_params
from stages.core.qa.decoding import DecodeParams
from stages.core.runtime import RuntimeParams, seed_everything, start
from stages.core.training.settings import BaselineParams, StudentParams


def run(
    params: BaselineParams,
    runtime_params: RuntimeParams,
    student_params: StudentParams,
    decode: DecodeParams,
    *,
    data: Path,
    teacher: Path,
    cache: Path,
    out: Path,
    control: Path,
    metrics: Path,
    history: Path,
    control_history: Path,
    scratch: Path,
) -> None:
    """Cut the student twice; train one with the teacher's answers, one without; score both on dev."""
    origin = student_params.origin(teacher)  # a bad one stops here, before anything heavy is imported
    from stages.core.data.batches import count_batches
    from stages.core.data.prepared import parts_for_students
    from stages.core.files import write_json
    from stages.core.models.checkpoint import save_checkpoint
    from stages.core.models.encoder import load_tokenizer
    from stages.core.qa.evaluation import quality, score_model
    from stages.core.training.fit import TrainingSet, fit, write_history
    from stages.core.training.lessons import load_lessons, new_student
    from stages.core.training.losses import DistillationLoss, LabelLoss, Loss
    from stages.core.training.scratch import scratch_folder

    runtime = start(runtime_params, params.seed)
    lessons = load_lessons(data, teacher, cache, runtime.device)
    soft, training = DistillationLoss(params.temperature, params.alpha), lessons.training
    updates = params.epochs * count_batches(training.windows, params.batch_size)
    arms: list[tuple[str, Loss, TrainingSet, Path, Path]] = [
        ("baseline", soft, training, out, history),
        ("hard_label", LabelLoss(), training.labelled(), control, control_history),
    ]
    scores: dict[str, object] = {}
    inputs = [*parts_for_students(data), teacher, cache, origin]
    with scratch_folder(scratch, [params, runtime, student_params], inputs) as unfinished:
        for name, loss, taught, folder, curve in arms:
            seed_everything(params.seed)
            student = new_student(lessons, student_params, params.seed)
            losses = fit(student, loss, taught, params, runtime, scratch=unfinished, name=name, updates=updates)
            dev = score_model(student, lessons.dev, decode, runtime.device, params.batch_size)
            scores[name] = {"dev": quality(dev)}
            save_checkpoint(student.cpu(), load_tokenizer(origin), folder)
            write_history(losses, curve)
        write_json(metrics, scores)


def main() -> None:
    """Take paths from the command line and values from params.yaml."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("data", "teacher", "cache", "out", "control", "metrics", "history", "control-history", "scratch"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    paths = vars(parser.parse_args())
    params, runtime = load_params("baseline", BaselineParams), load_params("runtime", RuntimeParams)
    run(params, runtime, load_params("student", StudentParams), load_params("decode", DecodeParams), **paths)


if __name__ == "__main__":
    with clean_exit():
        main()
