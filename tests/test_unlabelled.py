"""Inputs without labels: what may be drawn is drawn, by seed, each at most once, and nothing of dev or test."""

import json
from pathlib import Path

import pytest

from stages.core.data.examples import Answer, Example, Paragraph, write_squad
from stages.core.data.unlabelled import at_other_offsets, on_other_paragraphs, on_paragraphs, read_pool
from stages.core.errors import InputError


def example(key: str, title: str, context: str) -> Example:
    return Example(key, title, context, f"who is {key}?", (Answer(context.split()[0], 0),))


LABELLED = [
    example("a", "A", "one two three four five six"),
    example("b", "A", "un deux trois"),
    example("c", "B", "eins zwei"),
]
TWICE = [example(key, "A", "uno dos tres") for key in "de"]
POOL = [*LABELLED, *TWICE, example("f", "C", "yksi kaksi")]


def pairs(drawn: list[Example]) -> set[tuple[str, str]]:
    assert all(each.answers == () for each in drawn)
    assert len({each.id for each in drawn}) == len(drawn)
    return {(each.question, each.context) for each in drawn}


def test_other_offsets_are_words_of_the_first_half() -> None:
    drawn = at_other_offsets(LABELLED, 3, seed=1, taken=())
    assert pairs(drawn) == {
        ("who is a?", "two three four five six"),
        ("who is a?", "three four five six"),
        ("who is b?", "deux trois"),
    }
    assert {each.title for each in drawn} == {"A"}


def test_a_text_that_is_taken_is_not_left_over() -> None:
    drawn = at_other_offsets(LABELLED, 2, seed=1, taken={"deux\n trois"})
    assert {each.question for each in drawn} == {"who is a?"}


def test_other_paragraphs_are_those_of_the_article() -> None:
    drawn = on_other_paragraphs(LABELLED, POOL, 4, seed=1)
    assert pairs(drawn) == {
        ("who is a?", "un deux trois"),
        ("who is a?", "uno dos tres"),
        ("who is b?", "one two three four five six"),
        ("who is b?", "uno dos tres"),
    }


def test_articles_without_a_name_are_not_one() -> None:
    nameless = [example("a", "", "one two"), example("b", "", "un deux")]
    with pytest.raises(InputError, match="other_paragraphs is 1, wanted at most 0"):
        on_other_paragraphs(nameless, nameless, 1, seed=1)


def test_paragraphs_are_asked_questions_of_their_article_and_of_others_about_as_often() -> None:
    paragraphs = [Paragraph("AB"[number % 2], f"text {number}") for number in range(200)]
    drawn = on_paragraphs(paragraphs, LABELLED, 200, seed=1)
    assert [each.context for each in drawn] == [paragraph.context for paragraph in paragraphs]
    title_of = {each.question: each.title for each in LABELLED}
    own = sum(title_of[each.question] == each.title for each in drawn)
    assert 70 < own < 130


def test_a_title_with_other_spaces_is_of_the_same_article() -> None:
    """So its paragraphs are asked its questions about half of the time, and nothing else where there are no others."""
    questions = [example("a", "Old_Kings", "one"), example("b", "New Kings", "two")]
    paragraphs = [Paragraph("old kings", f"text {number}") for number in range(40)]
    drawn = on_paragraphs(paragraphs, questions, 40, seed=1)
    own = sum(each.question == "who is a?" for each in drawn)
    assert 8 < own < 32
    only = on_paragraphs(paragraphs, questions[:1], 40, seed=1)
    assert {each.question for each in only} == {"who is a?"}


@pytest.mark.parametrize(("title", "asked"), [("A", {"a", "b"}), ("Z", {"a", "b"})])
def test_where_one_kind_of_question_lacks_the_other_is_asked(title: str, asked: set[str]) -> None:
    paragraphs = [Paragraph(title, f"text {number}") for number in range(20)]
    drawn = on_paragraphs(paragraphs, LABELLED[:2], 20, seed=1)
    assert {each.question for each in drawn} == {f"who is {key}?" for key in asked}


def test_draws_are_decided_by_their_seed() -> None:
    paragraphs = [Paragraph("A", f"text {number}") for number in range(50)]

    def draw(seed: int) -> list[list[Example]]:
        return [
            at_other_offsets(LABELLED, 2, seed, taken=()),
            on_other_paragraphs(LABELLED, POOL, 2, seed),
            on_paragraphs(paragraphs, LABELLED, 10, seed),
        ]

    assert draw(1) == draw(1)
    for kind in range(3):
        assert any(draw(seed)[kind] != draw(1)[kind] for seed in range(2, 12))


