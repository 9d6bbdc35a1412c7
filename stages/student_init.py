"""Which layers a student should start from: students cut differently, trained alike, compared on dev.

Reads prepared data, the teacher and its cache; writes plots/student_init.csv. Every candidate is trained as `baseline`
is, for the same number of updates in the same order, so that nothing but the cut tells them apart (alternate layers as
in DistilBERT, Sanh et al. 2019; first and last as in Sajjad et al. 2020).
"""

import argparse
import re
from dataclasses import dataclass, replace
from pathlib import Path

from stages.core.errors import InputError, clean_exit
from stages.core.params import load_params, require
from stages.core.qa.decoding import DecodeParams
from stages.core.runtime import RuntimeParams, seed_everything, start
from stages.core.training.settings import BaselineParams, StudentParams


@dataclass(frozen=True)
class StudentInitParams:
    """The `student_init` section; all else is as in `baseline`."""

    seed: int  # in the place of baseline's, and of the bootstrap
    updates: int  # of each candidate
    resamples: int  # bootstrap resamples behind each interval, by paragraph
    candidates: dict[str, tuple[int, ...]]  # layers by the name of the cut; the others are compared with the first

    def check(self) -> None:
        """Vouch for ranges and for the order of layers."""
        for key in ("updates", "resamples"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
        require(bool(self.candidates), "candidates", self.candidates, "one cut or more")
        for name, layers in self.candidates.items():
            plain = re.fullmatch(r"\w[\w.-]*", name) is not None
            require(plain, "candidates", name, "names of letters, digits, _, - and . (checkpoints are named by them)")
            try:
                StudentParams(layers).check()
            except InputError as error:
                raise InputError(f"candidates.{name}: {error}") from None


def run(
    params: StudentInitParams,
    baseline: BaselineParams,
    runtime_params: RuntimeParams,
    student_params: StudentParams,
    decode: DecodeParams,
    *,
    data: Path,
    teacher: Path,
    cache: Path,
    out: Path,
    scratch: Path,
) -> None:
    """Train a student of each cut, score all on dev, set each beside the first."""
    origin = student_params.origin(teacher)  # a bad one stops here, before anything heavy is imported
    from stages.core.data.prepared import parts_for_students
    from stages.core.files import write_text
    from stages.core.qa.evaluation import score_model
    from stages.core.training.cuts import compare_cuts
    from stages.core.training.fit import fit
    from stages.core.training.lessons import load_lessons, new_student
    from stages.core.training.losses import DistillationLoss
    from stages.core.training.scratch import scratch_folder

    runtime, recipe = start(runtime_params, params.seed), replace(baseline, seed=params.seed)
    lessons, loss = (
        load_lessons(data, teacher, cache, runtime.device),
        DistillationLoss(recipe.temperature, recipe.alpha),
    )
    for layers in params.candidates.values():
        new_student(lessons, replace(student_params, layers=layers), params.seed)  # what cannot be cut stops all here
    settings = [params, baseline, runtime, student_params]
    found = {}
    with scratch_folder(scratch, settings, [*parts_for_students(data), teacher, cache, origin]) as unfinished:
        for name, layers in params.candidates.items():
            seed_everything(params.seed)
            student = new_student(lessons, replace(student_params, layers=layers), params.seed)
            fit(student, loss, lessons.training, recipe, runtime, scratch=unfinished, name=name, updates=params.updates)
            found[name] = score_model(student, lessons.dev, decode, runtime.device, recipe.batch_size)
        paragraphs = [example.context for example in lessons.dev.examples]
        frame = compare_cuts(params.candidates, found, paragraphs, resamples=params.resamples, seed=params.seed)
        write_text(out, frame.assign(updates=params.updates).to_csv(index=False, lineterminator="\n"))


def main() -> None:
    """Take paths from the command line and values from params.yaml."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("data", "teacher", "cache", "out", "scratch"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    paths = vars(parser.parse_args())
    params, baseline = load_params("student_init", StudentInitParams), load_params("baseline", BaselineParams)
    runtime, decode = load_params("runtime", RuntimeParams), load_params("decode", DecodeParams)
    run(params, baseline, runtime, load_params("student", StudentParams), decode, **paths)


if __name__ == "__main__":
    with clean_exit():
        main()
