"""Scores of heads and neurons against a plain loop over windows, one mask and one backward pass at a time."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from stages.core.data.batches import Batch
from stages.core.models.families import layers
from stages.core.pruning.importance import magnitude_scores, mask_fisher, masked
from tests.toy_models import FAMILY_KERNELS, FAMILY_NAMES, toy_emptied_model, toy_inputs, toy_pruned_model, toy_qa_model

CPU = torch.device("cpu")


def batch_of(family: str, seed: int, lengths: tuple[int, ...]) -> Batch:
    inputs = toy_inputs(family, seed, lengths)
    count = len(lengths)
    positions = torch.arange(count) % torch.tensor(lengths)
    return Batch(
        rows=torch.arange(count),
        token_type_ids=None,
        context_mask=inputs["attention_mask"].bool(),
        start_positions=positions,
        end_positions=positions,
        **inputs,
    )


def span_loss(model: PreTrainedModel, batch: Batch) -> Mapping[str, Tensor]:
    output = model(**batch.model_inputs())
    start = output.start_logits.masked_fill(~batch.context_mask, -1e4)
    end = output.end_logits.masked_fill(~batch.context_mask, -1e4)
    return {"loss": cross_entropy(start, batch.start_positions) + cross_entropy(end, batch.end_positions)}


def plain_fisher(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Window by window: unpadded, one backward pass, and gradients of weights scaled by hand instead of masks.

    The gradient of a mask at 1 is the sum over the unit's outgoing weights of weight times its gradient.
    """
    heads = torch.zeros(len(layers(model)), 4, dtype=torch.float64)
    neurons = torch.zeros(len(layers(model)), 64, dtype=torch.float64)
    for row in range(len(batch.rows)):
        length = int(batch.attention_mask[row].sum())
        model.zero_grad()
        output = model(input_ids=batch.input_ids[row : row + 1, :length])
        loss = cross_entropy(output.start_logits, batch.start_positions[row : row + 1])
        (loss + cross_entropy(output.end_logits, batch.end_positions[row : row + 1])).backward()
        for number, layer in enumerate(layers(model)):
            by_unit = [
                (part.weight * part.weight.grad).sum(dim=0).double() for part in (layer.attention_output, layer.ffn_out)
            ]
            heads[number, : layer.heads] += by_unit[0].view(layer.heads, -1).sum(dim=1).square()
            neurons[number, : layer.neurons] += by_unit[1].square()
    return heads.detach(), neurons.detach()


@pytest.mark.parametrize(("family", "kernel"), FAMILY_KERNELS)
def test_fisher_equals_the_plain_loop(family: str, kernel: str) -> None:
    model = toy_qa_model(family, 1, kernel=kernel)
    batches = [batch_of(family, 0, (12, 7, 3)), batch_of(family, 1, (5, 5))]
    scores = mask_fisher(model, batches, span_loss, CPU)
    plain = [plain_fisher(model, batch) for batch in batches]
    assert scores.heads.dtype == scores.neurons.dtype == torch.float64
    assert torch.allclose(scores.heads, plain[0][0] + plain[1][0], rtol=1e-3, atol=1e-9)
    assert torch.allclose(scores.neurons, plain[0][1] + plain[1][1], rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_pruned_models_score_what_they_have(family: str) -> None:
    model, batch = toy_pruned_model(family, 1), batch_of(family, 0, (12, 7, 3))
    scores = mask_fisher(model, [batch], span_loss, CPU)
    heads, neurons = plain_fisher(model, batch)
    gone = torch.tensor([[False, False, True, True], [False] * 4, [False, True, True, True]])
    assert torch.equal(scores.heads == -torch.inf, gone)
    assert (scores.neurons > -torch.inf).sum(dim=1).tolist() == [32, 8, 64]
    assert torch.allclose(scores.heads.where(~gone, 0), heads, rtol=1e-3, atol=1e-9)
    assert torch.allclose(scores.neurons.clamp(min=0), neurons, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_sublayers_without_units_have_nothing_to_score(family: str) -> None:
    model, batch = toy_emptied_model(family, 1), batch_of(family, 0, (12, 7, 3))
    for scores in (mask_fisher(model, [batch], span_loss, CPU), magnitude_scores(model)):
        assert (scores.heads > 0).sum(dim=1).tolist() == [2, 0, 0]
        assert (scores.neurons > 0).sum(dim=1).tolist() == [0, 8, 0]
        assert (scores.heads == -torch.inf).sum(dim=1).tolist() == [2, 4, 4]


def test_scoring_leaves_no_trace() -> None:
    model, batch = toy_qa_model("bert", 1), batch_of("bert", 0, (6, 4))
    model.train()
    mask_fisher(model, [batch], span_loss, CPU)
    assert model.training
    assert all(weight.grad is None for weight in model.parameters())

    def failing(*_: object) -> Mapping[str, Tensor]:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        mask_fisher(model, [batch], failing, CPU)
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_dropout_is_off_while_scoring() -> None:
    model, batch = toy_qa_model("bert", 1), batch_of("bert", 0, (6, 4))
    expected = mask_fisher(model, [batch], span_loss, CPU)
    model.train()
    assert torch.equal(mask_fisher(model, [batch], span_loss, CPU).heads, expected.heads)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_masks_apply_inside_the_block_only(family: str) -> None:
    model, inputs = toy_qa_model(family, 1), toy_inputs(family)
    heads, neurons = torch.ones(3, 4, dtype=torch.bool), torch.ones(3, 64, dtype=torch.bool)
    expected = model(**inputs).start_logits
    with masked(model, heads, neurons):
        assert torch.equal(model(**inputs).start_logits, expected)
    heads[1, 2] = False
    with masked(model, heads, neurons):
        assert not torch.allclose(model(**inputs).start_logits, expected)
    assert torch.equal(model(**inputs).start_logits, expected)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_masked_unit_is_one_whose_outgoing_weights_are_zero(family: str) -> None:
    model, inputs = toy_qa_model(family, 1), toy_inputs(family)
    heads, neurons = torch.ones(3, 4, dtype=torch.bool), torch.ones(3, 64, dtype=torch.bool)
    heads[0, 3] = neurons[2, 10] = False
    with masked(model, heads, neurons):
        expected = model(**inputs).start_logits
    with torch.no_grad():
        layers(model)[0].attention_output.weight[:, 24:32] = 0
        layers(model)[2].ffn_out.weight[:, 10] = 0
    assert torch.allclose(model(**inputs).start_logits, expected, atol=1e-6)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_magnitudes_are_squared_norms_of_a_units_weights(family: str) -> None:
    model = toy_pruned_model(family, 1)
    scores = magnitude_scores(model)
    layer = layers(model)[0]
    rows = torch.cat([part.weight[8:16].flatten() for part in (layer.query, layer.key, layer.value)])
    weights = torch.cat([rows, layer.attention_output.weight[:, 8:16].flatten()]).double()
    assert torch.isclose(scores.heads[0, 1], weights.square().sum())
    neuron = torch.cat([layer.ffn_in.weight[5], layer.ffn_out.weight[:, 5]]).double()
    assert torch.isclose(scores.neurons[0, 5], neuron.square().sum())
    assert (scores.heads[2, 1:] == -torch.inf).all()
