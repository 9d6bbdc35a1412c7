"""Multiply-adds against a counter in the running model, tables of costs against what removal really saves."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import stages.core.pruning.costs
from stages.core.models.families import layers
from stages.core.models.macs import count_macs
from stages.core.pruning.budget import cost_of
from stages.core.pruning.costs import (
    cost_shares,
    count_encoder_parameters,
    latency_costs,
    mac_costs,
    parameter_costs,
)
from stages.core.pruning.surgery import remove
from tests.toy_clock import clock_of_products
from tests.toy_models import FAMILY_NAMES, toy_inputs, toy_pruned_model, toy_qa_model


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
    for model in (toy_qa_model(family, 1), toy_pruned_model(family, 1)):
        assert count_macs(model, 11) == counted_macs(model, family, 11)


def test_macs_of_bert_by_hand() -> None:
    model = toy_qa_model("bert", 1, layers=1, width=8, heads=2, neurons=16)
    linears, products, head = 4 * 8 * 8 + 2 * 8 * 16, 2 * 10 * 8, 8 * 2
    assert count_macs(model, 10) == 10 * (linears + products + head)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_tables_add_up_to_what_is_counted_before_and_after_removal(family: str) -> None:
    whole = toy_qa_model(family, 1)
    heads, neurons = torch.ones(3, 4, dtype=torch.bool), torch.ones(3, 64, dtype=torch.bool)
    heads[1, :3] = neurons[2, 5:] = False
    small = remove(whole, heads, neurons)
    macs, parameters = mac_costs(whole, 11), parameter_costs(whole)
    for model in (whole, small, toy_pruned_model(family, 1)):
        assert cost_of(model, macs) == count_macs(model, 11)
        assert cost_of(model, parameters) == count_encoder_parameters(model)
    assert cost_shares(small, whole, 11) == {
        "macs_kept": round(count_macs(small, 11) / count_macs(whole, 11), 4),
        "parameters_kept": round(count_encoder_parameters(small) / count_encoder_parameters(whole), 4),
    }


def test_parameters_outside_embeddings_of_bert_by_hand() -> None:
    model = toy_qa_model("bert", 1, layers=1, width=8, heads=2, neurons=16)
    attention, ffn, norms, head = 4 * (8 * 8 + 8), 2 * 8 * 16 + 16 + 8, 3 * 2 * 8, 8 * 2 + 2
    assert count_encoder_parameters(model) == attention + ffn + norms + head


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_measured_times_are_those_of_a_block_in_its_familys_network(
    monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """By a clock that linear layers move: four matrices for heads, two for neurons, nothing of all the rest."""
    model = toy_qa_model(family, 1)
    first, length = layers(model)[0], 16
    width = first.attention_output.out_features
    with clock_of_products(monkeypatch, stages.core.pruning.costs):
        found = latency_costs(model, length=length, device=torch.device("cpu"), neuron_step=16, rounds=3)
    heads = 4 * length * width * first.head_size * torch.arange(5, dtype=torch.float64)
    assert found.heads.tolist() == pytest.approx(heads.tolist())
    assert found.neurons.tolist() == pytest.approx([2 * length * width * count for count in range(65)])
    assert found.fixed == pytest.approx(0, abs=1e-6)


def test_noise_never_makes_a_larger_block_cost_less() -> None:
    """On the machine's own clock, whatever it says: toy blocks drown in its noise."""
    found = latency_costs(toy_qa_model("bert", 1), length=16, device=torch.device("cpu"), neuron_step=16, rounds=3)
    for table in (found.heads, found.neurons):
        assert table[0] == 0 and (table.diff() >= 0).all()


def test_a_block_costs_what_its_network_takes_beyond_the_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up times: 3.5 ms without a layer, 5 ms with an empty one, 2 ms a head, 1 ms for 16 neurons."""

    def milliseconds(networks: list[PreTrainedModel], *_: object) -> list[float]:
        assert sorted(len(layers(network)) for network in networks) == [0] + [1] * (len(networks) - 1)
        assert all(len(network.get_input_embeddings().weight) < 4 for network in networks), "no table for all sizes"
        return [
            3.5 + sum(1.5 + 2.0 * each.heads + each.neurons / 16 for each in layers(network)) for network in networks
        ]

    monkeypatch.setattr("stages.core.pruning.costs._milliseconds", milliseconds)
    costs = latency_costs(toy_qa_model("mpnet", 1), length=16, device=torch.device("cpu"), neuron_step=16)
    assert costs.heads.tolist() == [0, 2, 4, 6, 8]
    assert costs.neurons.tolist() == pytest.approx([count / 16 for count in range(65)])
    assert costs.fixed == 3 * 1.5, "each of the model's layers has what no pruning removes"


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_what_an_empty_layer_takes_is_fixed(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms that are run, in the place of time: an empty layer has two, and the embeddings' stands before all."""

    def norms(networks: list[PreTrainedModel], inputs: Any, rounds: int) -> list[float]:
        found = []
        for network in networks:
            ran: list[nn.Module] = []
            for module in network.modules():
                if isinstance(module, nn.LayerNorm):
                    module.register_forward_hook(lambda module, *_, ran=ran: ran.append(module))
            network(**inputs)
            found.append(float(len(ran)))
        return found

    monkeypatch.setattr("stages.core.pruning.costs._milliseconds", norms)
    found = latency_costs(toy_qa_model(family, 1), length=16, device=torch.device("cpu"), neuron_step=16)
    assert found.fixed == 3 * 2
    assert not found.heads.any() and not found.neurons.any()
