"""The finals: which student is kept, and when it is the mean of several."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stages.core.qa.scoring import Scores
from stages.core.training import finals as module
from stages.core.training.finals import Ended, Finalist, finals
from stages.core.training.settings import DistilParams
from stages.core.training.soup import mean_weights
from tests.toy_models import FAMILY_NAMES, toy_pruned_model, toy_qa_model
from tests.toy_pipeline import DISTIL

QUESTIONS = 40
FloatArray = np.ndarray[Any, np.dtype[np.float64]]
NOISE = np.random.default_rng(1).normal(0.0, 5.0, QUESTIONS)
NOISE -= NOISE.mean()


def level(f1: float, noise: float = 0.0) -> FloatArray:
    return np.full(QUESTIONS, f1) + noise * NOISE


class One(nn.Module):
    """A student with one weight."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))


def ended(
    monkeypatch: pytest.MonkeyPatch,
    students: dict[float, FloatArray],
    means: dict[float, FloatArray] | None = None,
    *,
    average: bool = True,
    trained_with: list[DistilParams] | None = None,
) -> Ended:
    """Hold the finals of students by their weight, the default first, each with its F1 on dev's questions.

    The others are those of trials 7, 8, ... . `means` are likewise; a mean that it lacks answers nothing. What the
    others are trained with is added to `trained_with`.
    """

    def dev_scores(student: One) -> Scores:
        weight = round(float(student.weight.detach()), 2)
        f1 = {**students, **(means or {})}.get(weight, level(0.0))
        return Scores(exact_match=f1, f1=f1, missing=0)

    trained = [One(weight) for weight in students]
    examples = [SimpleNamespace(context=f"paragraph {number // 2}") for number in range(QUESTIONS)]
    dev = SimpleNamespace(examples=examples)
    trial: Any = SimpleNamespace(lessons=SimpleNamespace(dev=dev), student=None, runtime=None, dev_scores=dev_scores)
    default: Any = trained.pop(0)

    def made(
        _lessons: Any, _student: Any, settings: DistilParams, *_: Any, start_seed: int, **__: Any
    ) -> tuple[One, list[Any]]:
        assert start_seed == DISTIL.seed, "students of other starts have no mean"
        if trained_with is not None:
            trained_with.append(settings)
        return trained.pop(0), []

    monkeypatch.setattr(module, "distil", made)
    return finals(
        trial,
        Finalist(DISTIL, default, [], dev_scores(default)),
        {number + 7: {"temperature": 1.5 + number} for number in range(len(trained))},
        lambda _: Path(),
        average=average,
        seed=3,
    )


def weight(found: Ended) -> float:
    return round(float(found.tuned.student.weight.detach()), 2)  # type: ignore[arg-type]


def test_all_are_averaged_and_the_settings_are_those_of_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    students = {0.0: level(60.0), 1.0: level(60.5, noise=1.0), 4.0: level(57.0)}
    found = ended(monkeypatch, students, {1.67: level(60.4, noise=0.5), 0.5: level(70.0)})
    assert (weight(found), found.averaged) == (1.67, (7, 0, 8))
    assert found.full_f1 == {0: 60.0, 7: 60.5, 8: 57.0}
    assert found.tuned.settings == replace(DISTIL, temperature=1.5, seed=DISTIL.seed + 1)
    assert found.tuned.dev.mean_f1 == pytest.approx(60.4)


def test_the_last_on_dev_are_left_out_until_the_mean_is_not_clearly_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    students = {0.0: level(60.0), 1.0: level(60.5, noise=1.0), 10.0: level(40.0), 4.0: level(50.0)}
    clearly, little = level(55.0), level(60.4, noise=0.5)
    found = ended(monkeypatch, students, {3.75: clearly, 1.67: little, 0.5: little})
    assert (weight(found), found.averaged) == (1.67, (7, 0, 9))
    found = ended(monkeypatch, students, {3.75: clearly, 1.67: clearly, 0.5: little})
    assert (weight(found), found.averaged) == (0.5, (7, 0))
    found = ended(monkeypatch, students, {3.75: clearly, 1.67: clearly, 0.5: clearly})
    assert (weight(found), found.averaged) == (1.0, ())
    assert found.tuned.dev.mean_f1 == pytest.approx(60.5)


def test_without_averaging_the_best_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    students = {0.0: level(60.0), 1.0: level(60.5, noise=1.0)}
    found = ended(monkeypatch, students, {0.5: level(70.0)}, average=False)
    assert (weight(found), found.averaged) == (1.0, ())


def test_what_may_be_averaged_is_trained_in_other_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    students = {0.0: level(60.0), 1.0: level(60.5), 4.0: level(57.0)}
    points = [{"temperature": 1.5}, {"temperature": 2.5}]
    for average, seeds in ((True, (DISTIL.seed + 1, DISTIL.seed + 2)), (False, (DISTIL.seed, DISTIL.seed))):
        used: list[DistilParams] = []
        ended(monkeypatch, students, average=average, trained_with=used)
        assert used == [replace(DISTIL, **point, seed=seed) for point, seed in zip(points, seeds, strict=True)]


def test_a_mean_below_the_default_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    students = {0.0: level(60.0), 1.0: level(60.5, noise=1.0)}
    found = ended(monkeypatch, students, {0.5: level(59.9, noise=-1.0)})
    assert (weight(found), found.averaged) == (1.0, ())
    found = ended(monkeypatch, students, {0.5: level(60.0, noise=-1.0)})
    assert (weight(found), found.averaged) == (0.5, (7, 0))


def test_of_students_that_tie_the_default_and_then_the_earlier_is_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ended(monkeypatch, {0.0: level(60.0), 1.0: level(60.0), 4.0: level(60.0)}, average=False)
    assert (weight(found), found.tuned.settings) == (0.0, DISTIL)
    found = ended(monkeypatch, {0.0: level(50.0), 1.0: level(60.0), 4.0: level(60.0)}, average=False)
    assert weight(found) == 1.0


def test_a_student_that_has_diverged_is_in_no_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    students = {0.0: level(60.0), 1.0: level(60.5, noise=1.0), float("inf"): level(0.0)}
    found = ended(monkeypatch, students, {0.5: level(60.4, noise=0.5)})
    assert (weight(found), found.averaged) == (0.5, (7, 0))
    found = ended(monkeypatch, {0.0: level(0.0), float("nan"): level(0.0)})
    assert (weight(found), found.averaged) == (0.0, ())


@pytest.mark.parametrize("make", [toy_qa_model, toy_pruned_model])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_mean_has_the_mean_of_each_weight(family: str, make: Callable[[str, int], Any]) -> None:
    students = [make(family, seed) for seed in (1, 2, 3)]
    before = [{name: value.clone() for name, value in student.state_dict().items()} for student in students]
    mean = mean_weights(students)
    for name, value in mean.state_dict().items():
        if value.is_floating_point():
            expected = (before[0][name] + before[1][name] + before[2][name]) / 3
            torch.testing.assert_close(value, expected)
        else:
            assert torch.equal(value, before[0][name])
    for student, state in zip(students, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in student.state_dict().items())
