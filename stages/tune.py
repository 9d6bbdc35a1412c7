"""Search of temperature, alpha and learning rate, judged on dev -> the best parameters and the tuned student.

Reads prepared data, the teacher and its cache; writes metrics/best_params.yaml, the table of trials, and a student
distilled in full with the best values. The test questions are never looked at.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from stages.core.errors import clean_exit
from stages.core.params import load_params, require
from stages.core.qa.decoding import DecodeParams
from stages.core.runtime import RuntimeParams, start
from stages.core.training.settings import DistilParams, StudentParams


@dataclass(frozen=True)
class TuneParams:
    """The `tune` section; what it does not name is as in `distil`."""

    seed: int  # of the search and of the trials' windows
    trials: int  # points tried, the default point included
    trial_epochs: int  # passes over its windows in one trial
    trial_windows: int  # training windows in one trial
    temperature: tuple[float, ...]  # bounds, low and high
    alpha: tuple[float, ...]  # bounds
    learning_rate: tuple[float, ...]  # bounds

    def check(self) -> None:
        """Vouch for ranges."""
        require(self.trials >= 1, "trials", self.trials, "1 or more")
        require(self.trial_epochs >= 1, "trial_epochs", self.trial_epochs, "1 or more")
        require(self.trial_windows >= 1, "trial_windows", self.trial_windows, "1 or more")
        for key in ("temperature", "alpha", "learning_rate"):
            bounds = getattr(self, key)
            require(len(bounds) == 2 and 0 <= bounds[0] < bounds[1], key, list(bounds), "two bounds, low and high")
        for key in ("temperature", "learning_rate"):  # searched on a logarithmic scale
            require(getattr(self, key)[0] > 0, key, list(getattr(self, key)), "bounds above 0")
        require(self.alpha[1] <= 1, "alpha", list(self.alpha), "bounds from 0 to 1")


def run(
    params: TuneParams,
    distil_params: DistilParams,
    runtime_params: RuntimeParams,
    student_params: StudentParams,
    decode: DecodeParams,
    *,
    data: Path,
    teacher: Path,
    cache: Path,
    out: Path,
    metrics: Path,
    best: Path,
    trials: Path,
    history: Path,
    scratch: Path,
) -> None:
    """Try points on some of the windows, then distil in full with the best of them."""
    origin = student_params.origin(teacher)  # a bad one stops here, before anything heavy is imported
    from stages.core.files import write_json, write_text
    from stages.core.models.checkpoint import save_checkpoint
    from stages.core.models.encoder import load_tokenizer
    from stages.core.qa.evaluation import answer_with, quality
    from stages.core.training.distillation import distil
    from stages.core.training.fit import write_history
    from stages.core.training.lessons import load_lessons, some
    from stages.core.training.scratch import scratch_folder
    from stages.core.training.search import KNOBS, Space, best_point, on_boundary, search, trials_table
    from stages.core.training.trials import TrialRun

    runtime = start(runtime_params, params.seed)
    lessons = load_lessons(data, teacher, cache, runtime.device)
    space = Space(params.temperature, params.alpha, params.learning_rate)
    default = {name: getattr(distil_params, name) for name in KNOBS}
    settings = [params, distil_params, runtime_params, student_params, decode]
    with scratch_folder(scratch, settings, [data, teacher, cache, origin]) as unfinished:
        trial = TrialRun(
            lessons=lessons,
            training=some(lessons.training, params.trial_windows, params.seed),
            student=student_params,
            settings=replace(distil_params, epochs=params.trial_epochs),
            decode=decode,
            runtime=runtime,
            scratch=unfinished,
        )
        study = search(
            trial, space, default, trials=params.trials, seed=params.seed, storage=unfinished / "trials.sqlite"
        )
        chosen = best_point(study)
        settled = distil_params.at(chosen)
        student, losses = distil(lessons, student_params, settled, runtime, scratch=unfinished, name="tuned")
        answers = answer_with(student, lessons.dev, decode, runtime.device, settled.batch_size)
        save_checkpoint(student.cpu(), load_tokenizer(origin), out)
        write_history(losses, history)
        table = trials_table(study)
        write_text(trials, table.to_csv(index=False, lineterminator="\n"))
        write_text(best, "tuned:\n" + "".join(f"  {name}: {chosen[name]!r}\n" for name in KNOBS))
        pruned = int((table["state"] == "pruned").sum())
        best_f1 = float(table.loc[table["state"] == "complete", "f1"].max())
        found = {"trials": len(table), "trials_pruned": pruned, "best_trial_f1": best_f1}
        found["knobs_on_boundary"] = len(on_boundary(chosen, space))
        write_json(metrics, {"dev": quality(lessons.dev, answers), "search": found})


def main() -> None:
    """Take paths from the command line and values from params.yaml."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("data", "teacher", "cache", "out", "metrics", "best", "trials", "history", "scratch"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    paths = vars(parser.parse_args())
    params, distil_params = load_params("tune", TuneParams), load_params("distil", DistilParams)
    runtime, student = load_params("runtime", RuntimeParams), load_params("student", StudentParams)
    run(params, distil_params, runtime, student, load_params("decode", DecodeParams), **paths)


if __name__ == "__main__":
    with clean_exit():
        main()
