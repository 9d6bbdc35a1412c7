"""Exact match and F1 by the official SQuAD v1.1 definition (Rajpurkar et al. 2016, evaluate-v1.1).

No torch: the report scores prediction files without loading a model. Q is the number of questions.
"""

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.core.data.examples import Example

FloatArray = npt.NDArray[np.float64]

# Only ASCII punctuation goes: curly quotes and dashes stay, as in the official script.
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True)
class Scores:
    """Per-question scores in percent, in the order of the examples."""

    exact_match: FloatArray  # (Q,) 0 or 100
    f1: FloatArray  # (Q,) 0 to 100
    missing: int  # questions without a prediction; each scores 0

    @property
    def mean_exact_match(self) -> float:
        """Return the exact match over all questions, in percent."""
        return float(self.exact_match.mean())

    @property
    def mean_f1(self) -> float:
        """Return the F1 over all questions, in percent."""
        return float(self.f1.mean())


def normalize_answer(text: str) -> str:
    """Lower-case, drop ASCII punctuation, drop the words a, an, the, collapse white space; in this order."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(prediction: str, gold_answers: Iterable[str]) -> float:
    """Return 1.0 if the prediction equals any gold answer after normalisation, else 0.0."""
    return float(normalize_answer(prediction) in map(normalize_answer, gold_answers))


def f1(prediction: str, gold_answers: Iterable[str]) -> float:
    """Return the best token-overlap F1 over the gold answers, 0 to 1; two empty texts share no token and score 0."""
    tokens = normalize_answer(prediction).split()
    return max((_token_f1(tokens, normalize_answer(gold).split()) for gold in gold_answers), default=0.0)


def score(examples: Sequence[Example], predictions: Mapping[str, str]) -> Scores:
    """Score predictions (id to text) on examples; a missing one scores 0, one for an unknown id is ignored."""
    pairs = np.zeros((len(examples), 2))
    for row, example in enumerate(examples):
        if example.id in predictions:
            predicted, golds = predictions[example.id], {answer.text for answer in example.answers}
            pairs[row] = exact_match(predicted, golds), f1(predicted, golds)
    missing = sum(example.id not in predictions for example in examples)
    return Scores(exact_match=100.0 * pairs[:, 0], f1=100.0 * pairs[:, 1], missing=missing)


def _token_f1(predicted: Sequence[str], gold: Sequence[str]) -> float:
    """Harmonic mean of precision and recall over the multiset of shared tokens."""
    shared = sum((Counter(predicted) & Counter(gold)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(gold)
    return 2 * precision * recall / (precision + recall)
