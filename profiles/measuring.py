"""Measurements over several runs: `dvc exp run` at each of a list of arms, and one table of what they score.

The profiles whose measure.py imports this say what their arms are. Arms of one size have the same number of labelled
questions and near the same number of updates; the first is what the others are compared with. A run that is there
already is not repeated, so a measurement goes on where it was stopped; one that was made with other parameters than
params.yaml has now is refused.
"""

import argparse
import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from stages.core.data.examples import read_squad
from stages.core.errors import InputError
from stages.core.files import write_json, write_text
from stages.core.params import read_yaml
from stages.core.qa.scoring import Scores, score
from stages.core.qa.significance import Interval, bootstrap_interval, paired_difference

RESAMPLES, SEED = 2000, 13
# Of params.yaml, what `evaluate@distilled` and the stages before it read; `evaluate@teacher` reads less.
SECTIONS = ["data", "encoder", "student", "unlabelled", "windows", "runtime"]
SECTIONS += ["teacher", "cache_teacher", "distil", "decode", "evaluate"]

Sections = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Arm:
    """One run: how many labelled questions, what is tried, and the parameters that make it so."""

    size: int
    name: str
    values: Mapping[str, object]  # by key of params.yaml, dotted; the same keys in all arms, since DVC leaves them set
    variant: str = "distilled"  # the model that is trained so and scored

    @property
    def overrides(self) -> list[str]:
        """What `dvc exp run` is told."""
        return [f"--set-param={key}={value}" for key, value in self.values.items()]

    def folder(self, runs: Path) -> Path:
        """Where what is kept of the run lies."""
        return runs / f"{self.size}-{self.name}"

    def params(self) -> Sections:
        """Return what the run would read of params.yaml, were it started now."""
        document: Sections = read_yaml(Path("params.yaml"))
        for key, value in self.values.items():
            section, name = key.split(".")
            document[section][name] = value
        return {section: document[section] for section in SECTIONS}

    def is_done(self, runs: Path) -> bool:
        """Whether the run has come to its end; raises InputError for one that would read other parameters now."""
        folder = self.folder(runs)
        if not (folder / "predictions.json").exists():
            return False
        if not (folder / "params.json").exists():
            raise InputError(
                f"{folder}: has predictions.json but no params.json, so what it ran with is not known; "
                "delete the folder, and the arm runs again"
            )
        then = json.loads((folder / "params.json").read_text(encoding="utf-8"))
        difference = _first_difference(then, self.told())
        if difference:
            raise InputError(
                f"{folder}: {difference}; delete the folder, and the arm runs again, or restore what it ran with"
            )
        return True

    def run(self, runs: Path) -> None:
        """Run the pipeline up to the test score of the variant, and keep what the table needs of it."""
        shutil.rmtree(self.folder(runs), ignore_errors=True)
        told = self.told()
        command = ["dvc", "exp", "run", *self.overrides, f"evaluate@{self.variant}"]
        if subprocess.run(command).returncode:
            raise InputError(f"{self.size}-{self.name}: `{' '.join(command)}` has failed; what it printed says why")
        history = pd.read_csv(f"plots/loss/{self.variant}.csv")
        write_json(self.folder(runs) / "params.json", told)
        write_text(self.folder(runs) / "updates.json", json.dumps(int(history["step"].max())))
        # Last, for it says that the run is complete.
        predictions = Path(f"predictions/{self.variant}.json").read_text(encoding="utf-8")
        write_text(self.folder(runs) / "predictions.json", predictions)

    def told(self) -> Sections:
        """Return what is kept of how the run comes about: its parameters, and which model is scored."""
        return {**self.params(), "arm": {"variant": self.variant}}


def table(arms: Sequence[Arm], runs: Path, column: str) -> pd.DataFrame:
    """Return a row per complete run: its F1 on test and its gain over the first arm of its size, with intervals.

    `column` is the name of what is tried. Sizes whose first arm has not run are left out. Raises InputError where the
    prepared questions are others than a run answered, and where `Arm.is_done` does.
    """
    clusters, scored = _score_all(arms, runs)
    firsts: dict[int, Scores] = {}
    rows = []
    for arm, scores in scored:
        if arm == next(each for each in arms if each.size == arm.size):
            firsts[arm.size] = scores
        if arm.size in firsts:
            f1 = bootstrap_interval(scores.f1, clusters, resamples=RESAMPLES, seed=SEED)
            gain = paired_difference(scores.f1, firsts[arm.size].f1, clusters, resamples=RESAMPLES, seed=SEED)
            updates = json.loads((arm.folder(runs) / "updates.json").read_text(encoding="utf-8"))
            told = {"labelled_questions": arm.size, column: arm.name, "updates": updates}
            rows.append({**told, **_rounded("f1", f1), **_rounded("gain", gain)})
    return pd.DataFrame(rows)


