"""The shape table of a pruned model: which heads each layer kept, and how many feed-forward neurons.

A stock config has one number of heads and one of neurons for all layers, so it cannot describe a pruned model. The
table does; `config.pruned_shapes` carries it as one `{"heads": [numbers], "neurons": count}` a layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.core.errors import InputError
from stages.core.models.encoder import PRUNED_SHAPES
from stages.core.models.families import Layer, family_name, family_of, layers, set_part, stock_shape


@dataclass(frozen=True)
class PrunedShapes:
    """Per layer the kept heads, rising, by their numbers in the unpruned model, and the count of neurons."""

    heads: tuple[tuple[int, ...], ...]
    neurons: tuple[int, ...]

    def as_table(self) -> list[dict[str, Any]]:
        """The form that goes into config.json."""
        return [{"heads": list(heads), "neurons": count} for heads, count in zip(self.heads, self.neurons, strict=True)]


def shapes_of(model: PreTrainedModel) -> PrunedShapes:
    """The shapes a model has now; those of its architecture if it was never pruned."""
    if (table := getattr(model.config, PRUNED_SHAPES, None)) is not None:
        return parse_shapes(table)
    heads, neurons = stock_shape(model)
    count = len(layers(model))
    return PrunedShapes((tuple(range(heads)),) * count, (neurons,) * count)


def parse_shapes(table: Any) -> PrunedShapes:
    """Read what `as_table` wrote. Raises InputError."""
    try:
        return PrunedShapes(
            tuple(tuple(int(head) for head in row["heads"]) for row in table),
            tuple(int(row["neurons"]) for row in table),
        )
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"pruned_shapes is no list of heads and neurons ({type(error).__name__}: {error})") from error


def apply_shapes(model: PreTrainedModel, shapes: PrunedShapes) -> None:
    """Give a freshly built stock model these shapes, in place; its weights have to be loaded afterwards.

    Raises InputError if the shapes do not fit the model.
    """
    heads, neurons = stock_shape(model)
    if len(shapes.heads) != (count := len(layers(model))):
        raise InputError(f"pruned_shapes has {len(shapes.heads)} layers and the config {count}")
    for number, (kept, width) in enumerate(zip(shapes.heads, shapes.neurons, strict=True)):
        if list(kept) != sorted(set(kept)) or any(not 0 <= head < heads for head in kept):
            raise InputError(f"pruned_shapes: layer {number} has heads {list(kept)}; give rising numbers under {heads}")
        if not 0 <= width <= neurons:
            raise InputError(f"pruned_shapes: layer {number} has {width} neurons; give 0 to {neurons}")
    if hasattr(model.config, PRUNED_SHAPES):
        setattr(model.config, PRUNED_SHAPES, None)  # it speaks of the model to be, and this one still has every unit
    shrink(model, shapes.heads, [range(width) for width in shapes.neurons])


def shrink(model: PreTrainedModel, heads: Sequence[Sequence[int]], neurons: Sequence[Sequence[int]]) -> None:
    """Keep only these heads and neurons of each layer, in place, and record the shapes in the config.

    `heads` and `neurons` are positions, rising, among those that a layer has now; the config's table is kept in the
    numbers of the unpruned model, so that pruning twice composes. A layer may keep no head, no neuron or neither: the
    sublayer then adds the bias of its output matrix, which is what masking all its units leaves, and nothing else.
    """
    before = shapes_of(model)
    for number, layer in enumerate(layers(model)):
        _shrink_attention(model, number, layer, heads[number])
        _shrink_feed_forward(model, number, layer, neurons[number])
    kept = tuple(tuple(had[head] for head in chosen) for had, chosen in zip(before.heads, heads, strict=True))
    setattr(model.config, PRUNED_SHAPES, PrunedShapes(kept, tuple(len(chosen) for chosen in neurons)).as_table())
    for number, (layer, numbers) in enumerate(zip(layers(model), kept, strict=True)):
        if not numbers:
            set_part(model, number, "attention", NoAttention(layer.attention, _output_inside_attention(model)))
        elif family_name(model.config.model_type) == "mpnet":
            _keep_position_bias(layer.attention, numbers)


class NoAttention(nn.Module):
    """An attention block without heads: to whatever its layer adds, it gives nothing but the output matrix's bias.

    The matrices stay as its children, with no rows (query, key, value) or no columns (output), so that whoever walks
    over a layer's parts finds them. Attention itself cannot run on them: torch splits no empty tensor into heads.
    """

    def __init__(self, attention: nn.Module, output: str) -> None:
        super().__init__()
        self.attention_head_size = attention.attention_head_size
        self.output_name = output  # the output matrix among the children; empty where the family keeps it outside
        for name, part in attention.named_children():
            self.add_module(name, part)

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """Return zero-wide head outputs (B, L, 0), or (B, L, width) of the output matrix, and no attention weights."""
        nothing = hidden_states[..., :0]
        return (self.get_submodule(self.output_name)(nothing) if self.output_name else nothing), None


def _output_inside_attention(model: PreTrainedModel) -> str:
    parts = family_of(model).parts
    inside = f"{parts['attention']}."
    return parts["attention_output"].removeprefix(inside) if parts["attention_output"].startswith(inside) else ""


def _shrink_attention(model: PreTrainedModel, number: int, layer: Layer, heads: Sequence[int]) -> None:
    units = torch.arange(layer.query.out_features).view(layer.heads, layer.head_size)[_index(heads)].flatten()
    for part in ("query", "key", "value"):
        set_part(model, number, part, _kept_rows(getattr(layer, part), units))
    set_part(model, number, "attention_output", _kept_columns(layer.attention_output, units))
    # The families count heads under different names, and MPNet's forward reads the width from all_head_size.
    counts = {"num_attention_heads": len(heads), "n_heads": len(heads), "all_head_size": len(units)}
    for name, count in counts.items():
        if hasattr(layer.attention, name):
            setattr(layer.attention, name, count)


def _shrink_feed_forward(model: PreTrainedModel, number: int, layer: Layer, neurons: Sequence[int]) -> None:
    set_part(model, number, "ffn_in", _kept_rows(layer.ffn_in, _index(neurons)))
    set_part(model, number, "ffn_out", _kept_columns(layer.ffn_out, _index(neurons)))


def _index(positions: Sequence[int]) -> Tensor:
    return torch.tensor(list(positions), dtype=torch.int64)


def _kept_rows(linear: nn.Linear, units: Tensor) -> nn.Linear:
    units = units.to(linear.weight.device)
    return _linear(linear.weight[units], None if linear.bias is None else linear.bias[units])


def _kept_columns(linear: nn.Linear, units: Tensor) -> nn.Linear:
    return _linear(linear.weight[:, units.to(linear.weight.device)], linear.bias)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    # Made at its own size, it would draw weights, which moves the global generator, and torch warns of empty ones.
    made = nn.Linear(1, 1, bias=bias is not None, device="meta")
    made.out_features, made.in_features = weight.shape
    made.weight = _parameter(weight)
    if bias is not None:
        made.bias = _parameter(bias)
    return made


def _parameter(values: Tensor) -> nn.Parameter:
    """A copy to be trained, unless it is empty: then an optimizer need not see it."""
    copied = values.detach().clone(memory_format=torch.contiguous_format)
    return nn.Parameter(copied, requires_grad=copied.numel() > 0)


def _keep_position_bias(attention: Any, numbers: Sequence[int]) -> None:
    """Let an MPNet layer with fewer heads pick its own of the position bias that all layers share."""
    if not hasattr(attention, "kept_heads"):
        attention.register_forward_pre_hook(_pick_position_bias)
    # Plain numbers: from_pretrained builds models without data and fills in what is saved, which no buffer would be.
    attention.kept_heads = tuple(numbers)


def _pick_position_bias(attention: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    # A function of the module and the numbers it carries: copies of the model and moves between devices keep both.
    hidden_states, attention_mask, position_bias = inputs
    # Head by head: a list of them would be copied to the GPU in each pass, which a recorded one may not do.
    heads = position_bias.unbind(1)
    return hidden_states, attention_mask, torch.stack([heads[number] for number in attention.kept_heads], dim=1)
