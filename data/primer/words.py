"""Words, stems and sentences by plain rules: the same for every corpus that is measured, and no model needed."""

import re

# Words that say how a sentence is built and little about its matter; question words are among them.
_FUNCTION_WORDS = """
    a about after also an and are as at be been before being between but by can could did do does down during for from
    had has have he her his how if in into is it its many may might much my no nor not of off on or our out over s
    should so such t that the their them then there these they this those to under up was we were what when where
    which while who whom whose why will with would you your
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
_WORD = re.compile(r"\w+")
# A full stop and white space end a sentence where a capital, a digit or a quotation mark follows.
_SENTENCE_END = re.compile(r"[.!?][\"'”’)]*\s+(?=[A-Z0-9\"'“‘(ÁÉÎÖÜÅØÇŠŽ])")


def words(text: str) -> list[str]:
    """Return the runs of letters and digits of `text`, in lower case."""
    return _WORD.findall(text.lower())


def stem(word: str) -> str:
    """Cut off one common English ending, so that "lamps" meets "lamp"; three letters at least remain."""
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word


def content_stems(text: str) -> list[str]:
    """Return the stems of the words of `text` that are not function words."""
    return [stem(word) for word in words(text) if word not in FUNCTION_WORDS]


def sentences(text: str) -> list[tuple[int, int]]:
    """Return the first character of each sentence and one past its last; together they cover `text`."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return list(zip([0, *ends], [*ends, len(text)], strict=True))
