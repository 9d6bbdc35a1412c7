"""The small model is the masked one: same logits, smaller matrices, in every family and with padding."""

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.core.models.families import layers
from stages.core.models.shapes import shapes_of
from stages.core.pruning.importance import masked
from stages.core.pruning.surgery import remove
from tests.toy_models import FAMILY_KERNELS, FAMILY_NAMES, toy_inputs, toy_pruned_model, toy_qa_model


def some_masks(seed: int) -> tuple[Tensor, Tensor]:
    """Random masks; the first place of each kind stays, so that no layer loses all."""
    generator = torch.Generator().manual_seed(seed)
    heads, neurons = (torch.rand(3, units, generator=generator) > 0.5 for units in (4, 64))
    heads[:, 0] = neurons[:, 0] = True
    return heads, neurons


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("family", "kernel"), FAMILY_KERNELS)
def test_small_model_equals_masked_model(family: str, kernel: str, seed: int) -> None:
    model, inputs = toy_qa_model(family, 1, kernel=kernel), toy_inputs(family)
    real = inputs["attention_mask"].bool()
    masks = some_masks(seed)
    small = remove(model, *masks)(**inputs)
    with masked(model, *masks):
        expected = model(**inputs)
    assert torch.allclose(small.start_logits[real], expected.start_logits[real], atol=1e-5)
    assert torch.allclose(small.end_logits[real], expected.end_logits[real], atol=1e-5)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_pruning_again_equals_masking_the_pruned_model(family: str) -> None:
    model, inputs = toy_pruned_model(family, 1), toy_inputs(family)
    real = inputs["attention_mask"].bool()
    masks = some_masks(0)
    masks[0][0] = torch.tensor([False, True, False, False])
    smaller = remove(model, *masks)
    with masked(model, *masks):
        expected = model(**inputs).start_logits[real]
    assert torch.allclose(smaller(**inputs).start_logits[real], expected, atol=1e-5)
    assert shapes_of(smaller).heads[0] == (3,)  # of heads 1 and 3 that the first pruning left
    assert shapes_of(smaller).neurons[1] == int(masks[1][1, :8].sum())


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_source_stays_as_it_was(family: str) -> None:
    model, inputs = toy_qa_model(family, 1), toy_inputs(family)
    expected = model(**inputs).start_logits
    small = remove(model, *some_masks(0))
    with torch.no_grad():
        for weight in small.parameters():
            weight.zero_()
    assert torch.equal(model(**inputs).start_logits, expected)
    assert not hasattr(model.config, "pruned_shapes")


def test_matrices_really_shrink() -> None:
    model = toy_qa_model("bert", 1)
    heads, neurons = some_masks(0)
    small = remove(model, heads, neurons)
    for number, layer in enumerate(layers(small)):
        width = int(heads[number].sum()) * 8
        assert layer.query.weight.shape == layer.value.weight.shape == (width, 32)
        assert layer.attention_output.weight.shape == (32, width)
        assert layer.ffn_in.weight.shape == (int(neurons[number].sum()), 32)
        assert layer.ffn_out.weight.shape == (32, int(neurons[number].sum()))


def emptying_masks() -> tuple[Tensor, Tensor]:
    """Masks that leave layer 0 without heads, layer 1 without neurons, and layer 2 without either."""
    heads, neurons = some_masks(0)
    heads[0] = neurons[1] = heads[2] = neurons[2] = False
    return heads, neurons


@pytest.mark.parametrize(("family", "kernel"), FAMILY_KERNELS)
def test_sublayers_may_lose_all_their_units(family: str, kernel: str) -> None:
    model, inputs = toy_qa_model(family, 1, kernel=kernel), toy_inputs(family)
    real = inputs["attention_mask"].bool()
    small = remove(model, *emptying_masks())
    assert [(layer.heads > 0, layer.neurons > 0) for layer in layers(small)] == [
        (False, True),
        (True, False),
        (False, False),
    ]
    assert sum(part.weight.numel() for part in vars(layers(small)[2]).values() if isinstance(part, nn.Linear)) == 0
    with masked(model, *emptying_masks()):
        expected = model(**inputs)
    found = small(**inputs)
    assert torch.allclose(found.start_logits[real], expected.start_logits[real], atol=1e-5)
    assert torch.allclose(found.end_logits[real], expected.end_logits[real], atol=1e-5)


@pytest.mark.parametrize(("family", "kernel"), FAMILY_KERNELS)
def test_what_is_left_of_a_sublayer_learns_as_in_the_masked_model(family: str, kernel: str) -> None:
    model, inputs = toy_qa_model(family, 1, kernel=kernel), toy_inputs(family)
    small = remove(model, *emptying_masks())
    with masked(model, *emptying_masks()):
        expected = gradients(model, inputs)
    found = gradients(small, inputs)
    assert len(found) == 6
    for name, gradient in found.items():
        assert gradient.abs().max() > 0
        assert torch.allclose(gradient, expected[name], atol=1e-4), name


def gradients(model: PreTrainedModel, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradients, in training mode without dropout, of the biases that the two sublayers of each layer add."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model(**inputs).start_logits[inputs["attention_mask"].bool()].square().sum().backward()
    return {
        f"{number} {part}": getattr(layer, part).bias.grad
        for number, layer in enumerate(layers(model))
        for part in ("attention_output", "ffn_out")
    }
