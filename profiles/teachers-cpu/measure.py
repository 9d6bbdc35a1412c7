"""What a second teacher buys: students trained alike on one teacher's answers and on the mean of two teachers'.

Run from the repository's root with this profile's params.yaml in place (README.md beside this file), for each number of
labelled questions.
"""

from pathlib import Path

from profiles.measuring import Arm, main
from stages.core.errors import clean_exit

# Labelled questions -> passes over them, as in unlabelled-cpu.
PASSES = {1000: 6, 3000: 4, 10000: 2}
# Where the answers come from -> cache_teacher.others.
OTHERS: dict[str, list[str]] = {"one_teacher": [], "two_teachers": ["../second-teacher"]}


def arm(size: int, name: str) -> Arm:
    """The arm of `size` questions and the teachers of one of OTHERS."""
    values = {"data.train_questions": size, "distil.epochs": PASSES[size], "cache_teacher.others": OTHERS[name]}
    return Arm(size, name, values)


ARMS = [arm(size, name) for size in PASSES for name in OTHERS]

if __name__ == "__main__":
    with clean_exit():
        main(ARMS, "teachers", __doc__, Path("measured/teachers"))
