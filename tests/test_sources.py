"""A source is the embedded corpus, a file, a folder of them, or a pinned data set (see test_dataset_hub.py)."""

import sys
from pathlib import Path

import pytest

from stages.core.data.examples import Answer, Example, Paragraph, write_squad
from stages.core.data.sources import HUB_SOURCE, read_bare_questions, read_paragraphs, read_source, source_files
from stages.core.errors import InputError
from tests.hub_stand_in import COMMIT

PINNED = f"hub:rajpurkar/squad@{COMMIT}:train"


def write(path: Path, *ids: str) -> Path:
    write_squad(path, [Example(key, "Kings", f"king {key}", "Who?", (Answer("king", 0),)) for key in ids])
    return path


def ids(source: str, corpus: Path) -> list[str]:
    return [record.example.id for record in read_source(source, corpus)]


def refusal(source: str, corpus: Path) -> str:
    with pytest.raises(InputError) as caught:
        list(read_source(source, corpus))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_primer_is_a_split_of_the_corpus(tmp_path: Path) -> None:
    write(tmp_path / "dev.json", "a", "b")
    write(tmp_path / "train.json", "c")
    assert ids("primer:dev", tmp_path) == ["a", "b"]


def test_unknown_split_of_the_corpus_is_named(tmp_path: Path) -> None:
    assert refusal("primer:valid", tmp_path).startswith(f"{tmp_path}/valid.json: no such file")


def test_embedded_corpus_has_the_three_splits_that_params_name() -> None:
    corpus = Path(__file__).parents[1] / "data" / "primer"
    assert all(ids(f"primer:{split}", corpus) for split in ("train", "dev", "test"))


def test_path_is_a_file_or_a_folder_of_files_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "questions"
    file = write(folder / "b.json", "late")
    write(folder / "a.json", "early")
    (folder / "notes.txt").write_text("no questions")
    assert ids(str(file), tmp_path) == ["late"]
    assert ids(str(folder), tmp_path) == ["early", "late"]


def test_folder_without_questions_is_named(tmp_path: Path) -> None:
    assert refusal(str(tmp_path), tmp_path) == f"{tmp_path}: the folder holds no .json file"


def test_paragraphs_of_a_text_lie_between_blank_lines_under_its_name(tmp_path: Path) -> None:
    text = tmp_path / "Old Kings.txt"
    text.write_bytes(b"\xef\xbb\xbfOne king\n  came late. \n\n \t\r\nTwo came\r\nearly.\n\n\n")
    assert list(read_paragraphs(str(text), tmp_path)) == [
        Paragraph("Old Kings", "One king came late."),
        Paragraph("Old Kings", "Two came early."),
    ]
    assert list(read_bare_questions(str(text), tmp_path)) == []


def test_a_folder_without_questions_is_read_for_its_texts(tmp_path: Path) -> None:
    for name in "ba":
        (tmp_path / f"{name}.txt").write_text(f"text of {name}")
    assert list(read_paragraphs(str(tmp_path), tmp_path)) == [Paragraph(name, f"text of {name}") for name in "ab"]
    assert list(read_bare_questions(str(tmp_path), tmp_path)) == []
    assert refusal(str(tmp_path), tmp_path) == f"{tmp_path}: the folder holds no .json file", "they have no questions"
    write(tmp_path / "c.json", "c")
    # A licence beside the questions is not one of their paragraphs.
    assert list(read_paragraphs(str(tmp_path), tmp_path)) == [Paragraph("Kings", "king c")]
    assert [record.example.id for record in read_bare_questions(str(tmp_path), tmp_path)] == ["c"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"one\n\ncaf\xe9\n", ": line 3: bytes that are not UTF-8; save the file as UTF-8"),
        (None, ": no such file; name a text file"),
    ],
)
def test_a_text_that_cannot_be_read_is_named(content: bytes | None, told: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(read_paragraphs(str(path), tmp_path))
    assert str(caught.value) == f"{path}{told}"


def test_an_empty_text_has_no_paragraph(tmp_path: Path) -> None:
    (tmp_path / "A.TXT").write_text("\n \n")
    assert (
        list(read_paragraphs(str(tmp_path), tmp_path)) == list(read_paragraphs(str(tmp_path / "A.TXT"), tmp_path)) == []
    )


def test_a_text_is_no_source_of_questions(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    assert refusal(str(tmp_path / "a.txt"), tmp_path) == (
        f"{tmp_path}/a.txt: a text file has no questions; name it in unlabelled.sources"
    )


def test_a_folder_with_neither_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r": the folder holds no .json or .txt file$"):
        list(read_paragraphs(str(tmp_path), tmp_path))


def test_missing_path_is_named(tmp_path: Path) -> None:
    assert refusal(f"{tmp_path}/nowhere", tmp_path).startswith(f"{tmp_path}/nowhere: no such file")


@pytest.mark.parametrize(
    "source",
    [
        "hub:rajpurkar/squad",
        "hub:rajpurkar/squad:train",
        "hub:rajpurkar/squad@main:train",
        f"hub:rajpurkar/squad@{COMMIT[:12]}:train",
        f"hub:rajpurkar/squad@{COMMIT.upper()}:train",
        f"hub:rajpurkar/squad@{COMMIT}",
        f"{PINNED}[:100]",
        "hub:",
    ],
)
def test_data_set_without_pinned_commit_or_split_is_refused_at_once(source: str, tmp_path: Path) -> None:
    loaded = "datasets" in sys.modules
    assert refusal(source, tmp_path).startswith(f"params.yaml: data: {source!r} is not hub:OWNER/NAME@COMMIT:SPLIT")
    assert ("datasets" in sys.modules) == loaded


def test_pinned_data_set_is_understood_and_has_no_files(tmp_path: Path) -> None:
    match = HUB_SOURCE.fullmatch(PINNED)
    assert match is not None
    assert match.groupdict() == {"name": "rajpurkar/squad", "commit": COMMIT, "split": "train"}
    assert source_files(PINNED, tmp_path) == []
