"""Logits carried to other tokens and windows: against a plain loop, with real tokenizers, and where nothing differs."""

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stages.core.data.batches import FlatLogits
from stages.core.data.carry import NO_MASS, best_windows, carry_over
from stages.core.data.examples import Answer, Example
from stages.core.data.prepared import Questions
from stages.core.data.windows import Windows
from stages.core.errors import InputError
from stages.core.qa.decoding import DecodeParams
from stages.core.qa.evaluation import answer
from stages.core.training.losses import soft_divergence
from tests.toy_models import WORDS
from tests.toy_papers import Span, drawn_paper, windows_of
from tests.toy_questions import windows_of_family

DECODE = DecodeParams(n_best=20, max_answer_length=250)


def drawn_logits(windows: Windows, seed: int, spread: float = 3.0) -> FlatLogits:
    drawn = torch.randn(2, len(windows.input_ids), generator=torch.Generator().manual_seed(seed)) * spread
    return drawn[0], drawn[1]


def spans_of(windows: Windows, row: int) -> list[Span]:
    first, last = int(windows.row_splits[row]), int(windows.row_splits[row + 1])
    return [(start, stop) for start, stop in windows.offset_mapping[first:last].tolist()]


def softmax(logits: Tensor, windows: Windows, row: int, temperature: float = 1.0) -> dict[int, float]:
    """Probability of position 0 and of each context token of a window, one at a time."""
    places = [0, *range(int(windows.context_start[row]), int(windows.context_stop[row]))]
    powers = [math.exp(float(logits[int(windows.row_splits[row]) + place]) / temperature) for place in places]
    return {place: power / sum(powers) for place, power in zip(places, powers, strict=True)}


def plain_choice(teacher: Windows, student: Windows, row: int) -> int:
    def shown(windows: Windows, number: int) -> Span:
        tokens = spans_of(windows, number)[int(windows.context_start[number]) : int(windows.context_stop[number])]
        return tokens[0][0], tokens[-1][1]

    low, high = shown(student, row)
    ranked = []
    for number, key in enumerate(teacher.question_ids):
        if key == student.question_ids[row]:
            its_low, its_high = shown(teacher, number)
            seen = min(high, its_high) - max(low, its_low)
            ranked.append((-seen, -min(low - its_low, its_high - high), number))
    return min(ranked)[2]


def plain_place(windows: Windows, row: int, character: int, side: str) -> int:
    """The token that a start or an end at this character goes to, 0 for none of this window."""
    context = range(int(windows.context_start[row]), int(windows.context_stop[row]))
    spans = spans_of(windows, row)
    neighbours = [number for number, key in enumerate(windows.question_ids) if key == windows.question_ids[row]]
    before, behind = character < spans[context[0]][0], character >= spans[context[-1]][1]
    if (before and row != neighbours[0]) or (behind and row != neighbours[-1]):
        return 0
    if side == "start":
        return next((place for place in context if spans[place][0] < spans[place][1] > character), 0)
    return next((place for place in reversed(context) if spans[place][1] > spans[place][0] <= character), 0)


def plain_carry(logits: Tensor, teacher: Windows, student: Windows, row: int, side: str) -> dict[int, float]:
    """Masses of one student window's tokens, one teacher token at a time."""
    heard = plain_choice(teacher, student, row)
    masses: dict[int, float] = {}
    for place, mass in softmax(logits, teacher, heard).items():
        start, stop = spans_of(teacher, heard)[place]
        to = 0 if place == 0 else plain_place(student, row, start if side == "start" else stop - 1, side)
        masses[to] = masses.get(to, 0.0) + mass
    return masses


