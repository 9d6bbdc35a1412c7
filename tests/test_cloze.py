"""Cloze questions: what may be asked for, what a question is made of, and draws that repeat and run dry."""

import random
import re

import pytest

from stages.core.data.cloze import (
    AROUND,
    BOUNDS_NO_PHRASE,
    FEWEST,
    LEFT_OUT,
    QUESTION_WORDS,
    SENTENCE_END,
    SENTENCE_WORDS,
    cloze_questions,
    draw_question,
    phrases,
)
from stages.core.data.examples import Answer, Example, Paragraph
from stages.core.errors import InputError

SENTENCE = "In 1906 the old harbour of Port Albert, built by Anna Reed, was sold for 40 pounds to a rich farmer."
OTHER = "Most of its boats had left long before that cold winter came over them."
CONTEXT = f"{SENTENCE} Short one. {OTHER}"
ASKING = {word for words in QUESTION_WORDS.values() for word in words}


def drawn_with_answers(context: str = CONTEXT, count: int = 300) -> list[tuple[str, Answer]]:
    generator = random.Random(1)
    return [each for _ in range(count) if (each := draw_question(context, generator)) is not None]


def drawn(context: str = CONTEXT, count: int = 300) -> list[str]:
    return [question for question, _ in drawn_with_answers(context, count)]


def asked_and_words(question: str) -> tuple[str, list[str], list[str]]:
    """The question word and the words before it and after it; no sentence here has one of its own."""
    found = re.search(rf"\b({'|'.join(sorted(ASKING, key=len, reverse=True))})\b", question)
    assert found is not None
    return found[1], question[: found.start()].split(), question[found.end() : -1].split()


def without_marks(words: list[str]) -> list[str]:
    return [word.rstrip(".,") for word in words]


def is_within(part: list[str], whole: list[str]) -> bool:
    """Whether `part` is left of `whole` when some words go."""
    ahead = iter(whole)
    return all(word in ahead for word in part)


def test_phrases_have_no_mark_within_and_no_function_word_at_an_end() -> None:
    words = SENTENCE.split()
    found = {(" ".join(words[each.first : each.stop]), each.kind) for each in phrases(words)}
    assert {("1906", "number"), ("Port Albert,", "name"), ("Anna Reed,", "name"), ("40 pounds", "number")} <= found
    assert {("harbour of Port Albert,", "other"), ("old harbour", "other"), ("rich farmer.", "other")} <= found
    for text, _ in found:
        parts = text.split()
        assert 1 <= len(parts) <= 4
        assert not {parts[0].lower(), parts[-1].lower()} & BOUNDS_NO_PHRASE
        assert "," not in " ".join(parts[:-1])


@pytest.mark.parametrize(
    ("context", "sentences"),
    [
        ("He left. She stayed! Did they? 40 did.", 4),
        ('He said "go." Then she left.', 2),
        ("He left (late.) Then she left.", 2),
        ("Dr. Reed met J. R. Smith of the U.S. Navy, Mrs. Hill and e.g. me.", 1),
        ("It rose by 3.5 to 4. The end.", 2),
    ],
)
def test_sentences_end_at_a_mark_before_a_capital(context: str, sentences: int) -> None:
    assert len(SENTENCE_END.split(context)) == sentences


def test_a_mark_within_closing_ones_ends_a_phrase_too() -> None:
    words = ["Tom", 'Reed,"', "said", "(Hill.)", "Then"]
    assert (1, 3) not in {(each.first, each.stop) for each in phrases(words)}
    assert (0, 2) in {(each.first, each.stop) for each in phrases(words)}


def test_a_capital_at_the_start_of_a_sentence_is_no_name_and_a_lone_mark_no_phrase() -> None:
    kinds = {each.first: each.kind for each in phrases(["Boats", "–", "Reed", "left"]) if each.stop == each.first + 1}
    assert kinds == {0: "other", 2: "name", 3: "other"}


def test_every_phrase_of_a_sentence_is_there_once() -> None:
    words = ["red", "of", "blue", "green"]
    spans = [(each.first, each.stop) for each in phrases(words)]
    assert sorted(spans) == [(0, 1), (0, 3), (0, 4), (2, 3), (2, 4), (3, 4)]


