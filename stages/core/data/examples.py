"""Questions with their paragraphs and gold answers: checked, split by article, sampled, in SQuAD v1.1 JSON.

Source of the format: Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text".
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from stages.core.errors import InputError
from stages.core.files import write_text

T = TypeVar("T")

CANNOT_BE_CUT = "cannot_be_cut"
# Those that a record has by itself; that no window holds it depends on the tokenizer.
FAULTS = (
    "answer_not_at_offset",
    "duplicate_id",
    "empty_answer",
    "empty_context",
    "empty_question",
    "invalid_utf8",
    "malformed",
    "no_answer",
)


@dataclass(frozen=True)
class Answer:
    """A gold answer: `text` stands at character `start` of its context."""

    text: str
    start: int


@dataclass(frozen=True)
class Example:
    """One question on one paragraph."""

    id: str
    title: str
    context: str
    question: str
    answers: tuple[Answer, ...]

    @property
    def label(self) -> Answer:
        """The answer to train on: the one most annotators gave, the first of them where several tie."""
        return Counter(self.answers).most_common(1)[0][0]


Refusal = Callable[[Example], str]  # says why an example cannot be cut into windows; '' where it can


@dataclass(frozen=True)
class Record:
    """An unchecked example and where it was found."""

    place: str
    example: Example


@dataclass(frozen=True)
class Fault:
    """Why a record is refused: a `kind` to count by, the place, and the value at fault."""

    kind: str
    place: str
    detail: str


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of an article, whether anything is asked about it or not, and where it was found."""

    title: str
    context: str
    place: str = field(default="", compare=False)


def one_line(text: str) -> str:
    """Return a text with single blanks for white space of any kind: what tells whether two paragraphs are one."""
    return " ".join(text.split())


def distinct(paragraphs: Iterable[Paragraph]) -> list[Paragraph]:
    """Return the first of each of the paragraphs, by title and text, whatever the white space in it."""
    found: dict[tuple[str, str], Paragraph] = {}
    for each in paragraphs:
        found.setdefault((each.title, one_line(each.context)), each)
    return list(found.values())


def parse_squad(path: Path) -> Iterator[Record]:
    """Yield the records of one SQuAD v1.1 file; bytes that are not UTF-8 survive as surrogates for `check` to find.

    Raises InputError where the file is missing, not JSON, or not laid out as SQuAD v1.1.
    """
    yield from _parse(path, _parse_paragraph)


def parse_paragraphs(path: Path) -> Iterator[Paragraph]:
    """Yield the paragraphs of one SQuAD v1.1 file, those without a question too; raises as `parse_squad` does."""
    yield from _parse(path, lambda paragraph, title, place: [Paragraph(title, paragraph["context"], place)])


def parse_text(path: Path) -> Iterator[Paragraph]:
    """Yield the paragraphs of a text file in UTF-8, titled by its name; blank lines part them, others are joined.

    Raises InputError where the file is missing or is not UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; name a text file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a text file") from None
    for number, line in enumerate(lines, 1):
        if any("\ud800" <= character <= "\udfff" for character in line):
            raise InputError(f"{path}: line {number}: bytes that are not UTF-8; save the file as UTF-8")
    for has_text, group in groupby(enumerate(lines, 1), lambda line: bool(line[1].strip())):
        if has_text:
            numbers, texts = zip(*group, strict=True)
            yield Paragraph(path.stem, " ".join(text.strip() for text in texts), f"{path}: line {numbers[0]}")


def parse_questions(path: Path) -> Iterator[Record]:
    """Yield the questions of one SQuAD v1.1 file without answers, which may be missing as may questions; raises too."""
    yield from _parse(path, _parse_bare)


def _parse(path: Path, read: Callable[[dict[str, Any], str, str], Iterable[T]]) -> Iterator[T]:
    """Yield what `read` finds in each paragraph, given its article's title and its place."""
    try:
        document = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; name a SQuAD v1.1 JSON file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a SQuAD v1.1 JSON file") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        raise InputError(f"{path}: not JSON: {error}") from None
    place = f"{path}"
    try:
        for position, article in enumerate(document["data"]):
            place = f"{path}: article {position}"
            title = article.get("title", "")
            for number, paragraph in enumerate(article["paragraphs"]):
                place = f"{path}: article {title!r}, paragraph {number}"
                yield from read(paragraph, title, place)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{place}: not SQuAD v1.1 ({type(error).__name__}: {error}); see the README on data") from None


def _parse_paragraph(paragraph: dict[str, Any], title: str, place: str) -> Iterator[Record]:
    for qa in paragraph["qas"]:
        answers = tuple(Answer(each["text"], each["answer_start"]) for each in qa["answers"])
        example = Example(qa["id"], title, paragraph["context"], qa["question"], answers)
        yield Record(f"{place}, id {qa['id']!r}", example)


