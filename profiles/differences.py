"""Differences between files of predictions on the same questions, with intervals of 2,000 resamples.

For models that are no variants of one run, or were not evaluated in one:

    python -m profiles.differences --questions data/prepared/test.json --out plots/differences.csv \
        --predictions teacher predictions/teacher.json --predictions half predictions/half.json --less half teacher

Writes a row for each `--less`: the first model less the second, and the share of the second's F1 that the first keeps;
paragraphs are resampled, for both sides alike.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from stages.core.data.examples import Example, read_squad
from stages.core.errors import InputError, clean_exit
from stages.core.files import write_text
from stages.core.qa.scoring import score
from stages.core.report.comparisons import Difference, compare
from stages.core.report.inputs import read_predictions
from stages.core.report.tables import differences_frame

RESAMPLES, SEED = 2000, 13


def differences(
    questions: Sequence[Example], files: dict[str, Path], pairs: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Difference]:
    """Return each pair's difference; raises InputError for a name without a file and where `read_predictions` does."""
    for name in (name for pair in pairs for name in pair):
        if name not in files:
            raise InputError(f"--less: {name!r} names no predictions, wanted one of {', '.join(files)}")
    scores = {name: score(questions, read_predictions(path, questions)) for name, path in files.items()}
    paragraphs = [each.context for each in questions]
    return {
        (first, second): compare(scores[first], scores[second], paragraphs, RESAMPLES, SEED) for first, second in pairs
    }


def main() -> None:
    """Take files, names and pairs from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=Path, required=True, help="the questions with their gold answers")
    parser.add_argument("--predictions", nargs=2, action="append", required=True, metavar=("NAME", "FILE"))
    parser.add_argument("--less", nargs=2, action="append", required=True, metavar=("FIRST", "SECOND"))
    parser.add_argument("--out", type=Path, required=True, help="CSV file of the differences")
    options = parser.parse_args()
    names = [name for name, _ in options.predictions]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--predictions: {name!r} names two files; give each a name of its own")
    files = {name: Path(path) for name, path in options.predictions}
    pairs = [(first, second) for first, second in options.less]
    found = differences_frame(differences(read_squad(options.questions), files, pairs))
    found = found.drop(columns="planned")  # which comparisons of a run's variants are, not of any models
    write_text(options.out, found.to_csv(index=False, lineterminator="\n"))


if __name__ == "__main__":
    with clean_exit():
        main()
