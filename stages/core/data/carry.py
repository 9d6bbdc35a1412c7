"""A teacher's logits carried over to other windows by characters, so that a student may have a tokenizer of its own.

Both sides hold the same questions, cut into other tokens and other windows. What is carried is probability, a softmax
over a window's context tokens and position 0, the class "no answer here":

- A student window listens to one teacher window of its question: the one that shows most of its text; of several that
  show as much the one that shows most around it, then the earlier one.
- As a start, a teacher token's mass goes to the student token that covers its first character (the first, where
  several share it, as bytes do); as an end, to the last that covers its last character. A decoded span keeps its text.
  Masses that meet in one token add up.
- Of a character that the student's tokenizer drops, a start goes to the next token and an end to the one before.
- Mass on text that the student window does not show is "no answer here", as is that of the teacher's position 0.
- Text of the student window that the teacher window does not show was not asked about and gets no mass.

Masses come as logits: log masses but for the teacher window's normaliser, which no softmax sees, whatever the
temperature, and without which windows of one question would no longer compare (see stages/core/qa/spans.py). So a
student token's logit is the log-sum-exp of the teacher's logits that meet in it.

Sizes: W student windows, N tokens in all of them, M teacher tokens that speak.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stages.core.data.batches import FlatLogits
from stages.core.data.windows import Windows
from stages.core.errors import InputError

NO_MASS = -3e4  # finite also in half precision; at any useful temperature its exponential is 0

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Tokens:
    """Context tokens of a list of windows, one entry each: the columns of a table."""

    window: IntArray  # number in the list, rising
    position: IntArray  # in the flat tensors
    start: IntArray  # first character
    stop: IntArray  # one past the last; equal to start for white space on its own

    def only(self, which: npt.NDArray[np.bool_]) -> "_Tokens":
        """Return the entries where `which` is true."""
        return _Tokens(self.window[which], self.position[which], self.start[which], self.stop[which])


def carry_over(logits: FlatLogits, teacher: Windows, student: Windows) -> FlatLogits:
    """Return what the flat logits of the `teacher` windows say of the `student` windows: two (N,) float32 tensors.

    Where both have the same tokens, these are the same logits, bit for bit. Else tokens outside the context, and those
    that get no mass, have `NO_MASS`. Raises InputError where the teacher has no window of a question.
    """
    if teacher.same_tokens(student):
        return logits
    heard = best_windows(teacher, student)
    said = _context_tokens(teacher, heard)
    to_start, to_end = _receivers(said, student)
    nobody = teacher.row_splits.numpy()[heard]
    start, end = (flat.numpy().astype(np.float64) for flat in logits)
    return _gather(start, nobody, said, to_start, student), _gather(end, nobody, said, to_end, student)


def best_windows(teacher: Windows, student: Windows) -> IntArray:
    """Return the number of the teacher window that each student window listens to, (W,) int64.

    Raises InputError where the teacher has no window of a question.
    """
    numbers: dict[str, list[int]] = {}
    for number, key in enumerate(teacher.question_ids):
        numbers.setdefault(key, []).append(number)
    if unknown := set(student.question_ids) - set(numbers):
        raise InputError(
            f"windows: the teacher has none of question '{min(unknown)}'; cut both from the same questions"
        )
    choices = np.array([len(numbers[key]) for key in student.question_ids])
    mine = np.repeat(np.arange(len(student)), choices)
    its = np.array([number for key in student.question_ids for number in numbers[key]])
    low, high = (edge[mine] for edge in _text(student))
    its_low, its_high = (edge[its] for edge in _text(teacher))
    shared = np.minimum(high, its_high) - np.maximum(low, its_low)
    around = np.minimum(low - its_low, its_high - high)
    order = np.lexsort((its, -around, -shared, mine))
    best: IntArray = its[order[choices.cumsum() - choices]]
    return best


def _text(windows: Windows) -> tuple[IntArray, IntArray]:
    """Return the first character that each window shows, and one past the last."""
    last = windows.row_splits[:-1] + windows.context_stop - 1
    return windows.text_starts.numpy().astype(np.int64), windows.offset_mapping[last, 1].numpy().astype(np.int64)


def _reach(windows: Windows) -> tuple[IntArray, IntArray]:
    """Return the characters that each window answers for, first and one past the last.

    It is the text it shows; a question's first window has the paragraph's beginning too, and its last one the end:
    what is not shown there was dropped by the tokenizer, not left to another window.
    """
    ids = np.array(windows.question_ids)
    changes = ids[1:] != ids[:-1]
    low, high = _text(windows)
    return np.where(np.append(True, changes), -1, low), np.where(np.append(changes, True), np.iinfo(np.int64).max, high)


def _context_tokens(windows: Windows, rows: IntArray) -> _Tokens:
    """Return the context tokens of the windows `rows`, row after row."""
    counts = (windows.context_stop - windows.context_start).numpy()[rows]
    firsts = (windows.row_splits[:-1] + windows.context_start).numpy()[rows]
    place = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
    position = np.repeat(firsts, counts) + place
    start, stop = windows.offset_mapping.numpy()[position].astype(np.int64).T
    return _Tokens(np.repeat(np.arange(len(rows)), counts), position, start, stop)


def _receivers(said: _Tokens, student: Windows) -> tuple[IntArray, IntArray]:
    """Return where each teacher token's mass goes as a start and as an end, (M,) flat positions of the student each."""
    tokens = _context_tokens(student, np.arange(len(student)))
    tokens = tokens.only(tokens.stop > tokens.start)
    # One sorted list over all windows: a character's place in it is its window's number, then its own.
    scale = 2 + max(int(tokens.stop.max()), int(said.stop.max()))
    asked = said.window * scale
    first = np.searchsorted(tokens.window * scale + tokens.stop, asked + said.start, side="right")
    last = np.searchsorted(tokens.window * scale + tokens.start, asked + said.stop, side="left") - 1
    low, high = (edge[said.window] for edge in _reach(student))
    nowhere = student.row_splits.numpy()[said.window]

    def choose(number: IntArray, character: IntArray) -> IntArray:
        found = number.clip(0, len(tokens.position) - 1)
        shown = (found == number) & (tokens.window[found] == said.window)
        return np.where(shown & (low <= character) & (character < high), tokens.position[found], nowhere)

    return choose(first, said.start), choose(last, said.stop - 1)


def _gather(logits: FloatArray, nobody: IntArray, said: _Tokens, to: IntArray, student: Windows) -> Tensor:
    """Return the log-sum-exp of the logits that go to each student token, (N,) float32.

    `nobody` is position 0 of the teacher window that each student window listens to, (W,); `to` is where the tokens of
    `said` go, (M,).
    """
    spoken, none = logits[said.position], logits[nobody]
    firsts = np.searchsorted(said.window, np.arange(len(student)))
    top = np.maximum(none, np.maximum.reduceat(spoken, firsts))
    mass = np.bincount(to, np.exp(spoken - top[said.window]), minlength=len(student.input_ids))
    mass[student.row_splits.numpy()[:-1]] += np.exp(none - top)
    row = np.repeat(np.arange(len(student)), student.lengths.numpy())
    with np.errstate(divide="ignore"):
        gathered = np.where(mass > 0, np.log(mass) + top[row], NO_MASS)
    return torch.from_numpy(gathered.astype(np.float32))