@pytest.mark.parametrize("seed", range(30))
def test_masses_are_those_of_the_plain_loop(seed: int) -> None:
    draw = random.Random(seed)
    sizes = {f"q{number}": draw.randint(1, 90) for number in range(6)}
    teacher = windows_of({key: drawn_paper(draw, size) for key, size in sizes.items()}, "teacher")
    student = windows_of({key: drawn_paper(draw, sizes[key]) for key in draw.sample(sorted(sizes), 5)}, "student")
    logits = drawn_logits(teacher, seed)
    for side, its, mine in zip(("start", "end"), logits, carry_over(logits, teacher, student), strict=True):
        assert mine.dtype == torch.float32
        for row in range(len(student)):
            wanted = plain_carry(its, teacher, student, row, side)
            found = softmax(mine, student, row)
            assert {place for place, mass in found.items() if mass > 0} == set(wanted)
            assert {place: found[place] for place in wanted} == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_a_window_listens_to_the_one_that_shows_most_of_it(seed: int) -> None:
    draw = random.Random(seed)
    papers = [{f"q{number}": drawn_paper(draw, 80) for number in range(4)} for _ in range(2)]
    teacher, student = windows_of(papers[0], "teacher"), windows_of(papers[1], "student")
    plain = [plain_choice(teacher, student, row) for row in range(len(student))]
    assert best_windows(teacher, student).tolist() == plain


WORDWISE = [(0, 4), (5, 9), (10, 14), (15, 19), (20, 24)]


def test_of_windows_that_show_as_much_the_one_with_most_around_is_heard() -> None:
    teacher = windows_of({"q": [WORDWISE[:3], WORDWISE[1:4], WORDWISE[2:]]}, "teacher")
    for shown, heard in ((WORDWISE[2:3], 1), (WORDWISE[1:2], 0), (WORDWISE[3:4], 2), (WORDWISE, 1), (WORDWISE[3:], 2)):
        assert best_windows(teacher, windows_of({"q": [shown]}, "student")).tolist() == [heard]


def test_same_windows_same_logits_bit_for_bit(tmp_path: Path) -> None:
    windows = cut([paragraph(30)], tmp_path, "bert")
    logits = drawn_logits(windows, 1)
    for given, carried in zip(logits, carry_over(logits, windows, cut([paragraph(30)], tmp_path, "bert")), strict=True):
        assert torch.equal(given, carried)


def test_same_tokens_of_another_family_have_the_same_logits_bit_for_bit(tmp_path: Path) -> None:
    """DistilBERT reads what BERT reads, but for token types."""
    teacher, student = (cut([paragraph(30)], tmp_path / name, name) for name in ("bert", "distilbert"))
    assert teacher.fingerprint() != student.fingerprint()
    logits = drawn_logits(teacher, 1)
    for given, carried in zip(logits, carry_over(logits, teacher, student), strict=True):
        assert torch.equal(given, carried)


def test_same_cuts_with_other_numbers_keep_logits_and_windows_compare(tmp_path: Path) -> None:
    """The long way round, too, gives the teacher's own logits, not only their softmax."""
    windows = cut([paragraph(60)], tmp_path, "bert", max_length=32)
    assert len(windows) > 2
    logits, renumbered = drawn_logits(windows, 1), replace(windows, input_ids=windows.input_ids + 1)
    for given, carried in zip(logits, carry_over(logits, windows, renumbered), strict=True):
        context = windows.offset_mapping[:, 1] > windows.offset_mapping[:, 0]
        context[windows.row_splits[:-1]] = True
        assert torch.allclose(carried[context], given[context], atol=1e-6)
        assert (carried[~context] == NO_MASS).all()


def test_text_the_student_window_does_not_show_is_no_answer() -> None:
    teacher = windows_of({"q": [WORDWISE]}, "teacher")
    student = windows_of({"q": [WORDWISE[:2], WORDWISE[2:]]}, "student")
    start = torch.full((8,), -50.0)
    start[2 + 3] = 0.0  # the fourth word
    carried, _ = carry_over((start, start), teacher, student)
    assert softmax(carried, student, 0)[0] == pytest.approx(1)
    assert softmax(carried, student, 1)[2 + 1] == pytest.approx(1)


