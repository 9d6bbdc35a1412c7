"""How long an update of training takes here, and how much of that time a GPU works.

Run from the repository's root with a profile's params.yaml in place, after `prepare`, for a kind of training and a
number of windows an update each:

    python -m profiles.update_times teacher:32 baseline:64 distil:64 distil:128

With `--beside eager`, or `sdpa`, each is timed with that attention kernel of transformers as well, in turn, and the
ratio of the medians is printed: what the kernel that training chooses here is worth. On a GPU neither then has CUDA
graphs: kernels of transformers copy from the host, which cannot be recorded. With `--beside ungraphed` each is timed
without graphs as well, which a GPU alone has.

What is timed is `fit` itself on the training windows, with the settings of the kind's section but for the batch, from
the end of one update to that of another. Weights and the teacher's answers do not matter to time, so the answers are
drawn at random and no teacher is trained.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel

from stages.core.data.batches import Batch
from stages.core.data.prepared import load_split
from stages.core.errors import InputError, clean_exit
from stages.core.models.encoder import cut_layers, load_qa_model
from stages.core.models.families import move
from stages.core.models.kernels import fuse_mpnet, set_training_kernel
from stages.core.models.source import EncoderParams, resolve_model
from stages.core.params import load_params, require
from stages.core.runtime import Runtime, RuntimeParams, start
from stages.core.training.distillation import loss_of
from stages.core.training.fit import TrainingSet, fit
from stages.core.training.graphs import FEWEST
from stages.core.training.losses import DistillationLoss, LabelLoss, Loss, LossTerms
from stages.core.training.settings import BaselineParams, DistilParams, FitParams, StudentParams
from stages.teacher import TeacherParams

# Updates that are not counted: memory is taken in them, kernels are chosen and, on a GPU, graphs are recorded.
FIRST = {"cpu": 5, "cuda": 100}
KINDS = ("teacher", "baseline", "distil")
UNGRAPHED = "ungraphed"
OTHERS = ("eager", "sdpa", UNGRAPHED)  # ways to make updates that `fit` does not choose: two kernels, and no graphs


def lesson(
    kind: str, encoder: Path, device: torch.device, kernel: str | None = None
) -> tuple[PreTrainedModel, Loss, FitParams]:
    """Return what a training of this kind trains, its loss, its settings; a teacher beside it computes by `kernel`."""
    teacher = move(load_qa_model(encoder, seed=0), device)
    if kind == "teacher":
        return teacher, LabelLoss(), load_params("teacher", TeacherParams)
    cut = load_params("student", StudentParams)
    require(not cut.encoder, "params.yaml: student.encoder", cut.encoder, "'' here: a student cut from the teacher")
    student = cut_layers(teacher, cut.layers)
    if kind == "baseline":
        baseline = load_params("baseline", BaselineParams)
        return student, DistillationLoss(baseline.temperature, baseline.alpha), baseline
    params = load_params("distil", DistilParams)
    if params.needs_teacher():
        set_training_kernel(teacher, device)
        if kernel is not None:
            use_kernel(teacher, kernel)
    return student, loss_of(params, student, teacher), params


def use_kernel(model: PreTrainedModel, kernel: str) -> None:
    """Let attention be computed by a kernel of transformers; raises InputError where the family does not have it."""
    fuse_mpnet(model, False)
    model.set_attn_implementation(kernel)
    has = model.config._attn_implementation
    require(
        has == kernel, "--beside", kernel, f"{has}, the only kernel that transformers has for {type(model).__name__}"
    )


class Enough(Exception):  # noqa: N818 (no error: how a training ends that has been timed)
    """What was to be timed is."""


class Timer:
    """Notes when `updates` counted updates of a training begin, calls `counted` then, and ends it after the last."""

    def __init__(self, first: int, updates: int, counted: Callable[[], object] = lambda: None) -> None:
        """Count from update `first` on."""
        self.first, self.updates, self.counted = first, updates, counted
        self.made, self.times = 0, list[float]()

    def __call__(self, *_: object) -> None:
        """Take note of an update, of the first and last counted when a GPU has finished all before; raises Enough."""
        self.made += 1
        if self.made not in (self.first, self.first + self.updates):
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if self.made == self.first:
            self.counted()
        self.times.append(time.perf_counter())
        if self.made > self.first:
            raise Enough

    def train(self, training: Callable[[], object]) -> float:
        """Return the milliseconds of an update of `training`, which makes at least as many as are to be timed."""
        hook = register_optimizer_step_post_hook(self)
        try:
            training()
        except Enough:
            pass
        finally:
            hook.remove()
        return 1000.0 * (self.times[1] - self.times[0]) / self.updates


def with_kernel(loss: Loss, kernel: str) -> Loss:
    """Return the loss that, first called, lets the model compute by a kernel other than the one `fit` has chosen."""
    chosen = False

    def call(model: nn.Module, batch: Batch) -> LossTerms:
        nonlocal chosen
        if not chosen:
            use_kernel(cast(PreTrainedModel, model), kernel)
            chosen = True
        return loss(model, batch)

    return call


def update_times(
    kind: str,
    windows: int,
    training: TrainingSet,
    encoder: Path,
    runtime: Runtime,
    updates: int,
    other: str | None = None,
) -> tuple[float, float]:
    """Return milliseconds an update, and milliseconds of it in kernels of the GPU, which are 0 on a CPU.

    Updates are made as `fit` has it, or as `other` says, one of `OTHERS`.
    """
    first, kernel = FIRST[runtime.device.type], None if other == UNGRAPHED else other
    if other == UNGRAPHED:
        runtime = replace(runtime, cuda_graphs=False)

    def train(counted: Callable[[], object] = lambda: None) -> float:
        model, loss, params = lesson(kind, encoder, runtime.device, kernel)
        if kernel is not None:
            loss = with_kernel(loss, kernel)
        params, total = replace(params, batch_size=windows), max(FEWEST, first + updates)
        with tempfile.TemporaryDirectory() as scratch:
            run = partial(fit, model, loss, training, params, runtime, scratch=Path(scratch), name=kind, updates=total)
            return Timer(first, updates, counted).train(run)

    wall = train()
    if runtime.device.type != "cuda":
        return wall, 0.0
    profiler = profile(activities=[ProfilerActivity.CUDA], acc_events=True)
    train(profiler.start)
    profiler.stop()
    busy = sum(event.self_device_time_total for event in profiler.key_averages())
    return wall, busy / 1000.0 / updates


def told(measure: Callable[[str | None], tuple[float, float]], windows: int, beside: str | None, turns: int = 1) -> str:
    """Return what is printed of a kind: its time by `measure(other)`, or the medians of `turns` beside another's."""
    if beside is None:
        wall, busy = measure(None)
        return f"{wall:.1f} ms an update, GPU busy {busy:.1f} ms, {1000.0 * windows / wall:.0f} windows a second"
    times = [(measure(None)[0], measure(beside)[0]) for _ in range(turns)]
    chosen, other = (statistics.median(each) for each in zip(*times, strict=True))
    return f"{chosen:.1f} ms an update, {other:.1f} with {beside}: {other / chosen:.2f} times as long"


