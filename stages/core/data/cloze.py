"""Questions that nobody wrote: words of a paragraph around a phrase, with a question word in the phrase's place.

A paragraph alone is enough to learn from: a teacher answers these questions as it does others, and what answers one is
known, the phrase. A name or a number is likelier to be asked for than another phrase; which words stand around, which
of them are left out, and whether those after the phrase come first is drawn, or a student would learn to find equal
words in an equal order. After the noisy clozes of Lewis et al. 2019, "Unsupervised Question Answering by Cloze
Translation". Where sentences end, question words, and the words that bound no phrase are English.
"""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stages.core.data.examples import Answer, Example, Paragraph, Refusal, cut_all, distinct
from stages.core.errors import InputError

WORD = re.compile(r"\S+")
MARKS, OPENING, CLOSING = ".,;:!?", "\"'([“‘", "\"')]”’"
AROUND_PHRASE = MARKS + OPENING + CLOSING + "…–—*„«»"  # none of these stays at the ends of an answer but half a pair
PAIRS = (("(", ")"), ("[", "]"), ("“", "”"))
INITIALS = re.compile(r"\b(?:[A-Z]\.)+[A-Z]$")  # "U.S" and the like, whose last point belongs to them
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


def cloze_questions(paragraphs: Iterable[Paragraph], count: int, seed: int, refuse: Refusal = cut_all) -> list[Example]:
    """Draw `count` different questions, the paragraph of each anew, with the phrase; more begin with the same ones.

    One that cannot be cut into windows, for which `refuse` gives a reason, is left out. Raises InputError where the
    paragraphs do not yield so many.
    """
    generator = random.Random(seed)
    pool = distinct(paragraphs)
    drawn: dict[tuple[str, str], Example] = {}
    misses = 0
    while pool and len(drawn) < count and misses < MISSES:
        paragraph = generator.choice(pool)
        found = draw_question(paragraph.context, generator)
        misses += 1
        if found is None or (paragraph.context, found[0]) in drawn:
            continue
        question, phrase = found
        example = Example(f"cloze {len(drawn)}", paragraph.title, paragraph.context, question, (phrase,))
        if not refuse(example):
            drawn[paragraph.context, question], misses = example, 0
    if len(drawn) < count:
        raise InputError(
            f"params.yaml: data.cloze_questions and unlabelled.cloze are {count} together, wanted at most "
            f"{len(drawn)}, which is what {len(pool)} paragraphs yield; lower one, or add to unlabelled.sources"
        )
    return list(drawn.values())


def draw_question(context: str, generator: random.Random) -> tuple[str, Answer] | None:
    """Draw a phrase of the context and return the question for it and the phrase, None where what is drawn has none.

    Of the phrase quotes and marks around it are left off, but for those that belong to it.
    """
    found_words = [list(WORD.finditer(context, *each)) for each in _sentences(context)]
    sentences = [words for words in found_words if len(words) in SENTENCE_WORDS]
    if not sentences:
        return None
    places = generator.choice(sentences)
    words = [place[0] for place in places]
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
        question = _without_mark(" ".join([*before, asked, *after])) + "?"
    else:
        question = _without_mark(" ".join([_without_mark(" ".join([asked, *after])), *before])) + "?"
    return question, _answer(context, places[phrase.first].start(), places[phrase.stop - 1].end())


def _sentences(context: str) -> list[tuple[int, int]]:
    """Return where the sentences of a context start and end."""
    ends = list(SENTENCE_END.finditer(context))
    return list(zip([0, *(end.end() for end in ends)], [*(end.start() for end in ends), len(context)], strict=True))


def _answer(context: str, start: int, stop: int) -> Answer:
    """Return the words from `start` to `stop`, letters or digits at either end of them, without what is around them."""
    bare = context[start:stop].strip(AROUND_PHRASE)
    first = context.index(bare, start)
    last = first + len(bare)
    for opening, closing in PAIRS:
        missing = bare.count(opening) - bare.count(closing)
        if missing > 0 and context[last:stop].startswith(closing):
            last += 1
        if missing < 0 and context[start:first].endswith(opening):
            first -= 1
    if INITIALS.search(bare) and context[last:stop].startswith("."):
        last += 1
    return Answer(context[first:last], first)


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
