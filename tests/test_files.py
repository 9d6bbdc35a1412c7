"""Results are written whole or not at all, and equal values give equal bytes."""

from pathlib import Path

import pytest

from stages.core.files import whole_folder, write_json, write_text


def test_text_is_utf8_with_plain_newlines_in_a_new_folder(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "report.md", "é\nö\r\n")
    assert (tmp_path / "new" / "report.md").read_bytes() == b"\xc3\xa9\n\xc3\xb6\r\n"


def test_nothing_else_is_left_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a.json.partial").write_text("what a killed run left")
    write_json(tmp_path / "a.json", {"f1": 1.0})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_keys_are_sorted_at_every_depth(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": {"d": 1, "c": "é"}, "a": 2.5})
    write_json(tmp_path / "b.json", {"a": 2.5, "b": {"c": "é", "d": 1}})
    wanted = '{\n  "a": 2.5,\n  "b": {\n    "c": "é",\n    "d": 1\n  }\n}\n'
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == wanted
    assert (tmp_path / "b.json").read_text(encoding="utf-8") == wanted


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_number_that_is_not_finite_leaves_the_old_file(number: float, tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"f1": 1.0})
    before = (tmp_path / "a.json").read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"f1": number})
    assert (tmp_path / "a.json").read_bytes() == before


def test_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.md", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.md", "new" * 10_000 + "\udc80")
    assert (tmp_path / "a.md").read_text() == "old"


def test_a_folder_replaces_the_old_one_only_when_it_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "model"
    with whole_folder(folder) as partial:
        (partial / "old.txt").write_text("first")
    with pytest.raises(KeyboardInterrupt), whole_folder(folder) as partial:
        (partial / "new.txt").write_text("second")
        raise KeyboardInterrupt
    assert [path.name for path in folder.parent.rglob("*")] == ["model", "old.txt"]
    with whole_folder(folder) as partial:
        (partial / "new.txt").write_text("third")
    assert [path.name for path in folder.parent.rglob("*")] == ["model", "new.txt"]
