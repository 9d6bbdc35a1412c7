"""Smaller matrices behave as the stock model with the same units masked, and the table says which they are."""

import copy
import pickle

import pytest
import torch
from torch import nn

from stages.core.models.families import layers
from stages.core.models.shapes import PrunedShapes, apply_shapes, parse_shapes, shapes_of, shrink
from tests.toy_models import FAMILY_KERNELS, FAMILY_NAMES, toy_inputs, toy_pruned_model, toy_qa_model

SHAPES = PrunedShapes(((1, 3), (0, 1, 2, 3), (2,)), (32, 8, 64))


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_table_describes_the_model(family: str) -> None:
    assert shapes_of(toy_qa_model(family, 1)) == PrunedShapes(((0, 1, 2, 3),) * 3, (64,) * 3)
    model = toy_pruned_model(family, 1)
    assert shapes_of(model) == SHAPES == parse_shapes(SHAPES.as_table())
    assert [(layer.heads, layer.neurons) for layer in layers(model)] == [(2, 32), (4, 8), (1, 64)]
    assert all(layer.attention_output.in_features == layer.value.out_features for layer in layers(model))


@pytest.mark.parametrize(("family", "kernel"), FAMILY_KERNELS)
def test_weights_go_into_a_stock_model_of_these_shapes(family: str, kernel: str) -> None:
    model, inputs = toy_pruned_model(family, 1), toy_inputs(family)
    model.set_attn_implementation(kernel)
    fresh = toy_qa_model(family, 2, kernel=kernel)
    apply_shapes(fresh, SHAPES)
    fresh.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(fresh(**inputs).end_logits, model(**inputs).end_logits)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_kernels_agree_on_padded_windows(family: str) -> None:
    model, inputs = toy_pruned_model(family, 1), toy_inputs(family)
    real = inputs["attention_mask"].bool()
    best = model(**inputs).start_logits[real]
    model.set_attn_implementation("eager")
    assert torch.allclose(model(**inputs).start_logits[real], best, atol=1e-5)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_shrinking_twice_composes(family: str) -> None:
    once, inputs = toy_qa_model(family, 1), toy_inputs(family)
    twice = copy.deepcopy(once)
    shrink(once, [[2], [1, 3], [0]], [range(4, 8), range(64), [0]])
    shrink(twice, [[0, 2], [1, 2, 3], [0, 3]], [range(4, 12), range(64), [0, 9]])
    shrink(twice, [[1], [0, 2], [0]], [range(4), range(64), [0]])
    assert shapes_of(once) == shapes_of(twice)
    assert torch.equal(once(**inputs).start_logits, twice(**inputs).start_logits)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_pruned_models_can_be_copied_pickled_and_trained(family: str) -> None:
    model, inputs = toy_pruned_model(family, 1), toy_inputs(family)
    expected = model(**inputs).start_logits
    copied = copy.deepcopy(model)
    expected.sum().backward()
    assert all(layer.query.weight.grad is not None for layer in layers(model))
    assert torch.equal(pickle.loads(pickle.dumps(model))(**inputs).start_logits, expected)
    shrink(model, [[0], [0], [0]], [[0], [0], [0]])
    shrink(model, [[], [], []], [[], [], []])
    assert torch.equal(copied(**inputs).start_logits, expected)
    emptied = model(**inputs).start_logits
    shrink(model, [[], [], []], [[], [], []])
    assert torch.equal(pickle.loads(pickle.dumps(copy.deepcopy(model)))(**inputs).start_logits, emptied)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_shrinking_leaves_the_global_generator_alone(family: str) -> None:
    state = torch.random.get_rng_state()
    model = toy_pruned_model(family, 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(isinstance(part, nn.Linear) and part.weight.requires_grad for part in (layers(model)[0].query,))
