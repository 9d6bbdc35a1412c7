"""Splits written as stages/core/data/prepared.py reads them: verified first, for every tokenizer that reads them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from stages.core.data.cutting import Cutter
from stages.core.data.examples import Example, write_squad
from stages.core.data.prepared import STUDENT, UNLABELLED, own_windows_path, questions_path, windows_path
from stages.core.data.verify import describe, verify
from stages.core.data.windows import save_windows

OWN_FIGURES = ("windows", "windows_without_answer", "labels_decoded_percent", "oracle_f1")


def write_split(
    folder: Path, name: str, examples: Sequence[Example], cutters: Sequence[Cutter], max_answer_length: int
) -> dict[str, dict[str, float]]:
    """Write questions and windows of one split; return what `describe` says of it, by name.

    `cutters` has the teacher's tokenizer and, where students have one of their own, that one. Its windows are written
    only where they differ, and told of under another name. Raises InputError where `verify` does.
    """
    cut = cutters[0].cut(examples)
    described = {name: describe(examples, cut, max_answer_length)}
    verify(name, described[name])
    own_name = f"{STUDENT}{name}"
    own = [windows for cutter in cutters[1:] if (windows := cutter.cut(examples)).fingerprint() != cut.fingerprint()]
    for windows in own:
        figures = describe(examples, windows, max_answer_length)
        verify(own_name, figures)
        described[own_name] = {key: figures[key] for key in OWN_FIGURES}
    write_squad(questions_path(folder, name), examples)
    if name != "test":  # a model's own tokenizer cuts it when the model is scored
        save_windows(cut, windows_path(folder, name))
    for windows in own:
        save_windows(windows, own_windows_path(folder, name))
    return described


def write_unlabelled(
    folder: Path, drawn: Mapping[str, Sequence[Example]], cutters: Sequence[Cutter]
) -> dict[str, dict[str, int]]:
    """Write questions without answers, drawn by kind, and windows without labels; return their counts, by name.

    Where there are none the file of questions is empty. As in `write_split`, windows of the students' own tokenizer
    stand beside the teacher's only where they differ.
    """
    examples = [each for kind in drawn.values() for each in kind]
    write_squad(questions_path(folder, UNLABELLED), examples)
    if not examples:
        return {}
    cut, *own = (cutter.cut(examples).without_labels() for cutter in cutters)
    save_windows(cut, windows_path(folder, UNLABELLED))
    for windows in own:
        if windows.fingerprint() != cut.fingerprint():
            save_windows(windows, own_windows_path(folder, UNLABELLED))
    return {UNLABELLED: {**{kind: len(rows) for kind, rows in drawn.items()}, "windows": len(cut)}}
