"""Attention heads and feed-forward neurons removed from the tuned student under a budget.

Reads the tuned student, prepared windows and the teacher's cache; writes a model with smaller matrices. In rounds,
heads and neurons are scored by the Fisher information of mask variables on the distillation loss (Kwon et al. 2022, "A
Fast Post-Training Pruning Framework for Transformers"), those go that lose the least of it within the budget, the
output matrices of what is left are repaired by least squares, and a short recovery follows before the next scoring.
What is removed is removed physically; a whole sublayer may go. The budget is a share of multiply-adds, of parameters,
or of time measured here.
"""

import argparse
from pathlib import Path

from stages.core.errors import clean_exit
from stages.core.params import load_params
from stages.core.pruning.settings import PruneParams
from stages.core.qa.decoding import DecodeParams
from stages.core.runtime import RuntimeParams, start
from stages.core.training.settings import TunedParams


def run(
    params: PruneParams,
    tuned: TunedParams,
    runtime_params: RuntimeParams,
    decode: DecodeParams,
    *,
    data: Path,
    teacher: Path,
    cache: Path,
    student: Path,
    out: Path,
    metrics: Path,
    history: Path,
    scratch: Path,
) -> None:
    """Prune within the budget, measure dev before the recovery that is left to the finetune stage."""
    from stages.core.data.prepared import parts_for_students
    from stages.core.files import write_json
    from stages.core.models.checkpoint import load_checkpoint, save_checkpoint
    from stages.core.models.encoder import fingerprint, load_tokenizer
    from stages.core.models.families import move
    from stages.core.pruning.costs import cost_shares
    from stages.core.pruning.procedure import mean_length, prune, units_kept
    from stages.core.qa.evaluation import quality, score_model
    from stages.core.training.fit import write_history
    from stages.core.training.lessons import lessons_of
    from stages.core.training.losses import DistillationLoss
    from stages.core.training.scratch import scratch_folder

    runtime = start(runtime_params, params.seed)
    lessons = lessons_of(student, data, teacher, cache, runtime.device)
    model = move(load_checkpoint(student), runtime.device)
    loss = DistillationLoss(tuned.temperature, tuned.alpha)
    with scratch_folder(scratch, [params, tuned, runtime], [*parts_for_students(data), cache, student]) as unfinished:
        itself = fingerprint(student) == fingerprint(teacher)  # where it is given in the student's place
        pruned, losses = prune(
            model, lessons.training, loss, params, runtime, scratch=unfinished, its_own_teacher=itself
        )
        dev = score_model(pruned, lessons.dev, decode, runtime.device, params.batch_size)
        shares = cost_shares(pruned, model, mean_length(lessons.training))
        save_checkpoint(pruned.cpu(), load_tokenizer(student), out)
        write_history(losses, history)
        write_json(metrics, {"dev": quality(dev), **shares, **units_kept(pruned, model)})


def main() -> None:
    """Take paths from the command line and values from params.yaml and the search's best parameters."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("data", "teacher", "cache", "student", "best", "out", "metrics", "history", "scratch"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    paths = vars(parser.parse_args())
    params, runtime = load_params("prune", PruneParams), load_params("runtime", RuntimeParams)
    tuned = load_params("tuned", TunedParams, paths.pop("best"))
    run(params, tuned, runtime, load_params("decode", DecodeParams), **paths)


if __name__ == "__main__":
    with clean_exit():
        main()
