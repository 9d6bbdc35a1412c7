"""The report's section on students that start from other layers of the teacher."""

from pathlib import Path

import pandas as pd

from stages.core.errors import InputError
from stages.core.qa.significance import Interval
from stages.core.report.tables import NOTHING, markdown_table, with_interval
from stages.core.training.cuts import COLUMNS


def read_cuts(path: Path) -> pd.DataFrame:
    """Return plots/student_init.csv; raises InputError where it is missing or lacks a column."""
    try:
        frame = pd.read_csv(path, dtype={"cut": str, "layers": str}, keep_default_na=False, na_values=[""])
    except (FileNotFoundError, ValueError):
        raise InputError(f"{path}: no table of cuts; run the student_init stage") from None
    for column in (*COLUMNS, "updates"):
        if column not in frame or frame.empty:
            raise InputError(f"{path}: no column '{column}' with values; run the student_init stage again")
    return frame


def cuts_section(cuts: pd.DataFrame) -> str:
    """Return the section as Markdown."""
    rows = []
    for number, row in enumerate(cuts.to_dict("records")):
        difference = Interval(row["f1_to_first"], row["f1_to_first_low"], row["f1_to_first_high"])
        beside = with_interval(difference, signed=True) if number else NOTHING
        rows.append([row["cut"], row["layers"], f"{row['exact_match']:.1f}", f"{row['f1']:.1f}", beside])
    header = ("cut", "layers", "dev EM", "dev F1", "F1 to the first row [95 %]")
    updates = cuts["updates"].iloc[0]
    return "\n".join(
        [
            "## Student initialisation\n",
            f"Students cut from other layers of their encoder, trained as baseline is, but for {updates:,} updates, and"
            " scored on dev.\n",
            markdown_table(header, rows, text_columns=2),
        ]
    )
