"""What inputs without labels buy: students of one teacher, trained alike on labels alone and with unlabelled windows.

Run from the repository's root with this profile's params.yaml in place (README.md beside this file), for each number of
labelled questions and each kind of unlabelled input.
"""

from pathlib import Path

from profiles.measuring import Arm, main
from stages.core.errors import clean_exit

# Labelled questions -> passes over them alone. With as many unlabelled windows beside them half the passes are as many
# updates; with cloze questions for all passes but one, a single pass is.
PASSES = {1000: 6, 3000: 4, 10000: 2}
LABELS, PARAGRAPHS_TEXT, CLOZE_ONCE, CLOZE_TEXT = "labels_only", "paragraphs_text", "cloze_once", "cloze_text"
KINDS = ("other_offsets", "other_paragraphs", "paragraphs", "cloze")
# At most so many paragraphs are drawn from the sources; where more inputs are wanted, other_offsets make up the number.
PARAGRAPHS = 3000
# Of `paragraphs`: those that the labelled questions are drawn from, and the embedded corpus; their own questions, of
# which labelled ones are a part, are asked too.
LABELLED = ["../data/squadshifts/new_wiki.json", "../data/squadshifts/amazon.json", "primer:train"]
# Articles of Wikipedia, which have no questions: `paragraphs_text` asks them the labelled ones, and `cloze_text` has
# them beside the paragraphs of data.train.
TEXT = ["../data/wikipedia"]


def arm(size: int, name: str) -> Arm:
    """The arm of `size` questions that has only labels, as many inputs of one kind, or cloze questions for one pass."""
    counts, passes = dict.fromkeys(KINDS, 0), PASSES[size] // 2
    sources: list[str] = []
    if name == LABELS:
        passes = PASSES[size]
    elif name in (CLOZE_ONCE, CLOZE_TEXT):
        counts["cloze"], passes = size * (PASSES[size] - 1), 1
        sources = TEXT if name == CLOZE_TEXT else []
    elif name in ("paragraphs", PARAGRAPHS_TEXT):
        sources = TEXT if name == PARAGRAPHS_TEXT else LABELLED
        counts["paragraphs"] = min(size, PARAGRAPHS)
        counts["other_offsets"] = size - counts["paragraphs"]
    else:
        counts[name] = size
    unlabelled = {f"unlabelled.{kind}": count for kind, count in counts.items()}
    values = {"data.train_questions": size, "distil.epochs": passes, "unlabelled.sources": sources, **unlabelled}
    return Arm(size, name, values)


# Of 10,000 questions `cloze` has one pass already.
ARMS = [
    arm(size, name)
    for size, passes in PASSES.items()
    for name in (LABELS, *KINDS, PARAGRAPHS_TEXT, *([CLOZE_ONCE] if passes > 2 else []), CLOZE_TEXT)
]

if __name__ == "__main__":
    with clean_exit():
        main(ARMS, "inputs", __doc__, Path("measured/unlabelled"))
