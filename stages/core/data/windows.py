"""Tokenised windows: a question with as much of its paragraph as fits, ragged and unpadded.

A paragraph longer than `max_length` leaves room for is covered by several windows that overlap by `doc_stride` tokens,
as in the tokenizers of Hugging Face; in BERT's run_squad.py (Devlin et al. 2019), which first did so, the key of that
name is the step from one window to the next. A window that does not hold the whole answer is labelled as holding none.

Sizes: W windows, N tokens in all of them.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from stages.core.data.examples import Answer, Example
from stages.core.data.tensors import load_tensors, save_tensors
from stages.core.errors import InputError

# Questions tokenised in one call: what a tokenizer returns of a question takes some twenty times its windows' bytes.
QUESTIONS_AT_A_TIME = 1000

NO_LABEL = -1  # start and end of a window that is not labelled, which is not to say that it holds no answer


@dataclass(frozen=True)
class Windows:
    """W ragged windows; row w's tokens are `row_splits[w]` to `row_splits[w + 1]` of the flat (N,) tensors."""

    question_ids: tuple[str, ...]  # W; a question's windows are neighbours, in the paragraph's order
    input_ids: Tensor  # (N,) int32
    token_type_ids: Tensor  # (N,) int32
    offset_mapping: Tensor  # (N, 2) int32, characters of the context; (0, 0) outside it
    row_splits: Tensor  # (W + 1,) int64
    context_start: Tensor  # (W,) int64, the first context token, counted inside its window
    context_stop: Tensor  # (W,) int64, one past the last
    start_positions: Tensor  # (W,) int64, 0 where the window holds no whole answer, -1 without a label
    end_positions: Tensor  # (W,) int64, inclusive
    metadata: dict[str, str]  # tokenizer, max_length, doc_stride, pad_token_id, uses_token_types

    def __len__(self) -> int:
        """Return W."""
        return len(self.question_ids)

    @property
    def lengths(self) -> Tensor:
        """Tokens in each window, (W,) int64."""
        return self.row_splits.diff()

    @property
    def text_starts(self) -> Tensor:
        """Where in its context each window starts, in characters, (W,) int32: with the id, a window's name."""
        return self.offset_mapping[self.row_splits[:-1] + self.context_start, 0]

    def tokens_of(self, rows: Tensor) -> Tensor:
        """Return the flat positions of the tokens of windows `rows`, (R,) int64, row after row."""
        return torch.cat([torch.arange(int(self.row_splits[row]), int(self.row_splits[row + 1])) for row in rows])

    def take(self, rows: Tensor) -> "Windows":
        """Return the windows `rows`, (R,) int64, as a set of their own."""
        tokens = self.tokens_of(rows)
        return Windows(
            question_ids=tuple(self.question_ids[row] for row in rows.tolist()),
            input_ids=self.input_ids[tokens],
            token_type_ids=self.token_type_ids[tokens],
            offset_mapping=self.offset_mapping[tokens],
            row_splits=torch.cat([torch.zeros(1, dtype=torch.int64), self.lengths[rows].cumsum(0)]),
            context_start=self.context_start[rows],
            context_stop=self.context_stop[rows],
            start_positions=self.start_positions[rows],
            end_positions=self.end_positions[rows],
            metadata=self.metadata,
        )

    def join(self, *others: "Windows") -> "Windows":
        """Return these windows and the others behind them; raises InputError where they were cut otherwise."""
        if any(each.metadata != self.metadata for each in others):
            raise InputError("windows: cut by two tokenizers or to two sizes; run prepare again")
        parts = (self, *others)
        names = [f.name for f in fields(self) if f.name not in ("question_ids", "metadata", "row_splits")]
        lengths = torch.cat([torch.zeros(1, dtype=torch.int64), *(each.lengths for each in parts)])
        return Windows(
            question_ids=tuple(chain.from_iterable(each.question_ids for each in parts)),
            metadata=self.metadata,
            row_splits=lengths.cumsum(0),
            **{name: torch.cat([getattr(each, name) for each in parts]) for name in names},
        )

    def without_labels(self) -> "Windows":
        """Return the same windows with `NO_LABEL` for start and end."""
        none = torch.full_like(self.start_positions, NO_LABEL)
        return replace(self, start_positions=none, end_positions=none.clone())

    def same_tokens(self, other: "Windows") -> bool:
        """Whether both show the same text of the same questions in the same tokens; token types may be used by one."""
        names = ("input_ids", "offset_mapping", "row_splits", "context_start", "context_stop")
        return self.question_ids == other.question_ids and all(
            torch.equal(getattr(self, name), getattr(other, name)) for name in names
        )

    def fingerprint(self) -> str:
        """Return a sha256 over what a model is shown: tokens, rows, ids and tokenizer."""
        digest = hashlib.sha256(json.dumps([self.question_ids, self.metadata], sort_keys=True).encode())
        for tensor in (self.input_ids, self.token_type_ids, self.row_splits):
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


