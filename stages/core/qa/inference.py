"""Start and end logits of every token of a window set: the one forward loop that evaluation and the cache share."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from stages.core.data.batches import ordered_batches
from stages.core.data.windows import Windows
from stages.core.runtime import autocast


def predict_logits(
    model: nn.Module, windows: Windows, *, batch_size: int, device: torch.device, precision: str
) -> tuple[Tensor, Tensor]:
    """Return flat start and end logits (N,) float32 on the CPU, aligned with `windows.row_splits`.

    The model is left in the mode, training or evaluation, in which it came.
    """
    flat = torch.zeros(2, int(windows.row_splits[-1]))
    with evaluating(model), torch.inference_mode(), autocast(device, precision):
        for batch in ordered_batches(windows, batch_size):
            output = model(**batch.to(device).model_inputs())
            logits = torch.stack((output.start_logits, output.end_logits)).float().cpu()
            position = torch.arange(logits.shape[2])
            real = position < windows.lengths[batch.rows, None]
            flat[:, (windows.row_splits[batch.rows, None] + position)[real]] = logits[:, real]
    return flat[0].clone(), flat[1].clone()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off for a while, then put every module back into the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
