"""From start and end logits to answer texts: n-best spans of each window, merged over the windows of a question.

Scores are raw logits, start plus end, so windows of one question compare; a softmax in each window would not
(Clark and Gardner 2018). Every tie has a fixed winner, so that equal models give equal files.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from stages.core.data.examples import Example
from stages.core.data.windows import Windows
from stages.core.errors import InputError

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Spans:
    """The n best spans of each window, best first; a score of -inf means that the window has no further span."""

    start: Tensor  # (B, n) int64, token position inside the window
    end: Tensor  # (B, n) int64, inclusive
    score: Tensor  # (B, n) float32, start logit plus end logit


@dataclass(frozen=True)
class Candidate:
    """One possible answer: context[char_start:char_end]."""

    text: str
    score: float
    char_start: int
    char_end: int


@dataclass(frozen=True)
class _Found:
    """Spans of many windows, one entry each: the columns of a table."""

    window: IntArray
    start: IntArray
    end: IntArray
    score: npt.NDArray[np.float32]


def best_spans(
    start_logits: Tensor, end_logits: Tensor, allowed: Tensor, *, n_best: int, max_answer_length: int
) -> Spans:
    """Return the n best spans of every window of a batch, at once.

    Logits are (B, L), `allowed` (B, L) is true on the context tokens, where a span may start and end; a span has at
    most `max_answer_length` tokens. Order: higher score, then earlier start, then shorter.
    """
    width = min(max_answer_length, start_logits.shape[1])
    start = start_logits.float().masked_fill(~allowed, -torch.inf)
    ends = _ends_in_reach(end_logits.float().masked_fill(~allowed, -torch.inf), width)
    # Of one start, the best span decides: the n best spans begin at the n best starts. The band is small for it.
    kept = _stable_top(start + ends.amax(dim=2), n_best)[1].sort(dim=1).values
    band = start.gather(1, kept)[:, :, None] + ends.gather(1, kept[:, :, None].expand(-1, -1, width))
    score, index = _stable_top(band.flatten(1), n_best)
    first = kept.gather(1, index // width)
    missing = (0, n_best - score.shape[1])
    return Spans(
        start=pad(first, missing),
        end=pad(first + index % width, missing),
        score=pad(score, missing, value=-torch.inf),
    )


def predict_answers(
    examples: Sequence[Example],
    windows: Windows,
    start_logits: Tensor,
    end_logits: Tensor,
    *,
    n_best: int,
    max_answer_length: int,
    batch_size: int,
) -> dict[str, list[Candidate]]:
    """Return up to n_best candidates per question, best first, from flat logits (N,) of its windows.

    Order over windows: higher score, earlier window, earlier start, shorter. A piece of text seen in two windows is
    kept once, at its best score. A question has no candidate if no span is possible. Raises InputError if logits are
    not finite, or the windows are of other questions.
    """
    _check(examples, windows, start_logits, end_logits)
    rows = [
        _search(windows, rows, start_logits, end_logits, n_best, max_answer_length)
        for rows in _similar_lengths(windows, batch_size)
    ]
    return _merge(examples, windows, _concatenate(rows), n_best)


def best_texts(candidates: Mapping[str, Sequence[Candidate]]) -> dict[str, str]:
    """Return the best text of each question, in SQuAD's prediction format; empty where there is no candidate."""
    return {key: found[0].text if found else "" for key, found in candidates.items()}


def _ends_in_reach(end: Tensor, width: int) -> Tensor:
    """Return a view (B, L, width) of end logits (B, L): those of the width tokens from each token on, -inf past L."""
    return pad(end, (0, width - 1), value=-torch.inf).unfold(1, width, 1)