def test_none_asked_for_none_drawn() -> None:
    assert at_other_offsets(LABELLED, 0, 1, taken=()) == on_other_paragraphs(LABELLED, POOL, 0, 1) == []
    assert on_paragraphs([], [], 0, 1) == []


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match=r"^params.yaml: unlabelled.other_offsets is 4, wanted at most 3, which"):
        at_other_offsets(LABELLED, 4, seed=1, taken=())
    with pytest.raises(InputError, match=r"^params.yaml: unlabelled.other_paragraphs is 5, wanted at most 4, which"):
        on_other_paragraphs(LABELLED, POOL, 5, seed=1)
    for questions, most in ((LABELLED, 1), ([], 0)):
        with pytest.raises(InputError, match=f"unlabelled.paragraphs is 2, wanted at most {most}, which"):
            on_paragraphs([Paragraph("A", "text")], questions, 2, seed=1)


def write(path: Path, *paragraphs: tuple[str, list[tuple[str, str]]]) -> str:
    """A file of one article: contexts with (id, question) pairs that have no answers."""
    texts = [
        {"context": context, "qas": [{"id": key, "question": asked, "answers": []} for key, asked in qas]}
        for context, qas in paragraphs
    ]
    path.write_text(json.dumps({"data": [{"title": "A", "paragraphs": texts}]}))
    return str(path)


def test_paragraphs_need_no_question_and_questions_no_answer(tmp_path: Path) -> None:
    source = write(tmp_path / "a.json", ("text", [("q", "who?")]), ("alone", []), ("dev", [("r", "what?")]))
    write_squad(tmp_path / "b.json", [example("s", "B", "more text"), example("t", "B", "dev")])
    sources = [source, str(tmp_path / "b.json")]
    paragraphs, questions, dropped = read_pool(sources, tmp_path, "error", taken={"dev"}, articles=())
    assert paragraphs == [Paragraph("A", "text"), Paragraph("A", "alone"), Paragraph("B", "more text")]
    assert [(each.id, each.title, each.answers) for each in questions] == [("q", "A", ()), ("s", "B", ())]
    assert not dropped


def test_a_source_of_bare_text_needs_neither_key(tmp_path: Path) -> None:
    texts = [{"context": "alone"}, {"context": "asked", "qas": [{"id": "q", "question": "who?"}]}]
    (tmp_path / "a.json").write_text(json.dumps({"data": [{"paragraphs": texts}]}))
    paragraphs, questions, _ = read_pool([str(tmp_path / "a.json")], tmp_path, "error", taken=(), articles=())
    assert [each.context for each in paragraphs] == ["alone", "asked"]
    assert [each.question for each in questions] == ["who?"]


def test_nothing_comes_from_an_article_that_dev_or_test_holds(tmp_path: Path) -> None:
    named = write(tmp_path / "a.json", ("text", [("q", "who?")]))
    write_squad(tmp_path / "b.json", [example("s", "", "nameless text")])
    texts = ("Old kings (\u00e9)", "New kings")
    for name in texts:
        (tmp_path / f"{name}.txt").write_text(f"{name} alone\n\nfound  elsewhere\n")
    sources = [named, *(str(tmp_path / name) for name in ("b.json", *(f"{name}.txt" for name in texts)))]
    shut = {"A", "", "Old/Kings_(e\u0301)"}
    taken = {"found\nelsewhere "}
    paragraphs, questions, _ = read_pool(sources, tmp_path, "error", taken=taken, articles=shut)
    assert [each.context for each in paragraphs] == ["nameless text", "New kings alone"]
    assert [each.id for each in questions] == ["s"]


def test_records_that_are_not_sound_stop_or_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "a.json", ("text", [("q", " "), ("r", "who?"), ("r", "again?")]))
    with pytest.raises(InputError, match=r"(?s)id 'r': duplicate_id.*id 'q': empty_question.*set it to skip"):
        read_pool([source], tmp_path, "error", taken=(), articles=())
    paragraphs, questions, dropped = read_pool([source], tmp_path, "skip", taken=(), articles=())
    assert paragraphs == [Paragraph("A", "text")]
    assert [each.question for each in questions] == ["who?"]
    assert dropped == {"empty_question": 1, "duplicate_id": 1}
    assert capsys.readouterr().out.count("skipped: ") == 2


def test_paragraphs_that_are_not_sound_stop_or_are_left_out_with_or_without_questions(tmp_path: Path) -> None:
    source = write(tmp_path / "a.json", ("text", []), ("  ", []), (" ", [("q", "who?")]))
    latin = tmp_path / "b.json"
    latin.write_bytes(b'{"data": [{"paragraphs": [{"context": "caf\xe9"}, {"context": ["a", "list"]}]}]}')
    sources = [source, str(latin)]
    with pytest.raises(InputError) as caught:
        read_pool(sources, tmp_path, "error", taken=(), articles=())
    for told in (f"{latin}: article '', paragraph 0: invalid_utf8", f"{latin}: article '', paragraph 1: malformed"):
        assert told in str(caught.value)
    paragraphs, questions, dropped = read_pool(sources, tmp_path, "skip", taken=(), articles=())
    assert paragraphs == [Paragraph("A", "text")]
    assert not questions
    assert dropped == {"empty_context": 2, "invalid_utf8": 1, "malformed": 1}, "that of a question counts once"
