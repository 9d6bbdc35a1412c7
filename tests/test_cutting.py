"""What cuts questions for a model goes by the model where the tokenizer's files say something else, or is refused."""

import json
from pathlib import Path

import pytest
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


def test_a_tokenizer_without_a_token_that_windows_need_is_refused(tmp_path: Path) -> None:
    model = saved(tmp_path, "bert")
    plain = PreTrainedTokenizerFast(tokenizer_file=str(model / "tokenizer.json"), cls_token="[CLS]", sep_token="[SEP]")
    plain.save_pretrained(model)
    assert "the tokenizer has no pad_token; name it in tokenizer_config.json" in refusal(model)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path: Path) -> None:
    model = saved(tmp_path, "bert")
    count = len(load_tokenizer(model))
    change(model / "config.json", vocab_size=count)
    load_cutter(model, max_length=64, doc_stride=8)
    change(model / "config.json", vocab_size=count - 1)
    assert f"the tokenizer has {count} tokens, the model {count - 1}; save the two together" in refusal(model)
