"""How far pruning goes: dev F1 of the tuned student against the MACs it keeps, by criterion.

Reads the tuned student, prepared data and the teacher's cache; writes plots/prune_curve.csv and, paired and with
intervals, what Fisher scores in rounds with repair gain over the other criteria. Plain weight magnitude is the one to
beat; settings are those of `prune` and `finetune`.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from stages.core.errors import clean_exit
from stages.core.params import load_params, require
from stages.core.pruning.settings import PruneParams
from stages.core.qa.decoding import DecodeParams
from stages.core.runtime import RuntimeParams, start
from stages.core.training.settings import FinetuneParams, TunedParams


@dataclass(frozen=True)
class PruneCurveParams:
    """The `prune_curve` section."""

    seed: int  # in the place of those of prune and finetune, and of the bootstrap
    macs_kept: tuple[float, ...]  # shares of the tuned student's MACs, a point each
    recovery_updates: int  # of training after each point is pruned; 0 shows no recovery
    resamples: int  # bootstrap resamples behind each interval, by paragraph

    def check(self) -> None:
        """Vouch for ranges."""
        fine = bool(self.macs_kept) and all(0 < share <= 1 for share in self.macs_kept)
        require(fine, "macs_kept", list(self.macs_kept), "shares above 0, at most 1")
        require(self.recovery_updates >= 0, "recovery_updates", self.recovery_updates, "0 or more")
        require(self.resamples >= 1, "resamples", self.resamples, "1 or more")


def run(
    params: PruneCurveParams,
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
    differences: Path,
    scratch: Path,
) -> None:
    """Prune to every share by every criterion, judge on dev, recover, judge again."""
    from transformers import PreTrainedModel

    from stages.core.data.prepared import parts_for_students
    from stages.core.files import write_text
    from stages.core.models.checkpoint import load_checkpoint
    from stages.core.models.encoder import fingerprint
    from stages.core.models.families import move
    from stages.core.pruning import curve
    from stages.core.qa.evaluation import score_model
    from stages.core.qa.scoring import Scores
    from stages.core.training.lessons import lessons_of
    from stages.core.training.losses import DistillationLoss
    from stages.core.training.scratch import scratch_folder

    runtime = start(runtime_params, params.seed)
    lessons = lessons_of(student, data, teacher, cache, runtime.device)

    def judge(model: PreTrainedModel) -> Scores:
        return score_model(model, lessons.dev, decode, runtime.device, prune_params.batch_size)

    settings = [params, prune_params, finetune_params, tuned, runtime]
    with scratch_folder(scratch, settings, [*parts_for_students(data), cache, student]) as unfinished:
        found = curve.Curve(
            model=move(load_checkpoint(student), runtime.device),
            training=lessons.training,
            answers=DistillationLoss(tuned.temperature, tuned.alpha),
            prune=replace(prune_params, seed=params.seed),
            finetune=replace(finetune_params, seed=params.seed),
            recovery_updates=params.recovery_updates,
            runtime=runtime,
            judge=judge,
            scratch=unfinished,
            its_own_teacher=fingerprint(student) == fingerprint(teacher),  # where it is given in the student's place
        ).draw(params.macs_kept)
        paragraphs = [example.context for example in lessons.dev.examples]
        gains = curve.differences(found, paragraphs, resamples=params.resamples, seed=params.seed)
        for path, frame in ((out, curve.points(found)), (differences, gains)):
            write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def main() -> None:
    """Take paths from the command line and values from params.yaml and the search's best parameters."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("data", "teacher", "cache", "student", "best", "out", "differences", "scratch"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    paths = vars(parser.parse_args())
    params, prune_params = load_params("prune_curve", PruneCurveParams), load_params("prune", PruneParams)
    finetune, tuned = load_params("finetune", FinetuneParams), load_params("tuned", TunedParams, paths.pop("best"))
    runtime, decode = load_params("runtime", RuntimeParams), load_params("decode", DecodeParams)
    run(params, prune_params, finetune, tuned, runtime, decode, **paths)


if __name__ == "__main__":
    with clean_exit():
        main()
