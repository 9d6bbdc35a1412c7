"""The five families of encoders: BERT, DistilBERT, RoBERTa, ELECTRA, MPNet, and where each keeps its parts.

This is the one place that knows the module names of transformers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from stages.core.errors import InputError


@dataclass(frozen=True)
class Family:
    """Where a family keeps its parts: `encoder` is a path in the model, the values of `parts` in one of its layers."""

    model_class: str
    encoder: str
    neurons_field: str
    attention_kernel: str
    token_types: bool  # whether question and paragraph are told apart by an input
    parts: Mapping[str, str]


def _parts(attention: str, names: str, attention_side: str, ffn_side: str) -> dict[str, str]:
    """Paths of a layer's parts; a side is "dense norm" of attention, "in out norm" of the feed-forward network."""
    query, key, value = (f"{attention}.{name}" for name in names.split())
    attention_output, attention_norm = attention_side.split()
    ffn_in, ffn_out, ffn_norm = ffn_side.split()
    return {
        "attention": attention,
        "query": query,
        "key": key,
        "value": value,
        "attention_output": attention_output,
        "attention_norm": attention_norm,
        "ffn_in": ffn_in,
        "ffn_out": ffn_out,
        "ffn_norm": ffn_norm,
    }


# A pruned model's config says "pruned-bert", so that nobody takes it for a stock one; see `pruned`.
PRUNED_PREFIX = "pruned-"

_BERT_FFN = "intermediate.dense output.dense output.LayerNorm"
_BERT = _parts("attention.self", "query key value", "attention.output.dense attention.output.LayerNorm", _BERT_FFN)
_DISTILBERT = _parts(
    "attention", "q_lin k_lin v_lin", "attention.out_lin sa_layer_norm", "ffn.lin1 ffn.lin2 output_layer_norm"
)
_MPNET = _parts("attention.attn", "q k v", "attention.attn.o attention.LayerNorm", _BERT_FFN)

# MPNet adds its relative position bias to the attention scores itself, so transformers has no fused kernel for it.
FAMILIES = {
    "bert": Family("BertForQuestionAnswering", "bert.encoder", "intermediate_size", "sdpa", True, _BERT),
    "distilbert": Family(
        "DistilBertForQuestionAnswering", "distilbert.transformer", "hidden_dim", "sdpa", False, _DISTILBERT
    ),
    "roberta": Family("RobertaForQuestionAnswering", "roberta.encoder", "intermediate_size", "sdpa", False, _BERT),
    "electra": Family("ElectraForQuestionAnswering", "electra.encoder", "intermediate_size", "sdpa", True, _BERT),
    "mpnet": Family("MPNetForQuestionAnswering", "mpnet.encoder", "intermediate_size", "eager", False, _MPNET),
}


@dataclass(frozen=True)
class Layer:
    """One layer of an encoder, its parts under the same names in every family.

    A sublayer that has lost all its units keeps its matrices, without rows (query, key, value, ffn_in) or without
    columns (attention_output, ffn_out), and the bias of the latter is all that it adds.
    """

    attention: nn.Module
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_output: nn.Linear
    attention_norm: nn.LayerNorm  # of the attention's output and what went into it, added up
    ffn_in: nn.Linear
    ffn_out: nn.Linear
    ffn_norm: nn.LayerNorm  # likewise

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return int(cast(int, self.attention.attention_head_size))

    @property
    def heads(self) -> int:
        """Attention heads that this layer has now."""
        return self.query.out_features // self.head_size

    @property
    def neurons(self) -> int:
        """Feed-forward neurons that this layer has now."""
        return self.ffn_in.out_features


def family_name(model_type: object) -> str:
    """The family that a config's model_type stands for, pruned or not. Raises InputError if it is none of the five."""
    name = str(model_type).removeprefix(PRUNED_PREFIX)
    if name not in FAMILIES:
        raise InputError(f"model_type is {model_type!r}; the families known are {', '.join(FAMILIES)}")
    return name


def family_of(model: PreTrainedModel) -> Family:
    """The family of a model. Raises InputError if it is none of the five."""
    return FAMILIES[family_name(model.config.model_type)]


def layers(model: PreTrainedModel) -> list[Layer]:
    """The layers of the encoder, first to last, as views: changing a part's weights changes the model."""
    parts = family_of(model).parts
    return [
        Layer(**{name: cast(Any, block.get_submodule(path)) for name, path in parts.items()}) for block in blocks(model)
    ]


def blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The encoder's own list of layer modules."""
    return cast(nn.ModuleList, model.get_submodule(family_of(model).encoder).layer)


def word_embeddings(model: nn.Module) -> nn.Module:
    """The table that turns token numbers into vectors."""
    return cast(PreTrainedModel, model).get_input_embeddings()


def stock_shape(model: PreTrainedModel) -> tuple[int, int]:
    """Heads and feed-forward neurons of each layer as the architecture has them, before any pruning."""
    return int(model.config.num_attention_heads), int(getattr(model.config, family_of(model).neurons_field))


def move(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """Move a model to `device`, in place, and return it."""
    cast(nn.Module, model).to(device)
    return model


def set_part(model: PreTrainedModel, layer: int, part: str, module: nn.Module) -> None:
    """Put `module` in the place of the one that `Layer` calls `part`; call `layers` again to see it."""
    blocks(model)[layer].set_submodule(family_of(model).parts[part], module)