def _parse_bare(paragraph: dict[str, Any], title: str, place: str) -> Iterator[Record]:
    for qa in paragraph.get("qas", ()):
        example = Example(qa["id"], title, paragraph["context"], qa["question"], ())
        yield Record(f"{place}, id {qa['id']!r}", example)


def find_fault(record: Record, seen: set[str]) -> Fault | None:
    """Return the first thing wrong with `record`, given the ids `seen` before it, or None."""
    example, place = record.example, record.place
    texts = (example.id, example.title, example.context, example.question, *(a.text for a in example.answers))
    if not all(isinstance(text, str) for text in texts):
        return Fault("malformed", place, "a text field is not a string")
    if not all(type(answer.start) is int for answer in example.answers):
        return Fault("malformed", place, "answer_start is not a whole number")
    if any("\ud800" <= character <= "\udfff" for text in texts for character in text):
        return Fault("invalid_utf8", place, "bytes that are not UTF-8")
    if not example.context.strip():
        return Fault("empty_context", place, "the paragraph has no text")
    if not example.question.strip():
        return Fault("empty_question", place, "the question has no text")
    if example.id in seen:
        return Fault("duplicate_id", place, f"id {example.id!r} was used before")
    if not example.answers:
        return Fault("no_answer", place, "no gold answer")
    for answer in example.answers:
        if not answer.text.strip():
            return Fault("empty_answer", place, "an answer has no text")
        found = example.context[answer.start : answer.start + len(answer.text)] if answer.start >= 0 else ""
        if found != answer.text:
            return Fault("answer_not_at_offset", place, f"{answer.text!r} is not at {answer.start}, {found!r} is")
    return None


def cut_all(example: Example) -> str:
    """Refuse none."""
    return ""


def cutting_fault(record: Record, refuse: Refusal) -> Fault | None:
    """Return the fault of a record that cannot be cut into windows, for the reason that `refuse` gives, or None."""
    reason = refuse(record.example)
    return Fault(CANNOT_BE_CUT, record.place, reason) if reason else None


def check(records: Iterable[Record], refuse: Refusal = cut_all) -> tuple[list[Example], list[Fault]]:
    """Sort records into sound examples and faults; nothing is repaired.

    `refuse` says why an example that is sound in itself cannot be cut into windows, if so.
    """
    examples: list[Example] = []
    faults: list[Fault] = []
    seen: set[str] = set()
    for record in records:
        fault = find_fault(record, seen) or cutting_fault(record, refuse)
        if fault:
            faults.append(fault)
        else:
            examples.append(record.example)
            seen.add(record.example.id)
    return examples, faults


def describe_faults(faults: Sequence[Fault]) -> list[str]:
    """Return one line per kind of fault: the first place it occurs and the count."""
    counts = Counter(fault.kind for fault in faults)
    first = {fault.kind: fault for fault in reversed(faults)}
    return [
        f"{first[kind].place}: {kind}: {first[kind].detail}; {counts[kind]} such record(s): mend or drop them"
        for kind in sorted(counts)
    ]


def read_squad(path: Path) -> list[Example]:
    """Read a SQuAD v1.1 file in which nothing may be wrong; raises InputError with a line per kind of fault."""
    examples, faults = check(parse_squad(path))
    if faults:
        raise InputError("\n".join(describe_faults(faults)))
    if not examples:
        raise InputError(f"{path}: holds no question")
    return examples


def read_questions(path: Path) -> list[Example]:
    """Read a file that `write_squad` wrote, whose questions may have no answers; raises InputError without it."""
    return [record.example for record in parse_squad(path)]


def write_squad(path: Path, examples: Iterable[Example]) -> None:
    """Write examples as SQuAD v1.1 JSON, whole or not at all; order of articles and paragraphs is kept."""
    articles: dict[str, dict[str, list[Example]]] = {}
    for example in examples:
        articles.setdefault(example.title, {}).setdefault(example.context, []).append(example)
    data = [
        {"title": title, "paragraphs": [_paragraph(context, rows) for context, rows in paragraphs.items()]}
        for title, paragraphs in articles.items()
    ]
    write_text(path, json.dumps({"version": "1.1", "data": data}, ensure_ascii=False) + "\n")


def _paragraph(context: str, rows: Sequence[Example]) -> dict[str, Any]:
    qas = [
        {
            "id": row.id,
            "question": row.question,
            "answers": [{"text": answer.text, "answer_start": answer.start} for answer in row.answers],
        }
        for row in rows
    ]
    return {"context": context, "qas": qas}


def sample(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """Draw `count` examples (0 = all) at random over all articles, in their original order."""
    if count == 0 or count >= len(examples):
        return list(examples)
    chosen = random.Random(seed).sample(range(len(examples)), count)
    return [examples[number] for number in sorted(chosen)]
