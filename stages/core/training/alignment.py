"""A teacher's hidden states carried over to a student's tokens by characters, so that the two may have two tokenizers.

A context token of the student gets the mean of the states of those teacher tokens that share characters with it, each
weighted by how many. Position 0, the class "no answer here", belongs to position 0. Not aligned are tokens that share
none: those of the question, whose characters windows do not keep, and of text that the teacher's window does not show.

Sizes: B windows of L tokens, for teacher and student, H the teacher's width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.core.data.batches import Batch


@dataclass(frozen=True)
class Alignment:
    """Which of the student's tokens are held to the teacher's, and to which of these."""

    mask: Tensor  # (B, L), 1 or true where a token of the student is aligned
    weights: Tensor | None = None  # (B, L, L), each row of an aligned token sums to 1; None where tokens are the same

    def carry(self, states: Tensor) -> Tensor:
        """Return what the teacher's vectors (B, L, H) say of the student's tokens, (B, L, H), 0 where nothing.

        Autocast rounds them, as it does what a layer makes; else a token that both cut alike keeps its vector.
        """
        return states if self.weights is None else self.weights @ states.float()


def align(batch: Batch) -> Alignment:
    """Return the alignment of a batch: of each real token with itself, where the teacher reads the same tokens."""
    if batch.characters is None or batch.teacher_characters is None:
        return Alignment(batch.attention_mask)
    shared = shared_characters(batch.characters, batch.teacher_characters)
    shared[:, 0, 0].fill_(1)
    total = shared.sum(dim=-1, keepdim=True)
    return Alignment(total[:, :, 0] > 0, shared / total.clamp(min=1))


def shared_characters(mine: Tensor, its: Tensor) -> Tensor:
    """Return how many characters each of two windows' tokens share, (B, L, L'), of (B, L, 2) and (B, L', 2)."""
    first = torch.maximum(mine[:, :, None, 0], its[:, None, :, 0])
    last = torch.minimum(mine[:, :, None, 1], its[:, None, :, 1])
    return (last - first).clamp(min=0)
