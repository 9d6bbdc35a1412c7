"""What tests of graphs need: inputs of any size, how far two models are apart, a graph in eight bits."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from stages.core.data.batches import Batch
from stages.core.models.checkpoint import save_checkpoint
from stages.core.models.families import FAMILIES
from stages.core.models.onnx import save_onnx
from stages.core.models.quantisation import save_onnx_int8
from tests.toy_models import toy_emptied_model, toy_inputs, toy_tokenizer

SIZES = [(12, 7, 3), (1,), (30,), (5, 5), (64, 20, 33, 50, 2)]


def inputs_of(family: str, lengths: tuple[int, ...]) -> dict[str, Tensor]:
    inputs = toy_inputs(family, len(lengths), lengths)
    if FAMILIES[family].token_types:
        inputs["token_type_ids"] = (torch.arange(max(lengths)) > max(lengths) // 2).long().expand(len(lengths), -1)
    return inputs


def largest_difference(first: PreTrainedModel, second: torch.nn.Module, family: str) -> float:
    found = [0.0]
    for lengths in SIZES:
        inputs = inputs_of(family, lengths)
        real = inputs["attention_mask"].bool()
        with torch.inference_mode():
            expected, given = first(**inputs), second(**inputs)
        for name in ("start_logits", "end_logits"):
            assert given[name].dtype == torch.float32
            found.append(float((expected[name] - given[name])[real].abs().max()))
    return max(found)


def batches_of(family: str) -> list[Batch]:
    """Windows without labels, in batches of all sizes."""
    found = []
    for lengths in SIZES:
        inputs = inputs_of(family, lengths)
        unlabelled = torch.full((len(lengths),), -1)
        found.append(
            Batch(
                rows=torch.arange(len(lengths)),
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                token_type_ids=inputs.get("token_type_ids"),
                context_mask=inputs["attention_mask"].bool(),
                start_positions=unlabelled,
                end_positions=unlabelled,
            )
        )
    return found


def to_int8(family: str, source: Path, folder: Path, *, smoothing: float = 0.8, signed_weights: bool = False) -> None:
    save_onnx_int8(source, folder, batches_of(family), smoothing=smoothing, signed_weights=signed_weights)


def write_forms(root: Path, family: str, make: Callable[[str, int], PreTrainedModel] = toy_emptied_model) -> Path:
    """Write a pruned model, by default one that lacks whole sublayers, below `root`: in torch, as float32 and int8."""
    model, tokenizer = make(family, 1), toy_tokenizer(root / "tokenizer", family)
    save_checkpoint(model, tokenizer, root / "torch")
    save_onnx(model, tokenizer, root / "onnx")
    to_int8(family, root / "onnx", root / "int8")
    return root
