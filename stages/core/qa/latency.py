"""Speed of several models, measured in one process and in turn.

Other work on the machine comes and goes within seconds. Measured one after the other, models would meet different
noise; here every question goes through all models before the next one, so that noise hits all alike. What the model
before leaves behind would hit only the one that follows it, other data in the caches and threads of OpenMP that go on
waiting for work for some milliseconds: so a model answers twice, and the second time is timed.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from stages.core.data.batches import Batch, collate
from stages.core.data.windows import Windows
from stages.core.qa.inference import evaluating
from stages.core.runtime import autocast, wait

FloatArray = npt.NDArray[np.float64]


def measure(
    models: Mapping[str, nn.Module],
    questions: Mapping[str, Sequence[Batch]],
    batches: Mapping[str, Sequence[Batch]],
    *,
    warmup: int,
    repeats: int,
    device: torch.device,
    precision: str,
) -> dict[str, dict[str, float]]:
    """Return for each model latency_ms_p50 and latency_ms_p95 of one question, and questions_per_second in batches.

    `questions` has each model's batches of one question, with the windows of that question alone as the model's
    tokenizer cuts them, in the same order for all; `batches` has the same windows at the batch size of interest. Only
    forward passes are timed, models and inputs being on `device` by then; an ONNX model, which runs on the CPU, fetches
    its inputs from there within the time. Each of the two measurements starts with `warmup` untimed passes a model and
    goes `repeats` times over its inputs, each timed pass right behind an untimed one on the same input; throughput is
    that of the median time over all batches.
    """
    with ExitStack() as stack:
        for model in models.values():
            stack.enter_context(evaluating(model.to(device)))
        stack.enter_context(torch.inference_mode())
        stack.enter_context(autocast(device, precision))
        alone = _time_in_turn(models, questions, warmup, repeats, device)
        together = _time_in_turn(models, batches, warmup, repeats, device)
    return {name: _summary(alone[name], together[name]) for name in models}


def one_by_one(windows: Windows) -> list[Batch]:
    """Return one batch for each question, with all windows of that question: what answering it alone takes."""
    rows: dict[str, list[int]] = {}
    for row, question in enumerate(windows.question_ids):
        rows.setdefault(question, []).append(row)
    return [collate(windows, torch.tensor(each)) for each in rows.values()]


def _time_in_turn(
    models: Mapping[str, nn.Module],
    batches: Mapping[str, Sequence[Batch]],
    warmup: int,
    repeats: int,
    device: torch.device,
) -> dict[str, FloatArray]:
    """Return seconds (repeats, batches of the model) of each model's forward passes."""
    inputs = {name: [batch.to(device).model_inputs() for batch in batches[name]] for name in models}
    for name, model in models.items():
        for number in range(warmup):
            _seconds(model, inputs[name][number % len(inputs[name])], device)
    seconds = {name: np.zeros((repeats, len(inputs[name]))) for name in models}
    for repeat in range(repeats):
        for number in range(max(map(len, inputs.values()))):
            for name in _rotated(list(models), number):
                if number < len(inputs[name]):  # in other tokens the same text may fill another number of batches
                    _seconds(models[name], inputs[name][number], device)
                    seconds[name][repeat, number] = _seconds(models[name], inputs[name][number], device)
    return seconds


def _rotated(names: Sequence[str], by: int) -> Iterator[str]:
    """Yield the names from another first one each time: none is always the one that meets the cold caches."""
    return (names[(place + by) % len(names)] for place in range(len(names)))


def _seconds(model: nn.Module, inputs: Mapping[str, torch.Tensor], device: torch.device) -> float:
    wait(device)
    start = time.perf_counter()
    model(**inputs)
    wait(device)
    return time.perf_counter() - start


def _summary(alone: FloatArray, together: FloatArray) -> dict[str, float]:
    p50, p95 = np.quantile(1000.0 * alone, [0.5, 0.95])
    questions = alone.shape[1]
    return {
        "latency_ms_p50": float(p50),
        "latency_ms_p95": float(p95),
        "questions_per_second": float(questions / np.median(together.sum(axis=1))),
    }
