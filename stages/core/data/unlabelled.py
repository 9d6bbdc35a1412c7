"""Inputs without labels: questions and texts that no annotator has put together, for a teacher to answer.

A teacher's answer needs no gold span, so a cache may hold more windows than there are labels. Three ways to get them
are here: a labelled question on its paragraph from another place on, on another paragraph of its article, and
paragraphs of further sources, asked a question of their own article or of another; questions made of the paragraphs'
own words are in stages/core/data/cloze.py. All are drawn by seed, each at most once.
"""

import random
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from stages.core.data.examples import (
    Example,
    Fault,
    Paragraph,
    Record,
    Refusal,
    cut_all,
    cutting_fault,
    distinct,
    find_fault,
    one_line,
)
from stages.core.data.sources import read_bare_questions, read_paragraphs
from stages.core.data.splits import Dropped, drop_faults
from stages.core.errors import InputError

WORD_START = re.compile(r"(?<=\s)\S")


def at_other_offsets(labelled: Sequence[Example], count: int, seed: int, *, taken: Collection[str]) -> list[Example]:
    """Draw `count` of the questions on their paragraphs without the first words, at least half of a paragraph left.

    A question may be drawn with several beginnings. No text left is one of `taken`. Raises InputError if there are
    fewer.
    """
    shut = {one_line(text) for text in taken}
    free = {
        context: [place for place in _word_starts(context) if one_line(context[place:]) not in shut]
        for context in ({each.context for each in labelled} if count else ())
    }
    starts = [free.get(each.context, []) for each in labelled]
    drawn = []
    for number, choice in _draw([len(places) for places in starts], count, seed, "other_offsets"):
        each, place = labelled[number], starts[number][choice]
        drawn.append(replace(each, id=f"{each.id} from {place}", context=each.context[place:], answers=()))
    return drawn


def on_other_paragraphs(labelled: Sequence[Example], pool: Iterable[Example], count: int, seed: int) -> list[Example]:
    """Draw `count` pairs of a question and another paragraph of its article, out of those of `pool`.

    A nameless article has no other paragraph. Raises InputError if there are fewer.
    """
    articles: dict[str, dict[str, str]] = {}
    for each in pool:
        if each.title:
            articles.setdefault(each.title, {}).setdefault(one_line(each.context), each.context)
    own = [one_line(each.context) for each in labelled]
    choices = [
        len(texts := articles.get(each.title, {})) - (text in texts) for each, text in zip(labelled, own, strict=True)
    ]
    drawn = []
    for number, choice in _draw(choices, count, seed, "other_paragraphs"):
        each = labelled[number]
        context = [context for text, context in articles[each.title].items() if text != own[number]][choice]
        drawn.append(replace(each, id=f"{each.id} on {choice}", context=context, answers=()))
    return drawn


def on_paragraphs(
    paragraphs: Sequence[Paragraph], questions: Sequence[Example], count: int, seed: int
) -> list[Example]:
    """Draw `count` paragraphs, each asked one question: of its own article or, as often, of another.

    Where there is no question of the one kind it is of the other. Raises InputError if there are fewer paragraphs, or
    no question.
    """
    if count > len(paragraphs) or (count and not questions):
        raise InputError(_too_few("paragraphs", count, len(paragraphs) if questions else 0))
    generator = random.Random(seed)
    articles: dict[str, list[Example]] = {}
    for question in questions:
        articles.setdefault(_plain(question.title), []).append(question)
    drawn = []
    for number in sorted(generator.sample(range(len(paragraphs)), count)):
        own = articles.get(_plain(paragraphs[number].title), [])
        inside = bool(own) and (len(own) == len(questions) or generator.random() < 0.5)
        question = generator.choice(own) if inside else _outside(questions, paragraphs[number].title, generator)
        key = f"{question.id} of paragraph {number}"
        drawn.append(Example(key, paragraphs[number].title, paragraphs[number].context, question.question, ()))
    return drawn


def read_pool(
    sources: Sequence[str],
    corpus: Path,
    on_bad_record: str,
    refuse: Refusal = cut_all,
    *,
    taken: Collection[str],
    articles: Collection[str],
) -> tuple[list[Paragraph], list[Example], Dropped]:
    """Return the sound paragraphs of all sources, their questions without answers, and what was dropped, by fault.

    Paragraphs need no question, questions no answer. Left out, with their questions, are paragraphs whose text is one
    of `taken`, whatever its white space, and those of `articles`, by title, as "AC/DC_(band)" and "AC DC (band)" are
    one; an empty title names none. `refuse` says why one cannot be cut into windows, if so. Raises InputError, a
    line per kind of fault, if there is one and `on_bad_record` is "error", and for a text file that is not UTF-8.
    """
    seen: set[str] = set()
    questions: list[Example] = []
    faults: list[Fault] = []
    told: list[str] = []  # places of questions with a fault, which may be the paragraph's
    for record in (record for source in sources for record in read_bare_questions(source, corpus)):
        if (fault := _fault_but_no_answer(record, seen, refuse)) is not None:
            faults.append(fault)
            told.append(record.place)
        else:
            seen.add(record.example.id)
            questions.append(record.example)
    paragraphs: list[Paragraph] = []
    for paragraph in (paragraph for source in sources for paragraph in read_paragraphs(source, corpus)):
        asked = Record(paragraph.place, Example("", paragraph.title, paragraph.context, "?", ()))
        if (fault := _fault_but_no_answer(asked, set(), refuse)) is None:
            paragraphs.append(paragraph)
        elif not any(f"{place},".startswith(f"{paragraph.place},") for place in told):
            faults.append(fault)
    dropped = drop_faults(faults, on_bad_record)
    shut_texts = {one_line(text) for text in taken}
    shut_titles = {_plain(title) for title in articles if title}

    def is_free(each: Paragraph | Example) -> bool:
        return one_line(each.context) not in shut_texts and _plain(each.title) not in shut_titles

    return (
        [each for each in distinct(paragraphs) if is_free(each)],
        [each for each in questions if is_free(each)],
        dropped,
    )


def _fault_but_no_answer(record: Record, seen: set[str], refuse: Refusal) -> Fault | None:
    fault = find_fault(record, seen)
    return cutting_fault(record, refuse) if fault is None or fault.kind == "no_answer" else fault


def _plain(title: str) -> str:
    """Return a title as files and data sets alike would have it: they change spaces, slashes and capitals."""
    return one_line(re.sub(r"[_/]", " ", unicodedata.normalize("NFC", title))).casefold()


def _word_starts(context: str) -> list[int]:
    """Return where the words of the first half start, the first word apart."""
    return [match.start() for match in WORD_START.finditer(context, 0, len(context) // 2 + 1)]


def _draw(choices: Sequence[int], count: int, seed: int, key: str) -> list[tuple[int, int]]:
    """Draw `count` different pairs (number, choice), choice below choices[number], all equally likely, in order."""
    ends = list(accumulate(choices))
    total = ends[-1] if ends else 0
    if count > total:
        raise InputError(_too_few(key, count, total))
    drawn = sorted(random.Random(seed).sample(range(total), count))
    numbers = [bisect_right(ends, each) for each in drawn]
    return [(number, each - ends[number] + choices[number]) for number, each in zip(numbers, drawn, strict=True)]


def _outside(questions: Sequence[Example], title: str, generator: random.Random) -> Example:
    """Draw a question of another article; there is one."""
    while _plain((question := generator.choice(questions)).title) == _plain(title):
        pass
    return question


def _too_few(key: str, count: int, total: int) -> str:
    return f"params.yaml: unlabelled.{key} is {count}, wanted at most {total}, which is all there are; lower it"
