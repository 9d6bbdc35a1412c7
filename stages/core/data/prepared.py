"""What the prepare stage writes and the others read: questions, and their windows for the teacher and for students.

The folder has a part for each who reads it, so that what one of them does not read changes nothing of its own:

- labelled: train and dev, and cloze where there is one, questions made of paragraphs, which the teacher learns first;
- students: what students have beside that, and the cache: unlabelled, inputs without labels;
- test.json: the questions that nothing is trained or chosen on.

A split of the first two is NAME.json and NAME.safetensors, its windows as the teacher's tokenizer cuts them. Where
students have another tokenizer, students/student_NAME.safetensors has the same questions as that one cuts them. Without
inputs of that kind unlabelled.json is there too, empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from stages.core.data.examples import Example, read_questions, read_squad
from stages.core.data.windows import Windows, fingerprint_tokenizer, load_windows
from stages.core.errors import InputError

LABELLED = "labelled"
STUDENTS = "students"
STUDENT = "student_"
UNLABELLED = "unlabelled"
CLOZE = "cloze"
TAUGHT = ("train", "dev")  # the splits that students read too


@dataclass(frozen=True)
class Questions:
    """Questions and their windows."""

    examples: Sequence[Example]
    windows: Windows


def load_questions(folder: Path, name: str) -> Sequence[Example]:
    """Return the questions of a split or of unlabelled; raises InputError without."""
    path = questions_path(folder, name)
    if not path.exists():
        raise InputError(f"{path}: no such file; run the prepare stage")
    return read_questions(path) if name == UNLABELLED else read_squad(path)


def load_split(folder: Path, name: str) -> Questions:
    """Return the questions and the teacher's windows of train, dev, cloze or unlabelled; raises InputError without."""
    return Questions(load_questions(folder, name), load_windows(windows_path(folder, name)))


def load_taught(folder: Path, name: str) -> Questions:
    """Return the questions and the students' windows of train, dev or unlabelled; raises InputError without."""
    path = (own_windows_path if has_own_windows(folder) else windows_path)(folder, name)
    return Questions(load_questions(folder, name), load_windows(path))


def load_read_by(tokenizer: PreTrainedTokenizerFast, folder: Path, name: str) -> Questions:
    """Return the questions of train, dev or unlabelled and their windows as this tokenizer cuts them.

    Raises InputError where it is neither the students' nor the teacher's.
    """
    for load in (load_taught, load_split):
        found = load(folder, name)
        if found.windows.metadata["tokenizer"] == fingerprint_tokenizer(tokenizer):
            return found
    raise InputError(f"{folder}: not cut to the tokens that this model reads; name a model made with these data")


def has_own_windows(folder: Path) -> bool:
    """Whether students read windows of their own, cut by another tokenizer than the teacher's."""
    return own_windows_path(folder, "train").exists()


def has_unlabelled(folder: Path) -> bool:
    """Whether there are inputs without labels."""
    return windows_path(folder, UNLABELLED).exists()


def has_cloze(folder: Path) -> bool:
    """Whether there are cloze questions for the teacher."""
    return windows_path(folder, CLOZE).exists()


def parts_for_teacher(folder: Path) -> list[Path]:
    """Return the parts of the folder that the teacher reads, for a run to be named by."""
    return [folder / LABELLED]


def parts_for_students(folder: Path) -> list[Path]:
    """Return the parts of the folder that students are made with."""
    return [folder / LABELLED, folder / STUDENTS]


def questions_path(folder: Path, name: str) -> Path:
    """Return where the questions of a split or of unlabelled are."""
    return _part(folder, name) / f"{name}.json"


def windows_path(folder: Path, name: str) -> Path:
    """Return where the teacher's windows of them are; of the test none are kept."""
    return _part(folder, name) / f"{name}.safetensors"


def own_windows_path(folder: Path, name: str) -> Path:
    """Return where the windows are that only students read."""
    return folder / STUDENTS / f"{STUDENT}{name}.safetensors"


def _part(folder: Path, name: str) -> Path:
    return folder / {"test": "", UNLABELLED: STUDENTS}.get(name, LABELLED)