def main() -> None:
    """Take kinds and batches from the command line, print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("asked", nargs="+", metavar="KIND:WINDOWS", help=f"KIND is one of {', '.join(KINDS)}")
    parser.add_argument("--data", type=Path, default=Path("data/prepared"))
    parser.add_argument("--updates", type=int, default=25, help="that are counted")
    parser.add_argument("--beside", metavar="OTHER", help=f"to compare with: {', '.join(OTHERS)}")
    parser.add_argument("--turns", type=int, default=3, help="of each way, where two are compared")
    options = parser.parse_args()
    asked = [each.partition(":") for each in options.asked]
    for kind, _, windows in asked:
        if kind not in KINDS or not windows.isdecimal() or int(windows) < 1:
            raise InputError(f"{kind}:{windows}: wanted KIND:WINDOWS, with one of {', '.join(KINDS)} and 1 or more")
    require(options.updates >= 1, "--updates", options.updates, "1 or more")
    require(options.turns >= 1, "--turns", options.turns, "1 or more")
    require(options.beside in (None, *OTHERS), "--beside", options.beside, " or ".join(OTHERS))
    runtime = start(load_params("runtime", RuntimeParams), 0)
    if options.beside == UNGRAPHED:
        require(
            runtime.cuda_graphs, "--beside", UNGRAPHED, "eager or sdpa without a CUDA device or runtime.cuda_graphs"
        )
    elif options.beside is not None:
        runtime = replace(runtime, cuda_graphs=False)
    named = load_params("encoder", EncoderParams)
    encoder = resolve_model(named.model, named.sha256)
    questions = load_split(options.data, "train").windows
    drawn = torch.randn(2, int(questions.row_splits[-1]), dtype=torch.float16)
    training = TrainingSet(questions, (drawn[0], drawn[1]))
    print(f"{runtime.processor}, {runtime.precision}, {options.updates} updates each")
    for kind, _, windows in asked:
        measure = partial(update_times, kind, int(windows), training, encoder, runtime, options.updates)
        print(f"{kind}, {windows} windows: {told(measure, int(windows), options.beside, options.turns)}")


if __name__ == "__main__":
    with clean_exit():
        main()
