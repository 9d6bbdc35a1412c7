"""The report's section on the search: what was tried, what it cost, which knobs matter, how flat the optimum is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from stages.core.errors import InputError
from stages.core.report.inputs import read_json
from stages.core.report.tables import NOTHING, markdown_table

FIGURES = (
    "trials",
    "trials_pruned",
    "trials_near_best",
    "updates",
    "default_trial_f1",
    "best_trial_f1",
    "near_f1",
    "importance_from_trials",
    "finalists",
    "default_full_f1",
    "best_full_f1",
    "averaged",
    "tuned_f1",
)
COLUMNS = ("knob", "low", "high", "scale", "default", "chosen", "boundary", "near_low", "near_high", "near_share")


@dataclass(frozen=True)
class Search:
    """What the tune stage found."""

    figures: Mapping[str, float]  # "search" of metrics/tune.json
    knobs: pd.DataFrame  # plots/tune_importance.csv


def read_search(metrics: Path, importance: Path) -> Search:
    """Read both files; raises InputError where one is missing or lacks something."""
    found = read_json(metrics).get("search")
    figures = found if isinstance(found, dict) else {}
    for name in FIGURES:
        value = figures.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"{metrics}: search.{name} is {value!r}, wanted a number; run tune again")
    try:
        knobs = pd.read_csv(importance, keep_default_na=False, na_values={"importance": [""]})
    except (FileNotFoundError, ValueError):
        raise InputError(f"{importance}: no table of knobs; run tune again") from None
    for column in (*COLUMNS, "importance"):
        if column not in knobs.columns:
            raise InputError(f"{importance}: no column '{column}'; run tune again")
    return Search(figures, knobs)


def search_section(found: Search) -> str:
    """Return the section as Markdown."""
    figures = found.figures
    near = f"within {figures['near_f1']:g} F1 of the best"
    complete = figures["trials"] - figures["trials_pruned"]
    return "\n".join(
        [
            "## Search\n",
            f"{figures['trials']:.0f} trials on dev, {figures['updates']:,.0f} updates in all;"
            f" {figures['trials_pruned']:.0f} stopped early. {_best_sentence(figures)}"
            f" {figures['trials_near_best']:.0f} of the {complete:.0f} complete trials, the best among them, lie"
            f" {near}. {_flatness(found)}\n",
            _table(found.knobs, near, told=_enough(found)),
            f"{_finalists_sentence(figures)} {_boundary_sentence(found.knobs)} {_importance_sentence(found)}\n",
        ]
    )


def _enough(found: Search) -> bool:
    """Whether there are trials enough to tell what knobs matter and where the optimum is flat."""
    return found.figures["trials"] >= found.figures["importance_from_trials"]


def _best_sentence(figures: Mapping[str, float]) -> str:
    best, default = figures["best_trial_f1"], figures["default_trial_f1"]
    if best <= default:
        return f"The best trial is that of the default point, with {default:.1f} dev F1."
    return f"Dev F1 of the best trial is {best:.1f}, of the default point's {default:.1f}."


def _flatness(found: Search) -> str:
    if not _enough(found):
        return "So few trials do not tell how flat the optimum is."
    return (
        "A wide share of a knob's range near the best says that the optimum is flat along the knob, or that other"
        " knobs make up for it."
    )


def _table(knobs: pd.DataFrame, near: str, *, told: bool) -> str:
    header = ("knob", "searched", "default", "chosen", near, "share of the range", "importance")
    rows = [
        [
            row["knob"],
            f"{row['low']:g} to {row['high']:g}, {row['scale']}",
            f"{row['default']:g}",
            f"{row['chosen']:g}",
            f"{row['near_low']:g} to {row['near_high']:g}" if told else NOTHING,
            f"{row['near_share']:.2f}" if told else NOTHING,
            NOTHING if pd.isna(row["importance"]) else f"{row['importance']:.2f}",
        ]
        for row in knobs.to_dict("records")
    ]
    return markdown_table(header, rows, text_columns=2)


def _finalists_sentence(figures: Mapping[str, float]) -> str:
    count, default, best = figures["finalists"], figures["default_full_f1"], figures["best_full_f1"]
    if count == 0:
        return "No trial at another point was complete: the default is `tuned`."
    points = "The best other point" if count == 1 else f"The {count:.0f} best other points"
    whole = f"{points} and the default were distilled in full; on dev the default has {default:.1f} F1"
    if figures["averaged"]:
        return (
            f"{whole}, the best of them {best:.1f}. `tuned` is the mean of the weights of {figures['averaged']:.0f} of"
            f" them (a model soup, Wortsman et al. 2022; each was trained with a seed of its own), with"
            f" {figures['tuned_f1']:.1f}, which is not clearly worse."
        )
    if best > default:
        return (
            f"{whole}, and the best of them, with {best:.1f}, is `tuned`. It was chosen by that score, which flatters"
            " it; `tuned - distilled` above is what the test says."
        )
    return f"{whole}, no other more: it is `tuned`."


def _boundary_sentence(knobs: pd.DataFrame) -> str:
    names = [f"{row['knob']} ({row['boundary']})" for row in knobs.to_dict("records") if row["boundary"]]
    if not names:
        return "No chosen value lies on a bound of the search."
    return f"On a bound of the search, so that a wider one may find better: {', '.join(names)}."


def _importance_sentence(found: Search) -> str:
    if not _enough(found):
        trials, enough = found.figures["trials"], found.figures["importance_from_trials"]
        return f"{trials:.0f} trials are too few to tell which knobs matter: it takes {enough:.0f}."
    if found.knobs["importance"].isna().all():
        return "No best quarter of the trials stands out, so there is no importance of knobs to tell."
    return (
        "Importance is a knob's share in what sets the best quarter of the trials apart from all (PED-ANOVA, Watanabe"
        " et al. 2023)."
    )
