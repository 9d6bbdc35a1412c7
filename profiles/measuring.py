"""Measurements over several runs: `dvc exp run` at each of a list of arms, and one table of what they score.

The profiles whose measure.py imports this say what their arms are. Arms of one size have the same number of labelled
questions and near the same number of updates; the first is what the others are compared with. A run that is there
already is not repeated, so a measurement goes on where it was stopped.
"""

import argparse
import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from stages.core.data.examples import read_squad
from stages.core.qa.scoring import Scores, score
from stages.core.qa.significance import Interval, bootstrap_interval, paired_difference

RESAMPLES, SEED = 2000, 13


@dataclass(frozen=True)
class Arm:
    """One run: how many labelled questions, what is tried, and the parameters that make it so."""

    size: int
    name: str
    values: Mapping[str, object]  # by key of params.yaml, dotted

    @property
    def overrides(self) -> list[str]:
        """What `dvc exp run` is told."""
        return [f"--set-param={key}={value}" for key, value in self.values.items()]

    def folder(self, runs: Path) -> Path:
        """Where what is kept of the run lies."""
        return runs / f"{self.size}-{self.name}"

    def is_done(self, runs: Path) -> bool:
        """Whether the run has come to its end."""
        return (self.folder(runs) / "predictions.json").exists()

    def run(self, runs: Path) -> None:
        """Run the pipeline up to the test score of `distilled`, and keep what the table needs of it."""
        shutil.rmtree(self.folder(runs), ignore_errors=True)
        subprocess.run(["dvc", "exp", "run", *self.overrides, "evaluate@distilled"], check=True)
        history = pd.read_csv("plots/loss/distilled.csv")
        self.folder(runs).mkdir(parents=True)
        (self.folder(runs) / "updates.json").write_text(json.dumps(int(history["step"].max())), encoding="utf-8")
        # Last, for it says that the run is complete.
        shutil.copyfile("predictions/distilled.json", self.folder(runs) / "predictions.json")


def table(arms: Sequence[Arm], runs: Path, column: str) -> pd.DataFrame:
    """Return a row per complete run: its F1 on test and its gain over the first arm of its size, with intervals.

    `column` is the name of what is tried. Sizes whose first arm has not run are left out.
    """
    questions = read_squad(Path("data/prepared/test.json"))
    clusters = [each.context for each in questions]
    firsts: dict[int, Scores] = {}
    rows = []
    for arm in (each for each in arms if each.is_done(runs)):
        predictions = json.loads((arm.folder(runs) / "predictions.json").read_text(encoding="utf-8"))
        scores = score(questions, predictions)
        if arm == next(each for each in arms if each.size == arm.size):
            firsts[arm.size] = scores
        if arm.size in firsts:
            f1 = bootstrap_interval(scores.f1, clusters, resamples=RESAMPLES, seed=SEED)
            gain = paired_difference(scores.f1, firsts[arm.size].f1, clusters, resamples=RESAMPLES, seed=SEED)
            updates = json.loads((arm.folder(runs) / "updates.json").read_text(encoding="utf-8"))
            told = {"labelled_questions": arm.size, column: arm.name, "updates": updates}
            rows.append({**told, **_rounded("f1", f1), **_rounded("gain", gain)})
    return pd.DataFrame(rows)


def _rounded(name: str, interval: Interval) -> dict[str, float]:
    bounds = {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return {key: round(value, 2) for key, value in bounds.items()}


def main(arms: Sequence[Arm], column: str, description: str | None, default_runs: Path) -> None:
    """Run the arms that are missing, in their order; the table is written anew after each."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--runs", type=Path, default=default_runs, help="folder of what is kept of runs")
    parser.add_argument("--out", type=Path, required=True, help="CSV file of the table")
    paths = parser.parse_args()
    for arm in arms:
        if not arm.is_done(paths.runs):
            arm.run(paths.runs)
        table(arms, paths.runs, column).to_csv(paths.out, index=False)
