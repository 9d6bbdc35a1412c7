"""The vectorised span search against a double loop."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stages.core.data.examples import Answer, Example
from stages.core.data.windows import Windows
from stages.core.errors import InputError
from stages.core.qa.spans import Candidate, best_spans, best_texts, predict_answers
from tests.toy_papers import Paper, windows_of


def loop_spans(start: list[float], end: list[float], allowed: list[bool], longest: int) -> list[tuple[float, int, int]]:
    """Every possible (score, start, end), best first."""
    found = []
    for s in range(len(start)):
        for e in range(s, min(s + longest, len(start))):
            if allowed[s] and allowed[e]:
                found.append((start[s] + end[e], s, e))
    return sorted(found, key=lambda span: (-span[0], span[1], span[2] - span[1]))


@pytest.mark.parametrize("n_best", [1, 5, 200])
@pytest.mark.parametrize("longest", [1, 4, 30])
def test_best_spans_agree_with_a_double_loop(n_best: int, longest: int) -> None:
    generator = torch.Generator().manual_seed(n_best * 100 + longest)
    # Halves: sums are exact and ties are many.
    start = torch.randint(-4, 5, (6, 12), generator=generator) / 2
    end = torch.randint(-4, 5, (6, 12), generator=generator) / 2
    allowed = torch.rand(6, 12, generator=generator) > 0.3
    allowed[5] = False
    spans = best_spans(start, end, allowed, n_best=n_best, max_answer_length=longest)
    assert spans.start.shape == spans.end.shape == spans.score.shape == (6, n_best)
    assert spans.start.dtype == spans.end.dtype == torch.int64
    for row in range(6):
        wanted = loop_spans(start[row].tolist(), end[row].tolist(), allowed[row].tolist(), longest)[:n_best]
        columns = (spans.score[row].tolist(), spans.start[row].tolist(), spans.end[row].tolist())
        found = list(zip(*columns, strict=True))
        assert found[: len(wanted)] == wanted
        assert all(score == -torch.inf for score, _, _ in found[len(wanted) :])


def words(text: str) -> list[tuple[int, int]]:
    spans, place = [], 0
    for word in text.split(" "):
        spans.append((place, place + len(word)))
        place += len(word) + 1
    return spans


def make_windows(cuts: list[tuple[Example, int, int]]) -> Windows:
    """Windows over words first to stop of each context, those of an example one after another."""
    papers: dict[str, Paper] = {}
    for example, first, stop in cuts:
        papers.setdefault(example.id, []).append(words(example.context)[first:stop])
    return windows_of(papers, "words")


def example(key: str, context: str) -> Example:
    return Example(key, "title", context, "What?", (Answer(context[:1], 0),))


def loop_answers(
    examples: list[Example], windows: Windows, start: Tensor, end: Tensor, n_best: int, longest: int
) -> dict[str, list[Candidate]]:
    """The same answers, one window and one span at a time."""
    answers = {}
    for question in examples:
        ranked = []
        for row in [w for w, key in enumerate(windows.question_ids) if key == question.id]:
            low, high = int(windows.row_splits[row]), int(windows.row_splits[row + 1])
            inside = [int(windows.context_start[row]) <= t < int(windows.context_stop[row]) for t in range(high - low)]
            for score, s, e in loop_spans(start[low:high].tolist(), end[low:high].tolist(), inside, longest)[:n_best]:
                place = int(windows.offset_mapping[low + s, 0]), int(windows.offset_mapping[low + e, 1])
                ranked.append((-score, row, s, e - s, place))
        kept: dict[tuple[int, int], float] = {}
        for negative, _, _, _, place in sorted(ranked):
            kept.setdefault(place, -negative)
        found = [Candidate(question.context[a:b], score, a, b) for (a, b), score in kept.items()]
        answers[question.id] = found[:n_best]
    return answers


@pytest.mark.parametrize("batch_size", [1, 2, 50])
def test_answers_agree_with_loops_over_windows_that_overlap(batch_size: int) -> None:
    texts = ["one two three four five six seven", "red green blue", "up down left right here there"]
    examples = [example(f"q{number}", text) for number, text in enumerate(texts)]
    cuts = [(0, 0, 7), (0, 2, 6), (0, 4, 7), (2, 0, 2), (2, 2, 6), (1, 0, 3)]  # lengths 4 to 10
    windows = make_windows([(examples[number], first, stop) for number, first, stop in cuts])
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        start, end = torch.randint(-4, 5, (2, int(windows.row_splits[-1])), generator=generator) / 2
        found = predict_answers(examples, windows, start, end, n_best=6, max_answer_length=3, batch_size=batch_size)
        assert found == loop_answers(examples, windows, start, end, n_best=6, longest=3)
        assert list(found) == ["q0", "q1", "q2"]


def test_a_span_seen_in_two_windows_is_kept_once_at_its_best_score() -> None:
    question = example("q", "one two three")
    windows = make_windows([(question, 0, 2), (question, 1, 3)])
    logits = torch.tensor([9.0, 9.0, 0.0, 1.0, 9.0, 9.0, 9.0, 2.0, 0.0, 9.0])  # 9: special tokens, never an answer
    found = predict_answers([question], windows, logits, logits, n_best=10, max_answer_length=1, batch_size=8)["q"]
    assert [(c.text, c.score) for c in found] == [("two", 4.0), ("one", 0.0), ("three", 0.0)]
    assert found[0] == Candidate("two", 4.0, 4, 7)


def test_ties_go_to_the_earlier_window_then_the_earlier_start_then_the_shorter_span() -> None:
    question = example("q", "a b c d e f")
    windows = make_windows([(question, 3, 6), (question, 0, 3)])
    flat = torch.zeros(int(windows.row_splits[-1]))
    found = predict_answers([question], windows, flat, flat, n_best=7, max_answer_length=2, batch_size=1)["q"]
    assert [c.text for c in found] == ["d", "d e", "e", "e f", "f", "a", "a b"]


def test_no_possible_span_gives_the_empty_text() -> None:
    question, other = example("q", "one two"), example("unseen", "three")
    windows = make_windows([(question, 0, 2)])
    # Tokens of no width, such as lone white space, cannot be an answer.
    blank = replace(windows, offset_mapping=torch.zeros_like(windows.offset_mapping))
    flat = torch.zeros(5)
    found = predict_answers([question, other], blank, flat, flat, n_best=3, max_answer_length=3, batch_size=4)
    assert found == {"q": [], "unseen": []}
    assert best_texts(found) == {"q": "", "unseen": ""}


def test_best_texts_takes_the_first_candidate() -> None:
    assert best_texts({"q": [Candidate("x", 2.0, 0, 1), Candidate("y", 1.0, 2, 3)]}) == {"q": "x"}


@pytest.mark.parametrize(
    ("start", "examples", "message"),
    [
        (torch.zeros(4), ["q"], "4 start and 5 end values for 5 tokens"),
        (torch.tensor([0.0, 0.0, 0.0, torch.nan, 0.0]), ["q"], "start value 3 is nan"),
        (torch.zeros(5), ["z"], "question q is not among"),
    ],
)
def test_refuses_logits_that_mean_nothing(start: Tensor, examples: list[str], message: str) -> None:
    windows = make_windows([(example("q", "one two"), 0, 2)])
    asked = [example(key, "one two") for key in examples]
    with pytest.raises(InputError, match=message):
        predict_answers(asked, windows, start, torch.zeros(5), n_best=3, max_answer_length=3, batch_size=4)
