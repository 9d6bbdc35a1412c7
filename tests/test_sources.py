"""A source is the embedded corpus, a file, a folder of them, or a pinned data set (see test_dataset_hub.py)."""

import sys
from pathlib import Path

import pytest

from stages.core.data.examples import Answer, Example, write_squad
from stages.core.data.sources import HUB_SOURCE, read_source, source_files
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
