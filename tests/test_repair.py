"""The repair against plain least squares, and against cases whose answer is known."""

import copy

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from stages.core.data.batches import Batch
from stages.core.models.families import blocks, layers
from stages.core.pruning.repair import repair
from stages.core.pruning.surgery import remove
from tests.toy_models import FAMILY_NAMES, toy_inputs, toy_qa_model

CPU = torch.device("cpu")


def batches(family: str, count: int = 3) -> list[Batch]:
    found = []
    for seed in range(count):
        inputs = toy_inputs(family, seed, lengths=(40, 31, 17))
        none = torch.zeros(3, dtype=torch.int64)
        mask = inputs["attention_mask"].bool()
        found.append(Batch(none, inputs["input_ids"], inputs["attention_mask"], None, mask, none, none))
    return found


def masks(heads: list[int], neurons: int) -> tuple[Tensor, Tensor]:
    """Heads kept in each layer, and the first `neurons` neurons."""
    kept = torch.zeros(3, 4, dtype=torch.bool)
    kept[:, heads] = True
    return kept, (torch.arange(64) < neurons).expand(3, 64).clone()


def sums(model: PreTrainedModel, sublayer: int, asked: list[Batch]) -> tuple[Tensor, Tensor]:
    """Inputs of the output matrix and of the norm of a sublayer, at real tokens."""
    layer = layers(model)[sublayer // 2]
    dense, norm = (layer.ffn_out, layer.ffn_norm) if sublayer % 2 else (layer.attention_output, layer.attention_norm)
    seen: list[list[Tensor]] = [[], []]
    hooks = [
        part.register_forward_pre_hook(lambda _, inputs, into=into: into.append(inputs[0]))
        for part, into in zip((dense, norm), seen, strict=True)
    ]
    with torch.no_grad():
        for batch in asked:
            model(**batch.model_inputs())
    for hook in hooks:
        hook.remove()
    real = [batch.attention_mask.bool() for batch in asked]
    found = [torch.cat([states[mask] for states, mask in zip(part, real, strict=True)]) for part in seen]
    return found[0], found[1]


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_first_sublayer_is_plain_least_squares(family: str) -> None:
    whole, asked = toy_qa_model(family, 1), batches(family)
    small = remove(whole, *masks([0, 2], 24))
    layer = layers(small)[0]
    units, before = sums(small, 0, asked)
    wanted = sums(whole, 0, asked)[1]
    residual = before - layer.attention_output(units)
    with_bias = torch.cat([units, torch.ones(len(units), 1)], dim=1).double()
    expected = torch.linalg.lstsq(with_bias, (wanted - residual).double()).solution
    repair(small, whole, asked, ridge=1e-9, device=CPU)
    repaired = layers(small)[0].attention_output
    assert torch.allclose(repaired.weight.double(), expected[:-1].T, atol=1e-3)
    assert torch.allclose(repaired.bias.double(), expected[-1], atol=1e-3)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_reported_errors_are_the_real_ones_and_every_sublayer_comes_closer(family: str) -> None:
    whole, asked = toy_qa_model(family, 1), batches(family)
    small = remove(whole, *masks([0, 2], 24))
    untouched = copy.deepcopy(small)
    before, after = repair(small, whole, asked, ridge=1e-3, device=CPU)

    def errors(model: PreTrainedModel) -> list[float]:
        found = []
        for place in range(6):
            wanted, got = (sums(each, place, asked)[1] for each in (whole, model))
            found.append(float((wanted - got).square().sum() / (wanted - wanted.mean(dim=0)).square().sum()))
        return found

    assert after == pytest.approx(sum(errors(small)) / 6, rel=1e-3)
    assert after < before
    assert all(late < early for late, early in zip(errors(small), errors(untouched), strict=True))


def test_a_model_that_lost_nothing_stays_as_it_is() -> None:
    whole, asked = toy_qa_model("bert", 1), batches("bert")
    same = copy.deepcopy(whole)
    assert repair(same, whole, asked, ridge=1e-2, device=CPU) == pytest.approx((0, 0), abs=1e-9)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(same.parameters(), whole.parameters(), strict=True))


def test_twins_of_removed_units_take_over_their_part() -> None:
    """Neurons that do the same are one neuron with both output columns added up."""
    whole, asked = toy_qa_model("bert", 1), batches("bert")
    with torch.no_grad():
        for layer in layers(whole):
            for part in (layer.ffn_in.weight, layer.ffn_in.bias):
                part[32:] = part[:32]
    small = remove(whole, *masks([0, 1, 2, 3], 32))
    _, after = repair(small, whole, asked, ridge=1e-8, device=CPU)
    assert after < 1e-6


def test_a_strong_pull_keeps_the_matrix() -> None:
    whole, asked = toy_qa_model("bert", 1), batches("bert")
    small = remove(whole, *masks([0, 2], 24))
    before = layers(small)[1].ffn_out.weight.clone()
    repair(small, whole, asked, ridge=1e9, device=CPU)
    assert torch.allclose(layers(small)[1].ffn_out.weight, before, atol=1e-5)


def test_the_pull_of_the_ridge_does_not_depend_on_the_number_of_windows() -> None:
    whole, found = toy_qa_model("bert", 1), []
    for asked in (batches("bert"), [*batches("bert"), *batches("bert")]):
        small = remove(whole, *masks([0, 2], 24))
        repair(small, whole, asked, ridge=0.1, device=CPU)
        found.append(layers(small)[0].attention_output.weight)
    assert torch.allclose(*found, atol=1e-5)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_no_layer_is_run_more_often_than_its_two_sublayers_and_the_next_layer_need(family: str) -> None:
    whole, asked = toy_qa_model(family, 1), batches(family)
    small = remove(whole, *masks([0, 2], 24))
    runs = {"small": [0, 0, 0], "whole": [0, 0, 0]}

    def count(name: str, place: int) -> None:
        runs[name][place] += 1

    for name, model in (("small", small), ("whole", whole)):
        for place, block in enumerate(blocks(model)):
            block.register_forward_hook(lambda *_, name=name, place=place: count(name, place))
    repair(small, whole, asked, ridge=1e-3, device=CPU)
    assert runs == {"small": [3 * len(asked)] * 3, "whole": [len(asked)] * 3}
