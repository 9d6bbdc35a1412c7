"""The charts of the report, as PNG bytes that depend on the numbers alone.

No pyplot: a figure is drawn by the Agg canvas without a window system, and the user's matplotlib style is left out.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.core.qa.chance import ChanceFloor
from stages.core.report.inputs import Quality

# Okabe and Ito 2008: told apart by colour-blind readers too.
COLORS = {
    "teacher": "#000000",
    "hard_label": "#999999",
    "baseline": "#e69f00",
    "distilled": "#56b4e9",
    "tuned": "#009e73",
    "pruned": "#d55e00",
    "finetuned": "#cc79a7",
    "int8": "#0072b2",
    "teacher_pruned": "#f0e442",
}
# And told apart where students of one size lie on one another.
MARKERS = dict(zip(COLORS, "osv^D<>PX", strict=True))
_PARTS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7")
_NO_CURVE = ("step", "epoch", "learning_rate")


def em_f1_bars(quality: Mapping[str, Quality], chance: ChanceFloor) -> bytes:
    """Draw exact match and F1 of every variant in percent, whiskers the 95 % intervals, a line the chance floor."""
    with _figure(9.0, 4.0) as (figure, png):
        axes = figure.subplots()
        rows = list(quality.values())
        for shift, name, color in ((-0.2, "exact_match", "#56b4e9"), (0.2, "f1", "#0072b2")):
            table = pd.DataFrame(
                [(_get(row, name), _get(row, f"{name}_low"), _get(row, f"{name}_high")) for row in rows]
            )
            whiskers = [(table[0] - table[1]).clip(lower=0), (table[2] - table[0]).clip(lower=0)]
            places = [number + shift for number in range(len(rows))]
            label = {"exact_match": "EM", "f1": "F1"}[name]
            axes.bar(places, table[0], width=0.4, yerr=whiskers, capsize=3, color=color, label=label)
        axes.axhline(chance.f1, color="#d55e00", linestyle="--", linewidth=1, label="F1 of a random span")
        axes.set_xticks(range(len(rows)), list(quality))
        axes.set_ylabel("percent")
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside upper center", ncols=3)
    return png()


def loss_curves(histories: Mapping[str, pd.DataFrame]) -> bytes:
    """Draw one panel for each training run: loss and its parts against the step."""
    columns = min(3, len(histories))
    rows = -(-len(histories) // columns)
    with _figure(4.0 * columns, 2.8 * rows) as (figure, png):
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, (name, history) in zip(panels, histories.items(), strict=False):
            _draw_history(axes, name, history)
        for axes in panels[len(histories) :]:
            axes.set_axis_off()
    return png()


def quality_vs_size(quality: Mapping[str, Quality]) -> bytes:
    """Draw F1 against megabytes on disk and against multiply-accumulates, one point a variant."""
    with _figure(10.0, 4.0) as (figure, png):
        left, right = figure.subplots(1, 2, sharey=True)
        for variant, row in quality.items():
            for axes, size in ((left, row.size_mb), (right, row.macs / 1e6)):
                axes.plot(size, row.f1, linestyle="", marker=MARKERS[variant], color=COLORS[variant], label=variant)
        left.set_ylabel("F1, percent")
        left.set_xlabel("size on disk, MB")
        right.set_xlabel("multiply-accumulates of a mean test window, millions")
        figure.legend(*left.get_legend_handles_labels(), loc="outside right center")
        for axes in (left, right):
            axes.set_xlim(left=0)
            axes.grid(alpha=0.3)
    return png()


def prune_curve(curve: pd.DataFrame) -> bytes:
    """Draw dev F1 against the share of MACs kept: a colour for each criterion, dashed before recovery, solid after."""
    criteria = [name for name in curve.columns if name != "macs_kept" and not name.endswith("_recovered")]
    with _figure(7.0, 4.0) as (figure, png):
        axes = figure.subplots()
        for name, color in zip(criteria, _PARTS, strict=False):
            shares = 100 * curve["macs_kept"]
            axes.plot(shares, curve[name], color=color, linestyle="--", marker="o", label=f"{name}, not recovered")
            if f"{name}_recovered" in curve:
                axes.plot(shares, curve[f"{name}_recovered"], color=color, marker="s", label=f"{name}, recovered")
        axes.set_xlabel("MACs kept, percent")
        axes.set_ylabel("dev F1, percent")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        figure.legend(loc="outside right center")
    return png()


def _draw_history(axes: Axes, name: str, history: pd.DataFrame) -> None:
    curves = [column for column in history.columns if column not in _NO_CURVE]
    for number, column in enumerate(curves):
        width = 1.5 if column == "loss" else 0.9
        axes.plot(history["step"], history[column], linewidth=width, color=_PARTS[number % len(_PARTS)], label=column)
    axes.set_title(name if len(history) else f"{name} (not trained)")
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _get(row: Quality, name: str) -> float:
    return float(getattr(row, name))


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple[Figure, Callable[[], bytes]]]:
    """Open a figure (inches) in matplotlib's own style; the second value gives its PNG once the block has ended."""
    buffer = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, buffer.getvalue
        # Software=None: the default names matplotlib's version in the file.
        figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
