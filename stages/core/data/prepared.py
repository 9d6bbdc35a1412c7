"""What the prepare stage writes and the others read: questions, and their windows for the teacher and for students.

A split is NAME.json and NAME.safetensors, its windows as the teacher's tokenizer cuts them. Where students have another
tokenizer, student_NAME.safetensors has the same questions as that one cuts them. Beside train, dev and test there may
be cloze, questions made of paragraphs, which the teacher learns from first, and inputs without labels, unlabelled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.core.data.examples import Example, read_questions, read_squad
from stages.core.data.windows import Windows, load_windows

STUDENT = "student_"
UNLABELLED = "unlabelled"
CLOZE = "cloze"
TAUGHT = ("train", "dev")  # the splits that students read too


@dataclass(frozen=True)
class Questions:
    """Questions and their windows."""

    examples: Sequence[Example]
    windows: Windows


def load_split(folder: Path, name: str) -> Questions:
    """Return the questions and the teacher's windows of a split or of unlabelled; raises InputError without."""
    return Questions(_read(folder, name), load_windows(folder / f"{name}.safetensors"))


def load_taught(folder: Path, name: str) -> Questions:
    """Return the questions and the students' windows of train, dev or unlabelled; raises InputError without."""
    prefix = STUDENT if has_own_windows(folder) else ""
    return Questions(_read(folder, name), load_windows(folder / f"{prefix}{name}.safetensors"))


def has_own_windows(folder: Path) -> bool:
    """Whether students read windows of their own, cut by another tokenizer than the teacher's."""
    return (folder / f"{STUDENT}train.safetensors").exists()


def has_unlabelled(folder: Path) -> bool:
    """Whether there are inputs without labels."""
    return (folder / f"{UNLABELLED}.safetensors").exists()


def has_cloze(folder: Path) -> bool:
    """Whether there are cloze questions for the teacher."""
    return (folder / f"{CLOZE}.safetensors").exists()


def _read(folder: Path, name: str) -> Sequence[Example]:
    path = folder / f"{name}.json"
    return read_questions(path) if name == UNLABELLED else read_squad(path)
