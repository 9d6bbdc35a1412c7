"""What inputs without labels buy: students of one teacher, trained alike on labels alone and with unlabelled windows.

Run from the repository's root with this profile's params.yaml in place (README.md beside this file). For each number of
labelled questions and each kind of unlabelled input it runs `dvc exp run` up to the test score of `distilled`, keeps
predictions and the number of updates under --runs, and writes the table anew. A run that is there already is not
repeated, so the script goes on where it was stopped.
"""

import argparse
import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd

from stages.core.data.examples import read_squad
from stages.core.qa.scoring import Scores, score
from stages.core.qa.significance import bootstrap_interval, paired_difference

# Labelled questions -> passes over them alone. With as many unlabelled windows beside them half the passes are as many
# updates.
PASSES = {1000: 6, 3000: 4, 10000: 2}
LABELS = "labels_only"
KINDS = ("other_offsets", "other_paragraphs", "paragraphs")
# At most so many paragraphs are drawn from the sources; where more inputs are wanted, other_offsets make up the number.
PARAGRAPHS = 3000
RESAMPLES, SEED = 2000, 13


def overrides(size: int, arm: str) -> list[str]:
    """Return what `dvc exp run -S` sets for an arm."""
    counts = dict.fromkeys(KINDS, 0)
    if arm != LABELS:
        counts[arm] = min(size, PARAGRAPHS) if arm == "paragraphs" else size
        counts["other_offsets"] += size - sum(counts.values())
    values = {
        "data.train_questions": size,
        "distil.epochs": PASSES[size] if arm == LABELS else PASSES[size] // 2,
        **{f"unlabelled.{kind}": count for kind, count in counts.items()},
    }
    return [f"--set-param={key}={value}" for key, value in values.items()]


def measure(size: int, arm: str, out: Path) -> None:
    """Run one arm and keep what the table needs of it."""
    subprocess.run(["dvc", "exp", "run", *overrides(size, arm), "evaluate@distilled"], check=True)
    history = pd.read_csv("plots/loss/distilled.csv")
    out.mkdir(parents=True)
    (out / "updates.json").write_text(json.dumps(int(history["step"].max())), encoding="utf-8")
    shutil.copyfile("predictions/distilled.json", out / "predictions.json")  # last: it says that the run is complete


def table(runs: Path) -> pd.DataFrame:
    """Return a row per complete run: its F1 on test and what it gained over labels only, each with its interval."""
    questions = read_squad(Path("data/prepared/test.json"))
    clusters = [each.context for each in questions]
    rows = []
    for size in PASSES:
        scores: dict[str, Scores] = {}
        for arm in (LABELS, *KINDS):
            folder = runs / f"{size}-{arm}"
            if not (folder / "predictions.json").exists():
                continue
            scores[arm] = score(questions, json.loads((folder / "predictions.json").read_text(encoding="utf-8")))
            f1 = bootstrap_interval(scores[arm].f1, clusters, resamples=RESAMPLES, seed=SEED)
            gain = paired_difference(scores[arm].f1, scores[LABELS].f1, clusters, resamples=RESAMPLES, seed=SEED)
            rows.append(
                {
                    "labelled_questions": size,
                    "inputs": arm,
                    "updates": json.loads((folder / "updates.json").read_text(encoding="utf-8")),
                    "f1": round(f1.mean, 2),
                    "f1_low": round(f1.low, 2),
                    "f1_high": round(f1.high, 2),
                    "gain": round(gain.mean, 2),
                    "gain_low": round(gain.low, 2),
                    "gain_high": round(gain.high, 2),
                }
            )
    return pd.DataFrame(rows)


def main() -> None:
    """Run what is missing, labels only first for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("scratch/unlabelled"), help="folder of what is kept of runs")
    parser.add_argument("--out", type=Path, required=True, help="CSV file of the table")
    paths = parser.parse_args()
    for size in PASSES:
        for arm in (LABELS, *KINDS):
            folder = paths.runs / f"{size}-{arm}"
            if not (folder / "predictions.json").exists():
                shutil.rmtree(folder, ignore_errors=True)
                measure(size, arm, folder)
            table(paths.runs).to_csv(paths.out, index=False)


if __name__ == "__main__":
    main()
