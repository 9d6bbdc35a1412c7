"""The tables of the report: Markdown for people, data frames for plots."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import pandas as pd

from stages.core.data.examples import Example
from stages.core.qa.chance import ChanceFloor
from stages.core.qa.significance import Interval
from stages.core.report import variants
from stages.core.report.comparisons import BESIDE, PLANNED, TEACHER, Difference
from stages.core.report.inputs import Latency, Quality

VARIANTS = variants.VARIANTS

NOTHING = "–"

Differences = Mapping[tuple[str, str], Difference]
Predictions = Mapping[str, Mapping[str, str]]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int = 1) -> str:
    """Return a Markdown table; the first `text_columns` are set left, the numbers after them right."""
    rules = ["---" if column < text_columns else "---:" for column in range(len(header))]
    lines = [[_cell(text) for text in header], rules, *([_cell(text) for text in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def with_interval(interval: Interval, *, signed: bool = False) -> str:
    """Return `61.2 [60.1, 62.3]`, or `+1.2 [-0.1, +2.5]` for a difference."""
    form = "{:+.1f}" if signed else "{:.1f}"
    mean, low, high = (form.format(value) for value in (interval.mean, interval.low, interval.high))
    return f"{mean} [{low}, {high}]"


def results_table(
    quality: Mapping[str, Quality],
    latency: Mapping[str, Latency],
    differences: Differences,
    chance: ChanceFloor,
    *,
    on_cpu: bool,
) -> str:
    """Return the table of all variants, a last row for chance; each has the difference to the one of BESIDE.

    `on_cpu` says that all were timed on the CPU, as int8 always is: else its speed-up would be one of two devices.
    """
    header = (
        "model", "EM [95 %]", "F1 [95 %]", "F1 less that of [95 %]", "teacher's F1 kept, % [95 %]",
        "parameters, M", "MACs, M", "size, MB", "latency p50, ms", "speed-up",
    )  # fmt: skip
    rows = []
    for variant, row in quality.items():
        other = BESIDE.get(variant, "")
        difference = differences.get((variant, other))
        faster = _ratio(latency["teacher"].latency_ms_p50, latency[variant].latency_ms_p50, "{:.2f}×")
        rows.append([
            variant,
            with_interval(Interval(row.exact_match, row.exact_match_low, row.exact_match_high)),
            with_interval(Interval(row.f1, row.f1_low, row.f1_high)),
            f"{other}: {with_interval(difference.f1, signed=True)}" if difference else NOTHING,
            _share(differences[variant, TEACHER]) if variant != TEACHER else "100.0" if row.f1 else NOTHING,
            f"{row.parameters / 1e6:.2f}",
            f"{row.macs / 1e6:.0f}",
            f"{row.size_mb:.1f}",
            f"{latency[variant].latency_ms_p50:.1f}",
            faster if on_cpu or variant != "int8" else NOTHING,
        ])  # fmt: skip
    rows.append(["chance (a random span)", f"{chance.exact_match:.1f}", f"{chance.f1:.1f}", *[NOTHING] * 7])
    return markdown_table(header, rows)


def planned_table(differences: Differences) -> str:
    """Return the planned comparisons with the question that each answers."""
    header = (
        "comparison", "question", "EM difference [95 %]", "F1 difference [95 %]", "F1 interval without zero",
        "first's F1 in % of the second's [95 %]",
    )  # fmt: skip
    rows = [
        [
            _name(pair),
            question,
            with_interval(differences[pair].exact_match, signed=True),
            with_interval(differences[pair].f1, signed=True),
            "yes" if _leaves_out_zero(differences[pair].f1) else "no",
            _share(differences[pair]),
        ]
        for pair, question in PLANNED.items()
    ]
    return markdown_table(header, rows, text_columns=2)


def speed_table(latency: Mapping[str, Latency]) -> str:
    """Return what the benchmark measured."""
    header = ("model", "latency p50, ms", "latency p95, ms", "questions a second in batches")
    rows = [
        [name, f"{row.latency_ms_p50:.1f}", f"{row.latency_ms_p95:.1f}", f"{row.questions_per_second:.1f}"]
        for name, row in latency.items()
    ]
    return markdown_table(header, rows)


def curve_table(curve: pd.DataFrame) -> str:
    """Return dev F1 by criterion, a row for each share of MACs kept; `_recovered` is after recovery.

    The header of `fisher_repaired` says all that sets it apart from `fisher`.
    """
    rows = [
        [f"{100 * row['macs_kept']:.0f} %", *(f"{value:.1f}" for name, value in row.items() if name != "macs_kept")]
        for row in curve.to_dict("records")
    ]
    named = (str(name).replace("fisher_repaired", "fisher in rounds, repaired") for name in curve.columns)
    header = ["MACs kept", *(name.replace("_", " ") for name in named if name != "macs_kept")]
    return markdown_table(header, rows)


def gains_table(gains: pd.DataFrame) -> str:
    """Return what the repaired rounds gain over the other criteria, a row for each share of MACs kept."""
    wide: dict[float, dict[str, str]] = {}
    for row in gains.to_dict("records"):
        name = f"over {row['over']}{', recovered' if row['recovered'] == 'yes' else ''} [95 %]"
        interval = Interval(row["f1"], row["f1_low"], row["f1_high"])
        wide.setdefault(row["macs_kept"], {})[name] = with_interval(interval, signed=True)
    header = ["MACs kept", *dict.fromkeys(name for row in wide.values() for name in row)]
    return markdown_table(header, [[f"{100 * share:.0f} %", *row.values()] for share, row in wide.items()])


def flat_table(values: Mapping[str, object]) -> str:
    """Return a two-column table of a nested mapping, one row per leaf, keys joined by dots."""
    leaves = _leaves(values, "")
    rows = [(key, f"{value:.6g}" if isinstance(value, float) else str(value)) for key, value in leaves]
    return markdown_table(("key", "value"), rows)


def samples_table(samples: pd.DataFrame) -> str:
    """Return sample predictions as Markdown, ids left out."""
    shown = samples.drop(columns="id")
    return markdown_table(list(shown.columns), shown.to_numpy().tolist(), text_columns=len(shown.columns))


def quality_frame(quality: Mapping[str, Quality]) -> pd.DataFrame:
    """Return the columns of plots/quality.csv: percent, millions, megabytes; no timings."""
    rows = [
        (name, row.exact_match, row.f1, row.parameters / 1e6, row.macs / 1e6, row.size_mb)
        for name, row in quality.items()
    ]
    columns = ["variant", "exact_match", "f1", "parameters_m", "macs_m", "size_mb"]
    return pd.DataFrame(rows, columns=columns).round(3)


def differences_frame(differences: Differences) -> pd.DataFrame:
    """Return the columns of plots/differences.csv: points of percent, and percent of the second's F1."""
    rows = []
    for pair, difference in differences.items():
        row: dict[str, object] = {"comparison": _name(pair), "planned": pair in PLANNED}
        for name, interval in asdict(difference).items():
            mean, low, high = interval.values() if interval else (None, None, None)
            row |= {name: mean, f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return pd.DataFrame(rows).round(3)


def samples_frame(examples: Sequence[Example], predictions: Predictions) -> pd.DataFrame:
    """Return the columns of plots/samples.csv: id, question, gold answers, then each variant's answer."""
    rows = [
        [row.id, row.question, " / ".join(dict.fromkeys(answer.text for answer in row.answers))]
        + [texts.get(row.id, "") for texts in predictions.values()]
        for row in examples
    ]
    return pd.DataFrame(rows, columns=["id", "question", "gold", *predictions])


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """Return a frame as UTF-8 CSV with Unix line ends."""
    return frame.to_csv(index=False, lineterminator="\n").encode()


def _name(pair: tuple[str, str]) -> str:
    return f"{pair[0]} - {pair[1]}"


def _leaves_out_zero(interval: Interval) -> bool:
    return interval.low > 0 or interval.high < 0


def _share(difference: Difference) -> str:
    """Return the F1 kept with its interval, or a dash: the F1 of a toy teacher can be zero."""
    return with_interval(difference.f1_kept) if difference.f1_kept else NOTHING


def _ratio(first: float, second: float, form: str) -> str:
    """Return first / second, or a dash where the second is zero."""
    return form.format(first / second) if second else NOTHING


def _leaves(values: Mapping[str, object], prefix: str) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for key, value in values.items():
        found += _leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, value)]
    return found


def _cell(text: str) -> str:
    """Keep a cell on one line, inside its bars, and free of HTML."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
