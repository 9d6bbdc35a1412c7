"""Recovery: a pruned model trained under the teacher's cached answers and, layer by layer, under the whole model."""

import hashlib
from pathlib import Path

from transformers import PreTrainedModel

from stages.core.models.families import layers
from stages.core.models.kernels import set_inference_kernel, set_training_kernel
from stages.core.models.shapes import shapes_of
from stages.core.runtime import Runtime
from stages.core.training.fit import History, TrainingSet, fit
from stages.core.training.losses import DistillationLoss, IntermediateLoss, Loss
from stages.core.training.settings import FitParams


def recover(
    pruned: PreTrainedModel,
    whole: PreTrainedModel,
    answers: DistillationLoss,
    training: TrainingSet,
    params: FitParams,
    runtime: Runtime,
    *,
    hidden_weight: float,
    scratch: Path,
    name: str,
    updates: int | None = None,
) -> History:
    """Train `pruned` in place, for `updates` or the passes of `params`, and return the loss history.

    Pruning leaves a layer's width and place, so with a `hidden_weight` above 0 each layer's output is held to that of
    the same layer of `whole`, the model before it was pruned.
    """
    loss: Loss = answers
    if hidden_weight > 0:
        set_training_kernel(whole, runtime.device)
        same = [(number, number) for number in range(1, len(layers(pruned)) + 1)]
        loss = IntermediateLoss(answers, pruned, whole, same, hidden_weight)
    # A checkpoint of other units than these must not be gone on from, even if its shapes happen to fit.
    units = hashlib.sha256(repr(shapes_of(pruned)).encode()).hexdigest()[:8]
    history = fit(pruned, loss, training, params, runtime, scratch=scratch, name=f"{name} {units}", updates=updates)
    set_inference_kernel(whole)
    return history
