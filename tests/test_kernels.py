"""Kernels for training compute what the plain ones do, are there while a model trains, and leave no trace."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention

from stages.core.models.checkpoint import load_checkpoint, save_checkpoint
from stages.core.models.kernels import FusedAttention, fuse_mpnet, set_inference_kernel, set_training_kernel
from tests.toy_models import (
    FAMILY_NAMES,
    toy_emptied_model,
    toy_inputs,
    toy_pruned_model,
    toy_qa_model,
    toy_tokenizer,
)

Make = Callable[[str, int], PreTrainedModel]
MAKERS: list[Make] = [toy_qa_model, toy_pruned_model, toy_emptied_model]
KEY_BIASES = (".key.bias", ".k.bias", ".k_lin.bias")
FUSED_NAMES = [name for name in FAMILY_NAMES if name != "mpnet"]


def logits_and_gradients(
    model: PreTrainedModel, family: str = "mpnet", lengths: tuple[int, ...] = (21, 9, 3)
) -> tuple[Tensor, dict[str, Tensor]]:
    inputs = toy_inputs(family, lengths=lengths)
    real = inputs["attention_mask"].bool()
    output = model(**inputs, output_hidden_states=True)
    logits = torch.stack((output.start_logits[real], output.end_logits[real]))
    model.zero_grad()
    inside = torch.stack([states[real].square().sum() for states in output.hidden_states])
    (logits.square().sum() + inside.sum()).backward()  # type: ignore[no-untyped-call]
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_close(found: dict[str, Tensor], gradients: dict[str, Tensor]) -> None:
    """Each gradient is right to a hundred-thousandth of its largest number.

    A bias of keys adds the same to all scores of a row, which softmax does not see: its gradient is but rounding, and
    nothing beside the others.
    """
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        of_keys = name.endswith(KEY_BIASES)
        assert not of_keys or gradient.abs().max() < 1e-5 * largest, name
        error = (found[name] - gradient).abs().max()
        assert error < 1e-5 * (largest if of_keys else max(float(gradient.abs().max()), 1e-3)), name


def fused(model: PreTrainedModel) -> list[bool]:
    attentions = [module for module in model.modules() if isinstance(module, MPNetSelfAttention)]
    return [isinstance(module, FusedAttention) for module in attentions]


@pytest.mark.parametrize("make", MAKERS)
def test_logits_and_gradients_are_those_of_the_plain_kernel(make: Make) -> None:
    model = make("mpnet", 1)
    logits, gradients = logits_and_gradients(model)
    fuse_mpnet(model, True)
    assert all(fused(model))
    fused_logits, fused_gradients = logits_and_gradients(model)
    assert torch.allclose(fused_logits, logits, atol=1e-5)
    assert fused_gradients.keys() == gradients.keys() >= {"mpnet.encoder.relative_attention_bias.weight"}
    assert_close(fused_gradients, gradients)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("lengths", [(21, 9, 3), (9, 9, 9)])
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("family", FUSED_NAMES)
def test_logits_and_gradients_of_training_are_those_of_the_plain_kernel(
    family: str, make: Make, lengths: tuple[int, ...], device: str
) -> None:
    model = make(family, 1)
    model.set_attn_implementation("eager")
    logits, gradients = logits_and_gradients(model, family, lengths)
    set_training_kernel(model, torch.device(device))
    fused_logits, fused_gradients = logits_and_gradients(model, family, lengths)
    assert torch.allclose(fused_logits, logits, atol=1e-5)
    assert fused_gradients.keys() == gradients.keys()
    assert_close(fused_gradients, gradients)


@pytest.mark.parametrize("family", FUSED_NAMES)
def test_on_a_cpu_attention_under_autocast_is_computed_in_full_precision(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs, types = toy_qa_model(family, 1), toy_inputs(family), list[tuple[torch.dtype, bool]]()
    set_training_kernel(model, torch.device("cpu"))
    plain = functional.scaled_dot_product_attention

    def watched(query: Tensor, *arguments: Any, **options: Any) -> Tensor:
        types.append((query.dtype, torch.is_autocast_enabled("cpu")))
        return plain(query, *arguments, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", watched)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(**inputs).start_logits
    assert types == [(torch.float32, False)] * 3
    assert logits.dtype == torch.bfloat16


def test_half_precision_is_as_good_as_the_plain_kernels() -> None:
    model, inputs = toy_qa_model("mpnet", 1), toy_inputs("mpnet", lengths=(40, 30, 20))
    real = inputs["attention_mask"].bool()
    exact = model(**inputs).start_logits[real].detach()

    def error() -> float:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return float((model(**inputs).start_logits[real] - exact).norm() / exact.norm())

    plain = error()
    fuse_mpnet(model, True)
    assert 0 < error() < 1.5 * plain


def test_probabilities_are_dropped_while_training_and_not_otherwise() -> None:
    model, inputs = toy_qa_model("mpnet", 1), toy_inputs("mpnet")
    attentions = [module for module in model.modules() if isinstance(module, MPNetSelfAttention)]
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5 if module in [each.dropout for each in attentions] else 0.0
    fuse_mpnet(model, True)
    assert torch.equal(model(**inputs).start_logits, model(**inputs).start_logits)
    model.train()
    assert not torch.equal(model(**inputs).start_logits, model(**inputs).start_logits)


@pytest.mark.parametrize("make", MAKERS)
def test_nothing_of_it_stays(make: Make, tmp_path: Path) -> None:
    model, inputs = make("mpnet", 1), toy_inputs("mpnet")
    before, logits = copy.deepcopy(model), model(**inputs).start_logits
    fuse_mpnet(model, True)
    copied = copy.deepcopy(model)
    assert all(fused(copied))
    save_checkpoint(model, toy_tokenizer(tmp_path / "tokenizer", "mpnet"), tmp_path / "model")
    assert torch.equal(load_checkpoint(tmp_path / "model")(**inputs).start_logits, logits)
    for each in (model, copied):
        fuse_mpnet(each, False)
        assert [type(module) for module in each.modules()] == [type(module) for module in before.modules()]
        assert torch.equal(each(**inputs).start_logits, logits)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_which_kernel_is_for_what(family: str) -> None:
    model, quick = toy_qa_model(family, 1), "eager" if family == "mpnet" else "sdpa"
    on_cpu, on_cuda, attentions = ("eager", "eager", 3) if family == "mpnet" else ("sdpa_fp32", "sdpa_masked", 0)
    for device, kernel, is_fused in (("cuda", on_cuda, True), ("cpu", on_cpu, False)):
        set_training_kernel(model, torch.device(device))
        assert model.config._attn_implementation == kernel
        assert fused(model) == [is_fused] * attentions
    set_training_kernel(model, torch.device("cuda"))
    set_inference_kernel(model)
    assert model.config._attn_implementation == quick
    assert fused(model) == [False] * attentions
