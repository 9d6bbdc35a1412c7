"""The floor under every table: what answering with a random piece of the context scores.

A model that learned nothing does not score 0. Short gold answers share words with many spans, so F1 has a floor of
several points; a row near it is a broken row.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.core.data.examples import Example
from stages.core.errors import InputError
from stages.core.qa.scoring import score

_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class ChanceFloor:
    """Expected scores in percent of random spans."""

    exact_match: float
    f1: float


def chance_floor(examples: Sequence[Example], *, draws: int, seed: int) -> ChanceFloor:
    """Return the mean exact match and F1 over `draws` random answers to every question.

    A random answer starts anywhere in the context and has as many words as a gold answer drawn from all of them.
    Raises InputError if there is no example or no draw.
    """
    if not examples or draws < 1:
        raise InputError(f"chance floor: {len(examples)} questions and {draws} draws; both must be at least 1")
    generator = np.random.default_rng(seed)
    words = _words_by_context(examples)
    lengths = np.array([len(answer.text.split()) for example in examples for answer in example.answers])
    scores = [score(examples, _random_answers(examples, words, lengths, generator)) for _ in range(draws)]
    return ChanceFloor(
        exact_match=float(np.mean([each.mean_exact_match for each in scores])),
        f1=float(np.mean([each.mean_f1 for each in scores])),
    )


def _words_by_context(examples: Sequence[Example]) -> dict[str, list[tuple[int, int]]]:
    """Return the first and last-plus-one character of every word of every context."""
    return {context: [word.span() for word in _WORD.finditer(context)] for context in {e.context for e in examples}}


def _random_answers(
    examples: Sequence[Example],
    words: dict[str, list[tuple[int, int]]],
    lengths: npt.NDArray[np.int64],
    generator: np.random.Generator,
) -> dict[str, str]:
    available = np.array([len(words[example.context]) for example in examples])
    length = np.clip(generator.choice(lengths, size=len(examples)), 1, available)
    first = generator.integers(0, available - length + 1)
    last = first + length - 1
    return {
        example.id: example.context[words[example.context][start][0] : words[example.context][stop][1]]
        for example, start, stop in zip(examples, first, last, strict=True)
    }
