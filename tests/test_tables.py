"""Markdown tables and the frames behind the plots."""

import numpy as np
import pandas as pd
import pytest

from stages.core.data.examples import Answer, Example
from stages.core.qa.chance import ChanceFloor
from stages.core.qa.scoring import Scores
from stages.core.qa.significance import Interval
from stages.core.report import tables
from stages.core.report.comparisons import PLANNED, Difference, compare_all
from stages.core.report.inputs import Latency, Quality

QUALITY = {
    variant: Quality(
        exact_match=40.0 + row, exact_match_low=38.04, exact_match_high=45.06,
        f1=50.0 + row, f1_low=48.0, f1_high=55.0,
        parameters=22_600_000 - row * 1_000_000, macs=3.9e9 - row * 1e8, size_mb=90.4 - row, questions=3,
    )
    for row, variant in enumerate(tables.VARIANTS)
}  # fmt: skip
LATENCY = {variant: Latency(12.0 / (row + 1), 15.0, 100.0 + row) for row, variant in enumerate(tables.VARIANTS)}


def differences() -> dict[tuple[str, str], Difference]:
    """Each variant one point of F1 above the one before it, on every one of four questions in two paragraphs."""
    scores = {
        variant: Scores(np.full(4, 40.0), np.arange(4.0) + row, missing=0)
        for row, variant in enumerate(tables.VARIANTS)
    }
    return compare_all(scores, ["a", "a", "b", "b"], resamples=50, seed=0)


def cells(table: str) -> list[list[str]]:
    rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in table.splitlines()]
    assert len({len(row) for row in rows}) == 1, "ragged table"
    return rows


def test_differences_draw_whole_paragraphs() -> None:
    """All questions of a paragraph are won or lost together: drawn one by one they would never all be alike."""
    won = np.array([10.0] * 4 + [-10.0] * 4)
    scores = {name: Scores(np.zeros(8), np.zeros(8), missing=0) for name in tables.VARIANTS}
    scores["finetuned"] = Scores(won, won, missing=0)
    found = compare_all(scores, ["a"] * 4 + ["b"] * 4, resamples=500, seed=1)["finetuned", "pruned"]
    assert found.f1 == found.exact_match == Interval(0.0, -10.0, 10.0)


def test_a_cell_cannot_break_its_table() -> None:
    table = tables.markdown_table(("a", "b"), [("x | y\nz", "<b>\\")], text_columns=1)
    assert table == "| a | b |\n| --- | ---: |\n| x \\| y z | &lt;b>\\\\ |\n"


@pytest.mark.parametrize(
    ("interval", "signed", "text"),
    [
        (Interval(61.24, 60.06, 62.35), False, "61.2 [60.1, 62.4]"),
        (Interval(1.25, -0.1, 2.5), True, "+1.2 [-0.1, +2.5]"),
        (Interval(-3.0, -4.0, -2.0), True, "-3.0 [-4.0, -2.0]"),
    ],
)
def test_intervals(interval: Interval, signed: bool, text: str) -> None:
    assert tables.with_interval(interval, signed=signed) == text


def test_results_have_a_row_for_each_variant_and_chance() -> None:
    rows = cells(tables.results_table(QUALITY, LATENCY, differences(), ChanceFloor(0.5, 4.6), on_cpu=True))
    assert [row[0] for row in rows[2:]] == [*tables.VARIANTS, "chance (a random span)"]
    assert rows[2] == [
        "teacher", "40.0 [38.0, 45.1]", "50.0 [48.0, 55.0]", "–", "100.0", "22.60", "3900", "90.4", "12.0", "1.00×",
    ]  # fmt: skip
    assert rows[4] == [
        "baseline", "42.0 [38.0, 45.1]", "52.0 [48.0, 55.0]", "hard_label: +1.0 [+1.0, +1.0]", "233.3 [180.0, 500.0]",
        "20.60", "3700", "88.4", "4.0", "3.00×",
    ]  # fmt: skip
    assert rows[-2][3] == "finetuned: +2.0 [+2.0, +2.0]", "the teacher pruned another way stands beside the student"
    assert rows[-1] == ["chance (a random span)", "0.5", "4.6", *["–"] * 7]


def test_int8_has_no_speed_up_over_a_teacher_on_another_device() -> None:
    found = []
    for on_cpu in (True, False):
        table = tables.results_table(QUALITY, LATENCY, differences(), ChanceFloor(0.5, 4.6), on_cpu=on_cpu)
        found.append({row[0]: row[-1] for row in cells(table)[2:]})
    assert found[0]["int8"] == "8.00×"
    assert found[1] == {**found[0], "int8": "–"}


def test_a_teacher_without_a_right_answer_has_no_share_to_keep() -> None:
    quality = {**QUALITY, "teacher": Quality(*[0.0] * 10)}
    nothing = Scores(np.zeros(4), np.zeros(4), missing=0)
    without = compare_all(dict.fromkeys(tables.VARIANTS, nothing), ["a", "a", "b", "b"], resamples=50, seed=0)
    rows = cells(tables.results_table(quality, LATENCY, without, ChanceFloor(0.0, 0.0), on_cpu=True))
    assert {row[4] for row in rows[2:]} == {"–"}
    assert {row[-1] for row in cells(tables.planned_table(without))[2:]} == {"–"}
    frame = tables.differences_frame(without)
    assert frame["f1_kept"].isna().all()


