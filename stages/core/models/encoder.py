"""Encoders of Hugging Face with a question answering head: loaded, built, cut to fewer layers, run.

Models are float32, in eval mode, and no code that a model brings along is ever run.
"""

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from stages.core.errors import InputError
from stages.core.models.families import FAMILIES, PRUNED_PREFIX, blocks, family_name, family_of
from stages.core.models.source import WEIGHTS, check_config, check_folder, file_sha256

PRUNED_SHAPES = "pruned_shapes"
TOKENIZER = "tokenizer.json"
# What a config of another model may say that a question answering model of ours decides for itself.
OVERRULED = (
    *("id2label", "label2id", "num_labels", "auto_map", "_name_or_path", "dtype", "torch_dtype"),
    *("model_type", "architectures", PRUNED_SHAPES),
    *("return_dict", "output_attentions", "output_hidden_states"),
)
HEAD = {"qa_outputs.weight", "qa_outputs.bias"}
LOADING_FAULTS = (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError)


def cut_layers(model: PreTrainedModel, keep: Sequence[int]) -> PreTrainedModel:
    """A new model with only the layers `keep` (0-based, rising), its embeddings and head copied with them.

    Hidden state 0 of the result is hidden state 0 of `model`. Raises InputError.
    """
    count = len(blocks(model))
    if not keep or list(keep) != sorted(set(keep)) or not 0 <= keep[0] <= keep[-1] < count:
        raise InputError(f"layers to keep are {list(keep)}; give rising numbers from 0 to {count - 1}")
    small = copy.deepcopy(model)
    encoder: Any = small.get_submodule(family_of(small).encoder)
    encoder.layer = nn.ModuleList(blocks(small)[index] for index in keep)
    small.config.num_hidden_layers = len(keep)
    if hasattr(encoder, "n_layers"):
        encoder.n_layers = len(keep)
    if (table := getattr(small.config, PRUNED_SHAPES, None)) is not None:
        setattr(small.config, PRUNED_SHAPES, [table[index] for index in keep])
    return small


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer saved in `folder`; a slow one gives no character offsets. Raises InputError."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such tokenizer folder")
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # tokenizers raises bare ones
        raise InputError(f"{folder}: no tokenizer loads from here ({_first_line(error)})") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(f"{folder}: {type(tokenizer).__name__} is no fast tokenizer; convert it to tokenizer.json")
    _check_rebuilt(tokenizer, folder)
    return tokenizer