def _stable_top(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return values and indices of the `count` largest scores (B, M), or all; equal ones in the order of the index.

    A stable sort, since `topk` leaves open which of two equal scores it returns.
    """
    values, indices = torch.sort(scores, dim=1, descending=True, stable=True)
    return values[:, :count], indices[:, :count]


def _similar_lengths(windows: Windows, batch_size: int) -> Iterator[Tensor]:
    """Yield window numbers in batches of similar length, so that little of a batch is padding."""
    order = torch.argsort(windows.lengths, stable=True)
    yield from (order[first : first + batch_size] for first in range(0, len(order), batch_size))


def _search(
    windows: Windows, rows: Tensor, start_logits: Tensor, end_logits: Tensor, n_best: int, max_answer_length: int
) -> _Found:
    """Return the possible spans of some windows."""
    position = torch.arange(int(windows.lengths[rows].max()))
    token = (windows.row_splits[rows, None] + position).clamp(max=len(start_logits) - 1)
    # Tokens outside the context cover none of its characters, nor does lone white space of a byte-level vocabulary.
    covers = windows.offset_mapping[token, 1] > windows.offset_mapping[token, 0]
    allowed = covers & (position < windows.lengths[rows, None])
    spans = best_spans(
        start_logits[token], end_logits[token], allowed, n_best=n_best, max_answer_length=max_answer_length
    )
    possible = spans.score > -torch.inf
    window = rows[:, None].expand_as(spans.start)
    return _Found(*(column[possible].numpy() for column in (window, spans.start, spans.end, spans.score)))


def _concatenate(parts: Sequence[_Found]) -> _Found:
    return _Found(
        window=np.concatenate([part.window for part in parts]),
        start=np.concatenate([part.start for part in parts]),
        end=np.concatenate([part.end for part in parts]),
        score=np.concatenate([part.score for part in parts]),
    )


def _merge(examples: Sequence[Example], windows: Windows, found: _Found, n_best: int) -> dict[str, list[Candidate]]:
    """Sort all spans by question and rank, then keep each question's first n_best different pieces of text."""
    numbers = {example.id: number for number, example in enumerate(examples)}
    question = np.array([numbers[key] for key in windows.question_ids])[found.window]
    # The sort is stable: within a window the order of `best_spans` stays.
    order = np.lexsort((found.window, -found.score, question))
    splits, offsets = windows.row_splits.numpy(), windows.offset_mapping.numpy()
    char_start = offsets[splits[found.window] + found.start, 0][order].tolist()
    char_end = offsets[splits[found.window] + found.end, 1][order].tolist()
    score = found.score[order].tolist()
    bounds = np.searchsorted(question[order], np.arange(len(examples) + 1)).tolist()
    return {
        example.id: _distinct(
            example.context, zip(*(c[low:high] for c in (char_start, char_end, score)), strict=True), n_best
        )
        for example, low, high in zip(examples, bounds[:-1], bounds[1:], strict=True)
    }


def _distinct(context: str, ranked: Iterable[tuple[int, int, float]], n_best: int) -> list[Candidate]:
    """Keep the first, hence best, of the spans that cover the same characters (char start, char end, score)."""
    best: dict[tuple[int, int], float] = {}
    for start, end, score in ranked:
        best.setdefault((start, end), score)
        if len(best) == n_best:
            break
    return [Candidate(context[start:end], score, start, end) for (start, end), score in best.items()]


def _check(examples: Sequence[Example], windows: Windows, start_logits: Tensor, end_logits: Tensor) -> None:
    tokens = int(windows.row_splits[-1])
    if start_logits.shape != (tokens,) or end_logits.shape != (tokens,):
        raise InputError(f"logits: {len(start_logits)} start and {len(end_logits)} end values for {tokens} tokens")
    for name, logits in (("start", start_logits), ("end", end_logits)):
        if not torch.isfinite(logits).all():
            place = int(torch.isfinite(logits).logical_not().nonzero()[0])
            raise InputError(f"logits: {name} value {place} is {float(logits[place])}; the model has diverged")
    unknown = set(windows.question_ids) - {example.id for example in examples}
    if unknown:
        raise InputError(f"windows: question {min(unknown)} is not among the examples; tokenise these examples")
