"""Check the corpus and print its statistics, beside those of SQuAD v1.1 dev where that file is at hand.

Run it from the root of the repository:

    python data/primer/check.py [--squad FILE]

Prints a table in Markdown, the one in README.md, then every broken rule. The exit status is 1 where a rule is broken.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only, not the root

from data.primer.distributions import describe
from data.primer.rules import SIDES, broken_rules
from data.primer.sliding_window import predict
from stages.core.data.examples import Example, read_squad
from stages.core.errors import clean_exit
from stages.core.qa.scoring import score

FOLDER = Path(__file__).resolve().parent


def read_corpus(folder: Path) -> dict[str, list[Example]]:
    """Read the three sides, and all of them together; raises InputError where a file is not sound."""
    corpus = {side: read_squad(folder / f"{side}.json") for side in SIDES}
    return {**corpus, "all": [example for side in SIDES for example in corpus[side]]}


def figures(examples: Sequence[Example]) -> dict[str, str]:
    """Return what the table says of one corpus, in the order of its rows."""
    contexts = {example.context for example in examples}
    found = describe(examples)
    window = score(examples, predict(examples))
    return {
        "articles": str(len({example.title for example in examples})),
        "paragraphs": str(len(contexts)),
        "questions": str(len(examples)),
        "words a paragraph": f"{sum(len(context.split()) for context in contexts) / len(contexts):.1f}",
        "questions a paragraph": f"{len(examples) / len(contexts):.1f}",
        "different gold answers a question": f"{found.golds:.2f}",
        **{f"question word: {word}": _percent(share) for word, share in found.question_words.items()},
        "answer length, words": f"{found.answer_words:.2f}",
        "answers of 1 to 3 words": _percent(found.short_answers),
        "answers of more than 6 words": _percent(found.long_answers),
        **{f"answers in fifth {number} of 5": _percent(share) for number, share in enumerate(found.fifths, 1)},
        "overlap of question and sentence": f"{found.overlap:.3f}",
        "answer readable in the question": _percent(found.readable),
        "sliding window, exact match": f"{window.mean_exact_match:.1f}",
        "sliding window, F1": f"{window.mean_f1:.1f}",
    }


def table(corpora: dict[str, Sequence[Example]]) -> list[str]:
    """Return the lines of a Markdown table with one column a corpus."""
    columns = {name: figures(examples) for name, examples in corpora.items()}
    rows = next(iter(columns.values()))
    return [
        "| | " + " | ".join(columns) + " |",
        "| --- |" + " ---: |" * len(columns),
        *(f"| {row} | " + " | ".join(column[row] for column in columns.values()) + " |" for row in rows),
    ]


def _percent(share: float) -> str:
    return f"{share:.1%}"


def main() -> int:
    """Print the table and the broken rules; return the exit status."""
    parser = argparse.ArgumentParser(description="Check the primer corpus and print its statistics.")
    parser.add_argument("--squad", type=Path, metavar="FILE", help="SQuAD v1.1 dev, for the last column of the table")
    arguments = parser.parse_args()
    with clean_exit():
        corpora: dict[str, Sequence[Example]] = {**read_corpus(FOLDER)}
        if arguments.squad:
            corpora["SQuAD v1.1 dev"] = read_squad(arguments.squad)
    print("\n".join(table(corpora)), end="\n\n")
    faults = broken_rules(FOLDER)
    print("\n".join(faults) if faults else "every rule holds")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
