"""Students that start from other layers, set side by side, and the report's section on them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages.core.errors import InputError
from stages.core.qa.scoring import Scores
from stages.core.report.cuts import cuts_section, read_cuts
from stages.core.training.cuts import compare_cuts

LAYERS = {"alternate": (1, 3, 5), "first": (0, 1, 2)}
PARAGRAPHS = [f"paragraph {number // 2}" for number in range(20)]


def scores(f1: list[float]) -> Scores:
    values = np.array(f1 * (20 // len(f1)))
    return Scores(exact_match=np.where(values == 100, 100.0, 0.0), f1=values, missing=0)


def toy_cuts() -> pd.DataFrame:
    found = {"alternate": scores([100, 50, 0, 50]), "first": scores([50, 50, 0, 20])}
    return compare_cuts(LAYERS, found, PARAGRAPHS, resamples=500, seed=1).assign(updates=1200)


def test_cuts_are_paired_with_the_first() -> None:
    frame = toy_cuts().set_index("cut")
    assert frame["layers"].tolist() == ["1 3 5", "0 1 2"]
    assert frame["f1"].tolist() == [50, 30]
    assert frame["exact_match"].tolist() == [25, 0]
    assert frame.loc["first", "f1_to_first"] == -20
    # Pairs of questions lose 25 or 15 points on average, so no draw of paragraphs lies outside.
    assert -25 <= frame.loc["first", "f1_to_first_low"] < -20 < frame.loc["first", "f1_to_first_high"] <= -15
    assert frame.loc["alternate", ["f1_to_first_low", "f1_to_first_high"]].tolist() == [0, 0]


def test_the_section_has_a_row_for_each_cut(tmp_path: Path) -> None:
    toy_cuts().to_csv(tmp_path / "cuts.csv", index=False)
    text = cuts_section(read_cuts(tmp_path / "cuts.csv"))
    assert text.startswith("## Student initialisation\n\n")
    assert "for 1,200 updates" in text
    assert "| alternate | 1 3 5 | 25.0 | 50.0 | – |" in text
    assert "| first | 0 1 2 | 0.0 | 30.0 | -20.0 [" in text


def test_a_single_layer_stays_text(tmp_path: Path) -> None:
    found = compare_cuts({"one": (5,)}, {"one": scores([100])}, PARAGRAPHS, resamples=10, seed=1)
    found.assign(updates=1).to_csv(tmp_path / "cuts.csv", index=False)
    assert "| one | 5 | 100.0 | 100.0 | – |" in cuts_section(read_cuts(tmp_path / "cuts.csv"))


@pytest.mark.parametrize("content", ["", "cut,layers\n", "cut,layers\n1,2,3\n1,2,3,4\n"])
def test_a_table_without_rows_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "cuts.csv").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="student_init"):
        read_cuts(tmp_path / "cuts.csv")


def test_a_cut_may_be_named_by_a_number_or_by_what_pandas_takes_for_nothing(tmp_path: Path) -> None:
    named = {"12": (0,), "1e3": (1,), "None": (2,), "NA": (3,)}
    found = compare_cuts(named, dict.fromkeys(named, scores([100])), PARAGRAPHS, resamples=10, seed=1)
    found.assign(updates=1).to_csv(tmp_path / "cuts.csv", index=False)
    table = cuts_section(read_cuts(tmp_path / "cuts.csv"))
    assert all(f"| {name} | {layers[0]} |" in table for name, layers in named.items())
