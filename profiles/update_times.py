"""How long an update of training takes here, and how much of that time a GPU works.

Run from the repository's root with a profile's params.yaml in place, after `prepare`, for a kind of training and a
number of windows an update each:

    python -m profiles.update_times teacher:32 baseline:64 distil:64 distil:128

With `--beside eager`, or `sdpa`, each is timed with that attention kernel of transformers as well, in turn, and the
ratio of the medians is printed: what the kernel that training chooses here is worth.

What is timed is `fit` itself on the training windows, with the settings of the kind's section but for the batch, from
one call of the loss to another. Weights and the teacher's answers do not matter to time, so the answers are drawn at
random and no teacher is trained.
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
from stages.core.training.fit import TrainingSet, fit
from stages.core.training.losses import DistillationLoss, IntermediateLoss, LabelLoss, Loss, LossTerms
from stages.core.training.settings import BaselineParams, DistilParams, FitParams, StudentParams
from stages.teacher import TeacherParams

FIRST = 5  # updates that are not counted: memory is taken and kernels are chosen in them
KINDS = ("teacher", "baseline", "distil")
TURNS = 3  # of each kernel, where two are compared


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
    pairs = list(zip(params.student_layers, params.teacher_layers, strict=True))
    answers = DistillationLoss(params.temperature, params.alpha)
    set_training_kernel(teacher, device)
    if kernel is not None:
        use_kernel(teacher, kernel)
    return student, IntermediateLoss(answers, student, teacher, pairs, params.hidden_weight), params


def use_kernel(model: PreTrainedModel, kernel: str) -> None:
    """Let attention be computed by a kernel of transformers; raises InputError where the family does not have it."""
    fuse_mpnet(model, False)
    model.set_attn_implementation(kernel)
    has = model.config._attn_implementation
    require(
        has == kernel, "--beside", kernel, f"{has}, the only kernel that transformers has for {type(model).__name__}"
    )


class Timed:
    """A loss that notes when its `updates` counted calls begin and end; `counted` is called before the first.

    A `kernel` takes the place of the one that `fit` has chosen for the model.
    """

    def __init__(
        self, loss: Loss, updates: int, counted: Callable[[], object] = lambda: None, kernel: str | None = None
    ) -> None:
        """Wrap `loss`."""
        self.loss, self.updates, self.counted, self.kernel = loss, updates, counted, kernel
        self.calls, self.times = 0, list[float]()

    def __call__(self, model: nn.Module, batch: Batch) -> LossTerms:
        """Note the time before the first call that counts and after the last, when a GPU has finished all before."""
        if self.calls == 0 and self.kernel is not None:
            use_kernel(cast(PreTrainedModel, model), self.kernel)
        if self.calls in (FIRST, FIRST + self.updates):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if self.calls == FIRST:
                self.counted()
            self.times.append(time.perf_counter())
        self.calls += 1
        return self.loss(model, batch)


def update_times(
    kind: str,
    windows: int,
    training: TrainingSet,
    encoder: Path,
    runtime: Runtime,
    updates: int,
    kernel: str | None = None,
) -> tuple[float, float]:
    """Return milliseconds an update, and milliseconds of it in kernels of the GPU, which are 0 on a CPU.

    Attention is computed as `fit` has it, or by the `kernel` of transformers that is named.
    """

    def train(counted: Callable[[], object] = lambda: None) -> Timed:
        model, loss, params = lesson(kind, encoder, runtime.device, kernel)
        timed, params = Timed(loss, updates, counted, kernel), replace(params, batch_size=windows)
        with tempfile.TemporaryDirectory() as scratch:
            total = FIRST + updates + 1
            fit(model, timed, training, params, runtime, scratch=Path(scratch), name=kind, updates=total)
        return timed

    begun, ended = train().times
    wall = 1000.0 * (ended - begun) / updates
    if runtime.device.type != "cuda":
        return wall, 0.0
    profiler = profile(activities=[ProfilerActivity.CUDA], acc_events=True)
    train(profiler.start)
    profiler.stop()
    busy = sum(event.self_device_time_total for event in profiler.key_averages())
    return wall, busy / 1000.0 / (updates + 1)


def told(measure: Callable[[str | None], tuple[float, float]], windows: int, beside: str | None) -> str:
    """Return what is printed of a kind: its time by `measure(kernel)`, or the medians of `TURNS` beside a kernel's."""
    if beside is None:
        wall, busy = measure(None)
        return f"{wall:.1f} ms an update, GPU busy {busy:.1f} ms, {1000.0 * windows / wall:.0f} windows a second"
    turns = [(measure(None)[0], measure(beside)[0]) for _ in range(TURNS)]
    chosen, other = (statistics.median(times) for times in zip(*turns, strict=True))
    return f"{chosen:.1f} ms an update, {other:.1f} with {beside}: {other / chosen:.2f} times as long"


def main() -> None:
    """Take kinds and batches from the command line, print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("asked", nargs="+", metavar="KIND:WINDOWS", help=f"KIND is one of {', '.join(KINDS)}")
    parser.add_argument("--data", type=Path, default=Path("data/prepared"))
    parser.add_argument("--updates", type=int, default=25, help="that are counted")
    parser.add_argument("--beside", metavar="KERNEL", help="of attention, to compare with: eager or sdpa")
    options = parser.parse_args()
    asked = [each.partition(":") for each in options.asked]
    for kind, _, windows in asked:
        if kind not in KINDS or not windows.isdecimal() or int(windows) < 1:
            raise InputError(f"{kind}:{windows}: wanted KIND:WINDOWS, with one of {', '.join(KINDS)} and 1 or more")
    require(options.updates >= 1, "--updates", options.updates, "1 or more")
    require(options.beside in (None, "eager", "sdpa"), "--beside", options.beside, "eager or sdpa")
    runtime = start(load_params("runtime", RuntimeParams), 0)
    named = load_params("encoder", EncoderParams)
    encoder = resolve_model(named.model, named.sha256)
    questions = load_split(options.data, "train").windows
    drawn = torch.randn(2, int(questions.row_splits[-1]), dtype=torch.float16)
    training = TrainingSet(questions, (drawn[0], drawn[1]))
    print(f"{runtime.processor}, {runtime.precision}, {options.updates} updates each")
    for kind, _, windows in asked:
        measure = partial(update_times, kind, int(windows), training, encoder, runtime, options.updates)
        print(f"{kind}, {windows} windows: {told(measure, int(windows), options.beside)}")


if __name__ == "__main__":
    with clean_exit():
        main()
