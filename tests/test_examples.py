"""Questions are read, checked against every kind of fault, and written back as they were."""

import json
from pathlib import Path
from typing import Any

import pytest

from stages.core.data.examples import (
    FAULTS,
    Answer,
    Example,
    Fault,
    Record,
    check,
    describe_faults,
    find_fault,
    parse_squad,
    parse_text,
    read_squad,
    sample,
    write_squad,
)
from stages.core.errors import InputError

CONTEXT = "The königliche  bridge – built in 1293 🏰 – spans the river."
SOUND = Example("q1", "Bridges", CONTEXT, "When was it built?", (Answer("1293", 34), Answer("in 1293", 31)))


def document(*examples: dict[str, Any], title: Any = "Bridges", context: Any = CONTEXT) -> dict[str, Any]:
    return {"version": "1.1", "data": [{"title": title, "paragraphs": [{"context": context, "qas": list(examples)}]}]}


def qa(key: Any = "q1", question: Any = "When?", text: Any = "1293", start: Any = 34) -> dict[str, Any]:
    return {"id": key, "question": question, "answers": [{"text": text, "answer_start": start}]}


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_squad(path)
    return str(caught.value)


def test_examples_survive_a_round_trip_in_order(tmp_path: Path) -> None:
    examples = [
        SOUND,
        Example("q2", "Bridges", CONTEXT, "  Where?", (Answer("the river", 49),)),
        Example("q3", "Bridges", "Stone.\r\nWood.", "What?", (Answer("Wood", 8),)),
        Example("q4", "", "Kraków", "Dokąd?", (Answer("Kraków", 0),)),
    ]
    write_squad(tmp_path / "new" / "a.json", examples)
    assert read_squad(tmp_path / "new" / "a.json") == examples
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.json"]


def test_file_is_readable_squad_v1_1(tmp_path: Path) -> None:
    write_squad(tmp_path / "a.json", [SOUND])
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "🏰" in text
    answers = [{"text": "1293", "answer_start": 34}, {"text": "in 1293", "answer_start": 31}]
    wanted = document({"id": "q1", "question": "When was it built?", "answers": answers})
    assert json.loads(text) == wanted


def test_paragraphs_of_one_article_are_put_together(tmp_path: Path) -> None:
    parts = [
        Example(f"q{n}", title, context, "Who?", (Answer(context, 0),))
        for n, title, context in ((1, "A", "x"), (2, "B", "y"), (3, "A", "x"), (4, "A", "z"))
    ]
    write_squad(tmp_path / "a.json", parts)
    assert [example.id for example in read_squad(tmp_path / "a.json")] == ["q1", "q3", "q4", "q2"]


def test_label_is_what_most_annotators_gave_and_the_first_of_equals() -> None:
    one, two, three = Answer("a", 0), Answer("b", 1), Answer("a", 5)
    assert Example("q", "", "", "", (one, two, three, two)).label == two
    assert Example("q", "", "", "", (one, two, three)).label == one


BLANK_ANSWER = (Answer(" ", 3),)
REFUSED: dict[str, tuple[Example, ...]] = {
    "answer_not_at_offset": (
        Example("q", "t", "the king", "Who?", (Answer("king", 3),)),
        Example("q", "t", "the king", "Who?", (Answer("king", 400),)),
        Example("q", "t", "the king", "Who?", (Answer("the", -8),)),
        Example("q", "t", "the king", "Who?", (Answer("king", 4), Answer("King", 4))),
    ),
    "duplicate_id": (Example("seen", "t", "the king", "Who?", (Answer("king", 4),)),),
    "empty_answer": (
        Example("q", "t", "the king", "Who?", (Answer("", 4),)),
        Example("q", "t", "the king", "Who?", BLANK_ANSWER),
    ),
    "empty_context": (Example("q", "t", " \n", "Who?", (Answer("king", 4),)),),
    "empty_question": (Example("q", "t", "the king", "\t", (Answer("king", 4),)),),
    "invalid_utf8": (
        Example("q", "t", "the king \udcff", "Who?", (Answer("king", 4),)),
        Example("q", "t", "the king", "Who\ud83d?", (Answer("king", 4),)),
        Example("\udcff", "t", "the king", "Who?", (Answer("king", 4),)),
    ),
    "malformed": (
        Example("q", "t", "the king", "Who?", (Answer("king", "4"),)),  # type: ignore[arg-type]
        Example("q", "t", "the king", "Who?", (Answer("king", 4.0),)),  # type: ignore[arg-type]
        Example("q", "t", "the king", "Who?", (Answer("king", None),)),  # type: ignore[arg-type]
        Example("q", "t", "the king", "Who?", (Answer("he", True),)),
        Example("q", "t", "the king", "Who?", (Answer(None, 4),)),  # type: ignore[arg-type]
        Example(7, "t", "the king", "Who?", (Answer("king", 4),)),  # type: ignore[arg-type]
        Example("q", None, "the king", "Who?", (Answer("king", 4),)),  # type: ignore[arg-type]
        Example("q", "t", ["the king"], "Who?", (Answer("king", 4),)),  # type: ignore[arg-type]
    ),
    "no_answer": (Example("q", "t", "the king", "Who?", ()),),
}


def test_every_kind_of_fault_has_a_case() -> None:
    assert sorted(REFUSED) == sorted(FAULTS)


@pytest.mark.parametrize(("kind", "example"), [(kind, each) for kind, rows in REFUSED.items() for each in rows])
def test_fault_is_found_and_named(kind: str, example: Example) -> None:
    fault = find_fault(Record("somewhere", example), {"seen"})
    assert fault is not None
    assert (fault.kind, fault.place) == (kind, "somewhere")


