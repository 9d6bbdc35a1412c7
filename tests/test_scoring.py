"""Scores by the official SQuAD v1.1 definition."""

import json
from pathlib import Path

import numpy as np
import pytest

from stages.core.data.examples import Answer, Example, read_squad
from stages.core.qa.scoring import exact_match, f1, normalize_answer, score

SYSTEMS = ("bert-ensemble", "logistic-regression", "match-lstm", "r-net-plus", "slqa-plus")


def question(key: str, *golds: str) -> Example:
    context = " ".join(golds)
    return Example(key, "title", context, "What?", tuple(Answer(gold, context.index(gold)) for gold in golds))


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Cat", "cat"),
        ("a an the", ""),
        ("Theatre anthem", "theatre anthem"),
        ("U.S.A.", "usa"),
        # Punctuation goes before the articles: the hyphen joins, then there is no word "a" left.
        ("a-team", "ateam"),
        ("the-a", "thea"),
        ("“The” naïve – don’t", "“ ” naïve – don’t"),
        ("tab\tand\nline", "tab and line"),
        ("", ""),
    ],
)
def test_normalisation(text: str, normal: str) -> None:
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("predicted", "golds", "em", "overlap"),
    [
        ("the Eiffel Tower", ["Eiffel Tower"], 1.0, 1.0),
        ("Eiffel", ["Eiffel Tower"], 0.0, 2 / 3),
        ("tower tower", ["tower"], 0.0, 2 / 3),  # one token can be shared but once
        ("new new york", ["new york new"], 0.0, 1.0),
        ("blue house", ["red car", "blue car", "the blue house boat"], 0.0, 0.8),
        ("x", ["y"], 0.0, 0.0),
        ("the", ["a"], 1.0, 0.0),  # v1.1: both empty after normalisation is an exact match without overlap
        ("", ["Paris"], 0.0, 0.0),
    ],
)
def test_scores_of_one_answer(predicted: str, golds: list[str], em: float, overlap: float) -> None:
    assert exact_match(predicted, golds) == em
    assert f1(predicted, golds) == pytest.approx(overlap)


def test_scores_are_in_the_order_of_the_examples_and_missing_ones_count_as_zero() -> None:
    examples = [question("b", "red"), question("a", "green"), question("c", "deep blue", "blue")]
    scores = score(examples, {"c": "the deep blue sea", "b": "Red!", "unknown": "green"})
    assert scores.exact_match.tolist() == [100.0, 0.0, 0.0]
    np.testing.assert_allclose(scores.f1, [100.0, 0.0, 80.0])
    assert scores.missing == 1
    assert scores.mean_exact_match == pytest.approx(100 / 3)
    assert scores.mean_f1 == pytest.approx(60.0)


@pytest.fixture(scope="module")
def dev(real_data: Path) -> list[Example]:
    return read_squad(real_data / "squad-dev-v1.1.json")


@pytest.mark.parametrize("system", SYSTEMS)
def test_published_systems_score_what_the_official_script_says(
    system: str, dev: list[Example], real_data: Path
) -> None:
    wanted = json.loads((real_data / "predictions-scores.json").read_text(encoding="utf-8"))[system]
    scores = score(dev, json.loads((real_data / "predictions" / f"{system}.json").read_text(encoding="utf-8")))
    assert scores.mean_exact_match == pytest.approx(wanted["exact_match"], abs=1e-6)
    assert scores.mean_f1 == pytest.approx(wanted["f1"], abs=1e-6)
    assert len(dev) - scores.missing == wanted["answered"]
