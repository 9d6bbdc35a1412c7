"""Pruning for real: masked heads and neurons are cut out of the matrices, which become smaller."""

import copy

from torch import Tensor
from transformers import PreTrainedModel

from stages.core.models.families import layers
from stages.core.models.shapes import shrink


def remove(model: PreTrainedModel, head_mask: Tensor, neuron_mask: Tensor) -> PreTrainedModel:
    """A new model without the units whose mask is False; its logits are those of the masked model.

    Masks are bool, (layers, heads) and (layers, neurons), in the numbers the units have in `model` now; places past a
    pruned layer's units are ignored. A layer may lose all its heads, all its neurons, or both: the sublayer then adds
    the bias of its output matrix and nothing else. `model` stays as it is.
    """
    small = copy.deepcopy(model)
    parts = layers(small)
    heads = [_kept(row, layer.heads) for row, layer in zip(head_mask, parts, strict=True)]
    neurons = [_kept(row, layer.neurons) for row, layer in zip(neuron_mask, parts, strict=True)]
    shrink(small, heads, neurons)
    return small


def _kept(mask: Tensor, count: int) -> list[int]:
    return [int(position) for position in mask[:count].nonzero().flatten()]
