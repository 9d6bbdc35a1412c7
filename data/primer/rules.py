"""What must hold of the corpus whatever model reads it: each broken rule is one line of text."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from data.primer.distributions import describe, is_readable
from stages.core.data.examples import Example, read_squad
from stages.core.errors import InputError
from stages.core.qa.scoring import normalize_answer

# Each side's part of the articles, least and most.
SIDES = {"train": (0.70, 0.80), "dev": (0.08, 0.12), "test": (0.12, 0.18)}
MIN_ARTICLES = 80
MIN_QUESTIONS = 1600
PARAGRAPHS_AN_ARTICLE = range(4, 5 + 1)
WORDS_A_PARAGRAPH = range(60, 130 + 1)
QUESTIONS_A_PARAGRAPH = range(4, 6 + 1)
GOLDS_A_QUESTION = {"train": range(1, 1 + 1), "dev": range(1, 3 + 1), "test": range(1, 3 + 1)}
MAX_QUESTION_WORD = 0.5
MIN_FIFTH = 0.12
# SQuAD v1.1 dev by `distributions.overlap`; the tests measure it again where that file is at hand.
SQUAD_OVERLAP = 0.610

Document = dict[str, Any]


def read_document(path: Path) -> Document:
    """Read one side as plain JSON."""
    document: Document = json.loads(path.read_text(encoding="utf-8"))
    return document


def render(document: Document) -> str:
    """Lay a document out with one line a paragraph, so that a change of one question is a change of one line."""
    articles = []
    for article in document["data"]:
        lines = ",\n".join("  " + json.dumps(each, ensure_ascii=False) for each in article["paragraphs"])
        title = json.dumps(article["title"], ensure_ascii=False)
        articles.append(f' {{"title": {title}, "paragraphs": [\n{lines}\n ]}}')
    version = json.dumps(document["version"])
    return f'{{"version": {version}, "data": [\n' + ",\n".join(articles) + "\n]}\n"


def broken_rules(folder: Path) -> list[str]:
    """Return a line for every broken rule of the corpus in `folder`; an empty list is what is wanted."""
    paths = {side: folder / f"{side}.json" for side in SIDES}
    try:  # first what every reader of SQuAD v1.1 checks: offsets exact, ids used once, nothing empty
        examples = {side: read_squad(path) for side, path in paths.items()}
    except InputError as error:
        return str(error).splitlines()
    documents = {side: read_document(path) for side, path in paths.items()}
    faults = [f"{paths[side]}: not one line a paragraph" for side in SIDES if not has_layout(paths[side])]
    for side in SIDES:
        faults += form_faults(side, documents[side])
        faults += [fault for example in examples[side] for fault in question_faults(side, example)]
    faults += size_faults(documents)
    faults += repetition_faults(documents)
    faults += distribution_faults([example for side in SIDES for example in examples[side]])
    return faults


def has_layout(path: Path) -> bool:
    """Tell whether a file is laid out as `render` does it."""
    return path.read_text(encoding="utf-8") == render(read_document(path))


def form_faults(side: str, document: Document) -> Iterator[str]:
    """Find articles and paragraphs of the wrong size."""
    for article in document["data"]:
        place = f"{side}: '{article['title']}'"
        if (count := len(article["paragraphs"])) not in PARAGRAPHS_AN_ARTICLE:
            yield f"{place}: {count} paragraphs, want {_span(PARAGRAPHS_AN_ARTICLE)}"
        for number, paragraph in enumerate(article["paragraphs"], 1):
            if (count := len(paragraph["context"].split())) not in WORDS_A_PARAGRAPH:
                yield f"{place}, paragraph {number}: {count} words, want {_span(WORDS_A_PARAGRAPH)}"
            if (count := len(paragraph["qas"])) not in QUESTIONS_A_PARAGRAPH:
                yield f"{place}, paragraph {number}: {count} questions, want {_span(QUESTIONS_A_PARAGRAPH)}"


def question_faults(side: str, example: Example) -> Iterator[str]:
    """Find what is wrong with one question and its answers."""
    place = f"{side}: '{example.id}'"
    texts = [answer.text for answer in example.answers]
    if not example.question.endswith("?"):
        yield f"{place}: no question mark at the end"
    if len(texts) not in GOLDS_A_QUESTION[side] or len(set(texts)) < len(texts):
        yield f"{place}: {len(texts)} answers, want {_span(GOLDS_A_QUESTION[side])}, none twice"
    if is_readable(example):
        yield f"{place}: an answer can be read off the question"
    for answer in example.answers:
        stop = answer.start + len(answer.text)
        if not normalize_answer(answer.text):
            yield f"{place}: {answer.text!r} normalises to nothing"
        if answer.text != answer.text.strip(" ,;:"):
            yield f"{place}: {answer.text!r} begins or ends with a space or a comma"
        if any(one.isalnum() and two.isalnum() for one, two in _edges(example.context, answer.start, stop)):
            yield f"{place}: {answer.text!r} cuts a word"


def _edges(context: str, start: int, stop: int) -> Iterator[tuple[str, str]]:
    """Return the two characters on either side of the beginning, and of the end, of a span."""
    padded = f" {context} "
    return (pair for place in (start, stop) for pair in pairwise(padded[place : place + 2]))


def size_faults(documents: dict[str, Document]) -> Iterator[str]:
    """Find too few articles or questions, and sides out of proportion."""
    articles = {side: len(document["data"]) for side, document in documents.items()}
    total = sum(articles.values())
    questions = sum(len(paragraph["qas"]) for _, _, paragraph in _paragraphs(documents))
    if total < MIN_ARTICLES:
        yield f"all: {total} articles, want {MIN_ARTICLES}"
    if questions < MIN_QUESTIONS:
        yield f"all: {questions} questions, want {MIN_QUESTIONS}"
    for side, (least, most) in SIDES.items():
        if not least <= articles[side] / total <= most:
            yield f"{side}: {articles[side]} of {total} articles, want {least:.0%} to {most:.0%}"


def repetition_faults(documents: dict[str, Document]) -> Iterator[str]:
    """Find titles, paragraphs and questions that stand twice, on one side or on two."""
    titles = [article["title"] for document in documents.values() for article in document["data"]]
    contexts = [paragraph["context"] for _, _, paragraph in _paragraphs(documents)]
    questions = [qa["question"] for _, _, paragraph in _paragraphs(documents) for qa in paragraph["qas"]]
    for kind, texts in (("title", titles), ("paragraph", contexts), ("question", questions)):
        yield from (f"all: {kind} twice: '{text[:80]}'" for text in _repeated(texts))


def _repeated(texts: Iterable[str]) -> list[str]:
    """Return what occurs twice when case, punctuation and the words a, an, the do not count."""
    return [text for text, count in Counter(map(normalize_answer, texts)).items() if count > 1]


def distribution_faults(examples: Sequence[Example]) -> Iterator[str]:
    """Find what makes the questions too alike or too easy to match."""
    found = describe(examples)
    for word, share in found.question_words.items():
        if share > MAX_QUESTION_WORD:
            yield f"all: '{word}' asks {share:.1%} of the questions, want at most {MAX_QUESTION_WORD:.0%}"
    for number, share in enumerate(found.fifths, 1):
        if share < MIN_FIFTH:
            yield f"all: fifth {number} holds {share:.1%} of the answers, want at least {MIN_FIFTH:.0%}"
    if found.overlap > SQUAD_OVERLAP:
        yield f"all: overlap of question and sentence is {found.overlap:.3f}, want at most {SQUAD_OVERLAP:.3f} (SQuAD)"


def _paragraphs(documents: dict[str, Document]) -> Iterator[tuple[str, str, Any]]:
    for side, document in documents.items():
        for article in document["data"]:
            yield from ((side, article["title"], paragraph) for paragraph in article["paragraphs"])


def _span(numbers: range) -> str:
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
