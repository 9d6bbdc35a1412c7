"""The stock form of a pruned model: the same function in the architecture's own shapes.

It is for whoever has transformers and nothing of this project. What was removed is there again, as zeros. A zero head
attends evenly and adds nothing, for its value and output matrices are zero; a zero neuron feeds zeros on. Each head has
its old place, so that the position bias that MPNet's layers share fits.
"""

import json

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.core.models.encoder import build_qa_model, make_config
from stages.core.models.families import Layer, layers
from stages.core.models.shapes import shapes_of


def stock_form(model: PreTrainedModel) -> PreTrainedModel:
    """A new model in stock shapes, on the CPU, with the logits of `model`, pruned or not."""
    stock = build_qa_model(make_config(json.loads(model.config.to_json_string())))
    wanted = stock.state_dict()
    fitting = {name: weight for name, weight in model.state_dict().items() if weight.shape == wanted[name].shape}
    stock.load_state_dict(fitting, strict=False)
    shapes = shapes_of(model)
    with torch.no_grad():
        for target, source, heads in zip(layers(stock), layers(model), shapes.heads, strict=True):
            _pad(target, source, heads)
    return stock


def _pad(target: Layer, source: Layer, heads: tuple[int, ...]) -> None:
    """Write a pruned layer into a stock one: heads at their numbers, neurons in the first places, zeros elsewhere."""
    units = torch.arange(target.query.out_features).view(-1, target.head_size)
    head_units = units[torch.tensor(heads, dtype=torch.int64)].flatten()
    neurons = torch.arange(source.neurons)
    for part, places in (("query", head_units), ("key", head_units), ("value", head_units), ("ffn_in", neurons)):
        _fill_rows(getattr(target, part), getattr(source, part), places)
    _fill_columns(target.attention_output, source.attention_output, head_units)
    _fill_columns(target.ffn_out, source.ffn_out, neurons)


def _fill_rows(target: nn.Linear, source: nn.Linear, rows: Tensor) -> None:
    target.weight.zero_()
    target.bias.zero_()
    target.weight[rows] = source.weight.cpu()
    target.bias[rows] = source.bias.cpu()


def _fill_columns(target: nn.Linear, source: nn.Linear, columns: Tensor) -> None:
    target.weight.zero_()
    target.weight[:, columns] = source.weight.cpu()
    target.bias.copy_(source.bias)
