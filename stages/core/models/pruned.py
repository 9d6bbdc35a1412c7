"""Pruned models as classes of their own, so that transformers opens them: import this module, then from_pretrained.

A pruned folder says `"model_type": "pruned-bert"` (or the like for the other families). Transformers by itself refuses
it, as it should: no stock architecture has such shapes. Once this module is imported,
`AutoModelForQuestionAnswering.from_pretrained(folder)` gives a model of the classes below, without remote code.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    BertConfig,
    BertForQuestionAnswering,
    DistilBertConfig,
    DistilBertForQuestionAnswering,
    ElectraConfig,
    ElectraForQuestionAnswering,
    MPNetConfig,
    MPNetForQuestionAnswering,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    RobertaForQuestionAnswering,
)

from stages.core.models.encoder import PRUNED_SHAPES, make_config, quiet
from stages.core.models.families import family_name
from stages.core.models.shapes import apply_shapes, parse_shapes

Table = list[dict[str, Any]]


class PrunedBertConfig(BertConfig):
    """BERT's config and the shape table."""

    model_type = "pruned-bert"
    pruned_shapes: Table | None = None


class PrunedDistilBertConfig(DistilBertConfig):
    """DistilBERT's config and the shape table."""

    model_type = "pruned-distilbert"
    pruned_shapes: Table | None = None


class PrunedRobertaConfig(RobertaConfig):
    """RoBERTa's config and the shape table."""

    model_type = "pruned-roberta"
    pruned_shapes: Table | None = None


class PrunedElectraConfig(ElectraConfig):
    """ELECTRA's config and the shape table."""

    model_type = "pruned-electra"
    pruned_shapes: Table | None = None


class PrunedMPNetConfig(MPNetConfig):
    """MPNet's config and the shape table."""

    model_type = "pruned-mpnet"
    pruned_shapes: Table | None = None


class _Pruned(PreTrainedModel):
    """Gives a stock class the shapes of its config. Raises InputError if the table is missing or does not fit."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        apply_shapes(self, parse_shapes(getattr(config, PRUNED_SHAPES, None)))


class PrunedBertForQuestionAnswering(_Pruned, BertForQuestionAnswering):
    """BERT with the heads and neurons that its config lists."""

    config_class = PrunedBertConfig


class PrunedDistilBertForQuestionAnswering(_Pruned, DistilBertForQuestionAnswering):
    """DistilBERT with the heads and neurons that its config lists."""

    config_class = PrunedDistilBertConfig


class PrunedRobertaForQuestionAnswering(_Pruned, RobertaForQuestionAnswering):
    """RoBERTa with the heads and neurons that its config lists."""

    config_class = PrunedRobertaConfig


class PrunedElectraForQuestionAnswering(_Pruned, ElectraForQuestionAnswering):
    """ELECTRA with the heads and neurons that its config lists."""

    config_class = PrunedElectraConfig


class PrunedMPNetForQuestionAnswering(_Pruned, MPNetForQuestionAnswering):
    """MPNet with the heads and neurons that its config lists."""

    config_class = PrunedMPNetConfig


PRUNED_CLASSES: dict[str, type[_Pruned]] = {
    "bert": PrunedBertForQuestionAnswering,
    "distilbert": PrunedDistilBertForQuestionAnswering,
    "roberta": PrunedRobertaForQuestionAnswering,
    "electra": PrunedElectraForQuestionAnswering,
    "mpnet": PrunedMPNetForQuestionAnswering,
}
for _model_class in PRUNED_CLASSES.values():
    _config_class = cast(type[PreTrainedConfig], _model_class.config_class)
    AutoConfig.register(_config_class.model_type, _config_class, exist_ok=True)
    AutoModelForQuestionAnswering.register(_config_class, _model_class, exist_ok=True)


def build_pruned_model(fields: Mapping[str, Any]) -> PreTrainedModel:
    """A model of the config `fields`, shape table included, weights without meaning; generators stay as they were."""
    model_class = PRUNED_CLASSES[family_name(fields["model_type"])]
    config = make_config(fields, model_class.config_class)
    setattr(config, PRUNED_SHAPES, fields.get(PRUNED_SHAPES))
    with quiet(), torch.random.fork_rng(devices=[]):
        return cast(PreTrainedModel, model_class(config).eval())
