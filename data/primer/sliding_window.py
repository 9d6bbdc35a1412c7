"""The sliding-window baseline: what a question's words give away without any understanding.

After Richardson et al. 2013, "MCTest", in the form that Rajpurkar et al. 2016, "SQuAD", give it for spans. There the
candidates are the constituents of a parse; here, without a parser:

- a candidate is a run of up to MAX_WORDS words inside one sentence which begins and ends with a content word, holds no
  content word of the question, no punctuation and no function word but those in INNER, and which cannot be made longer;
- a word x that occurs C(x) times in the paragraph weighs log(1 + 1 / C(x)), so that rare words count most; words are
  compared by their stems;
- the sentence's score is the weight of the question's content words in it, each counted once, plus the mean weight of
  every pair of neighbouring words that it shares with the question;
- the window's score is the greatest weight of question words in any window that holds the candidate, stays in its
  sentence and is longer than it by the number of different content words in the question;
- the candidate with the greatest sum wins; of equals the longer, then the earlier.

This form (window, ties, no distance term as Richardson et al. have it) scored best of those tried on a quarter of
SQuAD v1.1 dev; nothing was chosen on primer.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from data.primer.words import FUNCTION_WORDS, sentences, stem
from stages.core.data.examples import Example

MAX_WORDS = 8
INNER = frozenset(("of", "the", "and"))
_TOKEN = re.compile(r"\w+(?:['’.,-]\w+)*|[^\w\s]")  # a word with what it holds inside, or one sign


@dataclass(frozen=True)
class Token:
    """A word or sign of a paragraph, with the first character and one past the last."""

    text: str  # lower case
    start: int
    stop: int

    @property
    def is_sign(self) -> bool:
        """Tell whether this is punctuation."""
        return not (self.text[0].isalnum() or self.text[0] == "_")

    @property
    def is_content(self) -> bool:
        """Tell whether this is a word that is not a function word."""
        return not self.is_sign and self.text not in FUNCTION_WORDS


@dataclass(frozen=True)
class Paragraph:
    """A paragraph cut into sentences of tokens, and what each stem weighs in it."""

    sentences: list[list[Token]]
    weights: dict[str, float]


@dataclass(frozen=True)
class Query:
    """What a question looks for: stems of its content words, and pairs of neighbouring stems."""

    stems: frozenset[str]
    pairs: frozenset[tuple[str, str]]


def tokenize(text: str) -> list[Token]:
    """Cut a text into words and signs."""
    return [Token(match.group().lower(), *match.span()) for match in _TOKEN.finditer(text)]


def read_paragraph(context: str) -> Paragraph:
    """Weigh every stem of a paragraph by how rare it is there."""
    tokens = tokenize(context)
    counts = Counter(stem(token.text) for token in tokens)
    cut = [[token for token in tokens if first <= token.start < last] for first, last in sentences(context)]
    return Paragraph(cut, {each: math.log(1 + 1 / count) for each, count in counts.items()})


def read_question(question: str) -> Query:
    """Collect what a question looks for."""
    tokens = [token for token in tokenize(question) if not token.is_sign]
    stems = frozenset(stem(token.text) for token in tokens if token.is_content)
    pairs = pairwise(stem(token.text) for token in tokens)
    return Query(stems, frozenset(pair for pair in pairs if not stems.isdisjoint(pair)))


def answer(paragraph: Paragraph, query: Query) -> tuple[int, int]:
    """Return the first character of the best candidate and one past its last; (0, 0) where there is none."""
    best, span = (0.0, 0, 0), (0, 0)
    for tokens in paragraph.sentences:
        weights = [paragraph.weights[each] if (each := stem(token.text)) in query.stems else 0.0 for token in tokens]
        running = list(accumulate(weights, initial=0.0))
        here = sentence_score(tokens, paragraph, query)
        for first, last in candidates(tokens, weights):
            length = last - first
            score = here + window_score(running, first, last, length + len(query.stems))
            rank = (score, length, -tokens[first].start)
            if span == (0, 0) or rank > best:
                best, span = rank, (tokens[first].start, tokens[last - 1].stop)
    return span


def sentence_score(tokens: Sequence[Token], paragraph: Paragraph, query: Query) -> float:
    """Return the weight of the words and of the pairs of words that a sentence shares with the question."""
    stems = [stem(token.text) for token in tokens]
    shared = set(stems) & query.stems
    pairs = set(pairwise(stems)) & query.pairs
    # Sorted: sums of floats must not depend on the order of a set.
    alone = sum(paragraph.weights[each] for each in sorted(shared))
    return alone + sum((paragraph.weights[one] + paragraph.weights[two]) / 2 for one, two in sorted(pairs))


def window_score(running: Sequence[float], first: int, last: int, size: int) -> float:
    """Return the most question weight in a window of `size` tokens around [first, last); `running` are its sums."""
    end = len(running) - 1
    starts = range(max(0, last - size), first + 1)
    return max(running[min(end, start + size)] - running[start] for start in starts)


def candidates(tokens: Sequence[Token], weights: Sequence[float]) -> Iterator[tuple[int, int]]:
    """Yield the first token of each candidate of one sentence and one past its last."""
    first = 0
    while first < len(tokens):
        if not _opens(tokens[first], weights[first]):
            first += 1
            continue
        last = first + 1  # one past the last content word so far
        for number in range(first + 1, min(len(tokens), first + MAX_WORDS)):
            if _opens(tokens[number], weights[number]):
                last = number + 1
            elif tokens[number].text not in INNER:
                break
        yield first, last
        first = last


def _opens(token: Token, weight: float) -> bool:
    return token.is_content and weight == 0.0


def predict(examples: Sequence[Example]) -> dict[str, str]:
    """Answer every question; id to text."""
    paragraphs: dict[str, Paragraph] = {}
    predictions = {}
    for example in examples:
        if example.context not in paragraphs:
            paragraphs[example.context] = read_paragraph(example.context)
        first, last = answer(paragraphs[example.context], read_question(example.question))
        predictions[example.id] = example.context[first:last]
    return predictions
