"""Where questions come from: the embedded corpus, SQuAD v1.1 files, a data set on the Hugging Face Hub.

A source is a string:

    primer:SPLIT                       the embedded corpus, SPLIT train, dev or test
    hub:OWNER/NAME@COMMIT:SPLIT        a data set in SQuAD's columns, COMMIT 40 hex digits
    anything else                      the path of a SQuAD v1.1 JSON file, or of a folder of them

Where paragraphs are all that is wanted, the path may be that of a .txt file, or of a folder of them and of no .json: an
article a file, titled by its name, blank lines between the paragraphs.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from stages.core.data.examples import (
    Answer,
    Example,
    Paragraph,
    Record,
    parse_paragraphs,
    parse_questions,
    parse_squad,
    parse_text,
)
from stages.core.errors import InputError

HUB_FORM = "hub:OWNER/NAME@COMMIT:SPLIT with a commit of 40 hex digits"
HUB_SOURCE = re.compile(r"hub:(?P<name>[^@:]+)@(?P<commit>[0-9a-f]{40}):(?P<split>\w+)")


def is_known_form(source: str) -> bool:
    """Whether a source is not one of the hub, or one that names its commit."""
    return not source.startswith("hub:") or HUB_SOURCE.fullmatch(source) is not None


def read_source(source: str, corpus: Path) -> Iterator[Record]:
    """Yield the unchecked records of one source; `corpus` is the folder of the embedded corpus.

    Raises InputError for a source that cannot be understood or reached.
    """
    if source.startswith("hub:"):
        yield from _read_hub(source)
        return
    for path in source_files(source, corpus):
        yield from parse_squad(path)


def read_bare_questions(source: str, corpus: Path) -> Iterator[Record]:
    """Yield the unchecked questions of one source without answers, which may be missing; raises InputError."""
    if source.startswith("hub:"):
        yield from (replace(record, example=replace(record.example, answers=())) for record in _read_hub(source))
        return
    for path in source_files(source, corpus, or_text=True):
        if not _is_text(path):
            yield from parse_questions(path)


def read_paragraphs(source: str, corpus: Path) -> Iterator[Paragraph]:
    """Yield the paragraphs of one source, unchecked, those of files without a question too; raises InputError."""
    if source.startswith("hub:"):
        for place, example in ((record.place, record.example) for record in _read_hub(source)):
            yield Paragraph(example.title, example.context, place)
        return
    for path in source_files(source, corpus, or_text=True):
        yield from parse_text(path) if _is_text(path) else parse_paragraphs(path)


def source_files(source: str, corpus: Path, *, or_text: bool = False) -> list[Path]:
    """Return the files a source is read from, sorted; none for a data set on the hub.

    Of a folder they are its .json files, or, with `or_text`, its .txt files where it has none. Raises InputError for a
    folder that has neither, and for a text file without `or_text`.
    """
    if source.startswith("hub:"):
        return []
    if source.startswith("primer:"):
        return [corpus / f"{source.removeprefix('primer:')}.json"]
    path = Path(source)
    if _is_text(path) and not or_text:
        raise InputError(f"{path}: a text file has no questions; name it in unlabelled.sources")
    files = sorted(each for each in path.glob("*.json") if each.is_file()) if path.is_dir() else [path]
    if not files and or_text:
        files = sorted(each for each in path.iterdir() if _is_text(each) and each.is_file())
    if not files:
        raise InputError(f"{path}: the folder holds no .json{' or .txt' if or_text else ''} file")
    return files


def _is_text(path: Path) -> bool:
    return path.suffix.lower() == ".txt"


def _read_hub(source: str) -> Iterator[Record]:
    match = HUB_SOURCE.fullmatch(source)
    if match is None:
        raise InputError(f"params.yaml: data: {source!r} is not {HUB_FORM}")
    import datasets

    name, split = match["name"], match["split"]
    try:
        rows: Any = datasets.load_dataset(name, revision=match["commit"], split=split)
    except Exception as error:  # the hub client raises many kinds; each means the same to the user
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{source}: cannot be loaded ({type(error).__name__}: {reason}); check name, commit and network"
        ) from error
    missing = {"id", "context", "question", "answers"} - set(rows.column_names)
    if missing:
        raise InputError(f"{source}: lacks the column(s) {', '.join(sorted(missing))} of SQuAD v1.1")
    for number, row in enumerate(rows):
        place = f"{source}: row {number}, id {row['id']!r}"
        try:
            # A text without its start, or the reverse, is left for the check to find.
            pairs = zip_longest(row["answers"]["text"], row["answers"]["answer_start"])
            answers = tuple(Answer(text, start) for text, start in pairs)
        except (KeyError, TypeError) as error:
            raise InputError(f"{place}: answers are not laid out as in SQuAD v1.1 ({type(error).__name__})") from None
        yield Record(place, Example(row["id"], row.get("title", ""), row["context"], row["question"], answers))
