"""From logits to answers to quality."""

from pathlib import Path

import pytest
import torch

from stages.core.data.batches import FlatLogits
from stages.core.data.prepared import Questions
from stages.core.qa.decoding import DecodeParams
from stages.core.qa.evaluation import answer, answer_with, quality, quality_with_intervals, score_model
from stages.core.qa.inference import predict_logits
from stages.core.qa.scoring import score
from tests.toy_models import toy_qa_model
from tests.toy_questions import toy_questions

CPU = torch.device("cpu")
DECODE = DecodeParams(n_best=5, max_answer_length=4)


@pytest.fixture
def questions(tmp_path: Path) -> Questions:
    return toy_questions(tmp_path / "tokenizer", 10, seed=1)


def gold_logits(questions: Questions) -> FlatLogits:
    """Logits of a model that knows every answer."""
    windows = questions.windows
    start, end = torch.zeros(2, int(windows.row_splits[-1]))
    start[windows.row_splits[:-1] + windows.start_positions] = 9.0
    end[windows.row_splits[:-1] + windows.end_positions] = 9.0
    return start, end


def test_who_knows_every_answer_scores_100(questions: Questions) -> None:
    answers = answer(questions, gold_logits(questions), DECODE)
    assert answers == {example.id: example.label.text for example in questions.examples}
    assert quality(score(questions.examples, answers)) == {"exact_match": 100.0, "f1": 100.0}


def test_quality_is_the_mean_over_questions(questions: Questions) -> None:
    answers = answer(questions, gold_logits(questions), DECODE)
    first, second, third = list(answers)[:3]
    answers |= {first: "river", second: f"{answers[second]} river town"}  # F1 of the second: 2 * 1/3 * 1 / (4/3)
    answers.pop(third)
    assert quality(score(questions.examples, answers)) == {"exact_match": 70.0, "f1": 75.0}


def test_a_model_answers_in_float32_at_any_batch_size_and_keeps_its_mode(questions: Questions) -> None:
    model = toy_qa_model("bert", 1).train()
    logits = predict_logits(model, questions.windows, batch_size=4, device=CPU, precision="fp32")
    expected = answer(questions, logits, DECODE)
    for batch_size in (1, 3, 32):
        assert answer_with(model, questions, DECODE, CPU, batch_size) == expected
        scores = score_model(model, questions, DECODE, CPU, batch_size)
        assert quality(scores) == quality(score(questions.examples, expected))
    assert model.training
    assert set(expected) == {example.id for example in questions.examples}


def test_intervals_hold_the_mean_and_depend_on_the_seed(questions: Questions) -> None:
    answers = answer(questions, gold_logits(questions), DECODE)
    for example in questions.examples[:3]:
        answers[example.id] = "river"
    found, again, other = (quality_with_intervals(questions, answers, resamples=200, seed=seed) for seed in (1, 1, 4))
    names = ("exact_match", "f1")
    assert set(found) == {"questions", *names, *(f"{n}_low" for n in names), *(f"{n}_high" for n in names)}
    assert found["questions"] == 10
    assert {name: found[name] for name in names} == quality(score(questions.examples, answers))
    for name in names:
        assert 0 <= found[f"{name}_low"] < found[name] < found[f"{name}_high"] <= 100
    assert found == again != other


def test_intervals_resample_paragraphs_not_questions(questions: Questions) -> None:
    """Two questions on each paragraph that are right or wrong together vary like five, not like ten."""
    answers = answer(questions, gold_logits(questions), DECODE)
    contexts = sorted({example.context for example in questions.examples})
    for example in questions.examples:
        if example.context in contexts[:2]:
            answers[example.id] = "river"
    found = quality_with_intervals(questions, answers, resamples=4000, seed=1)
    share = 3 / 5
    spread = 100 * (share * (1 - share) / 5) ** 0.5
    assert found["f1_high"] - found["f1_low"] == pytest.approx(2 * 1.96 * spread, rel=0.15)
