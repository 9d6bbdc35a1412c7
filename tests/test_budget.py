"""The chosen masks against all masks there are, and budgets that are kept."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.core.errors import InputError
from stages.core.models.families import layers
from stages.core.models.macs import count_macs
from stages.core.pruning.budget import RESOLUTION, Scores, choose_masks, cost_of, knapsack
from stages.core.pruning.costs import Costs, mac_costs, parameter_costs
from stages.core.pruning.importance import magnitude_scores
from stages.core.pruning.surgery import remove
from tests.toy_models import FAMILY_NAMES, toy_qa_model


def costs(heads: list[float], neurons: list[float], fixed: float = 1.0) -> Costs:
    return Costs(torch.tensor(heads).double(), torch.tensor(neurons).double(), fixed)


# Two heads for the price of one and a half; the first neuron of a layer brings a cost of its own.
COSTS = costs([0, 4, 6, 9], [0, 5, 7, 9, 11])


def scores(seed: int, heads: int = 3, neurons: int = 4) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    return Scores(*(torch.rand(2, units, generator=generator, dtype=torch.float64) for units in (heads, neurons)))


def all_masks(shape: tuple[int, int]) -> Iterator[Tensor]:
    for bits in product([False, True], repeat=shape[0] * shape[1]):
        yield torch.tensor(bits).view(shape)


def worth(found: Scores, heads: Tensor, neurons: Tensor) -> float:
    return float(found.heads[heads].sum() + found.neurons[neurons].sum())


def cost(table: Costs, heads: Tensor, neurons: Tensor) -> float:
    counts = ((table.heads, heads), (table.neurons, neurons))
    return table.fixed + sum(float(each[mask.sum(dim=1)].sum()) for each, mask in counts)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("budget", [1, 5, 14, 20.5, 27, 41])
def test_choice_is_the_best_of_all_masks(seed: int, budget: float) -> None:
    found = scores(seed)
    masks = product(list(all_masks((2, 3))), list(all_masks((2, 4))))
    best = max(worth(found, *pair) for pair in masks if cost(COSTS, *pair) <= budget)
    chosen = choose_masks(found, COSTS, budget=budget, minimum_neurons=1, neuron_multiple=1)
    assert cost(COSTS, *chosen) <= budget
    assert worth(found, *chosen) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(3))
def test_neurons_stay_in_multiples_all_of_them_or_none(seed: int) -> None:
    found = scores(seed, 2, 7)
    table = costs([0, 5, 10], [2 * count for count in range(8)], 0.0)
    sizes = [0, 4, 6, 7]  # multiples of 2, at least 3, or whatever there is
    tops = [units.sort(dim=1, descending=True).values for units in (found.heads, found.neurons)]
    best = max(
        sum(float(tops[0][row, : heads[row]].sum() + tops[1][row, : neurons[row]].sum()) for row in range(2))
        for heads in product([0, 1, 2], repeat=2)
        for neurons in product(sizes, repeat=2)
        if 5 * sum(heads) + 2 * sum(neurons) <= 28
    )
    heads, neurons = choose_masks(found, table, budget=28, minimum_neurons=3, neuron_multiple=2)
    assert all(count in sizes for count in neurons.sum(dim=1).tolist())
    assert worth(found, heads, neurons) == pytest.approx(best)


def test_a_sublayer_goes_when_being_there_costs_more_than_it_is_worth() -> None:
    found = Scores(torch.tensor([[1.0, 1.0], [1.0, 1.0]]).double(), torch.tensor([[3.0], [3.0]]).double())
    found.heads[0] = 0.1
    table = costs([0, 10, 11], [0, 5], 0.0)
    heads, neurons = choose_masks(found, table, budget=21, minimum_neurons=1, neuron_multiple=1)
    assert heads.tolist() == [[False, False], [True, True]] and neurons.all()


def test_units_that_are_not_there_are_not_kept() -> None:
    found = scores(0)
    found.heads[0, 1] = found.neurons[1, 2:] = -torch.inf
    heads, neurons = choose_masks(found, COSTS, budget=1000, minimum_neurons=1, neuron_multiple=1)
    assert torch.equal(heads, found.heads > -torch.inf) and torch.equal(neurons, found.neurons > -torch.inf)


def test_a_budget_below_what_nothing_removes_is_refused() -> None:
    heads, neurons = choose_masks(scores(0), COSTS, budget=1, minimum_neurons=1, neuron_multiple=1)
    assert not heads.any() and not neurons.any()
    with pytest.raises(InputError, match=r"costs 1 and the budget is 0\.9; raise the share"):
        choose_masks(scores(0), COSTS, budget=0.9, minimum_neurons=1, neuron_multiple=1)


@pytest.mark.parametrize("seed", range(5))
def test_rounded_costs_never_break_the_budget_and_lose_little(seed: int) -> None:
    """Against every combination, with costs that are no whole numbers."""
    draw = np.random.default_rng(seed)
    choices = [
        (np.concatenate([[0.0], draw.random(5).cumsum()]), np.concatenate([[0.0], draw.random(5).cumsum()]))
        for _ in range(5)
    ]

    def total(places: tuple[int, ...], which: int) -> float:
        return float(sum(choice[which][place] for choice, place in zip(choices, places, strict=True)))

    places = tuple(knapsack(choices, 4.0))
    assert total(places, 1) <= 4.0
    tighter = 4.0 * (1 - len(choices) / RESOLUTION)
    best = max(total(each, 0) for each in product(range(6), repeat=5) if total(each, 1) <= tighter)
    assert total(places, 0) >= best


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_models_stay_within_the_budget_pruned_once_or_twice(family: str) -> None:
    model = toy_qa_model(family, 1)
    for table in (mac_costs(model, 20), parameter_costs(model)):
        whole = choose_masks(magnitude_scores(model), table, budget=cost_of(model, table), minimum_neurons=8)
        assert all(mask.all() for mask in whole)
    for _ in range(2):
        budget = 0.7 * cost_of(model, mac_costs(model, 20))
        small = remove(
            model, *choose_masks(magnitude_scores(model), mac_costs(model, 20), budget=budget, minimum_neurons=8)
        )
        assert 0.6 * count_macs(model, 20) < count_macs(small, 20) <= 0.7 * count_macs(model, 20)
        assert all(layer.neurons % 8 == 0 for layer in layers(small))
        model = small
