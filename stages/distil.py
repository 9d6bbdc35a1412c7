"""The student again, with its hidden states held to the teacher's layers as well as its answers to the teacher's.

Reads prepared data, the teacher and its cache; writes the distilled student. Chosen student layers are aligned with
chosen teacher layers (masked mean squared error on normalised states; after Sun et al. 2019, "Patient Knowledge
Distillation"), together with the answers from the first update: aligned states alone are no QA model. The teacher
runs along; hidden states are too large to cache. Where it reads other tokens than the student, their states meet by
characters.
"""

import argparse
from pathlib import Path

from stages.core.errors import clean_exit
from stages.core.params import load_params
from stages.core.qa.decoding import DecodeParams
from stages.core.runtime import RuntimeParams, start
from stages.core.training.settings import DistilParams, StudentParams


def run(
    params: DistilParams,
    runtime_params: RuntimeParams,
    student_params: StudentParams,
    decode: DecodeParams,
    *,
    data: Path,
    teacher: Path,
    cache: Path,
    out: Path,
    metrics: Path,
    history: Path,
    scratch: Path,
) -> None:
    """Cut the student, train it on labels, cached answers and hidden states, score it on dev."""
    origin = student_params.origin(teacher)  # a bad one stops here, before anything heavy is imported
    from stages.core.data.prepared import parts_for_students
    from stages.core.files import write_json
    from stages.core.models.checkpoint import save_checkpoint
    from stages.core.models.encoder import load_tokenizer
    from stages.core.qa.evaluation import quality, score_model
    from stages.core.training.distillation import distil
    from stages.core.training.fit import write_history
    from stages.core.training.lessons import load_lessons
    from stages.core.training.scratch import scratch_folder

    runtime = start(runtime_params, params.seed)
    lessons = load_lessons(data, teacher, cache, runtime.device, run_teacher=params.needs_teacher())
    inputs = [*parts_for_students(data), teacher, cache, origin]
    with scratch_folder(scratch, [params, runtime, student_params], inputs) as unfinished:
        student, losses = distil(lessons, student_params, params, runtime, scratch=unfinished, name="distil")
        dev = score_model(student, lessons.dev, decode, runtime.device, params.batch_size)
        save_checkpoint(student.cpu(), load_tokenizer(origin), out)
        write_history(losses, history)
        write_json(metrics, {"dev": quality(dev)})


def main() -> None:
    """Take paths from the command line and values from params.yaml."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--data", "--teacher", "--cache", "--out", "--metrics", "--history", "--scratch"):
        parser.add_argument(name, type=Path, required=True)
    paths = vars(parser.parse_args())
    params, runtime = load_params("distil", DistilParams), load_params("runtime", RuntimeParams)
    run(params, runtime, load_params("student", StudentParams), load_params("decode", DecodeParams), **paths)


if __name__ == "__main__":
    with clean_exit():
        main()
