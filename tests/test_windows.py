"""Windows hold the tokenizer's tokens, point back into the text, and are labelled with answers they hold whole."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from stages.core.data.examples import Answer, Example
from stages.core.data.windows import (
    Windows,
    _encode,
    decode_label,
    fingerprint_tokenizer,
    load_windows,
    make_windows,
    save_windows,
)
from stages.core.errors import InputError
from tests.toy_models import FAMILY_NAMES, WORDS, toy_tokenizer

MAX_LENGTH = 32
DOC_STRIDE = 8
QUESTION = "who built the bridge?"
LONG = " ".join(f"{word}{' ' * (number % 3 == 0)}" for number, word in enumerate(WORDS[:40]))  # some double spaces
# A context and the answer in it, each a way in which offsets have gone wrong somewhere.
AWKWARD = {
    "plain": ("the king built a bridge", "king"),
    "whole paragraph": ("the king", "the king"),
    "first word": ("king of the north", "king"),
    "last word": ("the old king", "king"),
    "double spaces": ("the king  built a   bridge  in town", "built a   bridge"),
    "leading blanks": ("  \n king of the north", "king"),
    "trailing blanks": ("the old king  ", "king"),
    "tabs and line breaks": ("the\tking\r\nbuilt\n\na bridge", "king\r\nbuilt"),
    "no-break space": ("the king\u00a0built a bridge", "king\u00a0built"),
    "accents": ("the café in Kraków was old", "café in Kraków"),
    "combining accent": ("the cafe\u0301 in town", "cafe\u0301 in"),
    "dashes and quotes": ("the “old” king – new", "“old” king –"),
    "emoji": ("the 🏰 of the 👑🏰 king", "👑🏰 king"),
    "other scripts": ("the 東京 river Москва", "東京 river Москва"),
    "capitals": ("The King BUILT a bridge", "King BUILT"),
    "punctuation": ("a bridge, built by the king.", "bridge, built"),
    "between marks": ("built by the “king”, in town", "king"),
    "after characters the tokenizer drops": ("the\u200b \ufeffking built", "king"),
}


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    """WordPiece of four families, byte-level BPE of RoBERTa."""
    return toy_tokenizer(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    return toy_tokenizer(tmp_path_factory.mktemp("bert"), "bert")


def example(context: str, answer: str, start: int | None = None, key: str = "q", question: str = QUESTION) -> Example:
    return Example(key, "T", context, question, (Answer(answer, context.index(answer) if start is None else start),))


def cut(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerFast, max_length: int = 128, doc_stride: int = DOC_STRIDE
) -> Windows:
    return make_windows(examples, tokenizer, max_length=max_length, doc_stride=doc_stride, token_types=True)


def tokens_of(windows: Windows, row: int) -> slice:
    return slice(int(windows.row_splits[row]), int(windows.row_splits[row + 1]))


def context_tokens(windows: Windows, row: int) -> list[int]:
    ids = windows.input_ids[tokens_of(windows, row)]
    return ids[int(windows.context_start[row]) : int(windows.context_stop[row])].tolist()


def spans(windows: Windows, row: int) -> list[tuple[int, int]]:
    offsets = windows.offset_mapping[tokens_of(windows, row)]
    return [(start, stop) for start, stop in offsets.tolist()]


@pytest.mark.parametrize("case", AWKWARD)
def test_label_decodes_to_the_answer(case: str, tokenizer: PreTrainedTokenizerFast) -> None:
    context, answer = AWKWARD[case]
    windows = cut([example(context, answer)], tokenizer)
    assert len(windows) == 1
    assert decode_label(windows, 0, context) == answer


@pytest.mark.parametrize("answer", ["\u200bthe king", " the", "Paris ", "Paris \u200b"])
def test_an_answer_may_touch_what_a_tokenizer_drops_at_the_ends(
    answer: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    context = f"{answer} lived in town" if answer.endswith(("king", "the")) else f"the king lived in {answer}"
    (windows,) = [cut([example(context, answer)], tokenizer)]
    assert decode_label(windows, 0, context).strip("\u200b ") == answer.strip("\u200b ")


def test_an_answer_at_a_paragraphs_end_is_in_its_last_window_alone(bert: PreTrainedTokenizerFast) -> None:
    context = f"{' '.join(['king'] * 60)} Paris "
    windows = cut([example(context, "Paris ")], bert, max_length=32)
    held = [row for row in range(len(windows)) if windows.start_positions[row] > 0]
    assert len(windows) > 2 and held == [len(windows) - 1]
    assert decode_label(windows, held[0], context) == "Paris"


@pytest.mark.parametrize("case", AWKWARD)
def test_offsets_are_words_of_the_context_and_zero_elsewhere(case: str, tokenizer: PreTrainedTokenizerFast) -> None:
    context, answer = AWKWARD[case]
    windows = cut([example(context, answer)], tokenizer)
    start, stop = int(windows.context_start[0]), int(windows.context_stop[0])
    for number, (first, last) in enumerate(spans(windows, 0)):
        if start <= number < stop:
            assert 0 <= first <= last <= len(context)
            assert context[first:last] == context[first:last].strip()
        else:
            assert (first, last) == (0, 0)


def test_window_is_the_tokenizers_own_pair(tokenizer: PreTrainedTokenizerFast) -> None:
    windows = cut([example("the king built a bridge", "king")], tokenizer)
    wanted = tokenizer(QUESTION, "the king built a bridge", return_token_type_ids=True)
    assert windows.input_ids.tolist() == wanted["input_ids"]
    assert windows.token_type_ids.tolist() == wanted["token_type_ids"]
    assert context_tokens(windows, 0) == [
        token for token, side in zip(wanted["input_ids"], wanted.sequence_ids(0), strict=True) if side == 1
    ]


def test_blanks_before_a_question_are_dropped(tokenizer: PreTrainedTokenizerFast) -> None:
    plain = cut([example("the king", "king")], tokenizer)
    blank = cut([example("the king", "king", question=f" \t\n {QUESTION}")], tokenizer)
    assert torch.equal(plain.input_ids, blank.input_ids)
    assert torch.equal(plain.offset_mapping, blank.offset_mapping)


def test_windows_of_a_long_paragraph_cover_it_and_overlap_by_the_stride(tokenizer: PreTrainedTokenizerFast) -> None:
    windows = cut([example(LONG, "the")], tokenizer, MAX_LENGTH)
    encoded = tokenizer(QUESTION, LONG)
    whole = [t for t, side in zip(encoded["input_ids"], encoded.sequence_ids(0), strict=True) if side == 1]
    room = MAX_LENGTH - (len(encoded["input_ids"]) - len(whole))
    slow = [whole[:room]]
    while len(whole) > room:
        whole = whole[room - DOC_STRIDE :]
        slow.append(whole[:room])
    assert len(slow) > 1
    assert [context_tokens(windows, row) for row in range(len(windows))] == slow
    assert int(windows.lengths.max()) == MAX_LENGTH


@pytest.mark.skipif(tokenizers.__version__ in ("0.23.1", "0.23.2"), reason="loses what lies behind the second window")
def test_windows_are_those_of_the_tokenizers_own_truncation(tokenizer: PreTrainedTokenizerFast) -> None:
    contexts = [" ".join(WORDS[:count]) for count in range(1, 60)]
    answers = (Answer(WORDS[0], 0),)
    made = cut(
        [Example(str(n), "t", text, QUESTION, answers) for n, text in enumerate(contexts)], tokenizer, MAX_LENGTH
    )
    own = tokenizer(
        [QUESTION] * len(contexts),
        contexts,
        truncation="only_second",
        max_length=MAX_LENGTH,
        stride=DOC_STRIDE,
        return_overflowing_tokens=True,
        return_token_type_ids=True,
    )
    assert list(made.question_ids) == [str(n) for n in own["overflow_to_sample_mapping"]]
    assert made.input_ids.tolist() == [each for row in own["input_ids"] for each in row]
    assert made.token_type_ids.tolist() == [each for row in own["token_type_ids"] for each in row]


def test_answer_is_labelled_exactly_where_it_is_whole(tokenizer: PreTrainedTokenizerFast) -> None:
    seen = {"whole": 0, "partly": 0, "not": 0}
    words = [match.span() for match in re.finditer(r"\S+", LONG)]
    for (start, _), (_, stop) in zip(words, words[3:], strict=False):
        answer = LONG[start:stop]
        windows = cut([example(LONG, answer, start)], tokenizer, MAX_LENGTH)
        labels = list(zip(windows.start_positions.tolist(), windows.end_positions.tolist(), strict=True))
        for row, label in enumerate(labels):
            inside = spans(windows, row)[int(windows.context_start[row]) : int(windows.context_stop[row])]
            shown = {character for span in inside for character in range(*span)}
            gold = {place for place in range(start, start + len(answer)) if not LONG[place].isspace()}
            if gold <= shown:
                assert decode_label(windows, row, LONG) == answer
            else:
                assert label == (0, 0)
                assert decode_label(windows, row, LONG) == ""
            seen["whole" if gold <= shown else "partly" if gold & shown else "not"] += 1
    assert min(seen.values()) > 0


def test_label_is_the_answer_at_its_offset_not_its_first_occurrence(tokenizer: PreTrainedTokenizerFast) -> None:
    context = "the king met the old king"
    windows = cut([example(context, "king", start=21)], tokenizer)
    first = int(windows.row_splits[0] + windows.start_positions[0])
    assert int(windows.offset_mapping[first, 0]) == 21


def test_question_without_answer_is_labelled_as_holding_none(bert: PreTrainedTokenizerFast) -> None:
    windows = cut([Example("q", "T", "the king", QUESTION, ())], bert)
    assert windows.start_positions.tolist() == windows.end_positions.tolist() == [0]


def test_windows_of_a_question_are_neighbours_in_order(tokenizer: PreTrainedTokenizerFast) -> None:
    examples = [example(LONG, "the", key="long"), example("the king", "king", key="a"), example(LONG, "the", key="b")]
    windows = cut(examples, tokenizer, MAX_LENGTH)
    assert list(dict.fromkeys(windows.question_ids)) == ["long", "a", "b"]
    assert sorted(windows.question_ids, key=["long", "a", "b"].index) == list(windows.question_ids)
    for key in ("long", "b"):
        starts = [
            int(start) for start, owner in zip(windows.text_starts, windows.question_ids, strict=True) if owner == key
        ]
        assert starts == sorted(set(starts))
        assert starts[0] == 0


def test_examples_do_not_change_each_other(tokenizer: PreTrainedTokenizerFast) -> None:
    examples = [example(LONG, "king", key="a"), example("the café  king", "king", key="b")]
    together = cut(examples, tokenizer, MAX_LENGTH)
    for each in examples:
        alone = cut([each], tokenizer, MAX_LENGTH)
        rows = torch.tensor([row for row, owner in enumerate(together.question_ids) if owner == each.id])
        same(alone, together.take(rows))


def test_windows_are_ragged(bert: PreTrainedTokenizerFast) -> None:
    windows = cut([example("the king", "king"), example("the old king", "king")], bert)
    assert windows.lengths.tolist() == [10, 11]
    assert windows.row_splits.tolist() == [0, 10, 21]
    assert len(windows.input_ids) == 21


def test_settings_are_kept_with_the_windows(tokenizer: PreTrainedTokenizerFast) -> None:
    windows = cut([example("the king", "king")], tokenizer, 64, 16)
    assert windows.metadata == {
        "tokenizer": fingerprint_tokenizer(tokenizer),
        "max_length": "64",
        "doc_stride": "16",
        "pad_token_id": str(tokenizer.pad_token_id),
        "uses_token_types": "True",
    }


def test_question_that_leaves_no_room_is_named(tokenizer: PreTrainedTokenizerFast) -> None:
    question = "king " * 40
    with pytest.raises(InputError, match=r"^id 'q': a question of \d+ tokens leaves .* windows.max_length 32"):
        cut([example("the king", "king", question=question)], tokenizer, MAX_LENGTH)
    with pytest.raises(InputError, match=r"^id 'q\\nr': a question"):
        cut([replace(example("the king", "king", question=question), id="q\nr")], tokenizer, MAX_LENGTH)


def test_question_may_leave_one_token_more_than_the_stride(bert: PreTrainedTokenizerFast) -> None:
    fits = " ".join(["king"] * (MAX_LENGTH - 3 - DOC_STRIDE - 1))
    windows = cut([example(LONG, "the", question=fits)], bert, MAX_LENGTH)
    assert len(context_tokens(windows, 0)) == DOC_STRIDE + 1
    with pytest.raises(InputError, match="leaves the paragraph too little"):
        cut([example(LONG, "the", question=f"{fits} king")], bert, MAX_LENGTH)


def test_paragraph_that_the_tokenizer_drops_whole_is_named(bert: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError, match=r"^id 'q': the tokenizer finds nothing to read"):
        cut([example("\u200b", "\u200b")], bert)


def test_take_gives_the_rows_asked_for_in_their_order(bert: PreTrainedTokenizerFast) -> None:
    windows = cut([example(LONG, "king", key="a"), example("the king", "king", key="b")], bert, MAX_LENGTH)
    last = len(windows) - 1
    taken = windows.take(torch.tensor([last, 0]))
    assert taken.question_ids == ("b", "a")
    for new, old in ((0, last), (1, 0)):
        assert context_tokens(taken, new) == context_tokens(windows, old)
        assert spans(taken, new) == spans(windows, old)
        assert taken.start_positions[new] == windows.start_positions[old]
        assert taken.text_starts[new] == windows.text_starts[old]


def test_windows_are_joined_one_set_behind_the_other(tokenizer: PreTrainedTokenizerFast) -> None:
    examples = [example(LONG, "king", key="a"), example("the king", "king", key="b"), example(LONG, "the", key="c")]
    joined = cut(examples[:1], tokenizer, MAX_LENGTH).join(cut(examples[1:], tokenizer, MAX_LENGTH))
    same(joined, cut(examples, tokenizer, MAX_LENGTH))
    with pytest.raises(InputError, match="run prepare again"):
        joined.join(cut(examples, tokenizer, MAX_LENGTH + 1))


def test_without_labels_nothing_else_changes(bert: PreTrainedTokenizerFast) -> None:
    windows = cut([example(LONG, "king")], bert, MAX_LENGTH)
    bare = windows.without_labels()
    assert set(bare.start_positions.tolist()) == set(bare.end_positions.tolist()) == {-1}
    same(replace(bare, start_positions=windows.start_positions, end_positions=windows.end_positions), windows)


def same(one: Windows, two: Windows) -> None:
    assert (one.question_ids, one.metadata) == (two.question_ids, two.metadata)
    for name, value in vars(one).items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == getattr(two, name).dtype, name
            assert torch.equal(value, getattr(two, name)), name


def test_saved_windows_come_back_the_same(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    windows = cut([example(LONG, "king", key="é"), example("the king", "king", key="b")], tokenizer, MAX_LENGTH)
    save_windows(windows, tmp_path / "a.safetensors")
    save_windows(windows.take(torch.arange(len(windows))), tmp_path / "b.safetensors")
    same(windows, load_windows(tmp_path / "a.safetensors"))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize("at_a_time", [1, 2, 3])
def test_a_few_questions_at_a_time_are_cut_as_all_at_once(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, at_a_time: int
) -> None:
    examples = [example(LONG, "king", key="a"), example("the king", "king", key="b"), example(LONG, "king", key="c")]
    at_once = cut(examples, tokenizer, MAX_LENGTH)
    calls: list[int] = []

    def counted(asked: Sequence[Example], *others: Any) -> Any:
        calls.append(len(asked))
        return _encode(asked, *others)

    monkeypatch.setattr("stages.core.data.windows._encode", counted)
    monkeypatch.setattr("stages.core.data.windows.QUESTIONS_AT_A_TIME", at_a_time)
    same(cut(examples, tokenizer, MAX_LENGTH), at_once)
    assert max(calls) == at_a_time and sum(calls) == 3
    assert len(at_once) > 3, "some have several windows"


def test_missing_windows_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; run the prepare stage"):
        load_windows(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"cut short")
    with pytest.raises(InputError, match=r"a.safetensors: not whole .*; run the prepare stage again"):
        load_windows(tmp_path / "a.safetensors")
    save_file({"input_ids": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"a.safetensors: holds something else; run the prepare stage again"):
        load_windows(tmp_path / "a.safetensors")


def test_fingerprint_of_a_tokenizer_is_about_how_it_cuts(bert: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    before = fingerprint_tokenizer(bert)
    bert("the king", truncation=True, max_length=4, padding="max_length")
    assert fingerprint_tokenizer(bert) == before
    assert fingerprint_tokenizer(toy_tokenizer(tmp_path / "same", "bert")) == before
    other = toy_tokenizer(tmp_path / "other", "bert")
    other.add_tokens(["castle-building"])
    assert fingerprint_tokenizer(other) != before


def test_fingerprint_of_windows_is_about_what_a_model_is_shown(bert: PreTrainedTokenizerFast) -> None:
    windows = cut([example(LONG, "king"), example("the king", "king", key="b")], bert, MAX_LENGTH)
    print_ = windows.fingerprint()
    assert replace(windows, start_positions=windows.start_positions + 1).fingerprint() == print_
    changed = [
        replace(windows, input_ids=windows.input_ids.flip(0)),
        replace(windows, token_type_ids=1 - windows.token_type_ids),
        replace(windows, row_splits=windows.row_splits + 1),
        replace(windows, question_ids=windows.question_ids[::-1]),
        replace(windows, metadata={**windows.metadata, "tokenizer": "another"}),
        windows.take(torch.arange(len(windows) - 1)),
    ]
    assert len({print_, *(each.fingerprint() for each in changed)}) == len(changed) + 1
