"""What cloze questions buy a teacher: encoders trained on labels alone, and on cloze questions first.

Run from the repository's root with this profile's params.yaml in place (README.md beside this file), for each number of
labelled questions.
"""

from pathlib import Path

from profiles.measuring import Arm, main
from stages.core.errors import clean_exit

# Labelled questions -> passes over them alone. Cloze questions take the place of all passes but two, one for each
# question that these would have shown.
PASSES = {1000: 6, 3000: 4}
PASSES_AFTER = 2
LABELS, TWICE, CLOZE = "labels_only", "labels_twice", "cloze_first"


def arm(size: int, name: str) -> Arm:
    """The arm of `size` questions: labels only, all passes or as few as the last arm has, or cloze questions first."""
    values = {
        "data.train_questions": size,
        "data.cloze_questions": size * (PASSES[size] - PASSES_AFTER) if name == CLOZE else 0,
        "teacher.epochs": PASSES[size] if name == LABELS else PASSES_AFTER,
    }
    return Arm(size, name, values, variant="teacher")


ARMS = [arm(size, name) for size in PASSES for name in (LABELS, TWICE, CLOZE)]

if __name__ == "__main__":
    with clean_exit():
        main(ARMS, "questions", __doc__, Path("measured/cloze-teacher"))
