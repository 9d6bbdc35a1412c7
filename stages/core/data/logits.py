"""The teacher's cached answers: start and end logits of every window, ragged, half precision, bound to what made them.

A window's key is its question id and the context character it starts at. A cache says which teacher and which
windows it belongs to, and a consumer that comes with others is stopped.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from stages.core.data.batches import FlatLogits
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
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    # One entry: safetensors writes several in an order of its own, another one each time.
    entry = {"about": json.dumps(about, sort_keys=True)}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, entry)
    partial.replace(path)


def load_logits(path: Path, windows: Windows, teacher: str) -> FlatLogits:
    """Return the cached logits aligned with `windows`, two (N,) float16 tensors.

    Raises InputError where the cache is missing, is not whole or was made by another teacher, tokenizer or windowing.
    """
    if not path.exists():
        raise InputError(f"{path}: no such cache; run the cache_teacher stage")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["about"])
            start, end, row_splits, text_starts = (
                file.get_tensor(name) for name in ("start_logits", "end_logits", "row_splits", "text_starts")
            )
    except SafetensorError as error:
        raise InputError(f"{path}: not whole ({error}); run the cache_teacher stage again") from None
    wanted = {"teacher": teacher, "tokenizer": windows.metadata["tokenizer"], "windows": windows.fingerprint()}
    for name, value in wanted.items():
        if about[name] != value:
            raise InputError(
                f"{path}: made with {name} {about[name][:12]}, asked for with {value[:12]}; run cache_teacher again"
            )
    keys = list(zip(about["question_ids"], text_starts.tolist(), strict=True))
    if keys != list(zip(windows.question_ids, windows.text_starts.tolist(), strict=True)):
        raise InputError(f"{path}: its windows are not the ones asked for; run cache_teacher again")
    if not torch.equal(row_splits, windows.row_splits):
        raise InputError(f"{path}: its windows have other lengths; run cache_teacher again")
    return start, end
