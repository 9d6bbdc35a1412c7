"""Model folders: config.json, model.safetensors and the tokenizer's files, written whole and read with one call."""

import copy
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from stages.core.errors import InputError
from stages.core.files import whole_folder
from stages.core.models.encoder import (
    PRUNED_SHAPES,
    build_qa_model,
    is_pruned,
    is_qa_checkpoint,
    load_qa_model,
    make_config,
    read_config,
)
from stages.core.models.families import PRUNED_PREFIX, family_name
from stages.core.models.pruned import PRUNED_CLASSES, build_pruned_model
from stages.core.models.source import WEIGHTS


def save_checkpoint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a model folder whole or not at all, in place of an older one.

    The same model gives the same bytes: nothing of the machine, the time or earlier use of the tokenizer goes in.
    """
    with whole_folder(folder) as partial:
        save_description(model, tokenizer, partial)
        _write_weights(model, partial / WEIGHTS)


def save_description(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write what a model folder has beside the weights: config.json and the tokenizer's files."""
    _write_config(model, folder / "config.json")
    _write_tokenizer(tokenizer, folder)


def _write_config(model: PreTrainedModel, path: Path) -> None:
    fields = json.loads(model.config.to_json_string())
    fields.pop("_name_or_path", None)
    fields["architectures"] = [type(model).__name__]
    if PRUNED_SHAPES in fields:
        family = family_name(fields["model_type"])
        fields["model_type"] = PRUNED_PREFIX + family
        fields["architectures"] = [PRUNED_CLASSES[family].__name__]
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_weights(model: PreTrainedModel, path: Path) -> None:
    tensors = {name: tensor.detach().cpu().float().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path, metadata={"format": "pt"})


def _write_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    # Calling a fast tokenizer leaves its truncation and padding set, and they would be saved with it.
    unused = copy.deepcopy(tokenizer)
    unused.backend_tokenizer.no_truncation()
    unused.backend_tokenizer.no_padding()
    unused.save_pretrained(folder)


def load_checkpoint(folder: Path) -> PreTrainedModel:
    """The question answering model saved in `folder`, pruned or not, float32, in eval mode. Raises InputError."""
    fields = read_config(folder)
    if not is_qa_checkpoint(folder):
        raise InputError(f"{folder / WEIGHTS}: no question answering head here; train one, or name a QA model")
    if not is_pruned(fields):
        return load_qa_model(folder, seed=0)
    try:
        model = build_pruned_model(fields)
        model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    except (RuntimeError, ValueError, TypeError, SafetensorError) as error:
        raise InputError(f"{folder}: this pruned model does not load ({' '.join(str(error).split())})") from error
    return model


def network_of(folder: Path) -> PreTrainedModel:
    """The network that the config in `folder` describes, pruned or not, without weights. Raises InputError."""
    fields = read_config(folder)
    with torch.device("meta"):
        return build_pruned_model(fields) if is_pruned(fields) else build_qa_model(make_config(fields))
