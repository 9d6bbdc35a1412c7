"""The embedded corpus: every rule it was accepted by, and that the checker notices when one is broken."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data.primer.check import figures, read_corpus, table
from data.primer.distributions import describe, fifth, is_readable, overlap, question_word
from data.primer.rules import SQUAD_OVERLAP, Document, broken_rules, read_document, render
from data.primer.sliding_window import predict
from data.primer.words import sentences
from stages.core.data.examples import Answer, Example, read_squad
from stages.core.qa.scoring import score

ROOT = Path(__file__).resolve().parents[1]
PRIMER = ROOT / "data" / "primer"
SQUAD_DEV = "squad-dev-v1.1.json"


@pytest.fixture(scope="module")
def corpus() -> dict[str, list[Example]]:
    return read_corpus(PRIMER)


@pytest.fixture(scope="module")
def squad(real_data: Path) -> list[Example]:
    return read_squad(real_data / SQUAD_DEV)


def example(context: str, question: str, *answers: str) -> Example:
    return Example("q", "t", context, question, tuple(Answer(text, context.index(text)) for text in answers))


def test_every_rule_holds() -> None:
    assert broken_rules(PRIMER) == []


def test_questions_and_answers_are_spread(corpus: dict[str, list[Example]]) -> None:
    found = describe(corpus["all"])
    assert max(found.question_words.values()) <= 0.5
    assert min(found.fifths) >= 0.12
    assert found.overlap <= SQUAD_OVERLAP
    assert found.readable == 0.0


def test_texts_go_beyond_ascii(corpus: dict[str, list[Example]]) -> None:
    contexts = {each.context for each in corpus["all"]}
    assert sum(not context.isascii() for context in contexts) >= len(contexts) / 10


def test_a_second_reader_finds_the_answers(corpus: dict[str, list[Example]]) -> None:
    spans = json.loads((PRIMER / "second_reader.json").read_text(encoding="utf-8"))
    asked = [each for each in corpus["test"] if each.id in spans]
    assert len(asked) == len(spans) == 200
    assert all(spans[each.id] in each.context for each in asked)
    assert score(asked, spans).mean_f1 >= 90


def test_the_overlap_bound_is_what_squad_measures(squad: list[Example]) -> None:
    assert describe(squad).overlap == pytest.approx(SQUAD_OVERLAP, abs=0.0005)


def test_matching_words_gains_no_more_than_on_squad(corpus: dict[str, list[Example]], squad: list[Example]) -> None:
    here, there = (score(each, predict(each)).mean_f1 for each in (corpus["test"], squad))
    assert there > 20  # what Rajpurkar et al. 2016 report of theirs: a baseline worth comparing with
    assert here <= there + 8


def test_the_table_in_the_readme_is_current(corpus: dict[str, list[Example]]) -> None:
    readme = (PRIMER / "README.md").read_text(encoding="utf-8").splitlines()
    for row in table({**corpus})[2:]:
        assert any(line.startswith(row) for line in readme), row


def test_the_checker_runs_as_a_script() -> None:
    done = subprocess.run([sys.executable, PRIMER / "check.py"], capture_output=True, encoding="utf-8", cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("every rule holds\n")


# Each breaks one rule in the test side; `first` is its first question, with two gold answers.


def paragraph(document: Document) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = document["data"][0]["paragraphs"][0]
    return found


def first(document: Document) -> dict[str, object]:
    return paragraph(document)["qas"][0]


def gold(document: Document, text: str) -> None:
    start = str(paragraph(document)["context"]).index(text)
    first(document)["answers"] = [{"text": text, "answer_start": start}]


BREAKAGES: dict[str, Callable[[Document], object]] = {
    "not_at_offset": lambda d: first(d).update(answers=[{"text": "nowhere", "answer_start": 3}]),
    "normalises to nothing": lambda d: gold(d, "the"),
    "begins or ends with a space or a comma": lambda d: gold(d, "a professor at Jena,"),
    "cuts a word": lambda d: gold(d, "hemist"),
    "none twice": lambda d: first(d).update(answers=[*first(d)["answers"], *first(d)["answers"]]),  # type: ignore[misc]
    "read off the question": lambda d: first(d).update(question="More than sixty of what were known?"),
    "question mark": lambda d: first(d).update(question="How many elements."),
    "question twice": lambda d: first(d).update(question=paragraph(d)["qas"][1]["question"]),
    "3 questions, want 4 to 6": lambda d: paragraph(d).update(qas=paragraph(d)["qas"][:3]),
    "words, want 60 to 130": lambda d: paragraph(d).update(context=paragraph(d)["context"] + " word" * 60),  # type: ignore[operator]
    "title twice": lambda d: d["data"][0].update(title="Bread"),
    "3 paragraphs, want 4 to 5": lambda d: d["data"][0].update(paragraphs=d["data"][0]["paragraphs"][:3]),
    "of 103 articles": lambda d: d.update(data=d["data"][:11]),
}


@pytest.mark.parametrize("wanted", BREAKAGES)
def test_a_broken_rule_is_named(wanted: str, tmp_path: Path) -> None:
    for path in PRIMER.glob("*.json"):
        shutil.copy(path, tmp_path)
    document = read_document(tmp_path / "test.json")
    BREAKAGES[wanted](document)
    (tmp_path / "test.json").write_text(render(document), encoding="utf-8")
    assert any(wanted in fault for fault in broken_rules(tmp_path))


def test_another_layout_is_noticed(tmp_path: Path) -> None:
    for path in PRIMER.glob("*.json"):
        shutil.copy(path, tmp_path)
    document = read_document(tmp_path / "dev.json")
    (tmp_path / "dev.json").write_text(json.dumps(document), encoding="utf-8")
    assert broken_rules(tmp_path) == [f"{tmp_path / 'dev.json'}: not one line a paragraph"]


def test_sentences_cover_the_text() -> None:
    text = 'It rained. "Why?" she asked. In 3.5 hours all was dry.'
    spans = sentences(text)
    assert [text[first:last] for first, last in spans] == [
        "It rained. ",
        '"Why?" she asked. ',
        "In 3.5 hours all was dry.",
    ]


@pytest.mark.parametrize(
    ("question", "word"),
    [("By whom was it sold?", "who"), ("In what year, and where?", "what"), ("Name the king.", "other")],
)
def test_question_words(question: str, word: str) -> None:
    assert question_word(question) == word


def test_overlap_counts_the_answers_sentence_only() -> None:
    text = "Lamps burned oil. Towns paid the keepers with coal."
    assert overlap(example(text, "With what did towns pay keepers of lamps?", "coal")) == pytest.approx(2 / 4)
    assert overlap(example(text, "Who is it?", "Towns")) is None
    assert fifth(example(text, "Who is it?", "Towns")) == 2
    assert fifth(example(text, "With what?", "coal")) == 4


@pytest.mark.parametrize(
    ("question", "answer", "readable"),
    [
        ("How far is Paris from Rome?", "Rome", True),
        ("Which city is far away?", "the far city", True),
        ("How far is Paris?", "to Rome", False),
    ],
)
def test_readable_answers(question: str, answer: str, readable: bool) -> None:
    assert is_readable(example(f"It is {answer}.", question, answer)) is readable


def test_the_sliding_window_takes_what_stands_among_the_questions_words() -> None:
    text = "The old mill stood in Kent. In 1820 the miller Tom Brown sold the wheel to a smith. Rain fell."
    asked = [example(text, "Who sold the wheel of the mill to a smith in 1820?", "Tom Brown")]
    assert predict(asked) == {"q": "miller Tom Brown"}


def test_the_sliding_window_answers_nothing_where_all_words_are_the_questions() -> None:
    assert predict([example("Tom sold it.", "What was sold by Tom?", "it")]) == {"q": ""}


def test_figures_of_one_question() -> None:
    found = figures([example("Tom sold it. Rain fell on Kent.", "Where did rain fall?", "Kent")])
    assert found["questions"] == "1"
    assert found["question word: where"] == found["answers in fifth 5 of 5"] == "100.0%"
