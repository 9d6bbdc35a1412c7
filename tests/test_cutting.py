"""What cuts questions for a model goes by the model where the tokenizer's files say something else, or is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from stages.core.data.cutting import load_cutter
from stages.core.errors import InputError
from stages.core.models.checkpoint import save_checkpoint
from stages.core.models.encoder import load_tokenizer
from stages.core.models.families import FAMILIES
from tests.toy_models import FAMILY_NAMES, toy_qa_model, toy_tokenizer
from tests.toy_questions import toy_examples


def saved(folder: Path, family: str) -> Path:
    save_checkpoint(toy_qa_model(family, 1), toy_tokenizer(folder / "tokenizer", family), folder / "model")
    return folder / "model"


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def refusal(model: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_cutter(model, max_length=64, doc_stride=8)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{model}: ")
    return message


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_token_types_are_the_familys_whatever_class_the_tokenizer_was_saved_as(family: str, tmp_path: Path) -> None:
    model = saved(tmp_path, family)
    own = load_cutter(model, max_length=64, doc_stride=8).cut(toy_examples(6, seed=1))
    assert own.metadata["uses_token_types"] == str(FAMILIES[family].token_types)
    change(model / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    assert type(load_tokenizer(model)) is not type(load_tokenizer(tmp_path / "tokenizer"))
    plain = load_cutter(model, max_length=64, doc_stride=8).cut(toy_examples(6, seed=1))
    assert plain.fingerprint() == own.fingerprint()


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_what_cannot_be_cut_is_refused_and_nothing_else(family: str, tmp_path: Path) -> None:
    """Questions of as many tokens as bytes, around the length that leaves the paragraph too little."""
    cutter = load_cutter(saved(tmp_path, family), max_length=64, doc_stride=8)
    (example,) = toy_examples(1, seed=1)
    refused = []
    for length in range(30, 64):
        asked = replace(example, question="z" * length)
        refused.append(cutter.refuse(asked))
        try:
            cutter.cut([asked])
        except InputError as error:
            assert str(error) == f"id {asked.id!r}: {refused[-1]}"
        else:
            assert refused[-1] == ""
    assert "" in refused and set(refused) != {""}
    for nothing in (" \u200b\u200b", "\u0000"):
        assert ("nothing to read" in cutter.refuse(replace(example, context=nothing))) == (family != "roberta")


def test_a_tokenizer_without_a_token_that_windows_need_is_refused(tmp_path: Path) -> None:
    model = saved(tmp_path, "bert")
    made = {"tokenizer_file": str(model / "tokenizer.json"), "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(**made).save_pretrained(model)
    assert "the tokenizer has no pad_token; name it in tokenizer_config.json" in refusal(model)


@pytest.mark.parametrize("single", ["$A [SEP]", "[CLS] $A"])
def test_a_tokenizer_whose_template_tells_question_and_paragraph_apart_by_nothing_is_refused(
    single: str, tmp_path: Path
) -> None:
    model = saved(tmp_path, "bert")
    inner = load_tokenizer(model).backend_tokenizer
    numbers = [(token, inner.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    inner.post_processor = TemplateProcessing(single=single, pair=f"{single} $B:1", special_tokens=numbers)
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=inner, **names).save_pretrained(model)
    assert "the tokenizer puts no token before a question, or none between it and its paragraph" in refusal(model)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path: Path) -> None:
    model = saved(tmp_path, "bert")
    count = len(load_tokenizer(model))
    change(model / "config.json", vocab_size=count)
    load_cutter(model, max_length=64, doc_stride=8)
    change(model / "config.json", vocab_size=count - 1)
    assert f"the tokenizer has {count} tokens, the model {count - 1}; save the two together" in refusal(model)
