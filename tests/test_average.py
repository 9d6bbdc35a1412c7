"""The mean of several teachers' probabilities against a plain loop over windows and tokens."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stages.core.data.average import average
from stages.core.data.batches import FlatLogits
from stages.core.data.carry import NO_MASS
from stages.core.data.windows import Windows
from tests.toy_questions import toy_questions


@pytest.fixture
def windows(tmp_path: Path) -> Windows:
    return toy_questions(tmp_path, 5, seed=1).windows


def drawn(windows: Windows, seed: int) -> FlatLogits:
    flat = 5 * torch.randn(2, len(windows.input_ids), generator=torch.Generator().manual_seed(seed)) + 20 * seed
    return flat[0], flat[1]


def places(windows: Windows, row: int) -> list[int]:
    first = int(windows.row_splits[row])
    return [first, *range(first + int(windows.context_start[row]), first + int(windows.context_stop[row]))]


def plain_logits(parts: list[Tensor], spoken: list[int]) -> list[float]:
    """Log of the mean probability of each token of one window, plus the mean of the logs of the softmaxes' sums."""
    sums = [math.log(sum(math.exp(float(part[place])) for place in spoken)) for part in parts]
    scale = sum(sums) / len(sums)
    return [
        scale + math.log(sum(math.exp(float(p[place]) - s) for p, s in zip(parts, sums, strict=True)) / len(parts))
        for place in spoken
    ]


def test_mean_equals_the_plain_one(windows: Windows) -> None:
    answers = [drawn(windows, seed) for seed in (0, 1, 2)]
    for side, mean in enumerate(average(answers, windows)):
        assert mean.dtype == torch.float32
        left_out = torch.ones(len(mean), dtype=torch.bool)
        for row in range(len(windows)):
            spoken = places(windows, row)
            left_out[spoken] = False
            assert mean[spoken].tolist() == pytest.approx(plain_logits([a[side] for a in answers], spoken), rel=1e-5)
        assert (mean[left_out] == NO_MASS).all()


def test_one_teacher_is_not_touched(windows: Windows) -> None:
    answers = drawn(windows, 1)
    assert all(given is taken for given, taken in zip(answers, average([answers], windows), strict=True))


def test_a_token_without_mass_has_some_as_soon_as_one_teacher_gives_it_some(windows: Windows) -> None:
    one, other = drawn(windows, 0), drawn(windows, 0)
    _, first, second = places(windows, 0)[:3]
    one[0][first] = one[0][second] = other[0][second] = NO_MASS
    mean, _ = average([one, other], windows)
    assert mean[second] == NO_MASS
    assert -100 < mean[first] < 100
