"""The report's section on the search."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stages.core.errors import InputError
from stages.core.report.tuning import read_search, search_section

FIGURES = {
    "trials": 24,
    "trials_pruned": 4,
    "trials_near_best": 7,
    "updates": 1100,
    "default_trial_f1": 51.26,
    "best_trial_f1": 53.04,
    "near_f1": 1.0,
    "importance_from_trials": 20,
    "knobs_on_boundary": 1,
    "finalists": 2,
    "default_full_f1": 60.04,
    "best_full_f1": 61.51,
    "averaged": 0,
    "tuned_f1": 61.51,
}
BOUNDS = {"low": [1.0, 0.5], "high": [8.0, 1.0], "scale": ["log", "linear"]}
FOUND = {"default": [2.0, 0.9], "chosen": [3.25, 1.0], "boundary": ["", "high"]}
NEAR = {"near_low": [1.5, 0.75], "near_high": [6.0, 1.0], "near_share": [0.667, 0.5]}
KNOBS = {"knob": ["temperature", "alpha"], **BOUNDS, **FOUND, **NEAR, "importance": [0.871, 0.129]}


def toy_search(folder: Path, knobs: dict[str, list[Any]] | None = None, **figures: Any) -> None:
    """Write what the tune stage leaves for the report."""
    text = json.dumps({"dev": {"f1": 55.0}, "search": {**FIGURES, **figures}})
    (folder / "tune.json").write_text(text, encoding="utf-8")
    pd.DataFrame({**KNOBS, **(knobs or {})}).to_csv(folder / "tune_importance.csv", index=False)


def section(folder: Path) -> str:
    return search_section(read_search(folder / "tune.json", folder / "tune_importance.csv"))


def test_the_section_tells_cost_best_values_flatness_bounds_and_importance(tmp_path: Path) -> None:
    toy_search(tmp_path)
    text = section(tmp_path)
    assert text.startswith("## Search\n\n24 trials on dev, 1,100 updates in all; 4 stopped early.")
    assert "best trial is 53.0, of the default point's 51.3. 7 of the 20 complete trials, the best among them," in text
    assert "them, lie within 1 F1" in text
    assert "says that the optimum is flat along the knob" in text
    assert "| temperature | 1 to 8, log | 2 | 3.25 | 1.5 to 6 | 0.67 | 0.87 |" in text
    assert "| alpha | 0.5 to 1, linear | 0.9 | 1 | 0.75 to 1 | 0.50 | 0.13 |" in text
    assert "On a bound of the search, so that a wider one may find better: alpha (high)." in text
    assert "PED-ANOVA" in text


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ({}, "The 2 best other points and the default were distilled in full; on dev the default has 60.0 F1, and"
         " the best of them, with 61.5, is `tuned`. It was chosen by that score, which flatters it;"
         " `tuned - distilled` above is what the test says."),
        ({"averaged": 3, "tuned_f1": 62.26}, "on dev the default has 60.0 F1, the best of them 61.5. `tuned` is the"
         " mean of the weights of 3 of them (a model soup, Wortsman et al. 2022; each was trained with a seed of its"
         " own), with 62.3, which is not clearly worse."),
        ({"finalists": 1, "best_full_f1": 60.04}, "The best other point and the default were distilled in full; on"
         " dev the default has 60.0 F1, no other more: it is `tuned`."),
        ({"finalists": 0, "best_full_f1": 60.04}, "No trial at another point was complete: the default is `tuned`."),
    ],
)  # fmt: skip
def test_the_section_tells_how_the_finals_ended(tmp_path: Path, figures: dict[str, float], told: str) -> None:
    toy_search(tmp_path, **figures)
    assert told in section(tmp_path)


def test_a_search_whose_default_is_best_is_told(tmp_path: Path) -> None:
    toy_search(tmp_path, best_trial_f1=51.26)
    assert "The best trial is that of the default point, with 51.3 dev F1." in section(tmp_path)


def test_too_few_trials_for_flatness_and_importance_are_told(tmp_path: Path) -> None:
    toy_search(tmp_path, {"importance": [None, None], "boundary": ["", ""]}, trials=3, trials_pruned=1)
    text = section(tmp_path)
    assert "3 trials are too few to tell which knobs matter: it takes 20." in text
    assert "| temperature | 1 to 8, log | 2 | 3.25 | – | – | – |" in text
    assert "So few trials do not tell how flat the optimum is." in text
    assert "No chosen value lies on a bound of the search." in text
    assert "nan" not in text.lower()
    assert "PED-ANOVA" not in text


def test_trials_that_are_all_alike_are_told(tmp_path: Path) -> None:
    toy_search(tmp_path, {"importance": [None, None]})
    assert "No best quarter of the trials stands out" in section(tmp_path)


def test_what_is_missing_is_told_in_one_line(tmp_path: Path) -> None:
    toy_search(tmp_path, updates=None)
    with pytest.raises(InputError, match=r"tune\.json: search\.updates is None, wanted a number; run tune again"):
        section(tmp_path)
    toy_search(tmp_path)
    pd.DataFrame({"knob": ["alpha"]}).to_csv(tmp_path / "tune_importance.csv", index=False)
    with pytest.raises(InputError, match=r"tune_importance\.csv: no column 'low'; run tune again"):
        section(tmp_path)
    (tmp_path / "tune_importance.csv").unlink()
    with pytest.raises(InputError, match=r"tune_importance\.csv: no table of knobs; run tune again"):
        section(tmp_path)
