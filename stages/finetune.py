"""The pruned student recovers under the teacher's cached answers.

Reads the pruned student, the whole one it was pruned from, prepared data and the teacher's cache; writes the recovered
student. Temperature and alpha are the tuned ones; the learning rate is its own, for what is left of a network needs
another one than the whole did. Its hidden states may be held to the whole student's, layer by layer.
"""

import argparse
from pathlib import Path

from stages.core.errors import clean_exit
from stages.core.params import load_params
from stages.core.qa.decoding import DecodeParams
from stages.core.runtime import RuntimeParams, start
from stages.core.training.settings import FinetuneParams, TunedParams


def run(
    params: FinetuneParams,
    tuned: TunedParams,
    runtime_params: RuntimeParams,
    decode: DecodeParams,
    *,
    data: Path,
    teacher: Path,
    cache: Path,
    student: Path,
    whole: Path,
    out: Path,
    metrics: Path,
    history: Path,
    scratch: Path,
) -> None:
    """Train the pruned student on labels and cached answers, score it on dev."""
    from stages.core.data.prepared import parts_for_students
    from stages.core.files import write_json
    from stages.core.models.checkpoint import load_checkpoint, save_checkpoint
    from stages.core.models.encoder import load_tokenizer
    from stages.core.models.families import move
    from stages.core.qa.evaluation import quality, score_model
    from stages.core.training.fit import write_history
    from stages.core.training.lessons import lessons_of, require_read_by
    from stages.core.training.losses import DistillationLoss
    from stages.core.training.recovery import recover
    from stages.core.training.scratch import scratch_folder

    runtime = start(runtime_params, params.seed)
    lessons = lessons_of(student, data, teacher, cache, runtime.device)
    require_read_by(whole, lessons)
    model, unpruned = (move(load_checkpoint(folder), runtime.device) for folder in (student, whole))
    loss = DistillationLoss(tuned.temperature, tuned.alpha)
    inputs = [*parts_for_students(data), cache, student, whole]
    with scratch_folder(scratch, [params, tuned, runtime], inputs) as unfinished:
        losses = recover(
            model,
            unpruned,
            loss,
            lessons.training,
            params,
            runtime,
            hidden_weight=params.hidden_weight,
            scratch=unfinished,
            name="finetune",
        )
        dev = score_model(model, lessons.dev, decode, runtime.device, params.batch_size)
        save_checkpoint(model.cpu(), load_tokenizer(student), out)
        write_history(losses, history)
        write_json(metrics, {"dev": quality(dev)})


def main() -> None:
    """Take paths from the command line and values from params.yaml and the search's best parameters."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("data", "teacher", "cache", "student", "whole", "best", "out", "metrics", "history", "scratch"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    paths = vars(parser.parse_args())
    params, runtime = load_params("finetune", FinetuneParams), load_params("runtime", RuntimeParams)
    tuned = load_params("tuned", TunedParams, paths.pop("best"))
    run(params, tuned, runtime, load_params("decode", DecodeParams), **paths)


if __name__ == "__main__":
    with clean_exit():
        main()
