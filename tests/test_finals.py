"""The finals: which student is kept, and when it is the mean of several."""

import contextlib
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
from stages.core.training.finals import Ended, Finalist, finals, mean_weights
from tests.toy_models import FAMILY_NAMES, toy_pruned_model, toy_qa_model
from tests.toy_pipeline import DISTIL

QUESTIONS = 40
# Dev F1 of each question, by the one weight of a student; what no entry has answers nothing.
Dev = dict[float, np.ndarray[Any, np.dtype[np.float64]]]
NOISE = np.random.default_rng(1).normal(0.0, 5.0, QUESTIONS)
NOISE -= NOISE.mean()


def level(f1: float, noise: float = 0.0) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.full(QUESTIONS, f1) + noise * NOISE


class One(nn.Module):
    """A student with one weight."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))


def ended(monkeypatch: pytest.MonkeyPatch, dev: Dev, *, average: bool = True) -> Ended:
    """Hold the finals of students with the weights 0 (the default), 1, 2, ..., as `dev` scores them."""

    def dev_scores(student: One) -> Scores:
        f1 = dev.get(round(float(student.weight.detach()), 4), level(0.0))
        return Scores(exact_match=f1, f1=f1, missing=0)

    students = iter([One(float(number)) for number in range(1, 9)])
    examples = [SimpleNamespace(context=f"paragraph {number // 2}") for number in range(QUESTIONS)]
    trial: Any = SimpleNamespace(
        lessons=SimpleNamespace(dev=SimpleNamespace(examples=examples)),
        student=None,
        runtime=None,
        dev_scores=dev_scores,
    )
    monkeypatch.setattr(module, "distil", lambda *_, **__: (next(students), []))
    default: Any = One(0.0)
    points = {number + 6: {"temperature": float(number)} for number in range(1, sum(key == int(key) for key in dev))}
    return finals(
        trial,
        Finalist(DISTIL, default, [], dev_scores(default)),
        points,
        lambda _: contextlib.nullcontext(Path()),
        average=average,
        seed=3,
    )


def weight(found: Ended) -> float:
    return float(found.tuned.student.weight.detach())  # type: ignore[arg-type]


def test_the_best_and_those_alike_are_averaged_and_the_settings_are_the_bests(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ended(monkeypatch, {0: level(60.0), 1: level(60.5, noise=1.0), 2: level(40.0), 0.5: level(60.4)})
    assert (weight(found), found.averaged) == (0.5, (0, 7)), "the third is clearly worse"
    assert found.full_f1 == {0: 60.0, 7: 60.5, 8: 40.0}
    assert found.tuned.settings == replace(DISTIL, temperature=1.0)
    assert found.tuned.dev.mean_f1 == pytest.approx(60.4)


def test_without_averaging_the_best_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    dev = {0: level(60.0), 1: level(60.5, noise=1.0), 0.5: level(70.0)}
    found = ended(monkeypatch, dev, average=False)
    assert (weight(found), found.averaged) == (1.0, ())
    assert found.tuned.dev.mean_f1 == pytest.approx(60.5)


def test_a_best_that_all_others_are_clearly_below_is_kept_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ended(monkeypatch, {0: level(50.0), 1: level(60.0), 0.5: level(90.0)})
    assert (weight(found), found.averaged) == (1.0, ())


def test_a_mean_clearly_worse_than_the_best_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ended(monkeypatch, {0: level(60.0), 1: level(60.5, noise=1.0), 0.5: level(50.0)})
    assert (weight(found), found.averaged) == (1.0, ())


def test_a_mean_below_the_default_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ended(monkeypatch, {0: level(60.0), 1: level(60.5, noise=1.0), 0.5: level(59.9, noise=-1.0)})
    assert (weight(found), found.averaged) == (1.0, ())
    found = ended(monkeypatch, {0: level(60.0), 1: level(60.5, noise=1.0), 0.5: level(60.0, noise=-1.0)})
    assert found.averaged == (0, 7)


def test_of_students_that_tie_the_default_and_then_the_earlier_is_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ended(monkeypatch, {0: level(60.0), 1: level(60.0), 2: level(60.0)}, average=False)
    assert (weight(found), found.tuned.settings) == (0.0, DISTIL)
    found = ended(monkeypatch, {0: level(50.0), 1: level(60.0), 2: level(60.0)}, average=False)
    assert weight(found) == 1.0


def test_a_student_that_has_diverged_is_never_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_finite", lambda student: float(student.weight.detach()) != 2.0)
    found = ended(monkeypatch, {0: level(0.0), 1: level(0.0), 2: level(0.0), 0.5: level(0.0)})
    assert found.averaged == (0, 7)


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
