"""Which heads and neurons to keep within a budget of multiply-adds (MACs).

All heads cost the same and all neurons cost the same. So for each number of heads the best choice is the top heads and,
for what is left of the budget, the top neurons: trying every number of heads finds the optimum (Kwon et al. 2022,
"A Fast Post-Training Pruning Framework for Transformers", section 4.1).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.core.errors import InputError
from stages.core.models.families import layers

# Matrix kernels work in blocks: a layer of 1001 neurons is no faster than one of 1008.
NEURON_BLOCK = 8


@dataclass(frozen=True)
class Scores:
    """What is lost by removing a unit, on any scale that adds up; -inf where there is no unit."""

    heads: Tensor  # (layers, heads) float64
    neurons: Tensor  # (layers, neurons) float64


@dataclass(frozen=True)
class UnitMacs:
    """Multiply-adds of one forward pass of one window: of one head, of one neuron, of everything else."""

    head: int
    neuron: int
    fixed: int


def count_macs(model: PreTrainedModel, length: int) -> int:
    """Multiply-adds of one forward pass of a window of `length` tokens, for stock and pruned models.

    Counted are the matrices of the encoder and the head, and attention's two products; lookups, norms, activations
    and softmax, which are linear in their size, are not.
    """
    matrices = sum(part.weight.numel() for part in model.modules() if isinstance(part, nn.Linear))
    products = sum(2 * layer.query.out_features for layer in layers(model))
    return length * matrices + length * length * products


def unit_macs(model: PreTrainedModel, length: int) -> UnitMacs:
    """What one head and one neuron of this model cost in a window of `length` tokens, and what no pruning saves."""
    parts = layers(model)
    width, head_size = parts[0].query.in_features, parts[0].head_size
    head = 4 * length * width * head_size + 2 * length * length * head_size
    neuron = 2 * length * width
    units = sum(layer.heads * head + layer.neurons * neuron for layer in parts)
    return UnitMacs(head, neuron, count_macs(model, length) - units)


def masks_for_budget(
    model: PreTrainedModel, scores: Scores, *, length: int, kept: float, minimum: int
) -> tuple[Tensor, Tensor]:
    """Masks that keep at most the share `kept` of the model's MACs at `length` tokens. Raises InputError.

    `minimum` neurons, rounded up to NEURON_BLOCK, stay in each layer. See `choose_masks`.
    """
    budget = int(kept * count_macs(model, length))
    macs = unit_macs(model, length)
    return choose_masks(scores, macs, budget=budget, minimum_neurons=minimum, neuron_multiple=NEURON_BLOCK)


def choose_masks(
    scores: Scores, macs: UnitMacs, *, budget: int, minimum_neurons: int, neuron_multiple: int
) -> tuple[Tensor, Tensor]:
    """The bool masks (layers, heads) and (layers, neurons) that lose the least score within `budget` MACs.

    Each layer keeps a multiple of `neuron_multiple` neurons, at least `minimum_neurons` of them, and a head. Where
    several choices lose the same, the one with the most heads is taken. Raises InputError if none fits the budget.
    """
    heads, blocks = _ranked(scores.heads, 1, 1), _ranked(scores.neurons, neuron_multiple, minimum_neurons)
    block_macs = macs.neuron * neuron_multiple
    cheapest = macs.fixed + heads.forced * macs.head + blocks.forced * block_macs
    if cheapest > budget:
        raise InputError(f"the smallest pruned model has {cheapest} MACs and the budget is {budget}; raise macs_kept")
    best_score, best = -math.inf, (0, 0)
    for count in range(heads.forced, len(heads.order) + 1):
        left = budget - macs.fixed - count * macs.head
        block_count = min(left // block_macs, len(blocks.order))
        if block_count < blocks.forced:
            break
        score = float(heads.kept_score[count] + blocks.kept_score[block_count])
        if score >= best_score:
            best_score, best = score, (count, block_count)
    return heads.mask(best[0]), blocks.mask(best[1])


@dataclass(frozen=True)
class _Ranking:
    """Blocks of units of all layers, those that must stay first, then by falling score."""

    order: list[tuple[int, Tensor]]  # layer and the positions of a block's units in it
    forced: int
    kept_score: Tensor  # (blocks + 1,) score kept by the first 0, 1, 2, ... blocks
    shape: torch.Size

    def mask(self, count: int) -> Tensor:
        """The units of the first `count` blocks, (layers, units) bool."""
        mask = torch.zeros(self.shape, dtype=torch.bool)
        for layer, units in self.order[:count]:
            mask[layer, units] = True
        return mask


def _ranked(scores: Tensor, multiple: int, minimum: int) -> _Ranking:
    """Rank a layer's units in blocks of `multiple`, best units together; units short of a whole last block go.

    Scores fall from one block of a layer to the next, so the top blocks of all layers hold each layer's top units.
    """
    forced = -(-minimum // multiple)
    ranks = []
    for layer, row in enumerate(scores):
        units = torch.argsort(row, descending=True, stable=True)[: int((row > -torch.inf).sum())]
        whole = len(units) // multiple
        if whole < forced:
            raise InputError(
                f"layer {layer} has {len(units)} units, fewer than the {forced * multiple} that have to stay"
            )
        for place, block in enumerate(units[: whole * multiple].view(whole, multiple)):
            ranks.append((place >= forced, -float(row[block].sum()), layer, place, block))
    ranks.sort(key=lambda rank: rank[:4])
    gains = torch.tensor([0.0, *(-score for _, score, *_ in ranks)], dtype=torch.float64)
    order = [(layer, block) for _, _, layer, _, block in ranks]
    return _Ranking(order, forced * len(scores), gains.cumsum(0), scores.shape)
