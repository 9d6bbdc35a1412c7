"""What a corpus asks and where its answers stand, as shares and means; every gold figure is of the first answer.

The columns of one table can be compared because both corpora go through the same plain rules (`words.py`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from data.primer.words import content_stems, sentences, stem, words
from stages.core.data.examples import Example
from stages.core.qa.scoring import normalize_answer

QUESTION_WORDS = ("what", "how", "which", "who", "where", "when", "why")
FIFTHS = 5
_SAME_WORD = {"whom": "who", "whose": "who"}


@dataclass(frozen=True)
class Distributions:
    """Shares from 0 to 1 of all questions, and means."""

    question_words: dict[str, float]  # the keys are QUESTION_WORDS and "other"; together 1
    answer_words: float  # mean length of the first answer
    short_answers: float  # share of one to three words
    long_answers: float  # share of more than six words
    fifths: tuple[float, ...]  # share of answers whose middle lies in each fifth of the paragraph's characters
    overlap: float  # mean share of the question's content words that the answer's sentence holds
    readable: float  # share of questions that give their own answer away
    golds: float  # mean number of answers a question that differ after normalisation


def describe(examples: Sequence[Example]) -> Distributions:
    """Measure a non-empty corpus."""
    count = len(examples)
    asked = Counter(question_word(each.question) for each in examples)
    lengths = [len(words(each.answers[0].text)) for each in examples]
    fifths = Counter(fifth(each) for each in examples)
    overlaps = [share for each in examples if (share := overlap(each)) is not None]
    return Distributions(
        question_words={word: asked[word] / count for word in (*QUESTION_WORDS, "other")},
        answer_words=fmean(lengths),
        short_answers=sum(length <= 3 for length in lengths) / count,
        long_answers=sum(length > 6 for length in lengths) / count,
        fifths=tuple(fifths[number] / count for number in range(FIFTHS)),
        overlap=fmean(overlaps),
        readable=sum(is_readable(each) for each in examples) / count,
        golds=fmean(len({normalize_answer(answer.text) for answer in each.answers}) for each in examples),
    )


def question_word(question: str) -> str:
    """Return the first question word, wherever it stands; whom and whose count as who, none as "other"."""
    plain = (_SAME_WORD.get(word, word) for word in words(question))
    return next((word for word in plain if word in QUESTION_WORDS), "other")


def fifth(example: Example) -> int:
    """Return 0 to 4: the fifth of the paragraph that holds the middle of the first answer."""
    answer = example.answers[0]
    return min(FIFTHS - 1, int(FIFTHS * (answer.start + len(answer.text) / 2) / len(example.context)))


def overlap(example: Example) -> float | None:
    """Return the share of the question's content words whose stem is in the sentence where the first answer begins.

    None where the question has no content word.
    """
    start = example.answers[0].start
    first, last = next(span for span in sentences(example.context) if span[0] <= start < span[1])
    here = {stem(word) for word in words(example.context[first:last])}
    asked = content_stems(example.question)
    return sum(each in here for each in asked) / len(asked) if asked else None


def is_readable(example: Example) -> bool:
    """Tell whether every content word of one of the answers already stands in the question."""
    asked = set(words(example.question))
    return any(_key_words(answer.text) <= asked for answer in example.answers)


def _key_words(text: str) -> set[str]:
    """Return the words of an answer that carry it: content words, or all of them where it has none."""
    everything = set(words(text))
    return {word for word in everything if content_stems(word)} or everything
