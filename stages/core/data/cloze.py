"""Questions that nobody wrote: words of a paragraph around a phrase, with a question word in the phrase's place.

A teacher answers them as it does others, so a paragraph alone is enough to learn from. A name or a number is likelier
to be asked for than another phrase; which words stand around, which of them are left out, and whether those after the
phrase come first is drawn, or a student would learn to find equal words in an equal order. After the noisy clozes of
Lewis et al. 2019, "Unsupervised Question Answering by Cloze Translation". Where sentences end, question words, and the
words that bound no phrase are English.
"""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stages.core.data.examples import Example, Paragraph
from stages.core.errors import InputError

MARKS, CLOSING = ".,;:!?", "\"')]”’"
# A mark, with what closes after it or not, before what may begin a sentence; no initial, no title of a person.
SENTENCE_END = re.compile(
    rf"(?:(?<=[.!?])|(?<=[.!?][{re.escape(CLOSING)}]))(?<!\b[A-Z]\.)(?<!\b(?:Mr|Ms|Dr|St|vs)\.)(?<!\bMrs\.)"
    r"\s+(?=[\"'(\[“‘]?[A-Z0-9])"
)
MARK_AT_END = re.compile(rf"[{MARKS}][{re.escape(CLOSING)}]*$")
SENTENCE_WORDS = range(6, 61)  # shorter ones leave nothing around a phrase, longer ones are lists and tables
PHRASE_WORDS = range(1, 5)
AROUND = (3, 8)  # words on each side of the phrase, at least and at most, where there are so many
FEWEST = 3  # words of the paragraph in a question
LEFT_OUT = 0.15  # of these words, by chance
SOUGHT = 3.0  # times as likely as another phrase, a name or a number is asked for
MISSES = 1000  # draws one after another that yield no new question, before there are taken to be no more
QUESTION_WORDS = {
    "number": ("when", "how many", "what"),
    "name": ("who", "what", "which", "where"),
    "other": ("what", "how", "what kind of", "why"),
}
FUNCTION_WORDS = (
    "a an the this that these those it its he his she her they their we our i my you your who what which when where how"
    " of in on at to for from with by as and or but not no so if than then there here is are was were be been has have"
    " had"
)
BOUNDS_NO_PHRASE = frozenset(FUNCTION_WORDS.split())


@dataclass(frozen=True)
class Phrase:
    """Words `first` to `stop` of a sentence, and what they seem to be, a key of `QUESTION_WORDS`."""

    first: int
    stop: int
    kind: str


def cloze_questions(paragraphs: Iterable[Paragraph], count: int, seed: int) -> list[Example]:
    """Draw `count` different questions without answers, the paragraph of each anew; more begin with the same ones.

    Raises InputError where the paragraphs do not yield so many.
    """
    generator = random.Random(seed)
    pool = list(dict.fromkeys(paragraphs))
    drawn: dict[tuple[str, str], Example] = {}
    misses = 0
    while pool and len(drawn) < count and misses < MISSES:
        paragraph = generator.choice(pool)
        question = draw_question(paragraph.context, generator)
        if question is None or (paragraph.context, question) in drawn:
            misses += 1
            continue
        misses = 0
        key = f"cloze {len(drawn)}"
        drawn[paragraph.context, question] = Example(key, paragraph.title, paragraph.context, question, ())
    if len(drawn) < count:
        raise InputError(
            f"params.yaml: unlabelled.cloze is {count}, wanted at most {len(drawn)}, which is what {len(pool)} "
            "paragraphs yield; lower it, or add to unlabelled.sources"
        )
    return list(drawn.values())


def draw_question(context: str, generator: random.Random) -> str | None:
    """Draw a phrase of the context and return the question for it, None where what is drawn makes none."""
    sentences = [words for each in SENTENCE_END.split(context) if len(words := each.split()) in SENTENCE_WORDS]
    if not sentences:
        return None
    words = generator.choice(sentences)
    found = phrases(words)
    if not found:
        return None
    (phrase,) = generator.choices(found, [1.0 if each.kind == "other" else SOUGHT for each in found])
    sides = (
        words[max(0, phrase.first - generator.randint(*AROUND)) : phrase.first],
        words[phrase.stop : phrase.stop + generator.randint(*AROUND)],
    )
    before, after = ([word for word in side if generator.random() >= LEFT_OUT] for side in sides)
    if len(before) + len(after) < FEWEST:
        return None
    asked = generator.choice(QUESTION_WORDS[phrase.kind])
    if generator.random() < 0.5:
        return _without_mark(" ".join([*before, asked, *after])) + "?"
    return _without_mark(" ".join([_without_mark(" ".join([asked, *after])), *before])) + "?"


def phrases(words: Sequence[str]) -> list[Phrase]:
    """Return the phrases of a sentence that may be asked for: no mark within, a word that bounds one at both ends."""
    bare = [re.sub(r"\W", "", word) for word in words]
    bounds = [bool(word) and word.lower() not in BOUNDS_NO_PHRASE for word in bare]
    ends = [MARK_AT_END.search(word) is not None for word in words]
    return [
        Phrase(first, first + size, _kind(bare[first : first + size], begins=first == 0))
        for size in PHRASE_WORDS
        for first in range(len(words) - size + 1)
        if bounds[first] and bounds[first + size - 1] and not any(ends[first : first + size - 1])
    ]


def _without_mark(text: str) -> str:
    """Return the text without the marks at its end, which may have closing ones after them."""
    return MARK_AT_END.sub("", text.rstrip())


def _kind(words: Sequence[str], *, begins: bool) -> str:
    """Say what a phrase seems to be; its words have no marks. At the start of a sentence a capital says nothing."""
    if any(character.isdigit() for word in words for character in word):
        return "number"
    return "name" if not begins and all(word[:1].isupper() for word in words) else "other"
