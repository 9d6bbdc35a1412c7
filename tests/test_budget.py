"""Multiply-adds against a counter in the running model, and the chosen masks against all masks there are."""

from collections.abc import Iterator
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.core.errors import InputError
from stages.core.models.families import layers
from stages.core.pruning.budget import Scores, UnitMacs, choose_masks, count_macs, masks_for_budget, unit_macs
from stages.core.pruning.importance import magnitude_scores
from stages.core.pruning.surgery import remove
from tests.toy_models import FAMILY_NAMES, toy_emptied_model, toy_inputs, toy_pruned_model, toy_qa_model


def counted_macs(model: PreTrainedModel, family: str, length: int) -> int:
    """Run one window and add up every matrix product that really happens."""
    total = 0

    def count(module: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal total
        total += inputs[0].shape[1] * module.in_features * module.out_features

    def count_products(_: nn.Module, inputs: tuple[Tensor]) -> None:
        nonlocal total
        total += 2 * inputs[0].shape[1] ** 2 * inputs[0].shape[2]  # query times key, attention times value

    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(count)
    for layer in layers(model):
        layer.attention_output.register_forward_pre_hook(count_products)
    model(**toy_inputs(family, lengths=(length,)))
    return total


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_macs_are_those_of_a_real_forward(family: str) -> None:
    for model in (toy_qa_model(family, 1), toy_pruned_model(family, 1), toy_emptied_model(family, 1)):
        assert count_macs(model, 11) == counted_macs(model, family, 11)


def test_macs_of_bert_by_hand() -> None:
    model = toy_qa_model("bert", 1, layers=1, width=8, heads=2, neurons=16)
    linears, products, head = 4 * 8 * 8 + 2 * 8 * 16, 2 * 10 * 8, 8 * 2
    assert count_macs(model, 10) == 10 * (linears + products + head)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_unit_macs_add_up_and_are_what_removal_saves(family: str) -> None:
    model = toy_qa_model(family, 1)
    macs = unit_macs(model, 11)
    assert macs.fixed + 12 * macs.head + 3 * 64 * macs.neuron == count_macs(model, 11)
    assert unit_macs(toy_pruned_model(family, 1), 11) == macs
    heads, neurons = torch.ones(3, 4, dtype=torch.bool), torch.ones(3, 64, dtype=torch.bool)
    heads[1, :3] = neurons[2, 5] = False
    assert count_macs(model, 11) - count_macs(remove(model, heads, neurons), 11) == 3 * macs.head + macs.neuron


def all_masks(shape: tuple[int, int]) -> Iterator[Tensor]:
    for bits in product([False, True], repeat=shape[0] * shape[1]):
        yield torch.tensor(bits).view(shape)


def cost(macs: UnitMacs, heads: Tensor, neurons: Tensor) -> int:
    return macs.fixed + int(heads.sum()) * macs.head + int(neurons.sum()) * macs.neuron


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", [11, 14, 20, 27, 38])
def test_choice_is_the_optimum(seed: int, budget: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = Scores(*(torch.rand(2, units, generator=generator, dtype=torch.float64) for units in (3, 4)))
    macs = UnitMacs(head=3, neuron=2, fixed=1)
    neuron_choices = [neurons for neurons in all_masks((2, 4)) if (neurons.sum(dim=1) >= 1).all()]
    best = max(
        float(scores.heads[heads].sum() + scores.neurons[neurons].sum())
        for heads in all_masks((2, 3))
        if (heads.sum(dim=1) >= 1).all()
        for neurons in neuron_choices
        if cost(macs, heads, neurons) <= budget
    )
    heads, neurons = choose_masks(scores, macs, budget=budget, minimum_neurons=1, neuron_multiple=1)
    assert cost(macs, heads, neurons) <= budget
    assert float(scores.heads[heads].sum() + scores.neurons[neurons].sum()) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(3))
def test_choice_in_blocks_is_the_optimum_of_multiples(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = Scores(*(torch.rand(2, units, generator=generator, dtype=torch.float64) for units in (2, 6)))
    macs = UnitMacs(head=5, neuron=2, fixed=0)
    top = scores.neurons.sort(dim=1, descending=True).values
    top_heads = scores.heads.sort(dim=1, descending=True).values
    best = max(
        sum(float(top_heads[row, : heads[row]].sum() + top[row, : neurons[row]].sum()) for row in range(2))
        for heads in product([1, 2], repeat=2)
        for neurons in product([2, 4, 6], repeat=2)
        if 5 * sum(heads) + 2 * sum(neurons) <= 28
    )
    heads, neurons = choose_masks(scores, macs, budget=28, minimum_neurons=1, neuron_multiple=2)
    assert (neurons.sum(dim=1) % 2 == 0).all()
    assert float(scores.heads[heads].sum() + scores.neurons[neurons].sum()) == pytest.approx(best)


def test_layers_without_score_keep_the_least() -> None:
    scores = Scores(torch.tensor([[0.0, 0.0], [2.0, 1.0]]).double(), torch.zeros(2, 16).double())
    scores.neurons[1] = 1.0
    heads, neurons = choose_masks(scores, UnitMacs(1, 1, 0), budget=23, minimum_neurons=3, neuron_multiple=4)
    assert heads.sum(dim=1).tolist() == [1, 2]
    assert neurons.sum(dim=1).tolist() == [4, 16]


def test_impossible_budgets_are_refused() -> None:
    scores = Scores(torch.ones(2, 2).double(), torch.ones(2, 4).double())
    macs = UnitMacs(head=3, neuron=2, fixed=1)
    least = 1 + 2 * 3 + 2 * 2
    heads, neurons = choose_masks(scores, macs, budget=least, minimum_neurons=1, neuron_multiple=1)
    assert cost(macs, heads, neurons) == least
    with pytest.raises(InputError, match="budget is 10"):
        choose_masks(scores, macs, budget=least - 1, minimum_neurons=1, neuron_multiple=1)
    with pytest.raises(InputError, match="layer 0 has 4 units"):
        choose_masks(scores, macs, budget=1000, minimum_neurons=5, neuron_multiple=1)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_models_stay_within_the_budget_pruned_once_or_twice(family: str) -> None:
    model = toy_qa_model(family, 1)
    whole = masks_for_budget(model, magnitude_scores(model), length=20, kept=1.0, minimum=8)
    assert all(mask.all() for mask in whole)
    for _ in range(2):
        masks = masks_for_budget(model, magnitude_scores(model), length=20, kept=0.7, minimum=8)
        small = remove(model, *masks)
        assert 0.6 * count_macs(model, 20) < count_macs(small, 20) <= 0.7 * count_macs(model, 20)
        assert all(layer.neurons % 8 == 0 and layer.neurons >= 8 for layer in layers(small))
        model = small