def make_windows(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerFast,
    *,
    max_length: int,
    doc_stride: int,
    token_types: bool,
) -> Windows:
    """Tokenise examples into windows labelled with each example's `label`.

    `token_types` says whether the model is told question and paragraph apart.

    Raises InputError where a question leaves the context less room than `doc_stride` tokens, and where a context has
    no token.
    """
    metadata = {
        "tokenizer": fingerprint_tokenizer(tokenizer),
        "max_length": str(max_length),
        "doc_stride": str(doc_stride),
        "pad_token_id": str(tokenizer.pad_token_id),
        "uses_token_types": str(token_types),
    }
    first, *others = (
        _as_windows(list(_encode(examples[at : at + QUESTIONS_AT_A_TIME], tokenizer, max_length, doc_stride)), metadata)
        for at in range(0, len(examples), QUESTIONS_AT_A_TIME)
    )
    return first.join(*others)


def fingerprint_tokenizer(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return a sha256 over everything that decides how a tokenizer cuts text, padding and truncation apart."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state.pop("padding", None)
    state.pop("truncation", None)
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def decode_label(windows: Windows, row: int, context: str, most: int | None = None) -> str:
    """Return the text that row's label marks, its first `most` tokens if given; empty where there is no answer."""
    if windows.start_positions[row] == 0:
        return ""
    first = windows.row_splits[row] + windows.start_positions[row]
    last = windows.row_splits[row] + windows.end_positions[row]
    if most is not None:
        last = torch.minimum(last, first + most - 1)
    return context[int(windows.offset_mapping[first, 0]) : int(windows.offset_mapping[last, 1])]


def save_windows(windows: Windows, path: Path) -> None:
    """Write windows as safetensors, whole or not at all."""
    tensors = {f.name: getattr(windows, f.name) for f in fields(windows) if f.name not in ("question_ids", "metadata")}
    save_tensors(path, tensors, {"metadata": windows.metadata, "question_ids": windows.question_ids})


def load_windows(path: Path) -> Windows:
    """Read what `save_windows` wrote; raises InputError where there is no such file, or it is not whole or another."""
    tensors, about = load_tensors(path, "prepare", ("metadata", "question_ids"))
    return Windows(question_ids=tuple(about["question_ids"]), metadata=about["metadata"], **tensors)


def _as_windows(rows: Sequence[Mapping[str, Any]], metadata: dict[str, str]) -> Windows:
    """Put what `_rows` yields into tensors."""
    column = {name: [row[name] for row in rows] for name in rows[0]}

    def flat(name: str) -> Tensor:
        return torch.tensor([item for row in column[name] for item in row], dtype=torch.int32)

    def numbers(name: str) -> Tensor:
        return torch.tensor(column[name], dtype=torch.int64)

    lengths = torch.tensor([0, *map(len, column["input_ids"])], dtype=torch.int64)
    return Windows(
        question_ids=tuple(column["question_id"]),
        input_ids=flat("input_ids"),
        token_type_ids=flat("token_type_ids"),
        offset_mapping=flat("offset_mapping"),
        row_splits=lengths.cumsum(0),
        context_start=numbers("context_start"),
        context_stop=numbers("context_stop"),
        start_positions=numbers("start"),
        end_positions=numbers("end"),
        metadata=metadata,
    )


def _encode(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerFast, max_length: int, doc_stride: int
) -> Iterator[dict[str, Any]]:
    questions = [example.question.lstrip() for example in examples]
    # Whole, and cut here: tokenizers 0.23.1 and 0.23.2 lose what lies behind the second window when they truncate
    # (github.com/huggingface/tokenizers/issues/2091).
    encoded = tokenizer(
        questions,
        [example.context for example in examples],
        return_offsets_mapping=True,
        return_token_type_ids=True,
        verbose=False,
    )
    for number, example in enumerate(examples):
        yield from _rows(encoded, number, example, max_length, doc_stride)


def _rows(encoded: Any, number: int, example: Example, max_length: int, doc_stride: int) -> Iterator[dict[str, Any]]:
    sides = encoded.sequence_ids(number)
    if 1 not in sides:
        raise InputError(f"id {example.id!r}: the tokenizer finds nothing to read in the paragraph; drop the record")
    start = sides.index(1)
    stop = len(sides) - sides[::-1].index(1)
    room = max_length - (len(sides) - (stop - start))
    if room <= doc_stride:
        raise InputError(
            f"id {example.id!r}: a question of {sides.count(0)} tokens leaves the paragraph too little of"
            f" windows.max_length {max_length}; shorten it or raise max_length"
        )
    ids, types = encoded["input_ids"][number], encoded["token_type_ids"][number]
    offsets = [_trim(span, example.context) for span in encoded["offset_mapping"][number][start:stop]]
    for low in _window_starts(len(offsets), room, doc_stride):
        shown, its = offsets[low : low + room], slice(start + low, min(start + low + room, stop))
        spans = [(0, 0)] * start + shown + [(0, 0)] * (len(sides) - stop)
        # What a tokenizer drops at an edge of the paragraph, such as white space, is in the window beside it.
        reach = (0 if low == 0 else shown[0][0]), (len(example.context) if its.stop == stop else shown[-1][1])
        first, last = _label(spans, start, start + len(shown), example.label, reach) if example.answers else (0, 0)
        yield {
            "question_id": example.id,
            "input_ids": ids[:start] + ids[its] + ids[stop:],
            "token_type_ids": types[:start] + types[its] + types[stop:],
            "offset_mapping": spans,
            "context_start": start,
            "context_stop": start + len(shown),
            "start": first,
            "end": last,
        }


def _window_starts(tokens: int, room: int, doc_stride: int) -> Iterator[int]:
    """Yield the first token of each window of `room` tokens; neighbours share `doc_stride`, the last ends the text."""
    for low in range(0, tokens, room - doc_stride):
        yield low
        if low + room >= tokens:
            return


def _trim(span: tuple[int, int], context: str) -> tuple[int, int]:
    """Drop white space at a token's edges: byte-level tokenizers count the blank before a word as part of it."""
    start, stop = span
    while start < stop and context[start].isspace():
        start += 1
    while start < stop and context[stop - 1].isspace():
        stop -= 1
    return start, stop


def _label(
    offsets: Sequence[tuple[int, int]], start: int, stop: int, answer: Answer, reach: tuple[int, int]
) -> tuple[int, int]:
    """Return the first and last token of the answer, (0, 0) unless all its characters are within the window's reach."""
    answer_stop = answer.start + len(answer.text)
    if not (reach[0] <= answer.start and answer_stop <= reach[1]):
        return 0, 0
    touched = [n for n in range(start, stop) if offsets[n][0] < answer_stop and offsets[n][1] > answer.start]
    return (touched[0], touched[-1]) if touched else (0, 0)
