"""The space of a search: which bounds are sound, what a drawn point looks like, which values lie on a bound."""

import math
from dataclasses import replace
from typing import Any, cast

import pytest

from stages.core.errors import InputError
from stages.core.training.settings import DistilParams
from stages.core.training.space import Knob, Space, space_around
from tests.test_distillation import distil_params

KNOBS = {
    "temperature": Knob(1.0, 8.0, "log"),
    "alpha": Knob(0.5, 1.0, "linear"),
    "hidden_weight": Knob(0.0, 10.0, "linear"),
}


def test_the_default_point_is_that_of_distil() -> None:
    space = space_around(distil_params(alpha=0.75), KNOBS)
    assert space.default == {"temperature": 2.0, "alpha": 0.75, "hidden_weight": 1.0}
    assert list(space.knobs) == list(KNOBS)


@pytest.mark.parametrize("name", ["weight_decay", "warmup_ratio", "dropout", "max_grad_norm"])
def test_every_float_of_distil_can_be_a_knob(name: str) -> None:
    params = distil_params(weight_decay=0.5, max_grad_norm=0.5)
    assert list(space_around(params, {name: Knob(0.05, 0.6, "log")}).default.values()) == [getattr(params, name)]


@pytest.mark.parametrize(
    ("name", "knob", "fault"),
    [
        ("temperatur", Knob(1.0, 8.0, "log"), "no number of distil that can be searched; known: learning_rate, "),
        ("epochs", Knob(1.0, 8.0, "log"), "no number of distil that can be searched"),
        ("temperature", Knob(0.0, 8.0, "linear"), "temperature is 0.0, wanted above 0"),
        ("alpha", Knob(0.5, 1.5, "linear"), "alpha is 1.5, wanted 0 to 1"),
        ("hidden_weight", Knob(-1.0, 8.0, "linear"), "hidden_weight is -1.0, wanted 0 or more"),
        ("temperature", Knob(2.5, 8.0, "log"), "[2.5, 8.0] leaves out distil's 2.0; widen it or leave the knob out"),
        ("temperature", Knob(1.0, 1.9, "log"), "[1.0, 1.9] leaves out distil's 2.0"),
    ],
)
def test_a_knob_that_does_not_fit_distil_is_refused(name: str, knob: Knob, fault: str) -> None:
    with pytest.raises(InputError) as caught:
        space_around(distil_params(), {name: knob})
    assert str(caught.value).startswith(f"params.yaml: tune.space.{name}: {fault}")
    assert "\n" not in str(caught.value)


def test_a_search_of_no_knob_is_refused() -> None:
    with pytest.raises(InputError, match=r"tune\.space: nothing to search"):
        space_around(distil_params(), {})


@pytest.mark.parametrize(
    ("knob", "fault"),
    [
        (Knob(2.0, 1.0, "log"), "low is 2.0, wanted below high, 1.0"),
        (Knob(1.0, 1.0, "log"), "low is 1.0, wanted below high, 1.0; to fix the knob, leave it out"),
        (Knob(0.0, 1.0, "log"), "low is 0.0, wanted above 0 on a log scale"),
        (Knob(1.0, 2.0, "cubic"), "scale is 'cubic', wanted log or linear"),
    ],
)
def test_bounds_that_cannot_be_searched_are_refused(knob: Knob, fault: str) -> None:
    Knob(0.0, 1.0, "linear").check()
    with pytest.raises(InputError) as caught:
        knob.check()
    assert str(caught.value).startswith(fault)


class Drawing:
    """Stands in for Optuna's trial: draws a share of each range, on the scale it is asked for."""

    def __init__(self, share: float) -> None:
        self.share = share

    def suggest_float(self, _: str, low: float, high: float, *, log: bool) -> float:
        if log:
            return math.exp(math.log(low) + self.share * (math.log(high) - math.log(low)))
        return low + self.share * (high - low)


def test_a_point_is_drawn_on_each_knobs_scale_and_reads_well() -> None:
    space = space_around(distil_params(), KNOBS)
    point = space.suggest(cast(Any, Drawing(1 / 3)))
    assert point == {"temperature": 2.0, "alpha": 0.667, "hidden_weight": 3.33}


def test_rounding_stays_within_the_bounds_and_leaves_the_default_exact() -> None:
    knob = Knob(1.23456, 7.65432, "log")
    space = Space({"temperature": knob}, {"temperature": 2.34567})
    for drawn, wanted in ((1.2346, 1.23456), (7.6543, 7.65), (7.6549, 7.65), (2.34567, 2.34567), (2.34568, 2.35)):
        assert space.point({"temperature": drawn}) == {"temperature": wanted}
    assert Space({"temperature": replace(knob, high=7.656)}, {"temperature": 2.0}).point({"temperature": 7.6559}) == {
        "temperature": 7.656
    }


@pytest.mark.parametrize(
    ("point", "found"),
    [
        ({"temperature": 2.0, "alpha": 0.9, "hidden_weight": 5.0}, {}),
        ({"temperature": 1.04, "alpha": 0.9, "hidden_weight": 0.0}, {"temperature": "low", "hidden_weight": "low"}),
        ({"temperature": 1.05, "alpha": 0.9, "hidden_weight": 0.3}, {}),
        ({"temperature": 7.7, "alpha": 1.0, "hidden_weight": 9.9}, dict.fromkeys(KNOBS, "high")),
    ],
)
def test_a_best_value_next_to_a_bound_is_reported(point: dict[str, float], found: dict[str, str]) -> None:
    """Within 2 % of the range on its own scale: a factor of 8 ** 0.02 = 1.042 of temperature."""
    assert Space(KNOBS, {}).on_boundary(point) == found


def test_distil_itself_is_left_as_it_is() -> None:
    params = distil_params()
    space_around(params, KNOBS)
    assert params == DistilParams(**vars(distil_params()))
