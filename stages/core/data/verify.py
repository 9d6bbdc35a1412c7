"""What prepared data must satisfy before anything is trained on it, measured.

Two figures catch the usual ways in which extractive QA data is silently wrong (offsets that drift, windows that cut
answers off, a tokenizer that loses characters): the share of training labels that decode to the gold text, and the
F1 of an oracle that reads every answer off its windows' labels, as far as a search would. Both must be nearly 100.
"""

from collections.abc import Sequence

import numpy as np
import torch

from stages.core.data.examples import Example
from stages.core.data.windows import Windows, decode_label
from stages.core.errors import InputError
from stages.core.qa.scoring import score

LEAST_PERCENT = 99.0  # of labels that decode, and of the oracle's F1


def describe(examples: Sequence[Example], windows: Windows, max_answer_length: int) -> dict[str, float]:
    """Return counts, length percentiles in tokens, percent of labels that decode, and the windows' oracle F1.

    The oracle gives at most the first `max_answer_length` tokens of a label, as many as the span search does.
    """
    decoded = _oracle(examples, windows)
    in_reach = _oracle(examples, windows, max_answer_length)
    labelled = [example for example in examples if example.id in decoded]
    exact = sum(decoded[example.id] == example.label.text for example in labelled)
    lengths = np.percentile(windows.lengths.numpy(), [50, 95, 100])
    return {
        "articles": len({example.title for example in examples}),
        "paragraphs": len({example.context for example in examples}),
        "questions": len(examples),
        "windows": len(windows),
        "windows_without_answer": int((windows.start_positions == 0).sum()),
        "length_p50": float(lengths[0]),
        "length_p95": float(lengths[1]),
        "length_max": float(lengths[2]),
        "labels_decoded_percent": round(100 * exact / max(1, len(labelled)), 3),
        "oracle_f1": round(score(examples, in_reach).mean_f1, 3),
    }


def verify(split: str, described: dict[str, float]) -> None:
    """Raise InputError where one of the two figures of `describe` is below 99."""
    for key, meaning in (
        (
            "labels_decoded_percent",
            "labels do not decode to their gold text: check answer_start, of cloze the text, and the tokenizer",
        ),
        (
            "oracle_f1",
            "windows do not hold their answers: raise windows.max_length or windows.doc_stride; "
            "or gold spans are longer than decode.max_answer_length: raise that",
        ),
    ):
        if described[key] < LEAST_PERCENT:
            raise InputError(f"data: {split}: {key} is {described[key]}, wanted {LEAST_PERCENT} or more; {meaning}")


def _oracle(examples: Sequence[Example], windows: Windows, most: int | None = None) -> dict[str, str]:
    """Return the text each question's first labelled window marks, its first `most` tokens if given.

    Questions that no window answers are left out.
    """
    contexts = {example.id: example.context for example in examples}
    decoded: dict[str, str] = {}
    for row in torch.nonzero(windows.start_positions).flatten().tolist():
        key = windows.question_ids[row]
        decoded.setdefault(key, decode_label(windows, row, contexts[key], most))
    return decoded