def test_planned_comparisons_and_their_verdict() -> None:
    rows = cells(tables.planned_table(differences()))[2:]
    assert [row[0] for row in rows] == [
        "baseline - hard_label",
        "distilled - baseline",
        "distilled - hard_label",
        "tuned - distilled",
        "tuned - baseline",
        "finetuned - pruned",
        "finetuned - tuned",
        "int8 - finetuned",
        "teacher_pruned - finetuned",
    ]
    assert rows[4][2:] == ["+0.0 [+0.0, +0.0]", "+2.0 [+2.0, +2.0]", "yes", "157.1 [144.4, 180.0]"]


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 2.0, "yes"), (-2.0, -0.1, "yes"), (-0.1, 0.1, "no"), (0.0, 1.0, "no"), (-1.0, 0.0, "no")],
)
def test_the_verdict_is_an_interval_without_zero(low: float, high: float, verdict: str) -> None:
    difference = Difference(Interval(5.0, 4.0, 6.0), Interval((low + high) / 2, low, high), None)
    rows = cells(tables.planned_table(dict.fromkeys(PLANNED, difference)))[2:]
    assert {row[-2] for row in rows} == {verdict}


def test_differences_frame_has_those_of_the_table_and_planned_ones_once() -> None:
    frame = tables.differences_frame(differences())
    assert list(frame.columns) == [
        "comparison", "planned", "exact_match", "exact_match_low", "exact_match_high", "f1", "f1_low", "f1_high",
        "f1_kept", "f1_kept_low", "f1_kept_high",
    ]  # fmt: skip
    planned = dict(zip(frame["comparison"], frame["planned"], strict=True))
    assert planned == {
        "hard_label - teacher": False,
        "baseline - hard_label": True,
        "distilled - baseline": True,
        "tuned - distilled": True,
        "pruned - tuned": False,
        "finetuned - pruned": True,
        "int8 - finetuned": True,
        "teacher_pruned - finetuned": True,
        "distilled - hard_label": True,
        "tuned - baseline": True,
        "finetuned - tuned": True,
        **{f"{variant} - teacher": False for variant in tables.VARIANTS[2:]},
    }
    assert frame["comparison"].is_unique
    assert frame.set_index("comparison").loc["finetuned - tuned", "f1"] == 2.0


def test_quality_frame_is_in_millions_and_has_no_timing() -> None:
    frame = tables.quality_frame(QUALITY)
    assert frame.columns.tolist() == ["variant", "exact_match", "f1", "parameters_m", "macs_m", "size_mb"]
    assert frame.iloc[0].tolist() == ["teacher", 40.0, 50.0, 22.6, 3900.0, 90.4]


def test_samples_stand_side_by_side() -> None:
    golds = (Answer("red", 0), Answer("deep red", 4), Answer("red", 9))
    examples = [Example("q1", "t", "red deep red", "Which | colour?", golds)]
    frame = tables.samples_frame(examples, {"teacher": {"q1": "red"}, "pruned": {}})
    assert frame.to_dict("records") == [
        {"id": "q1", "question": "Which | colour?", "gold": "red / deep red", "teacher": "red", "pruned": ""}
    ]
    assert tables.samples_table(frame).splitlines()[2] == "| Which \\| colour? | red / deep red | red |  |"
    assert tables.csv_bytes(tables.samples_frame([], {"teacher": {}})) == b"id,question,gold,teacher\n"


def test_csv_quotes_and_unix_line_ends() -> None:
    assert tables.csv_bytes(pd.DataFrame({"a": ['x, "y"', "ü"]})) == 'a\n"x, ""y"""\nü\n'.encode()


def test_flat_table_joins_keys() -> None:
    rows = cells(tables.flat_table({"test": {"questions": 3, "length": {"p50": 170.5}}, "seed": 1}))
    assert rows[2:] == [["test.questions", "3"], ["test.length.p50", "170.5"], ["seed", "1"]]


def test_curve_has_a_row_for_each_share() -> None:
    frame = pd.DataFrame({"macs_kept": [0.25, 0.5], "fisher": [20.0, 50.0], "fisher_repaired_recovered": [30.0, 54.04]})
    rows = cells(tables.curve_table(frame))
    assert rows[0] == ["MACs kept", "fisher", "fisher in rounds, repaired recovered"]
    assert rows[2:] == [["25 %", "20.0", "30.0"], ["50 %", "50.0", "54.0"]]


def test_gains_have_a_row_for_each_share_and_a_column_for_each_other_criterion() -> None:
    gain = {"over": "fisher", "f1": 1.0, "f1_low": -0.5, "f1_high": 2.5}
    told = [(share, recovered) for share in (0.25, 0.5) for recovered in ("no", "yes")]
    frame = pd.DataFrame([{"macs_kept": share, "recovered": recovered, **gain} for share, recovered in told])
    rows = cells(tables.gains_table(frame))
    assert rows[0] == ["MACs kept", "over fisher [95 %]", "over fisher, recovered [95 %]"]
    assert rows[2:] == [[share, *["+1.0 [-0.5, +2.5]"] * 2] for share in ("25 %", "50 %")]


def test_long_numbers_are_cut() -> None:
    assert cells(tables.flat_table({"length": 180.89999999999998, "count": 12345}))[2:] == [
        ["length", "180.9"],
        ["count", "12345"],
    ]
