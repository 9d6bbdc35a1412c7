"""The other way to the same cost: the teacher itself pruned to the finetuned student's multiply-adds, and recovered.

Reads the teacher, prepared data, the teacher's cache and the finetuned student, whose MACs are the budget; writes the
pruned and recovered teacher, which reads its own tokens. Procedure and settings are those of `prune` and `finetune`,
so that the two arms differ in where they start alone: in a few whole layers, or in all of them. But the teacher does
not diverge from its own answers before something is gone: its first round is scored by gold ones. Temperature and
alpha are those found best for the student.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from stages.core.errors import InputError, clean_exit
from stages.core.params import load_params
from stages.core.pruning.settings import PruneParams
from stages.core.qa.decoding import DecodeParams
from stages.core.runtime import RuntimeParams, start
from stages.core.training.settings import FinetuneParams, TunedParams


@dataclass(frozen=True)
class PruneTeacherParams:
    """The `prune_teacher` section; all the rest is as in `prune` and `finetune`."""

    seed: int  # in the place of theirs


def run(
    own: PruneTeacherParams,
    prune_params: PruneParams,
    finetune_params: FinetuneParams,
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
    """Prune the teacher to the student's cost, recover it, score it on dev before and after."""
    from stages.core.data.prepared import parts_for_students
    from stages.core.files import write_json
    from stages.core.models.checkpoint import load_checkpoint, save_checkpoint
    from stages.core.models.encoder import load_tokenizer
    from stages.core.models.macs import count_macs
    from stages.core.pruning.costs import cost_shares
    from stages.core.pruning.procedure import mean_length, prune, units_kept
    from stages.core.qa.evaluation import quality, score_model
    from stages.core.training.fit import joined, write_history
    from stages.core.training.lessons import in_the_teachers_tokens, lessons_of
    from stages.core.training.losses import DistillationLoss
    from stages.core.training.recovery import recover
    from stages.core.training.scratch import scratch_folder

    runtime, params = start(runtime_params, own.seed), replace(finetune_params, seed=own.seed)
    students = lessons_of(student, data, teacher, cache, runtime.device)
    lessons = in_the_teachers_tokens(students, data, teacher, cache)
    loss = DistillationLoss(tuned.temperature, tuned.alpha)
    whole, training = lessons.teacher, lessons.training
    length = mean_length(training)
    share = count_macs(load_checkpoint(student), mean_length(students.training)) / count_macs(whole, length)
    if share > 1:
        raise InputError(
            f"{student}: has {share:.2f} times the MACs of the teacher, wanted fewer; shrink it or prune on"
        )
    budget = replace(prune_params, seed=own.seed, macs_kept=share, parameters_kept=0.0, latency_kept=0.0)
    settings = [own, prune_params, finetune_params, tuned, runtime]
    with scratch_folder(scratch, settings, [*parts_for_students(data), teacher, cache, student]) as unfinished:
        pruned, in_rounds = prune(whole, training, loss, budget, runtime, scratch=unfinished, its_own_teacher=True)
        before = score_model(pruned, lessons.dev, decode, runtime.device, params.batch_size)
        inside = params.hidden_weight
        losses = recover(
            pruned, whole, loss, training, params, runtime, hidden_weight=inside, scratch=unfinished, name="finetune"
        )
        after = score_model(pruned, lessons.dev, decode, runtime.device, params.batch_size)
        found = {"dev": quality(after), "dev_before_recovery": quality(before), **cost_shares(pruned, whole, length)}
        save_checkpoint(pruned.cpu(), load_tokenizer(teacher), out)
        write_history(joined([in_rounds, losses]), history)
        write_json(metrics, {**found, **units_kept(pruned, whole)})


def main() -> None:
    """Take paths from the command line and values from params.yaml and the search's best parameters."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("data", "teacher", "cache", "student", "best", "out", "metrics", "history", "scratch"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    paths = vars(parser.parse_args())
    own, tuned = load_params("prune_teacher", PruneTeacherParams), load_params("tuned", TunedParams, paths.pop("best"))
    prune_params, params = load_params("prune", PruneParams), load_params("finetune", FinetuneParams)
    runtime, decode = load_params("runtime", RuntimeParams), load_params("decode", DecodeParams)
    run(own, prune_params, params, tuned, runtime, decode, **paths)


if __name__ == "__main__":
    with clean_exit():
        main()