def _check_rebuilt(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Raise InputError where `tokenizer` cleans or splits text in another way than the tokenizer.json of its folder.

    Of some families transformers takes but the vocabulary from that file, and the rest from tokenizer_config.json.
    """
    if not (folder / TOKENIZER).exists():
        return
    kept = _cutting(Tokenizer.from_file(str(folder / TOKENIZER)))
    rebuilt = _cutting(tokenizer.backend_tokenizer)
    for part, mine in kept.items():
        if mine != rebuilt[part]:
            raise InputError(
                f"{folder}: {TOKENIZER} and tokenizer_config.json disagree on the {part}: "
                f"{_unlike(mine, rebuilt[part])}; name a copy in which they agree on what the model was trained with, "
                f"or in which tokenizer_class is PreTrainedTokenizerFast, for {TOKENIZER} to be taken whole"
            )


def _cutting(tokenizer: Tokenizer) -> dict[str, dict[str, Any] | None]:
    """What cleans text and what splits it, said in one way where the library has several."""
    told = json.loads(tokenizer.to_str())
    normalizer, splitter = told["normalizer"], told["pre_tokenizer"]
    if normalizer and normalizer["type"] == "BertNormalizer" and normalizer["strip_accents"] is None:
        normalizer["strip_accents"] = normalizer["lowercase"]
    if splitter and splitter["type"] == "ByteLevel":
        splitter.pop("trim_offsets")  # which only what follows it looks at
    return {"normalizer": normalizer, "pre_tokenizer": splitter}


def _unlike(kept: dict[str, Any] | None, rebuilt: dict[str, Any] | None) -> str:
    """Where two of a part differ: in kind, or in some keys."""
    mine, other = kept or {"type": "none"}, rebuilt or {"type": "none"}
    keys = ["type"] if mine["type"] != other["type"] else [key for key in mine if mine[key] != other.get(key)]
    return ", ".join(f"{key} is {mine[key]!s:.40} and {other.get(key)!s:.40}" for key in keys)


def is_qa_checkpoint(folder: Path) -> bool:
    """Whether the weights in `folder` hold a question answering head. Raises InputError."""
    check_folder(folder)
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as weights:
            return "qa_outputs.weight" in set(weights.keys())
    except SafetensorError as error:
        raise InputError(f"{folder / WEIGHTS}: not a safetensors file, or one cut short ({error})") from error


def fingerprint(folder: Path) -> str:
    """64 hex digits that change when the weights or the config of the model in `folder` do. Raises InputError."""
    check_folder(folder)
    return hashlib.sha256(f"{file_sha256(folder / 'config.json')} {file_sha256(folder / WEIGHTS)}".encode()).hexdigest()


def load_qa_model(folder: Path, *, seed: int) -> PreTrainedModel:
    """The encoder in `folder` with a question answering head, stock shapes.

    A head that the weights lack is drawn from `seed` (normal with the config's initializer_range, bias zero); the
    global generator is left as it was. For a pruned model see `checkpoint.load_checkpoint`. Raises InputError.
    """
    check_folder(folder)
    fields = read_config(folder)
    if is_pruned(fields):
        raise InputError(f"{folder}: a pruned model cannot be started from; name the model it was pruned from")
    try:
        model, missing, unread = _from_pretrained(folder, fields)
    except LOADING_FAULTS as error:
        raise InputError(f"{folder}: this model does not load ({_first_line(error)})") from error
    if lost := sorted(name for name in missing if not name.startswith("qa_outputs.")):
        raise InputError(
            f"{folder / WEIGHTS}: {len(lost)} weights that config.json asks for are missing, {lost[0]} first"
        )
    if unread:
        raise InputError(
            f"{folder / WEIGHTS}: {len(unread)} weights have no place in the encoder that config.json describes, "
            f"{unread[0]} first; mend config.json, or name a model that transformers still computes as it was trained"
        )
    if missing == HEAD:
        _draw_head(model, seed)
    elif missing:
        raise InputError(f"{folder / WEIGHTS}: {min(missing)} is missing, the other part of the head is not; save both")
    return model


def _from_pretrained(folder: Path, fields: Mapping[str, Any]) -> tuple[PreTrainedModel, set[str], list[str]]:
    """The model, names of weights that the file lacks, and of those inside the encoder that the model lacks."""
    family = FAMILIES[family_name(fields["model_type"])]
    with quiet(), torch.random.fork_rng(devices=[]):
        model, found = getattr(transformers, family.model_class).from_pretrained(
            str(folder),
            config=make_config(fields),
            dtype=torch.float32,
            attn_implementation=family.attention_kernel,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    inside = (f"{family.encoder}.", f"{family.encoder.partition('.')[2]}.")  # of a whole model, of a bare encoder
    unread = sorted(name for name in found["unexpected_keys"] if name.startswith(inside))
    return model.eval(), set(found["missing_keys"]), unread


def _draw_head(model: PreTrainedModel, seed: int) -> None:
    head = cast(nn.Linear, model.qa_outputs)
    generator = torch.Generator().manual_seed(seed)
    spread = float(model.config.initializer_range)
    with torch.no_grad():
        head.weight.copy_(torch.empty(head.weight.shape).normal_(0.0, spread, generator=generator))
        head.bias.zero_()


def read_config(folder: Path) -> dict[str, Any]:
    """The fields of config.json in a model folder of a known family. Raises InputError."""
    check_config(folder)
    path = folder / "config.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error
    try:
        family_name(fields.get("model_type") if isinstance(fields, dict) else None)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return dict(fields)


def is_pruned(fields: Mapping[str, Any]) -> bool:
    """Whether the fields of a config are those of a pruned model."""
    return PRUNED_SHAPES in fields or str(fields["model_type"]).startswith(PRUNED_PREFIX)


def make_config(fields: Mapping[str, Any], config_class: type[PreTrainedConfig] | None = None) -> PreTrainedConfig:
    """The config object of `fields`: two labels (answer start and end), stock shapes, the family's best kernel.

    It is of the family's own class, or of `config_class`, which has to be a subclass of that.
    """
    family = FAMILIES[family_name(fields["model_type"])]
    kept = {key: value for key, value in fields.items() if key not in OVERRULED}
    wanted = config_class or getattr(transformers, family.model_class).config_class
    try:
        config = wanted(**kept, dtype="float32")
    except Exception as error:  # values are checked by classes that raise kinds of their own
        raise InputError(
            f"config.json of a {fields['model_type']} model: {_one_line(error)}; mend that value"
        ) from error
    config._attn_implementation = family.attention_kernel
    return cast(PreTrainedConfig, config)


def build_qa_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A model of this config in stock shapes, weights without meaning; the global generator is left as it was."""
    model_class = getattr(transformers, FAMILIES[family_name(config.model_type)].model_class)
    with quiet(), torch.random.fork_rng(devices=[]):
        return cast(PreTrainedModel, model_class(config).eval())


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from printing load reports and bars; only its errors are shown."""
    log: Any = transformers_logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]