def test_text_the_teacher_window_does_not_show_gets_no_mass() -> None:
    teacher = windows_of({"q": [WORDWISE[:3]]}, "teacher")
    student = windows_of({"q": [WORDWISE]}, "student")
    for carried in carry_over(drawn_logits(teacher, 1), teacher, student):
        assert carried[5:7].tolist() == [NO_MASS] * 2
        assert sum(list(softmax(carried, student, 0).values())[:4]) == pytest.approx(1)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 8.0])
def test_softened_later_is_the_carried_distribution_softened(temperature: float) -> None:
    draw = random.Random(3)
    teacher, student = (windows_of({"q": drawn_paper(draw, 60)}, name) for name in ("teacher", "student"))
    start, end = drawn_logits(teacher, 1)
    for side, its, mine in zip(("start", "end"), (start, end), carry_over((start, end), teacher, student), strict=True):
        half = mine.half().float()
        for row in range(len(student)):
            powers = {
                to: mass ** (1 / temperature) for to, mass in plain_carry(its, teacher, student, row, side).items()
            }
            found = softmax(half, student, row, temperature)
            wanted = {place: powers.get(place, 0.0) / sum(powers.values()) for place in found}
            assert found == pytest.approx(wanted, rel=0.02, abs=1e-12)


def test_what_got_no_mass_makes_no_loss_infinite() -> None:
    teacher = windows_of({"q": [[(0, 9), (10, 19)]]}, "teacher")
    student = windows_of({"q": [WORDWISE[:4]]}, "student")
    mine = carry_over(drawn_logits(teacher, 1), teacher, student)[0].half().float()[None]
    mask = torch.tensor([[True, False, True, True, True, True, False]])
    taught = torch.randn(1, 7, requires_grad=True)
    loss = soft_divergence(taught, mine, mask, 2.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert taught.grad is not None
    assert torch.isfinite(taught.grad).all()


def test_a_question_the_teacher_was_not_asked_is_named() -> None:
    teacher, student = windows_of({"a": [WORDWISE]}, "teacher"), windows_of({"b": [WORDWISE]}, "student")
    with pytest.raises(InputError, match="the teacher has none of question 'b'"):
        carry_over(drawn_logits(teacher, 1), teacher, student)


# With real tokenizers. A paragraph of words that every toy tokenizer knows, and texts on which offsets have gone wrong.
PLACES = (
    "the café in Kraków, “old” – new: the 🏰 of the 👑🏰 king",
    "  the cafe\u0301 by the sea  was   built\n\nby\u00a0a queen  ",
    "the\u200b \ufeffking of 東京 and the river Москва built two hundred ships",
    "The King BUILT a bridge, built by the king.",
)
PAIRS = [("mpnet", "bert"), ("roberta", "bert"), ("bert", "roberta"), ("distilbert", "mpnet")]


def paragraph(words: int, seed: int = 1) -> Example:
    return asked(f"words {words} {seed}", " ".join(random.Random(seed).choices(WORDS, k=words)))


def asked(key: str, context: str) -> Example:
    word = context.split()[0]
    return Example(key, "T", context, "who built the bridge?", (Answer(word, context.find(word)),))


def cut(examples: list[Example], folder: Path, family: str, max_length: int = 128) -> Windows:
    return windows_of_family(examples, folder / family, family, max_length=max_length, doc_stride=8)


def word_edges(context: str) -> tuple[set[int], set[int]]:
    """Characters that a word begins with and those that one ends with."""
    blank = [True, *(character.isspace() for character in context), True]
    numbers = range(len(context))
    return (
        {n for n in numbers if blank[n] and not blank[n + 1]},
        {n for n in numbers if not blank[n + 1] and blank[n + 2]},
    )


def sure_of_words(examples: list[Example], windows: Windows, seed: int) -> FlatLogits:
    """Logits of a teacher whose spans begin and end with words, where token edges of all tokenizers agree."""
    start, end = drawn_logits(windows, seed, spread=4.0)
    edges = {example.id: word_edges(example.context) for example in examples}
    for row, key in enumerate(windows.question_ids):
        for place, (first, stop) in enumerate(spans_of(windows, row)):
            flat = int(windows.row_splits[row]) + place
            if first not in edges[key][0] or first == stop:
                start[flat] = -40.0
            if stop - 1 not in edges[key][1] or first == stop:
                end[flat] = -40.0
    return start, end


@pytest.mark.parametrize(("its", "mine"), PAIRS)
def test_the_pairs_cut_words_at_other_places(its: str, mine: str, tmp_path: Path) -> None:
    teacher, student = (cut([paragraph(60)], tmp_path, family, max_length=250) for family in (its, mine))
    assert spans_of(teacher, 0) != spans_of(student, 0)


@pytest.mark.parametrize(("its", "mine"), PAIRS)
def test_decoded_answers_are_the_teachers_where_token_edges_agree(its: str, mine: str, tmp_path: Path) -> None:
    plain = [paragraph(count, seed) for count, seed in ((12, 1), (40, 2), (25, 3))]
    examples = [*plain, asked("place", PLACES[3])]
    teacher, student = (cut(examples, tmp_path, family, max_length=250) for family in (its, mine))
    for seed in range(10):
        logits = sure_of_words(examples, teacher, seed)
        carried = carry_over(logits, teacher, student)
        stored = (carried[0].half(), carried[1].half())
        wanted = answer(Questions(examples, teacher), logits, DECODE)
        assert answer(Questions(examples, student), carried, DECODE) == wanted
        assert all(wanted.values())
        assert all(torch.isfinite(each).all() for each in stored)


@pytest.mark.parametrize(("its", "mine"), PAIRS)
def test_decoded_answers_over_several_windows(its: str, mine: str, tmp_path: Path) -> None:
    """The teacher is sure of one word; every student window that shows it learns of it."""
    examples = [paragraph(60, seed) for seed in range(6)]
    teacher, student = (cut(examples, tmp_path, family, max_length=40) for family in (its, mine))
    assert len(student) >= 3 * len(examples)
    draw = random.Random(1)
    start, end = (torch.zeros(len(teacher.input_ids)) for _ in range(2))
    start[teacher.row_splits[:-1]] = end[teacher.row_splits[:-1]] = 3.0
    wanted = {}
    for example in examples:
        words = example.context.split()
        number = draw.randrange(len(words))
        first = len(" ".join(words[:number])) + (number > 0)
        wanted[example.id] = words[number]
        for row, key in enumerate(teacher.question_ids):
            for place, (low, high) in enumerate(spans_of(teacher, row)):
                flat = int(teacher.row_splits[row]) + place
                start[flat] += 20.0 * (key == example.id and low == first and high > low)
                end[flat] += 20.0 * (key == example.id and high == first + len(words[number]))
    found = answer(Questions(examples, student), carry_over((start, end), teacher, student), DECODE)
    assert answer(Questions(examples, teacher), (start, end), DECODE) == wanted
    assert found == wanted


@pytest.mark.parametrize(("its", "mine"), PAIRS)
@pytest.mark.parametrize("number", range(len(PLACES)))
def test_masses_of_awkward_text_are_those_of_the_plain_loop(its: str, mine: str, number: int, tmp_path: Path) -> None:
    examples = [asked("q", PLACES[number])]
    teacher, student = (cut(examples, tmp_path, family, max_length=32) for family in (its, mine))
    logits = drawn_logits(teacher, number)
    for side, said, carried in zip(("start", "end"), logits, carry_over(logits, teacher, student), strict=True):
        for row in range(len(student)):
            wanted = plain_carry(said, teacher, student, row, side)
            found = softmax(carried, student, row)
            assert {place: found.get(place, 0.0) for place in wanted} == pytest.approx(wanted, rel=1e-4)
            assert sum(wanted.values()) == pytest.approx(1)
