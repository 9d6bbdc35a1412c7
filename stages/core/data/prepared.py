"""What the prepare stage writes and the others read: questions, and their windows for the teacher and for students.

A split is NAME.json and NAME.safetensors, its windows as the teacher's tokenizer cuts them. Where students have another
tokenizer, student_NAME.safetensors has the same questions as that one cuts them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.core.data.examples import Example, read_squad
from stages.core.data.windows import Windows, load_windows

STUDENT = "student_"


@dataclass(frozen=True)
class Questions:
    """Questions and their windows."""

    examples: Sequence[Example]
    windows: Windows


def load_split(folder: Path, name: str) -> Questions:
    """Return the questions and the teacher's windows of one split, train, dev or test; raises InputError without it."""
    return Questions(read_squad(folder / f"{name}.json"), load_windows(folder / f"{name}.safetensors"))


def load_taught(folder: Path, name: str) -> Questions:
    """Return the questions and the students' windows of train or dev; raises InputError if they are missing."""
    prefix = STUDENT if has_own_windows(folder) else ""
    return Questions(read_squad(folder / f"{name}.json"), load_windows(folder / f"{prefix}{name}.safetensors"))


def has_own_windows(folder: Path) -> bool:
    """Whether students read windows of their own, cut by another tokenizer than the teacher's."""
    return (folder / f"{STUDENT}train.safetensors").exists()
