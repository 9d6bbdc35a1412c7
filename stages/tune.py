"""Search of distillation's knobs, judged on dev -> the best parameters and the tuned student.

Reads prepared data, the teacher and its cache, and the student distilled at the default point; writes
metrics/best_params.yaml, tables of trials and of knobs, and the tuned student. A trial is short, and what is best in a
short run need not be in a long one (Li et al. 2018, "Hyperband", on fidelities): the best points of the search are
distilled in full, and the tuned student is the mean of these and the default's, or the best of them. The test questions
are never looked at. With --join, and without the outputs, a further process runs trials of a search that keeps its
trials in a shared storage.
"""

import argparse
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.errors import clean_exit
from stages.core.params import load_params, require
from stages.core.qa.decoding import DecodeParams
from stages.core.runtime import RuntimeParams, start
from stages.core.training.settings import DistilParams, StudentParams, TunedParams
from stages.core.training.space import Knob, Space, space_around

if TYPE_CHECKING:
    import optuna

    from stages.core.training.finals import Ended
    from stages.core.training.search import Budget


@dataclass(frozen=True)
class TuneParams:
    """The `tune` section; what it does not name is as in `distil`."""

    seed: int  # of the search and of the trials' windows
    updates: int  # trials are started while fewer are spent
    trial_epochs: int  # passes over its windows in one trial
    trial_windows: int  # training windows in one trial
    finalists: int  # points, the default apart, that are distilled in full; before so many have ended none is stopped
    average: bool  # whether the weights of the students distilled in full are averaged
    storage: str  # of trials, for several processes: an URL; '' keeps them to this process
    space: dict[str, Knob]  # by key of the `distil` section

    def check(self) -> None:
        """Vouch for ranges; the space is checked against `distil`."""
        for key in ("updates", "trial_epochs", "trial_windows", "finalists"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")


@dataclass(frozen=True)
class TuneOutputs:
    """What the stage writes."""

    out: Path  # the tuned student, a folder
    metrics: Path  # dev scores of the student and figures of the search, JSON
    best: Path  # the best parameters, YAML
    trials: Path  # a row per trial, CSV
    importance: Path  # a row per knob, CSV
    history: Path  # the student's training, CSV


@dataclass(frozen=True)
class DefaultPoint:
    """What `distil` has made with the values that the search starts from."""

    student: Path  # a folder
    history: Path  # its training, CSV


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
    scratch: Path,
    default: DefaultPoint | None,
    outputs: TuneOutputs | None,
) -> None:
    """Try points on some of the windows, distil the best in full, keep the best student or the mean of the best.

    Without `default` and `outputs` only help with trials.
    """
    origin = student_params.origin(teacher)  # a bad one stops here, before anything heavy is imported
    from stages.core.data.prepared import parts_for_students
    from stages.core.models.checkpoint import load_checkpoint, save_checkpoint
    from stages.core.models.encoder import load_tokenizer
    from stages.core.models.families import move
    from stages.core.training.finals import Finalist, finals
    from stages.core.training.fit import read_history, write_history
    from stages.core.training.lessons import load_lessons, require_read_by, some
    from stages.core.training.outcome import finalists, paid
    from stages.core.training.scratch import passing_folder, run_key, scratch_folder
    from stages.core.training.search import Budget, search
    from stages.core.training.storage import open_storage
    from stages.core.training.trials import TrialRun

    space = space_around(distil_params, params.space)
    runtime = start(runtime_params, params.seed)
    distilled = move(load_checkpoint(default.student), runtime.device) if default else None
    history = read_history(default.history) if default else []
    run_teacher = distil_params.needs_teacher(*params.space)
    lessons = load_lessons(data, teacher, cache, runtime.device, run_teacher=run_teacher)
    if default:
        require_read_by(default.student, lessons)
    # Where the trials are kept, how many there are and whether students are averaged changes none of them.
    trial_params = replace(params, storage="", updates=0, average=False)
    settings = [trial_params, distil_params, student_params, decode]
    inputs = [*parts_for_students(data), teacher, cache, origin]
    alike = replace(runtime, processor="", threads=0)  # of processes that share a search
    with ExitStack() as folders:
        of_search = scratch_folder(scratch, [*settings, runtime], inputs) if outputs else passing_folder(scratch)
        unfinished = folders.enter_context(of_search)

        def of_final(settled: DistilParams) -> Path:
            its = [settled, distil_params, runtime, student_params]
            return folders.enter_context(scratch_folder(scratch, its, inputs))

        trial = TrialRun(
            lessons=lessons,
            training=some(lessons.training, params.trial_windows, params.seed),
            student=student_params,
            settings=replace(distil_params, epochs=params.trial_epochs),
            decode=decode,
            runtime=runtime,
            scratch=unfinished,
        )
        # As many trials run to their end as there are to be finalists, and the default's, before any is stopped.
        budget = Budget(params.updates, trial.epoch_updates, params.trial_epochs, unstopped=params.finalists + 1)
        study = search(
            trial,
            space,
            budget,
            seed=params.seed,
            name=run_key([*settings, alike], inputs),
            storage=open_storage(params.storage or f"sqlite:///{unfinished / 'trials.sqlite'}"),
            shared=params.storage != "",
            join=outputs is None,
        )
        if outputs is None or distilled is None:
            return
        study = paid(study, budget)
        ended = finals(
            trial,
            Finalist(distil_params, distilled, history, trial.dev_scores(distilled)),
            finalists(study, space, params.finalists),
            of_final,
            average=params.average,
            seed=params.seed,
        )
        save_checkpoint(ended.tuned.student.cpu(), load_tokenizer(origin), outputs.out)
        write_history(ended.tuned.history, outputs.history)
        _write_search(outputs, study, space, budget, ended)


