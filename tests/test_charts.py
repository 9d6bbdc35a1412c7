"""Charts are PNG files that depend on the numbers alone."""

import io
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
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


def drawn(monkeypatch: pytest.MonkeyPatch, draw: Callable[[], bytes]) -> list[Axes]:
    """Draw a chart and return its panels."""
    figures: list[Figure] = []
    with monkeypatch.context() as patched:
        patched.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
        draw()
    (figure,) = figures
    return figure.axes


def lines(axes: Axes) -> dict[str, tuple[list[float], list[float], str]]:
    """Of each line by its label: where its points are, and its style."""
    found: dict[str, Any] = {str(line.get_label()): line for line in axes.get_lines()}
    return {
        name: (list(line.get_xdata()), list(line.get_ydata()), line.get_linestyle()) for name, line in found.items()
    }


def test_bars_are_as_high_as_the_scores_with_whiskers_from_low_to_high(monkeypatch: pytest.MonkeyPatch) -> None:
    (axes,) = drawn(monkeypatch, lambda: em_f1_bars(quality(), CHANCE))
    of_each = [each for each in axes.containers if isinstance(each, BarContainer)]
    assert [bars.get_label() for bars in of_each] == ["EM", "F1"]
    for bars, score in zip(of_each, ("exact_match", "f1"), strict=True):
        values = [[getattr(row, f"{score}{end}") for row in quality().values()] for end in ("", "_low", "_high")]
        assert [bar.get_height() for bar in bars] == pytest.approx(values[0])
        assert bars.errorbar is not None
        (whiskers,) = bars.errorbar.lines[2]
        ends = np.array([segment[:, 1] for segment in whiskers.get_segments()])  # (variants, 2)
        assert ends.T.tolist() == [pytest.approx(values[1]), pytest.approx(values[2])]
    assert [label.get_text() for label in axes.get_xticklabels()] == list(VARIANTS)
    assert lines(axes)["F1 of a random span"] == ([0, 1], [CHANCE.f1, CHANCE.f1], "--")


def test_each_training_has_its_losses_against_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    panels = drawn(monkeypatch, lambda: loss_curves(histories()))
    titles = [axes.get_title() for axes in panels]
    assert titles == ["teacher (not trained)", "hard_label", "baseline", "distilled", "", ""]
    steps, losses = [0, 10, 20, 30, 40], [5.0, 3.0, 2.0, 1.5, 1.0]
    assert lines(panels[2]) == {"loss": (steps, losses, "-")}
    assert lines(panels[3]) == {"loss": (steps, losses, "-"), "hidden": (steps, losses, "-")}


def test_the_curve_is_dashed_before_recovery_and_solid_after(monkeypatch: pytest.MonkeyPatch) -> None:
    (axes,) = drawn(monkeypatch, lambda: prune_curve(curve()))
    assert lines(axes) == {
        "fisher, not recovered": ([25.0, 50.0], [20.0, 50.0], "--"),
        "fisher, recovered": ([25.0, 50.0], [30.0, 55.0], "-"),
    }


def test_f1_stands_over_megabytes_and_over_millions_of_macs(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = drawn(monkeypatch, lambda: quality_vs_size(quality()))
    for axes, size in ((left, lambda row: row.size_mb), (right, lambda row: row.macs / 1e6)):
        assert lines(axes) == {name: ([size(row)], [row.f1], "None") for name, row in quality().items()}
    assert "MB" in left.get_xlabel() and "multiply-accumulates" in right.get_xlabel()


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
