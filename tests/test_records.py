"""What the records have to show, whatever run they are of: read from the files that are committed."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stages.core.params import read_yaml

ROOT = Path(__file__).parents[1]


def folders(name: str) -> list[str]:
    """Return the folders, seen from the root, that have a plots/`name`."""
    found = [ROOT, *sorted(path.parent for path in ROOT.glob("profiles/**/params.yaml"))]
    return [str(folder.relative_to(ROOT)) for folder in found if (folder / "plots" / name).is_file()]


def records(name: str) -> list[Any]:
    """Return those folders as parameters of a test, which of the root's files judges them as recorded alone."""
    marks = {".": [pytest.mark.record]}
    return [pytest.param(folder, marks=marks.get(folder, [])) for folder in folders(name)]


@pytest.mark.record
def test_the_default_run_and_a_profile_have_both_tables() -> None:
    assert {".", "profiles/squadshifts-cpu"} <= set(folders("student_init.csv")) & set(folders("prune_curve.csv"))


@pytest.mark.parametrize("record", records("student_init.csv"))
def test_cuts_are_compared_at_equal_updates(record: str) -> None:
    assert pd.read_csv(ROOT / record / "plots" / "student_init.csv")["updates"].nunique() == 1


GPU = "profiles/squadshifts-gpu"
FOUND_A_BETTER_CUT = f"{GPU}/alternate"  # its own students were cut before its table said so; those after it are not
WITHOUT_A_TABLE = {GPU: f"{GPU}/offsets", f"{GPU}/cloze_100000": f"{GPU}/offsets"}  # and whose table they go by


@pytest.mark.parametrize("record", [*records("student_init.csv"), *WITHOUT_A_TABLE])
def test_students_are_cut_from_the_layers_that_did_best(record: str) -> None:
    cuts = pd.read_csv(ROOT / WITHOUT_A_TABLE.get(record, record) / "plots" / "student_init.csv")
    best = [int(layer) for layer in cuts.loc[cuts["f1"].idxmax(), "layers"].split()]
    cut = read_yaml(ROOT / record / "params.yaml")["student"]["layers"]
    assert (cut == best) == (record != FOUND_A_BETTER_CUT)


@pytest.mark.parametrize("record", records("prune_curve.csv"))
def test_half_the_macs_keep_ten_points_more_than_by_magnitude_before_recovery(record: str) -> None:
    curve = pd.read_csv(ROOT / record / "plots" / "prune_curve.csv").set_index("macs_kept").loc[0.5]
    assert curve["fisher_repaired"] >= curve["magnitude"] + 10
