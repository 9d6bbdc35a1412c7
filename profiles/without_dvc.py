"""The pipeline of dvc.yaml on a machine without DVC, several stages at a time: for a short time on a large GPU.

Run from the repository's root, with the wanted params.yaml in place:

    python -m profiles.without_dvc [--jobs N] [--seconds FILE] [STAGE ...]

A stage runs when it is wanted, or something wanted needs it, and one of its outputs is missing or comes from a stage
that runs. Before the first starts, what is there of the outputs of these and of all stages that follow from them,
wanted or not, is removed, what git tracks among it, and told: it would be of older inputs, and a later call would take
it for done. Nothing is compared with what parameters or code were before, and dvc.lock stays as it is: that is DVC's to
do (`dvc repro`, `dvc commit`). Needs only the packages that the stages themselves import, and Linux: it imports them
once, and each stage is a fork of it.

One training keeps a large GPU nine tenths busy (profiles/squadshifts-gpu/README.md has figures). Beside it goes on what
other stages do on the processor: importing, cutting windows, decoding and scoring answers.
"""

import argparse
import importlib
import os
import runpy
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from stages.core.errors import InputError, clean_exit
from stages.core.files import write_text
from stages.core.params import read_yaml

# Its timings are worth nothing beside other work, so it runs alone.
ALONE = ("benchmark",)
# What takes seconds to import and most stages do.
PRELOADED = ("torch._dynamo", "pandas", "stages.core.models.checkpoint", "stages.core.training.fit")


@dataclass(frozen=True)
class Stage:
    """One command of the pipeline, by the files it reads and writes."""

    name: str
    module: str
    arguments: tuple[str, ...]
    reads: frozenset[str]
    writes: frozenset[str]

    def needs(self, other: "Stage") -> bool:
        """Whether it reads what `other` writes: that path, one inside it, or a folder that holds it."""
        return any(_within(mine, its) or _within(its, mine) for mine in self.reads for its in other.writes)

    def is_there(self, parts: Iterable[str] = ()) -> bool:
        """Whether all of its outputs are, and those of the `parts` that lie in one."""
        inside = (part for part in parts if any(_within(part, its) for its in self.writes))
        return all(Path(path).exists() for path in (*self.writes, *inside))


def read_stages(path: Path) -> list[Stage]:
    """Return the stages of a dvc.yaml, those of a matrix one by one; raises InputError for what is not known here."""
    stages = []
    for name, told in read_yaml(path)["stages"].items():
        for values in _points(told.get("matrix", {})):
            stage = f"{name}@{'-'.join(values.values())}" if values else name
            if unknown := set(told) - {"matrix", "desc", "cmd", "deps", "params", "outs", "metrics", "plots"}:
                raise InputError(f"{path}: {name} has {sorted(unknown)[0]!r}, which only DVC knows; run it with DVC")
            words = shlex.split(_filled(told["cmd"], values))
            if words[:2] != ["python", "-m"] or len(words) < 3:
                raise InputError(f"{path}: the command of {name} is not `python -m MODULE`; run it with DVC")
            outputs = [each for kind in ("outs", "metrics", "plots") for each in told.get(kind, [])]
            stages.append(
                Stage(
                    stage,
                    words[2],
                    tuple(words[3:]),
                    frozenset(_filled(each, values) for each in told.get("deps", [])),
                    frozenset(_filled(each if isinstance(each, str) else next(iter(each)), values) for each in outputs),
                )
            )
    return stages


def to_run(stages: Sequence[Stage], wanted: Sequence[str]) -> list[Stage]:
    """Return the stages that have to run for those wanted (all, if none is named), in the order of `stages`.

    A name stands for a stage or for all of a matrix. Raises InputError for a name that is neither.
    """
    names = set(wanted or [each.name for each in stages])
    if unknown := sorted(name for name in names if not any(_called(each, name) for each in stages)):
        raise InputError(f"{unknown[0]}: no such stage in dvc.yaml; it has {', '.join(each.name for each in stages)}")
    asked = [each for each in stages if any(_called(each, name) for name in names)]
    needed = _closure(asked, lambda stage: [each for each in stages if stage.needs(each)])
    parts = {path for each in stages for path in each.reads}  # of what one stage writes, another may read a part
    stale = [each for each in needed if not each.is_there(parts)]
    running = _closure(stale, lambda stage: [each for each in needed if each.needs(stage)])
    return [each for each in stages if each in running]


def remove_stale(stages: Sequence[Stage], running: Sequence[Stage]) -> list[str]:
    """Remove what the `running` ones, and those of `stages` that follow from them, have written; return it, sorted."""
    following = _closure(running, lambda stage: [each for each in stages if each.needs(stage)])
    removed = sorted(path for each in following for path in each.writes if Path(path).exists())
    for path in map(Path, removed):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return removed