def pairs(arms: Sequence[Arm], runs: Path, column: str) -> pd.DataFrame:
    """Return a row for every two complete runs of a size: F1 of the later arm less that of the other, with interval.

    Raises InputError as `table` does.
    """
    clusters, scored = _score_all(arms, runs)
    rows = []
    for number, (arm, scores) in enumerate(scored):
        for other, beside in scored[:number]:
            if other.size == arm.size:
                difference = paired_difference(scores.f1, beside.f1, clusters, resamples=RESAMPLES, seed=SEED)
                told = {"labelled_questions": arm.size, column: arm.name, "less": other.name}
                rows.append({**told, **_rounded("f1", difference)})
    return pd.DataFrame(rows)


def _score_all(arms: Sequence[Arm], runs: Path) -> tuple[list[str], list[tuple[Arm, Scores]]]:
    """Return the paragraph of each test question (Q,), and the scores of the arms that are done, in their order."""
    questions = read_squad(Path("data/prepared/test.json"))
    scored = []
    for arm in (each for each in arms if each.is_done(runs)):
        predictions = json.loads((arm.folder(runs) / "predictions.json").read_text(encoding="utf-8"))
        if set(predictions) != {each.id for each in questions}:
            raise InputError(
                f"data/prepared/test.json: not the questions that {arm.folder(runs)} answered; "
                "`dvc repro prepare` makes them from params.yaml"
            )
        scored.append((arm, score(questions, predictions)))
    return [each.context for each in questions], scored


def check_record(found: pd.DataFrame, out: Path, keys: int, option: str) -> None:
    """Raise InputError where a table has no row, or lacks one that `out` has; its first `keys` columns name its rows.

    `option` is what the file was named by.
    """
    if found.empty:
        raise InputError(f"{out}: not written, for too few arms are done for a row; run the command without --partial")
    text = found.to_csv(index=False)
    lost = _rows_of(out.read_text(encoding="utf-8"), keys) - _rows_of(text, keys) if out.exists() else set()
    if lost:
        raise InputError(
            f"{out}: not written, for rows that it has would be lost: {len(lost)}, such as {','.join(min(lost))}; "
            f"name another file as {option}"
        )


def _first_difference(then: Sections, now: Sections) -> str | None:
    """Say which key differs first, and how; 0.0002 and 2.0e-4 are one number, parsed, and so are 1 and 1.0."""
    old, new = _flat(then), _flat(now)
    for key in dict.fromkeys([*new, *old]):
        if key not in old or key not in new or old[key] != new[key]:
            was, is_now = (repr(each[key]) if key in each else "no key" for each in (old, new))
            return f"{key} was {was} when it ran and is {is_now} now"
    return None


def _flat(sections: Sections) -> dict[str, Any]:
    return {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}


def _rounded(name: str, interval: Interval) -> dict[str, float]:
    bounds = {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return {key: round(value, 2) for key, value in bounds.items()}


def _rows_of(text: str, keys: int) -> set[tuple[str, ...]]:
    """The first cells of each line, `keys` of them, and the heads of their columns."""
    return {tuple(line.split(",")[:keys]) for line in text.splitlines()}


def main(arms: Sequence[Arm], column: str, description: str | None, default_runs: Path) -> None:
    """Run the arms that are missing, in their order, then write the table.

    While some are missing it grows in the folder of the runs, and the record of an earlier measurement stays as it is.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--runs", type=Path, default=default_runs, help="folder of what is kept of runs")
    parser.add_argument("--out", type=Path, required=True, help="CSV file of the table, written when all arms are done")
    parser.add_argument("--pairs", type=Path, help="CSV file of the differences between every two arms of a size")
    parser.add_argument("--partial", action="store_true", help="run nothing: write --out from the arms that are done")
    options = parser.parse_args()
    # All of them first: one that is refused stops here, before anything is run.
    missing = [arm for arm in arms if not arm.is_done(options.runs)]
    if options.partial and len(missing) == len(arms):
        raise InputError(f"{options.runs}: no arm is done; run the command without --partial")
    for arm in [] if options.partial else missing:
        arm.run(options.runs)
        write_text(options.runs / "table.csv", table(arms, options.runs, column).to_csv(index=False))
    records = [(table(arms, options.runs, column), options.out, 2, "--out")]
    if options.pairs:
        records.append((pairs(arms, options.runs, column), options.pairs, 3, "--pairs"))
    for each in records:  # both or none
        check_record(*each)
    for found, out, *_ in records:
        write_text(out, found.to_csv(index=False))