def test_a_question_has_words_around_one_phrase_of_one_sentence() -> None:
    """In their order, or with those after the phrase first; and the word asked with fits the phrase."""
    orders = set()
    for question in drawn(count=600):
        asked, first, second = asked_and_words(question)
        assert FEWEST <= len(first) + len(second) <= 2 * AROUND[1]
        assert len(first) <= AROUND[1]
        fits = set()
        for sentence in (SENTENCE, OTHER):
            words = sentence.split()
            for phrase in phrases(words):
                left = without_marks(words[max(0, phrase.first - AROUND[1]) : phrase.first])
                right = without_marks(words[phrase.stop : phrase.stop + AROUND[1]])
                if asked not in QUESTION_WORDS[phrase.kind]:
                    continue
                if is_within(without_marks(first), left) and is_within(without_marks(second), right):
                    fits.add("kept")
                # Those after come first: all of `second`, then what was before the phrase.
                if not first and any(
                    is_within(without_marks(second[:cut]), right) and is_within(without_marks(second[cut:]), left)
                    for cut in range(len(second) + 1)
                ):
                    fits.add("swapped")
        assert fits, question
        orders |= fits if len(fits) == 1 else set()
    assert orders == {"kept", "swapped"}


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left out, and all of the sentence stands around."""
    monkeypatch.setattr("stages.core.data.cloze.LEFT_OUT", 0.0)
    monkeypatch.setattr("stages.core.data.cloze.AROUND", (90, 90))


@pytest.mark.usefixtures("whole")
def test_with_all_words_around_a_question_is_the_sentence_with_the_phrase_asked_for() -> None:
    sentence = ["Old", "boats", "of", "Reed", "left", "40", "ports", "early."]
    words = [word.rstrip(".") for word in sentence]  # no mark is left, wherever its word stands
    wanted = set()
    for phrase in phrases(sentence):
        before, after = words[: phrase.first], words[phrase.stop :]
        for asked in QUESTION_WORDS[phrase.kind]:
            wanted |= {" ".join([*before, asked, *after]) + "?", " ".join([asked, *after, *before]) + "?"}
    assert set(drawn(" ".join(sentence), 6000)) == wanted


@pytest.mark.usefixtures("whole")
def test_the_phrase_in_the_question_words_place_is_the_sentence() -> None:
    first = "Là the “old boats” left."  # too short to be asked about; with words of the other
    sentence = "Old\xa0boats of Reed left 40 ports early"
    context = f"{first} \n{sentence}."
    begin, kinds = len(first) + 2, {}
    places = list(re.finditer(r"\S+", sentence))
    for each in phrases(sentence.split()):
        start, stop = places[each.first].start(), places[each.stop - 1].end()
        kinds[begin + start, sentence[start:stop]] = each.kind
    seen = set()
    for question, answer in drawn_with_answers(context, 900):
        seen.add((answer.start, answer.text))
        before = sentence[: answer.start - begin].split()
        after = sentence[answer.start - begin + len(answer.text) :].split()
        asked, *sides = asked_and_words(question)
        assert sides in ([before, after], [[], [*after, *before]]), (question, answer)
        assert asked in QUESTION_WORDS[kinds[answer.start, answer.text]]
    assert seen == set(kinds)
    assert all(context[start:].startswith(text) for start, text in seen)


def answers_of(context: str) -> set[str]:
    answers = {answer for _, answer in drawn_with_answers(context, 900)}
    assert all(context[answer.start :].startswith(answer.text) for answer in answers)
    return {answer.text for answer in answers}


def test_an_answer_has_no_quotes_and_marks_around_it() -> None:
    texts = answers_of('To him "Old Port", (the harbour) and ‘more’ of that all: was as it had been at noon—.')
    assert {"Old", "Old Port", "harbour", "more", "noon"} <= texts
    assert not {character for text in texts for character in text[0] + text[-1]} & set("\"'‘’(),:.—")


def test_brackets_and_points_that_belong_to_an_answer_stay() -> None:
    texts = answers_of("They met Anna Smith (1906), then one U.S. boat (Reed) and the new (red) harbour, [a] port.")
    assert {
        "Smith (1906)",
        "Anna Smith (1906)",
        "1906",
        "U.S.",
        "boat (Reed)",
        "(red) harbour",
    } <= texts
    assert {"red", "Reed", "port"} <= texts
    assert all(text.count(one) == text.count(other) for text in texts for one, other in ("()", "[]")), texts
    assert not any(text.endswith(".") and text != "U.S." and not text.endswith(" U.S.") for text in texts)


@pytest.mark.usefixtures("whole")
def test_a_name_is_asked_for_three_times_as_often_as_another_phrase() -> None:
    words = ["one", "two", "three", "four", "Reed", "six", "seven", "eight"]
    found = phrases(words)
    names = sum(each.kind == "name" for each in found)
    asked = drawn(" ".join(words), 6000)
    # With `who`, which asks for names alone, as often as with each of the other words that do.
    share = sum("who" in question.rstrip("?").split() for question in asked) / len(asked)
    assert share == pytest.approx(3 * names / (3 * names + len(found) - names) / 4, rel=0.2)


def test_some_words_are_left_out() -> None:
    """Of twelve words around the only phrase, three at least on each side, about one in seven."""
    words = ["the", "of", "in", "on", "at", "to", "Reed", "for", "and", "or", "but", "not", "so"]
    assert len(phrases(words)) == 1
    left_out = 0
    for question in drawn(" ".join(words), 400):
        shown = [words.index(each) for each in question.rstrip("?").split() if each in words]
        before, after = [each for each in shown if each < 6], [each for each in shown if each > 6]
        # Those next to the phrase are always in reach.
        left_out += len({3, 4, 5} - set(before)) + len({7, 8, 9} - set(after))
    assert left_out / (6 * 400) == pytest.approx(LEFT_OUT, rel=0.2)


def test_a_question_ends_without_a_mark_of_its_sentence() -> None:
    questions = drawn()
    assert len(set(questions)) > 200
    assert all(question.endswith("?") and not question.endswith((".?", ",?", " ?")) for question in questions)


@pytest.mark.parametrize("length", [SENTENCE_WORDS.start - 1, SENTENCE_WORDS.stop])
def test_sentences_that_are_too_short_or_too_long_are_not_asked_about(length: int) -> None:
    assert drawn(" ".join(f"word{number}" for number in range(length)), 50) == []


def test_a_sentence_of_function_words_is_not_asked_about() -> None:
    assert drawn("it was of the and in this.", 50) == []


PARAGRAPHS = [Paragraph("A", CONTEXT), Paragraph("B", OTHER)]


def keys(examples: list[Example]) -> list[tuple[str, str]]:
    return [(each.context, each.question) for each in examples]


def test_as_many_different_questions_as_asked_for_with_their_phrases() -> None:
    found = cloze_questions(PARAGRAPHS, 80, seed=1)
    assert len(found) == len(set(keys(found))) == len({each.id for each in found}) == 80
    for each in found:
        assert each.answers == (each.label,) and each.context[each.label.start :].startswith(each.label.text)
    assert {(each.title, each.context) for each in found} == {(each.title, each.context) for each in PARAGRAPHS}


def test_draws_are_decided_by_their_seed_and_more_begin_with_the_same() -> None:
    few, many = cloze_questions(PARAGRAPHS, 20, seed=1), cloze_questions(PARAGRAPHS, 60, seed=1)
    assert many[:20] == few
    assert keys(cloze_questions(PARAGRAPHS, 20, seed=2)) != keys(few)


def test_a_paragraph_given_twice_is_drawn_no_more_often() -> None:
    assert cloze_questions(PARAGRAPHS + PARAGRAPHS[:1] * 9, 60, seed=1) == cloze_questions(PARAGRAPHS, 60, seed=1)


def test_draws_that_fail_now_and_then_end_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.core.data.cloze.MISSES", 40)
    assert len(cloze_questions([*PARAGRAPHS[:1], Paragraph("C", "Too short.")], 100, seed=1)) == 100


def test_none_asked_for_none_drawn() -> None:
    assert cloze_questions([], 0, seed=1) == cloze_questions(PARAGRAPHS, 0, seed=1) == []


@pytest.mark.parametrize("contexts", [(), ("Too short.",), ("one two three four five six",)])
def test_more_than_paragraphs_yield_is_refused_and_what_they_yield_is_not(contexts: tuple[str, ...]) -> None:
    paragraphs = [Paragraph("A", context) for context in contexts]
    start = r"^params.yaml: data.cloze_questions and unlabelled.cloze are 90000 together, wanted at most \d+, which"
    with pytest.raises(InputError, match=start) as told:
        cloze_questions(paragraphs, 90000, seed=1)
    most = int(str(told.value).split("at most ")[1].split(",")[0])
    assert len(cloze_questions(paragraphs, most, seed=1)) == most
    assert (most > 0) == (len(contexts) > 0 and "six" in contexts[0])
    with pytest.raises(InputError, match=rf"are {most + 1} together, wanted at most {most}, which"):
        cloze_questions(paragraphs, most + 1, seed=1)


def test_questions_that_cannot_be_cut_are_left_out_and_the_others_drawn_as_before() -> None:
    paragraphs = [Paragraph("A", CONTEXT), Paragraph("A", CONTEXT.replace(" ", "\n", 1))]
    every = cloze_questions(paragraphs, 12, seed=1)
    assert {each.context for each in every} == {CONTEXT}, "white space makes no other paragraph"
    refused = {every[2].question, every[5].question}
    left = cloze_questions(paragraphs, 10, 1, lambda each: "too long" * (each.question in refused))
    assert [each.question for each in left] == [each.question for each in every if each.question not in refused]
    assert [each.id for each in left] == [f"cloze {number}" for number in range(10)]
    with pytest.raises(InputError, match="wanted at most 0"):
        cloze_questions(paragraphs, 1, 1, lambda each: "too long")
