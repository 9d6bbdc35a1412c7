"""The teacher's cached answers: start and end logits of every window, ragged, half precision, bound to what made them.

A window's key is its question id and the context character it starts at. A cache says which teacher and which
windows it belongs to, and a consumer that comes with others is stopped.
"""

from pathlib import Path

import torch

from stages.core.data.batches import FlatLogits
from stages.core.data.tensors import load_tensors, save_tensors
from stages.core.data.windows import Windows
from stages.core.errors import InputError

# Before the name of a split: its answers in the teacher's own windows, kept beside where students read others.
OWN = "own_"


def save_logits(path: Path, logits: FlatLogits, windows: Windows, teacher: str) -> None:
    """Write flat logits of `windows`, (N,) each, made by the model with fingerprint `teacher`; whole or not at all."""
    start, end = logits
    tensors = {
        "start_logits": start.to(torch.float16),
        "end_logits": end.to(torch.float16),
        "row_splits": windows.row_splits,
        "text_starts": windows.text_starts,
    }
    about = {
        "question_ids": windows.question_ids,
        "teacher": teacher,
        "tokenizer": windows.metadata["tokenizer"],
        "windows": windows.fingerprint(),
    }
    save_tensors(path, tensors, about)


def load_logits(path: Path, windows: Windows, teacher: str) -> FlatLogits:
    """Return the cached logits aligned with `windows`, two (N,) float16 tensors.

    Raises InputError where the cache is missing, is not whole or was made by another teacher, tokenizer or windowing.
    """
    tensors, about = load_tensors(path, "cache_teacher", ("question_ids", "teacher", "tokenizer", "windows"))
    wanted = {"teacher": teacher, "tokenizer": windows.metadata["tokenizer"], "windows": windows.fingerprint()}
    for name, value in wanted.items():
        if about[name] != value:
            raise InputError(
                f"{path}: made with {name} {about[name][:12]}, asked for with {value[:12]}; run cache_teacher again"
            )
    keys = list(zip(about["question_ids"], tensors["text_starts"].tolist(), strict=True))
    if keys != list(zip(windows.question_ids, windows.text_starts.tolist(), strict=True)):
        raise InputError(f"{path}: its windows are not the ones asked for; run cache_teacher again")
    if not torch.equal(tensors["row_splits"], windows.row_splits):
        raise InputError(f"{path}: its windows have other lengths; run cache_teacher again")
    return tensors["start_logits"], tensors["end_logits"]
