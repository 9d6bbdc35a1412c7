"""How much the loss needs each attention head and each feed-forward neuron.

A unit is looked at through a mask variable that multiplies it: 1 keeps it, 0 removes it. Kwon et al. 2022, "A Fast
Post-Training Pruning Framework for Transformers", score a unit by the diagonal of the empirical Fisher information of
its mask: the squared gradient of the loss, summed over examples. Theirs is the loss on labels; `mask_fisher` takes any,
and on the divergence from a teacher it is small where a student already agrees with it.

Units are numbered as the model has them now. Tables are as wide as the unpruned architecture, (layers, heads) and
(layers, neurons); a place that a pruned layer has no unit for scores -inf.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.core.data.batches import Batch
from stages.core.models.families import Layer, layers, stock_shape
from stages.core.pruning.budget import Scores
from stages.core.qa.inference import evaluating

LossFunction = Callable[[PreTrainedModel, Batch], Mapping[str, Tensor]]


def mask_fisher(
    model: PreTrainedModel, batches: Iterable[Batch], loss_fn: LossFunction, device: torch.device
) -> Scores:
    """The diagonal of the masks' empirical Fisher: squared gradients of each window's loss, summed over windows.

    `loss_fn` gives {"loss": mean over the B windows of a batch}. Each window has masks of its own, so one backward
    pass gives the gradients of all B of them. Dropout is off.
    """
    sums = [torch.zeros(count, dtype=torch.float64, device=device) for count in _unit_counts(model)]
    with evaluating(model):
        for batch in batches:
            for total, gradient in zip(sums, _window_gradients(model, batch.to(device), loss_fn), strict=True):
                total += gradient.double().square().sum(dim=0)
    return _scores(model, sums)


def _window_gradients(model: PreTrainedModel, batch: Batch, loss_fn: LossFunction) -> tuple[Tensor, ...]:
    """Gradients of each window's own loss by its own masks: heads of each layer, then neurons, each (B, units)."""
    windows = len(batch.input_ids)
    weight = next(model.parameters())
    masks = [weight.new_ones(windows, count).requires_grad_() for count in _unit_counts(model)]
    half = len(masks) // 2
    with _scaled(model, masks[:half], masks[half:]), torch.enable_grad():
        loss = loss_fn(model, batch)["loss"] * windows
    return torch.autograd.grad(loss, masks)


def magnitude_scores(model: PreTrainedModel) -> Scores:
    """The plain criterion: the squared L2 norm of all the weights that would go with a head or a neuron."""
    heads = [_head_norms(layer) for layer in layers(model)]
    neurons = [_row_norms(layer.ffn_in) + _column_norms(layer.ffn_out) for layer in layers(model)]
    return _scores(model, heads + neurons)


def _head_norms(layer: Layer) -> Tensor:
    rows = _row_norms(layer.query) + _row_norms(layer.key) + _row_norms(layer.value)
    return (rows + _column_norms(layer.attention_output)).view(layer.heads, layer.head_size).sum(dim=1)


def _row_norms(linear: nn.Linear) -> Tensor:
    return linear.weight.detach().double().square().sum(dim=1)


def _column_norms(linear: nn.Linear) -> Tensor:
    return linear.weight.detach().double().square().sum(dim=0)


@contextmanager
def masked(model: PreTrainedModel, head_mask: Tensor, neuron_mask: Tensor) -> Iterator[None]:
    """Inside, the model runs as if units whose mask is False, (layers, heads) and (layers, neurons), were removed."""
    weight = next(model.parameters())
    parts = layers(model)
    heads = [row[: layer.heads].to(weight)[None] for row, layer in zip(head_mask, parts, strict=True)]
    neurons = [row[: layer.neurons].to(weight)[None] for row, layer in zip(neuron_mask, parts, strict=True)]
    with _scaled(model, heads, neurons):
        yield


@contextmanager
def _scaled(model: PreTrainedModel, heads: Sequence[Tensor], neurons: Sequence[Tensor]) -> Iterator[None]:
    """Multiply the output of each unit by its mask, (B or 1, units) a layer, where it enters the next matrix."""
    with ExitStack() as hooks:
        for layer, head_mask, neuron_mask in zip(layers(model), heads, neurons, strict=True):
            widened = head_mask.repeat_interleave(layer.head_size, dim=1)
            hooks.enter_context(_hooked(layer.attention_output, widened))
            hooks.enter_context(_hooked(layer.ffn_out, neuron_mask))
        yield


@contextmanager
def _hooked(linear: nn.Linear, mask: Tensor) -> Iterator[None]:
    def multiply(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0] * mask[:, None, :],)

    handle = linear.register_forward_pre_hook(multiply)
    try:
        yield
    finally:
        handle.remove()


def _unit_counts(model: PreTrainedModel) -> list[int]:
    parts = layers(model)
    return [layer.heads for layer in parts] + [layer.neurons for layer in parts]


def _scores(model: PreTrainedModel, rows: Sequence[Tensor]) -> Scores:
    half, (heads, neurons) = len(rows) // 2, stock_shape(model)
    return Scores(_table(rows[:half], heads), _table(rows[half:], neurons))


def _table(rows: Sequence[Tensor], width: int) -> Tensor:
    return torch.stack([nn.functional.pad(row.cpu(), (0, width - len(row)), value=-torch.inf) for row in rows])
