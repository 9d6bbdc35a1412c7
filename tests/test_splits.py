"""No article and no paragraph is on two sides, and what was left out is counted."""

import random
from collections import Counter
from pathlib import Path

import pytest

from stages.core.data.examples import FAULTS, Answer, Example, write_squad
from stages.core.data.splits import count_dropped, read_sources, split_by_article, without_contexts_of
from stages.core.errors import InputError


def example(key: str, title: str = "A", context: str = "the king", question: str = "Who?") -> Example:
    return Example(key, title, context, question, (Answer("king", context.index("king")),))


def articles(sizes: dict[str, int]) -> list[Example]:
    """Examples of articles of these sizes, a paragraph for every two questions."""
    return [
        example(f"{title}{number}", title, f"king {title} {number // 2}")
        for title, size in sizes.items()
        for number in range(size)
    ]


def titles(examples: list[Example]) -> set[str]:
    return {each.title for each in examples}


def contexts(examples: list[Example]) -> set[str]:
    return {each.context for each in examples}


@pytest.fixture
def bad_file(tmp_path: Path) -> str:
    """A file with one sound question and three that are not."""
    unsound = [example("a", question=" "), example("b", question=""), Example("c", "A", "the king", "Who?", ())]
    write_squad(tmp_path / "bad.json", [*unsound, example("d")])
    return str(tmp_path / "bad.json")


def test_error_tells_a_line_a_kind_and_how_to_go_on(bad_file: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_sources([bad_file], tmp_path, "error")
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "id 'a': empty_question" in lines[0]
    assert "2 such record(s)" in lines[0]
    assert "id 'c': no_answer" in lines[1]
    assert "1 such record(s)" in lines[1]
    assert "set it to skip" in lines[2]


def test_skip_leaves_them_out_counts_and_tells(
    bad_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    examples, dropped = read_sources([bad_file], tmp_path, "skip")
    assert [each.id for each in examples] == ["d"]
    assert dropped == {"empty_question": 2, "no_answer": 1}
    assert [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()] == ["skipped", "skipped"]


def test_id_used_in_another_source_is_a_fault(tmp_path: Path) -> None:
    write_squad(tmp_path / "one.json", [example("a")])
    write_squad(tmp_path / "two.json", [example("a", context="a king")])
    with pytest.raises(InputError, match=r"two\.json.* id 'a': duplicate_id"):
        read_sources([str(tmp_path / "one.json"), str(tmp_path / "two.json")], tmp_path, "error")


def test_sources_without_a_sound_question_are_refused(tmp_path: Path) -> None:
    write_squad(tmp_path / "a.json", [example("a", question=" ")])
    with pytest.raises(InputError, match=rf"no sound question in {tmp_path}/a\.json"):
        read_sources([str(tmp_path / "a.json")], tmp_path, "skip")


def test_paragraphs_of_the_other_side_are_dropped_counted_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [example("a"), example("b", context="a king"), example("c", title="B")]
    kept, dropped = without_contexts_of(rows, [example("d", title="C")], split="train", other="dev")
    assert [each.id for each in kept] == ["b"]
    assert dropped == {"context_on_two_sides": 2}
    assert capsys.readouterr().out == "skipped: 2 of 3 questions of train, whose paragraph dev has too\n"
    assert without_contexts_of(kept, [example("d")], split="train", other="dev")[0] == kept
    assert not capsys.readouterr().out


def test_paragraphs_that_differ_in_white_space_alone_are_one() -> None:
    here, there = "The king\nbuilt  a bridge.", "The king\r\nbuilt a bridge. "
    both = [example("a", context=here), example("b")]
    kept, dropped = without_contexts_of(both, [example("c", context=there)], split="train", other="test")
    assert [each.id for each in kept] == ["b"]
    assert dropped["context_on_two_sides"] == 1
    rows = [example("a", "A", here), example("b", "B", there), example("c", "C", "the old king")]
    for seed in range(5):
        sides = split_by_article(rows, 0.3, seed)
        assert {"A", "B"} <= titles(sides[0]) or {"A", "B"} <= titles(sides[1])


def test_side_that_would_be_empty_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"^params\.yaml: data: all paragraphs of dev are in test too; name other sources"
    ):
        without_contexts_of([example("a")], [example("b")], split="dev", other="test")


def test_counts_add_up_and_name_every_reason() -> None:
    total = count_dropped(Counter(no_answer=1, malformed=2), Counter(no_answer=3), Counter(context_on_two_sides=4))
    assert set(total) == {*FAULTS, "cannot_be_cut", "context_on_two_sides"}
    assert {reason: count for reason, count in total.items() if count} == {
        "no_answer": 4,
        "malformed": 2,
        "context_on_two_sides": 4,
    }


@pytest.mark.parametrize("seed", range(5))
def test_about_the_fraction_is_held_out_in_whole_articles(seed: int) -> None:
    examples = articles({f"T{number}": 10 + number for number in range(30)})
    rest, held = split_by_article(examples, 0.2, seed)
    assert not titles(rest) & titles(held)
    assert not contexts(rest) & contexts(held)
    assert sorted(each.id for each in rest + held) == sorted(each.id for each in examples)
    assert 0.2 <= len(held) / len(examples) < 0.2 + 40 / len(examples)


def test_order_is_kept_on_both_sides() -> None:
    examples = articles(dict.fromkeys("ABCDEF", 4))
    for side in split_by_article(examples, 0.5, 13):
        assert side == [each for each in examples if each in side]


def test_split_is_decided_by_its_seed() -> None:
    examples = articles({f"T{number}": 4 for number in range(30)})
    assert split_by_article(examples, 0.3, 13) == split_by_article(examples[:], 0.3, 13)
    assert titles(split_by_article(examples, 0.3, 13)[1]) != titles(split_by_article(examples, 0.3, 14)[1])


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_neither_side_is_ever_empty(fraction: float) -> None:
    rest, held = split_by_article(articles({"A": 50, "B": 1}), fraction, 13)
    assert rest
    assert held


@pytest.mark.parametrize("seed", range(10))
def test_articles_that_share_paragraphs_move_together_through_any_chain(seed: int) -> None:
    draw = random.Random(seed)
    examples = [example(f"q{number}", f"T{draw.randrange(40)}", f"king {draw.randrange(60)}") for number in range(70)]
    rest, held = split_by_article(examples, 0.3, seed)
    assert not titles(rest) & titles(held)
    assert not contexts(rest) & contexts(held)


def test_one_article_cannot_be_split() -> None:
    with pytest.raises(InputError, match="train is one article"):
        split_by_article(articles({"A": 5}), 0.1, 13)


def test_articles_linked_into_one_cannot_be_split() -> None:
    linked = [
        example("a", "A", "king 1"),
        example("b", "B", "king 1"),
        example("c", "B", "king 2"),
        example("d", "C", "king 2"),
    ]
    with pytest.raises(InputError, match="train is one article"):
        split_by_article(linked, 0.1, 13)