def _write_search(
    outputs: TuneOutputs,
    study: "optuna.Study",
    space: Space,
    budget: "Budget",
    ended: "Ended",
) -> None:
    """Write the tables, the best parameters and the metrics."""
    from stages.core.files import write_json, write_text
    from stages.core.qa.evaluation import quality
    from stages.core.training.outcome import knobs_table, summary, trials_table

    settings, dev = ended.tuned.settings, quality(ended.tuned.dev)
    chosen = {name: float(getattr(settings, name)) for name in space.knobs}
    trials, knobs = trials_table(study, space, ended.full_f1), knobs_table(study, space, chosen)
    write_text(outputs.trials, trials.to_csv(index=False, lineterminator="\n"))
    write_text(outputs.importance, knobs.to_csv(index=False, lineterminator="\n"))
    tuned = [field.name for field in fields(TunedParams)]
    sections = {"tuned": tuned, "also_tuned": [name for name in space.knobs if name not in tuned]}
    lines = [
        line
        for section, names in sections.items()
        for line in (f"{section}:", *(f"  {name}: {getattr(settings, name)!r}" for name in names))
        if names
    ]
    write_text(outputs.best, "\n".join([*lines, ""]))
    found = summary(study, space, budget, ended.full_f1, chosen) | {"averaged": len(ended.averaged)}
    write_json(outputs.metrics, {"dev": dev, "search": found | {"tuned_f1": dev["f1"]}})


def main() -> None:
    """Take paths from the command line and values from params.yaml."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("data", "teacher", "cache", "scratch"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    alone = ["distilled", "distilled-history", *(field.name for field in fields(TuneOutputs))]
    for name in alone:
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--join", action="store_true", help="run trials of a search under way, write no outputs")
    paths = vars(parser.parse_args())
    join = paths.pop("join")
    missing = [name for name in alone if paths[name.replace("-", "_")] is None]
    if missing and not join:
        parser.error(f"the following arguments are required: {', '.join(f'--{name}' for name in missing)}")
    default = DefaultPoint(paths.pop("distilled"), paths.pop("distilled_history"))
    outputs = TuneOutputs(**{field.name: paths.pop(field.name) for field in fields(TuneOutputs)})
    params, distil_params = load_params("tune", TuneParams), load_params("distil", DistilParams)
    if join:
        require(params.storage != "", "params.yaml: tune.storage", "", "the URL of a storage that processes share")
    runtime, student = load_params("runtime", RuntimeParams), load_params("student", StudentParams)
    decode = load_params("decode", DecodeParams)
    writes = {"default": None, "outputs": None} if join else {"default": default, "outputs": outputs}
    run(params, distil_params, runtime, student, decode, **paths, **writes)


if __name__ == "__main__":
    with clean_exit():
        main()