def run(stages: Sequence[Stage], *, jobs: int, logs: Path) -> dict[str, float]:
    """Run the stages, at most `jobs` at a time, and return the seconds that each took.

    What most others wait for comes first. What a stage prints goes to `logs`/STAGE.log. Raises InputError when a stage
    fails, after those beside it have ended.
    """
    if not stages:
        return {}
    logs.mkdir(parents=True, exist_ok=True)
    _preload()
    waiting, seconds, failed = list(stages), {}, []
    begun: dict[Stage, tuple[BaseProcess, float]] = {}
    chain = _chains(stages)
    before = {each: {other for other in stages if each.needs(other)} for each in stages}
    while waiting or begun:
        ready = [each for each in waiting if before[each].isdisjoint([*waiting, *begun])]
        ready.sort(key=lambda each: -chain[each])
        for stage in ready if not failed else ():
            alone = stage.name in ALONE or any(each.name in ALONE for each in begun)
            if len(begun) < (1 if alone else jobs):
                begun[stage] = (_start(stage, logs / f"{stage.name}.log"), time.monotonic())
                waiting.remove(stage)
        for stage, (process, since) in list(begun.items()):
            if process.is_alive():
                continue
            del begun[stage]
            seconds[stage.name] = time.monotonic() - since
            print(f"{stage.name}: {seconds[stage.name]:.0f} s", flush=True)
            if process.exitcode:
                failed.append(stage.name)
        if failed and not begun:
            log = logs / f"{failed[0]}.log"
            *_, last = ["", *log.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]]
            raise InputError(
                f"{failed[0]}: failed ({last.strip() or 'without a word'}); all that it printed is in {log}"
            )
        time.sleep(0.2)
    return seconds


def _start(stage: Stage, log: Path) -> BaseProcess:
    """Fork a process that runs the stage's module as `python -m` would."""
    process = get_context("fork").Process(target=_run_module, args=(stage.module, stage.arguments, log))
    process.start()
    return process


def _run_module(module: str, arguments: Sequence[str], log: Path) -> None:
    with log.open("wb") as out:
        for stream in (1, 2):
            os.dup2(out.fileno(), stream)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _preload() -> None:
    """Import what most stages do, without touching a GPU: a process that has may not be forked."""
    # With this torch asks the driver's monitor whether there is a GPU, which leaves CUDA as it is.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    for name in PRELOADED:
        importlib.import_module(name)
    transformers: Any = importlib.import_module("transformers")
    for family in importlib.import_module("stages.core.models.families").FAMILIES.values():
        getattr(transformers, family.model_class)


def _points(matrix: Mapping[str, Sequence[str]]) -> Iterator[dict[str, str]]:
    """Yield a stage's values of ${item.KEY}, one empty mapping for a stage without a matrix."""
    for values in product(*matrix.values()):
        yield dict(zip(matrix, values, strict=True))


def _filled(text: str, values: Mapping[str, str]) -> str:
    for key, value in values.items():
        text = text.replace(f"${{item.{key}}}", value)
    return text


def _called(stage: Stage, name: str) -> bool:
    return stage.name == name or stage.name.partition("@")[0] == name


def _within(inner: str, outer: str) -> bool:
    return Path(inner).is_relative_to(outer)


def _closure(stages: Sequence[Stage], following: Callable[[Stage], list[Stage]]) -> list[Stage]:
    """Return the stages and all that follow from them, each once."""
    found = list(stages)
    for stage in found:
        found += [each for each in following(stage) if each not in found]
    return found


def _chains(stages: Sequence[Stage]) -> dict[Stage, int]:
    """Return how many stages in a row wait for each, itself counted."""
    chains: dict[Stage, int] = {}

    def length(stage: Stage) -> int:
        if stage not in chains:
            chains[stage] = 1 + max((length(each) for each in stages if each.needs(stage)), default=0)
        return chains[stage]

    return {each: length(each) for each in stages}


def main() -> None:
    """Take stages and the number of jobs from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="with what it needs; all, if none is named")
    parser.add_argument("--jobs", type=int, default=1, help="stages at a time")
    parser.add_argument("--logs", type=Path, default=Path("scratch/logs"), help="folder of what stages print")
    parser.add_argument("--seconds", type=Path, help="write what each stage took here, as CSV")
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error(f"argument --jobs: {options.jobs}, wanted 1 or more")
    stages = read_stages(Path("dvc.yaml"))
    running = to_run(stages, options.stages)
    if removed := remove_stale(stages, running):
        print(f"removed, for what runs now makes them or what they are made of: {', '.join(removed)}", flush=True)
    took = run(running, jobs=options.jobs, logs=options.logs)
    if options.seconds is not None and took:  # where nothing ran, an earlier table stays
        rows = [f"{name},{value:.0f}" for name, value in took.items()]
        write_text(options.seconds, "\n".join(["stage,seconds", *rows, ""]))


if __name__ == "__main__":
    with clean_exit():
        main()