def test_sound_record_has_no_fault() -> None:
    assert find_fault(Record("somewhere", SOUND), set()) is None


def test_check_sorts_and_keeps_order() -> None:
    bad = Example("q2", "t", "", "Who?", ())
    records = [Record("1", SOUND), Record("2", bad), Record("3", SOUND), Record("4", Example("q4", *_rest(SOUND)))]
    examples, faults = check(records)
    assert [example.id for example in examples] == ["q1", "q4"]
    assert [(fault.kind, fault.place) for fault in faults] == [("empty_context", "2"), ("duplicate_id", "3")]


def _rest(example: Example) -> tuple[Any, ...]:
    return example.title, example.context, example.question, example.answers


def test_id_of_a_refused_record_may_be_used_again() -> None:
    refused = Example("q1", "t", "", "Who?", ())
    examples, faults = check([Record("1", refused), Record("2", SOUND)])
    assert examples == [SOUND]
    assert len(faults) == 1


def test_faults_are_told_a_line_a_kind_with_first_place_and_count() -> None:
    faults = [Fault("b", "second", "x"), Fault("a", "first", "y"), Fault("b", "third", "z"), Fault("b", "fourth", "z")]
    one, two = describe_faults(faults)
    assert one.startswith("first: a: y; 1 such record(s)")
    assert two.startswith("second: b: x; 3 such record(s)")


def test_place_names_file_article_paragraph_and_id(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", document(qa(), qa("q2", start=35)))
    wanted = f"{path}: article 'Bridges', paragraph 0, id 'q2': answer_not_at_offset: '1293' is not at 35, '293 ' is"
    assert refusal(path).startswith(wanted)


def test_bytes_that_are_not_utf8_are_found_and_told_in_printable_text(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps(document(qa("q1?"))).replace("q1?", "q1#").encode().replace(b"#", b"\xe9"))
    message = refusal(path)
    assert "id 'q1\\udce9': invalid_utf8" in message
    message.encode()


def test_fault_of_another_kind_beside_bad_bytes_is_printable_too(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps(document(qa("q#", question=3))).encode().replace(b"#", b"\xe9"))
    refusal(path).encode()


def test_line_break_in_a_name_does_not_break_the_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", document(qa("q\n1", start=0), title="A\nB"))
    assert len(refusal(path).splitlines()) == 1


def test_half_a_surrogate_pair_in_an_escape_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", document(qa(question="Who \ud83d?")))
    assert "invalid_utf8" in refusal(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "a.json").startswith(f"{tmp_path}/a.json: no such file")


def test_a_folder_in_the_place_of_a_file_is_told_in_one_line(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: cannot be read (Is a directory); name a SQuAD v1.1 JSON file"
    with pytest.raises(InputError, match=r": cannot be read \(Is a directory\); name a text file$"):
        list(parse_text(tmp_path))


@pytest.mark.parametrize("data", [b"", b"{", b"\xef\xbb\xbf{}", b"q,a\n", b"[" * 100_000, b"1" * 5_000])
def test_file_that_is_not_json_is_told_in_one_line(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(data)
    message = refusal(tmp_path / "a.json")
    assert message.startswith(f"{tmp_path}/a.json: not JSON")
    assert "\n" not in message


@pytest.mark.parametrize(
    "content",
    [[], {}, 3, {"data": None}, {"data": {"a": 1}}, {"data": [{"title": "A"}]}, {"data": [{"paragraphs": 1}]}],
)
def test_file_of_another_layout_is_refused(content: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", content)
    assert f"{path}: " in refusal(path)
    assert "not SQuAD v1.1" in refusal(path)


def test_article_of_another_layout_is_named_not_the_one_before(tmp_path: Path) -> None:
    content = document(qa())
    content["data"].append({"title": "Rivers"})
    path = write(tmp_path / "a.json", content)
    assert refusal(path).startswith(f"{path}: article 1: not SQuAD v1.1")


def test_question_of_another_layout_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", document(qa(), {"id": "q2", "question": "Who?"}))
    assert refusal(path).startswith(f"{path}: article 'Bridges', paragraph 0: not SQuAD v1.1 (KeyError: 'answers')")


def test_file_without_a_question_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"data": []})
    assert refusal(path) == f"{path}: holds no question"


def test_article_without_a_title_is_read(tmp_path: Path) -> None:
    content = document(qa())
    del content["data"][0]["title"]
    (record,) = parse_squad(write(tmp_path / "a.json", content))
    assert record.example.title == ""


def numbered(count: int) -> list[Example]:
    return [Example(f"q{n}", f"T{n // 10}", "x", "Who?", (Answer("x", 0),)) for n in range(count)]


def test_sample_is_drawn_over_all_articles_in_their_order() -> None:
    drawn = sample(numbered(500), 50, seed=13)
    positions = [int(example.id[1:]) for example in drawn]
    assert positions == sorted(set(positions))
    assert len(drawn) == 50
    assert len({example.title for example in drawn}) > 25


def test_sample_is_decided_by_its_seed() -> None:
    assert sample(numbered(500), 50, seed=13) == sample(numbered(500), 50, seed=13)
    assert sample(numbered(500), 50, seed=13) != sample(numbered(500), 50, seed=14)


@pytest.mark.parametrize("count", [0, 20, 21])
def test_sample_of_none_or_too_many_is_everything(count: int) -> None:
    assert sample(numbered(20), count, seed=13) == numbered(20)
