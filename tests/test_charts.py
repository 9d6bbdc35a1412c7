"""Charts are PNG files that depend on the numbers alone."""

import io
from collections.abc import Callable

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stages.core.qa.chance import ChanceFloor
from stages.core.report.charts import em_f1_bars, loss_curves, prune_curve, quality_vs_size
from stages.core.report.inputs import Quality
from stages.core.report.variants import VARIANTS

CHANCE = ChanceFloor(0.5, 4.6)


def quality(f1: float = 60.0) -> dict[str, Quality]:
    return {
        name: Quality(
            50 - row, 48 - row, 52 - row, f1 - row, f1 - 2 - row, f1 + 2 - row, 2e7, 4e9 - row * 3e8, 90.0, 9.0
        )
        for row, name in enumerate(VARIANTS)
    }


def histories(last: float = 1.0) -> dict[str, pd.DataFrame]:
    def curve(name: str) -> pd.DataFrame:
        steps = np.arange(0, 50, 10)
        values = {"step": steps, "epoch": steps / 50, "learning_rate": 1e-4, "loss": [5.0, 3.0, 2.0, 1.5, last]}
        return pd.DataFrame(values | ({"hidden": values["loss"]} if name == "distilled" else {}))

    empty = pd.DataFrame(columns=["step", "epoch", "learning_rate", "loss"], dtype="float64")
    return {"teacher": empty} | {name: curve(name) for name in ("hard_label", "baseline", "distilled")}


def curve(last: float = 1.0) -> pd.DataFrame:
    return pd.DataFrame({"macs_kept": [0.25, 0.5], "fisher": [20.0, 50.0], "fisher_recovered": [30.0, 54.0 + last]})


DRAWN: dict[str, tuple[Callable[[], bytes], Callable[[], bytes]]] = {
    "bars": (lambda: em_f1_bars(quality(), CHANCE), lambda: em_f1_bars(quality(61.0), CHANCE)),
    "chance": (lambda: em_f1_bars(quality(), CHANCE), lambda: em_f1_bars(quality(), ChanceFloor(0.5, 9.0))),
    "losses": (lambda: loss_curves(histories()), lambda: loss_curves(histories(1.4))),
    "curve": (lambda: prune_curve(curve()), lambda: prune_curve(curve(2.0))),
    "curve before recovery": (
        lambda: prune_curve(curve().drop(columns="fisher_recovered")),
        lambda: prune_curve(curve()),
    ),
    "sizes": (lambda: quality_vs_size(quality()), lambda: quality_vs_size(quality(61.0))),
}


@pytest.mark.parametrize("name", DRAWN)
def test_same_numbers_same_bytes_and_other_numbers_other_bytes(name: str) -> None:
    draw, draw_other = DRAWN[name]
    first = draw()
    assert first == draw()
    assert first != draw_other()


@pytest.mark.parametrize("name", DRAWN)
def test_png_names_no_software_and_no_time(name: str) -> None:
    png = DRAWN[name][0]()
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) >= 280
        assert set(picture.info) <= {"dpi"}
        assert len(set(picture.convert("RGB").get_flattened_data())) > 20, "an empty picture"


def test_the_users_style_is_left_out_and_left_alone() -> None:
    plain = quality_vs_size(quality())
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 20.0}):
        assert quality_vs_size(quality()) == plain
        assert matplotlib.rcParams["font.size"] == 20.0


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_any_number_of_training_runs_has_a_panel_each(count: int) -> None:
    runs = {f"run {number}": histories()["baseline"] for number in range(count)}
    with Image.open(io.BytesIO(loss_curves(runs))) as picture:
        assert picture.size == (400 * min(3, count), 280 * -(-count // 3))
