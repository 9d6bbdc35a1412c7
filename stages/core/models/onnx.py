"""A model written as an ONNX graph in float32.

The graph takes `input_ids`, `attention_mask` and, where the family tells token types apart, `token_type_ids`, (B, L)
int64 with B and L free, and gives `start_logits` and `end_logits`, (B, L) float32. Its bytes repeat: what the exporter
notes about code and machine is taken out.
"""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from stages.core.models.checkpoint import save_description
from stages.core.models.encoder import quiet
from stages.core.models.families import family_of, layers, set_part
from stages.core.models.session import GRAPH, INPUTS, OUTPUTS

OPSET = 18
HEAD = "qa_outputs"
LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export", "root")


def save_onnx(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write `model`, pruned or not, into the empty or new `folder`: a float32 graph, config and tokenizer."""
    folder.mkdir(exist_ok=True)
    save_description(model, tokenizer, folder)
    write_graph(_graph_of(model), folder / GRAPH)


def _graph_of(model: PreTrainedModel) -> Any:
    """The float32 graph of a model as an onnx.ModelProto."""
    answering = _Answering(model)
    names = INPUTS if family_of(model).token_types else INPUTS[:2]
    # Two windows of eight tokens, for a size of one would be taken for a fixed one; and a tensor for each input, for
    # the exporter tells inputs apart by the objects they are.
    sample = tuple(torch.ones(2, 8, dtype=torch.int64) for _ in names)
    with silence(), quiet(), torch.no_grad():
        program = torch.onnx.export(
            answering,
            sample,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=names,
            output_names=OUTPUTS,
            dynamic_shapes=(tuple({0: "batch", 1: "length"} for _ in names),),
        )
    assert program is not None
    return program.model_proto


class _Answering(nn.Module):
    """A model as a function of tensors to tensors, with the plain attention kernel, which exports as it is written."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).cpu()
        self.model.set_attn_implementation("eager")
        for number, layer in enumerate(layers(self.model)):
            if not layer.heads:
                set_part(self.model, number, "attention_output", _Bias(layer.attention_output))
            if not layer.neurons:
                set_part(self.model, number, "ffn_out", _Bias(layer.ffn_out))
        self.eval()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model(**dict(zip(INPUTS, inputs, strict=False)))
        return output.start_logits, output.end_logits


class _Bias(nn.Module):
    """What is left of an output matrix without columns; a graph has no use for empty tensors."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = linear.bias

    def forward(self, _: Tensor) -> Tensor:
        return self.bias  # (width,), which broadcasts where the layer adds it


def write_graph(proto: Any, path: Path) -> None:
    """Write a graph so that the same graph gives the same bytes; nodes of the answer head are named after it."""
    graph = proto.graph
    for node in graph.node:
        scopes = {entry.key: entry.value for entry in node.metadata_props}.get("pkg.torch.onnx.name_scopes", "")
        if f"'model.{HEAD}'" in scopes:
            node.name = f"{HEAD}/{node.name}"
    for noted in (proto, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        del noted.metadata_props[:]
        noted.doc_string = ""
    proto.producer_version = ""
    path.write_bytes(proto.SerializeToString(deterministic=True))


@contextmanager
def silence() -> Iterator[None]:
    """Keep exporter and quantiser from warning of their own future and from printing their progress."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
