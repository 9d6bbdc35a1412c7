"""What a search may change: knobs, the bounds and scale of each, and the default point that it starts from.

A knob is any float key of the `distil` section, named by its key; keys without bounds stay as `distil` has them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages.core.errors import InputError
from stages.core.params import require
from stages.core.training.settings import DistilParams, float_keys

if TYPE_CHECKING:
    from optuna.trial import Trial

Point = dict[str, float]  # a value by knob

EDGE = 0.02  # share of a knob's range next to a bound that counts as on the bound


@dataclass(frozen=True)
class Knob:
    """Bounds of one knob, both included, and the scale on which it is drawn."""

    low: float
    high: float
    scale: str  # log, where factors matter, or linear, where differences do

    def check(self) -> None:
        """Vouch for order, scale and sign."""
        require(self.scale in ("log", "linear"), "scale", self.scale, "log or linear")
        require(self.low < self.high, "low", self.low, f"below high, {self.high}; to fix the knob, leave it out")
        require(self.scale == "linear" or self.low > 0, "low", self.low, "above 0 on a log scale")

    def position(self, value: float) -> float:
        """Return where `value` lies on the knob's scale: 0 at the lower bound, 1 at the upper one."""
        if self.scale == "log":
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Space:
    """The knobs in the order in which they are drawn, and the default point."""

    knobs: Mapping[str, Knob]
    default: Point

    def suggest(self, trial: "Trial") -> Point:
        """Let a trial draw a point."""
        return self.point(
            {
                name: trial.suggest_float(name, knob.low, knob.high, log=knob.scale == "log")
                for name, knob in self.knobs.items()
            }
        )

    def point(self, drawn: Mapping[str, float]) -> Point:
        """Round what was drawn to three significant digits, to read well in a parameter file; a default stays exact."""
        return {name: self._rounded(name, drawn[name]) for name in self.knobs}

    def on_boundary(self, point: Mapping[str, float]) -> dict[str, str]:
        """Return the knobs whose value lies within 2 % of the range of a bound, with the bound's name, low or high.

        A best value there says that a wider search may find a better one.
        """
        positions = {name: knob.position(point[name]) for name, knob in self.knobs.items()}
        return {
            name: "low" if position < 0.5 else "high"
            for name, position in positions.items()
            if min(position, 1 - position) <= EDGE
        }

    def _rounded(self, name: str, value: float) -> float:
        if value == self.default[name]:
            return value
        return min(max(float(f"{value:.3g}"), self.knobs[name].low), self.knobs[name].high)


def space_around(params: DistilParams, knobs: Mapping[str, Knob]) -> Space:
    """Return the space of `knobs` with the values of `params` as its default point.

    Raises InputError for no knob at all, a knob that is no float key of `params`, a bound that the key itself refuses,
    and bounds that leave out the default.
    """
    known = float_keys(type(params))
    if not knobs:
        raise InputError(f"params.yaml: tune.space: nothing to search; give one of {', '.join(known)} bounds")
    for name, knob in knobs.items():
        where = f"params.yaml: tune.space.{name}"
        if name not in known:
            raise InputError(f"{where}: no number of distil that can be searched; known: {', '.join(known)}")
        _check_bounds(params, name, knob, where)
    return Space(dict(knobs), {name: getattr(params, name) for name in knobs})


def _check_bounds(params: DistilParams, name: str, knob: Knob, where: str) -> None:
    """The section's own check judges both bounds: its ranges have no gaps, so all between them pass as well."""
    for bound in (knob.low, knob.high):
        try:
            params.at({name: bound}).check()
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    default = getattr(params, name)
    if not knob.low <= default <= knob.high:
        raise InputError(
            f"{where}: {[knob.low, knob.high]} leaves out distil's {default}; widen it or leave the knob out"
        )
