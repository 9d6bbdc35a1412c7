"""The score of random spans."""

import pytest

from stages.core.data.examples import Answer, Example
from stages.core.errors import InputError
from stages.core.qa.chance import ChanceFloor, chance_floor


def question(key: str, context: str, answer: str) -> Example:
    return Example(key, "title", context, "What?", (Answer(answer, context.index(answer)),))


def test_one_word_of_four_is_right_a_quarter_of_the_time() -> None:
    examples = [question(f"q{number}", "red green blue grey", "blue") for number in range(500)]
    floor = chance_floor(examples, draws=20, seed=1)
    assert floor.exact_match == floor.f1 == pytest.approx(25, abs=2)  # 10,000 draws: standard error 0.4


def test_lengths_come_from_the_gold_answers_and_fit_the_context() -> None:
    long = question("long", "one two three four five six", "one two three four five six")
    short = question("short", "yes", "yes")
    # "short" can only be right; "long" is right when it draws its own length, half of the time.
    floor = chance_floor([long, short], draws=400, seed=2)
    assert floor.exact_match == pytest.approx(75, abs=5)
    assert floor.f1 == pytest.approx(50 + 0.25 * (100 + 100 * 2 / 7), abs=4)


def test_seed_decides() -> None:
    examples = [question(f"q{number}", "one two three four five six", "two three") for number in range(20)]
    first, again, other = (chance_floor(examples, draws=3, seed=seed) for seed in (1, 1, 3))
    assert first == again != other


@pytest.mark.parametrize("draws", [0, 1])
def test_refuses_nothing_to_draw(draws: int) -> None:
    examples = [] if draws else [question("q", "red", "red")]
    with pytest.raises(InputError, match="chance floor"):
        chance_floor(examples, draws=draws, seed=0)
    assert chance_floor([question("q", "red", "red")], draws=1, seed=0) == ChanceFloor(100.0, 100.0)
