"""Which heads and neurons to keep within a budget: of multiply-adds (MACs), of parameters, or of measured time.

A sublayer is worth the scores of the units it keeps, and costs what a table says for so many of them. Choosing a number
of units for every sublayer, the most worth within the budget, is a knapsack with one choice a sublayer; it is solved
exactly, up to the rounding of costs to RESOLUTION parts of the budget. For costs that rise with the units by equal
steps this finds what trying every number of heads finds (Kwon et al. 2022, "A Fast Post-Training Pruning Framework for
Transformers", section 4.1); a table may also hold a cost of being there at all, and then a whole sublayer can be the
best thing to remove.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from stages.core.errors import InputError
from stages.core.models.families import layers
from stages.core.pruning.costs import Costs

# Matrix kernels work in blocks: a layer of 1001 neurons is no faster than one of 1008.
NEURON_BLOCK = 8
RESOLUTION = 20_000

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """What is lost by removing a unit, on any scale that adds up; -inf where there is no unit."""

    heads: Tensor  # (layers, heads) float64
    neurons: Tensor  # (layers, neurons) float64


def cost_of(model: PreTrainedModel, costs: Costs) -> float:
    """What a model costs as it is now."""
    parts = layers(model)
    return _cost_of_counts(
        costs, torch.tensor([part.heads for part in parts]), torch.tensor([part.neurons for part in parts])
    )


def choose_masks(
    scores: Scores, costs: Costs, *, budget: float, minimum_neurons: int, neuron_multiple: int = NEURON_BLOCK
) -> tuple[Tensor, Tensor]:
    """The bool masks (layers, heads) and (layers, neurons) that keep the most score at a cost of `budget` or less.

    A feed-forward sublayer keeps all its neurons, or a multiple of `neuron_multiple` that is at least
    `minimum_neurons`, or none; an attention sublayer any number of heads, or none. Where choices keep the same score,
    more units of the last sublayers stay. Raises InputError if not even the empty model fits the budget.
    """
    check_budget(costs, budget)
    there = scores.heads > -torch.inf, scores.neurons > -torch.inf
    if _cost_of_counts(costs, *(mask.sum(dim=1) for mask in there)) <= budget:
        return there
    choices = [
        choice
        for row, (heads, neurons) in enumerate(zip(scores.heads, scores.neurons, strict=True))
        for choice in (
            _choice(row, 0, heads, costs.heads, minimum=1, multiple=1),
            _choice(row, 1, neurons, costs.neurons, minimum=minimum_neurons, multiple=neuron_multiple),
        )
    ]
    places = knapsack([(choice.worth, choice.cost) for choice in choices], budget - costs.fixed)
    masks = torch.zeros_like(there[0]), torch.zeros_like(there[1])
    for choice, place in zip(choices, places, strict=True):
        masks[choice.kind][choice.row, choice.order[: choice.counts[place]]] = True
    return masks


def check_budget(costs: Costs, budget: float) -> None:
    """Raise InputError if not even the empty model fits the budget."""
    if costs.fixed > budget:
        raise InputError(
            f"what no pruning removes costs {costs.fixed:g} and the budget is {budget:g}; raise the share that is kept"
        )


@dataclass(frozen=True)
class _Choice:
    """The numbers of units that one sublayer may keep, what each is worth and what it costs."""

    row: int  # its layer
    kind: int  # 0 attention, 1 feed-forward
    order: Tensor  # its units, best first
    counts: npt.NDArray[np.int64]
    worth: FloatArray
    cost: FloatArray


def _choice(row: int, kind: int, units: Tensor, table: Tensor, *, minimum: int, multiple: int) -> _Choice:
    """All units that are there, a multiple of `multiple` that is at least `minimum`, or none."""
    order = torch.argsort(units, descending=True, stable=True)[: int((units > -torch.inf).sum())]
    steps = [count for count in range(multiple, len(order), multiple) if count >= minimum]
    counts = np.array(sorted({0, *steps, len(order)}), dtype=np.int64)
    worth = np.concatenate([[0.0], units[order].double().cumsum(0).numpy()])
    return _Choice(row, kind, order, counts, worth[counts], table.double().numpy()[counts])


def _cost_of_counts(costs: Costs, heads: Tensor, neurons: Tensor) -> float:
    """Costs of each layer's (layers,) units; one sum for all, since times that are added in another order differ."""
    return costs.fixed + float(costs.heads[heads].sum() + costs.neurons[neurons].sum())


def knapsack(choices: list[tuple[FloatArray, FloatArray]], budget: float) -> list[int]:
    """Of each (worth, cost) pair of arrays the place to take, so that worth adds up to the most within `budget`.

    The first place of each must cost nothing. Costs are rounded up to whole parts of the budget, so that the sum never
    exceeds it; whole numbers with a small budget are taken as they are, and the answer is then exact.
    """
    whole = budget <= RESOLUTION and float(budget).is_integer() and all((cost % 1 == 0).all() for _, cost in choices)
    bins = int(budget) if whole else RESOLUTION
    rounded = [_in_bins(cost, budget, bins, whole) for _, cost in choices]
    best = np.zeros(bins + 1)  # most worth within each cost, over the choices so far
    taken = np.zeros((len(choices), bins + 1), dtype=np.int64)
    for number, ((worth, _), weights) in enumerate(zip(choices, rounded, strict=True)):
        found = np.full(bins + 1, -np.inf)
        for place in np.flatnonzero(weights <= bins):
            weight = weights[place]
            reached = best[: bins + 1 - weight] + worth[place]
            better = reached >= found[weight:]
            found[weight:][better] = reached[better]
            taken[number, weight:][better] = place
        best = found
    left, places = bins, []
    for number in reversed(range(len(choices))):
        places.append(int(taken[number, left]))
        left -= int(rounded[number][places[-1]])
    return places[::-1]


def _in_bins(cost: FloatArray, budget: float, bins: int, whole: bool) -> npt.NDArray[np.int64]:
    """Costs in whole parts of the budget, rounded up."""
    if whole:
        return cost.astype(np.int64)
    shares: FloatArray = np.minimum(cost / max(budget, 1e-300), 2.0)
    return np.ceil(shares * bins).astype(np.int64)
