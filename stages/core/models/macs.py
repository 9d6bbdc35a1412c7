"""Multiply-adds (MACs) of one forward pass."""

from torch import nn
from transformers import PreTrainedModel

from stages.core.models.families import layers


def count_macs(model: PreTrainedModel, length: int) -> int:
    """Multiply-adds of one forward pass of a window of `length` tokens, for stock and pruned models.

    Counted are the matrices of the encoder and the head, and attention's two products; lookups, norms, activations
    and softmax, which are linear in their size, are not.
    """
    matrices = sum(part.weight.numel() for part in model.modules() if isinstance(part, nn.Linear))
    products = sum(2 * layer.query.out_features for layer in layers(model))
    return length * matrices + length * length * products
