"""Several teachers' answers to the same windows, averaged.

What is averaged is probability, with equal weights: a mean of logits would let the teacher with the largest ones decide
(Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", distil the mean of an ensemble's probabilities).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stages.core.data.batches import FlatLogits
from stages.core.data.carry import NO_MASS
from stages.core.data.windows import Windows


def average(answers: Sequence[FlatLogits], windows: Windows) -> FlatLogits:
    """Return the log of the mean probabilities of flat logits (N,) of `windows`, two (N,) float32 tensors.

    Probabilities are a softmax over a window's context tokens and position 0. Each window has the mean of the teachers'
    normalisers added, which no softmax sees and which keeps windows of one question comparable. Other tokens, and those
    without mass, have `NO_MASS`. One teacher's answers are returned as they are.
    """
    if len(answers) == 1:
        return answers[0]
    window, position = _speaking(windows)
    starts, ends = ([each[side] for each in answers] for side in (0, 1))
    return _mean(starts, window, position), _mean(ends, window, position)


def _speaking(windows: Windows) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return window and flat position of each window's position 0 and context tokens, in order."""
    window = torch.repeat_interleave(torch.arange(len(windows)), windows.lengths)
    place = torch.arange(len(window)) - windows.row_splits[window]
    in_context = (place >= windows.context_start[window]) & (place < windows.context_stop[window])
    position = torch.nonzero(in_context | (place == 0)).flatten()
    return window[position].numpy(), position.numpy()


def _mean(answers: Sequence[Tensor], window: npt.NDArray[np.int64], position: npt.NDArray[np.int64]) -> Tensor:
    firsts = np.searchsorted(window, np.arange(window[-1] + 1))
    probability, normaliser = np.zeros(len(position)), np.zeros(len(firsts))
    for each in answers:
        logits = each.numpy().astype(np.float64)[position]
        top = np.maximum.reduceat(logits, firsts)
        powers = np.exp(logits - top[window])
        total = np.add.reduceat(powers, firsts)
        probability += powers / total[window] / len(answers)
        normaliser += (top + np.log(total)) / len(answers)
    mean = torch.full_like(answers[0], NO_MASS, dtype=torch.float32)
    with np.errstate(divide="ignore"):
        logs = np.where(probability > 0, np.log(probability) + normaliser[window], NO_MASS)
    mean[torch.from_numpy(position)] = torch.from_numpy(logs.astype(np.float32))
    return mean
