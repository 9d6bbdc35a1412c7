"""What a model costs by the units its layers keep: in multiply-adds, in parameters, in measured milliseconds.

All layers of an encoder have the same width, so one table for attention and one for feed-forward serve all of them.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.core.models.encoder import build_qa_model, make_config
from stages.core.models.families import family_of, layers, move, stock_shape
from stages.core.models.macs import count_macs
from stages.core.models.shapes import PrunedShapes, apply_shapes
from stages.core.runtime import wait


@dataclass(frozen=True)
class Costs:
    """Cost of an attention sublayer with 0, 1, 2, ... heads, of a feed-forward one likewise, and of all the rest."""

    heads: Tensor  # (heads + 1,) float64, rising, first 0
    neurons: Tensor  # (neurons + 1,) float64, rising, first 0
    fixed: float


def count_encoder_parameters(model: PreTrainedModel) -> int:
    """Parameters outside the embedding tables, which pruning does not reach."""
    tables = sum(part.weight.numel() for part in model.modules() if isinstance(part, nn.Embedding))
    return sum(weight.numel() for weight in model.parameters()) - tables


def cost_shares(model: PreTrainedModel, whole: PreTrainedModel, length: int) -> dict[str, float]:
    """What is left of the whole model's MACs, at `length` tokens, and of its parameters outside the embeddings."""
    return {
        "macs_kept": round(count_macs(model, length) / count_macs(whole, length), 4),
        "parameters_kept": round(count_encoder_parameters(model) / count_encoder_parameters(whole), 4),
    }


def mac_costs(model: PreTrainedModel, length: int) -> Costs:
    """Multiply-adds in a window of `length` tokens."""
    width, size = _widths(model)
    head = 4 * length * width * size + 2 * length * length * size
    return _linear(model, head, 2 * length * width, count_macs(model, length))


def parameter_costs(model: PreTrainedModel) -> Costs:
    """Parameters; a sublayer's output bias stays whatever else goes."""
    width, size = _widths(model)
    return _linear(model, 4 * width * size + 3 * size, 2 * width + 1, count_encoder_parameters(model))


def _widths(model: PreTrainedModel) -> tuple[int, int]:
    """Width of the encoder and of one head."""
    first = layers(model)[0]
    return first.attention_output.out_features, first.head_size


def _linear(model: PreTrainedModel, head: int, neuron: int, total: int) -> Costs:
    heads, neurons = stock_shape(model)
    units = sum(layer.heads * head + layer.neurons * neuron for layer in layers(model))
    steps = torch.arange(max(heads, neurons) + 1, dtype=torch.float64)
    return Costs(head * steps[: heads + 1], neuron * steps[: neurons + 1], fixed=total - units)


def latency_costs(
    model: PreTrainedModel, *, length: int, device: torch.device, neuron_step: int = 64, rounds: int = 30
) -> Costs:
    """Milliseconds of one window of `length` tokens, measured on `device` as it is now, block by block, in float32.

    A block is timed inside a network of one layer, as the model's family builds it, beside the same network with an
    empty layer, and without any. Every size is timed `rounds` times in turn with all others, so that the machine's
    noise meets them alike; the median counts, and a larger block never counts less than a smaller one. Feed-forward
    sizes between multiples of `neuron_step` are interpolated. `fixed` is what the empty layers take: norms, residual
    sums and biases, which no pruning removes. Embeddings and head are left out.
    """
    heads, neurons = stock_shape(model)
    counts = sorted({*range(neuron_step, neurons, neuron_step), neurons})
    sizes = [(0, 0), *((number, 0) for number in range(1, heads + 1)), *((0, count) for count in counts)]
    networks = [move(_one_layer(model, *each), device) for each in sizes]
    networks.append(move(_no_layer(model), device))
    tokens = torch.ones(1, length, dtype=torch.int64, device=device)
    times = np.array(_milliseconds(networks, {"input_ids": tokens, "attention_mask": tokens}, rounds))
    empty, *sizes_of, none = times
    above = np.maximum(np.array(sizes_of) - empty, 0.0)
    rising = [np.maximum.accumulate([0.0, *part]) for part in (above[:heads], above[heads:])]
    between = np.interp(np.arange(neurons + 1), [0, *counts], rising[1])
    fixed = len(layers(model)) * max(float(empty - none), 0.0)
    return Costs(torch.from_numpy(rising[0]), torch.from_numpy(between), fixed)


def _one_layer(model: PreTrainedModel, heads: int, neurons: int) -> PreTrainedModel:
    """A network like `model`, with weights of no meaning, whose only layer has so many heads and neurons.

    It has as few words as can be: a lookup takes the same time in a large table, which all sizes at once may not fit.
    """
    words = 2 + (model.config.pad_token_id or 0)  # the padding's, and token 1
    fields = {**model.config.to_dict(), "num_hidden_layers": 1, "n_layers": 1, "vocab_size": words}
    made = build_qa_model(make_config(fields))
    apply_shapes(made, PrunedShapes((tuple(range(heads)),), (neurons,)))
    return made


def _no_layer(model: PreTrainedModel) -> PreTrainedModel:
    """Such a network without its layer: embeddings and head."""
    made = _one_layer(model, 0, 0)
    encoder: Any = made.get_submodule(family_of(made).encoder)
    encoder.layer = nn.ModuleList()
    return made


def _milliseconds(networks: Sequence[nn.Module], inputs: Mapping[str, Tensor], rounds: int) -> list[float]:
    """The median time of each network; two rounds go before, untimed."""
    found, device = np.zeros((rounds + 2, len(networks))), inputs["input_ids"].device
    with torch.inference_mode():
        for number in range(len(found)):
            for place, network in enumerate(networks):
                wait(device)
                start = time.perf_counter()
                network(**inputs)
                wait(device)
                found[number, place] = 1000 * (time.perf_counter() - start)
    return [float(value) for value in np.median(found[2:], axis=0)]
