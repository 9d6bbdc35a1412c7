"""How far students' answers are from their teacher's: on inputs that they learned from, and on new ones.

A student can learn its teacher's answers by heart. How much of what it has learned holds for other inputs shows beside
some that it has not seen. Run from the repository's root, with the params.yaml of the run in place, after it:

    python -m profiles.divergences --data data/prepared --teacher models/teacher --student models/distilled \
        --out plots/divergences.csv

What is drawn from the data's `train` and `unlabelled` is what a student trained on these data has learned from; one
that was trained on others may not. New are the questions of dev, and cloze questions that are drawn here, on the
paragraphs of train and of dev; those of `unlabelled.sources` get none. The teacher answers anew, each model in windows
of its own tokenizer. The divergence is the training's (`soft`), at the temperature of `distil`; its interval is over
paragraphs, resampled. It weighs all of a distribution, an answer's F1 the best span alone: the two need not agree.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from stages.core.data.batches import collate
from stages.core.data.cloze import cloze_questions
from stages.core.data.cutting import refusal_of
from stages.core.data.examples import Example, Paragraph, Refusal, cut_all
from stages.core.data.prepared import CLOZE, UNLABELLED, Questions, has_cloze, has_unlabelled, load_split
from stages.core.errors import InputError, clean_exit
from stages.core.files import write_text
from stages.core.params import load_params
from stages.core.qa.ensemble import Reader, Said, load_reader, pool
from stages.core.qa.scoring import FloatArray
from stages.core.qa.significance import bootstrap_interval
from stages.core.runtime import Runtime, RuntimeParams, start
from stages.core.training.losses import soft_divergence
from stages.core.training.settings import DistilParams

RESAMPLES, SEED = 2000, 13
BATCH = 32  # windows a forward pass
OF_THE_DATA, NEW = "of the data", "new"


def inputs(data: Path, count: int, refuse: Refusal = cut_all) -> dict[tuple[str, str], list[Example]]:
    """Return at most `count` inputs of each kind, by kind and whether they are of the data trained on or new.

    Questions come without answers. New are those that neither student nor teacher has seen. A question drawn here for
    which `refuse` gives a reason, as no window holds it, is left out.
    """
    generator = random.Random(SEED)

    def some(examples: Sequence[Example]) -> list[Example]:
        drawn = generator.sample(list(examples), min(count, len(examples)))
        return [replace(each, answers=()) for each in drawn]

    train, dev = (load_split(data, name).examples for name in ("train", "dev"))
    found = {("labelled questions", OF_THE_DATA): some(train), ("questions of dev", NEW): some(dev)}
    seen: set[tuple[str, str]] = set()
    if has_cloze(data):
        seen |= {(each.context, each.question) for each in load_split(data, CLOZE).examples}
    if has_unlabelled(data):
        unlabelled = load_split(data, UNLABELLED).examples
        seen |= {(each.context, each.question) for each in unlabelled}
        found["inputs without labels", OF_THE_DATA] = some(unlabelled)
    for name, examples in (("train", train), ("dev", dev)):
        paragraphs = [Paragraph(each.title, each.context) for each in examples]
        try:
            drawn = cloze_questions(paragraphs, count, SEED + 1, refuse)
        except InputError:
            raise InputError(f"--count: {count} cloze questions are more than {name} yields; lower it") from None
        found[f"cloze questions on paragraphs of {name}", NEW] = [
            replace(each, answers=()) for each in drawn if (each.context, each.question) not in seen
        ]
    return found


def divergences(teacher: Said, student: Said, temperature: float) -> FloatArray:
    """Return the divergence of each of the student's windows, (W,), the mean of start and end."""
    windows = student.questions.windows
    carried = pool([teacher], student.questions).logits
    found = []
    for row in range(len(windows)):
        said, heard = (collate(windows, torch.tensor([row]), logits) for logits in (student.logits, carried))
        divergence = 0.0
        for end in ("teacher_start_logits", "teacher_end_logits"):  # of whoever has spoken
            its, teachers = getattr(said, end), getattr(heard, end)
            divergence += float(soft_divergence(its, teachers, said.context_mask, temperature)) / 2
        found.append(divergence)
    return np.array(found)


def measure(
    data: Path, teacher: Path, students: Sequence[Path], count: int, temperature: float, runtime: Runtime
) -> pd.DataFrame:
    """Return a row for each kind of input and student: questions, windows, the mean divergence and its interval."""
    like = load_split(data, "dev")
    panel = [load_reader(folder, like, runtime.device) for folder in (teacher, *students)]

    def ask(reader: Reader, examples: Sequence[Example]) -> Said:
        unread = Questions(examples, like.windows)  # the reader cuts its own
        return reader.read(unread, batch_size=BATCH, device=runtime.device, precision=runtime.precision)

    rows = []
    refuse = refusal_of([each.cutter for each in panel if each.cutter is not None])
    for (kind, known), examples in inputs(data, count, refuse).items():
        contexts = {each.id: each.context for each in examples}
        heard, *answers = (ask(reader, examples) for reader in panel)
        for folder, said in zip(students, answers, strict=True):
            values = divergences(heard, said, temperature)
            paragraphs = [contexts[key] for key in said.questions.windows.question_ids]
            interval = bootstrap_interval(values, paragraphs, resamples=RESAMPLES, seed=SEED)
            bounds = {"divergence": interval.mean, "divergence_low": interval.low, "divergence_high": interval.high}
            told = {
                "student": folder,
                "inputs": kind,
                "input": known,
                "questions": len(examples),
                "windows": len(values),
            }
            rows.append(told | {key: round(value, 3) for key, value in bounds.items()})
    return pd.DataFrame(rows)


def main() -> None:
    """Take folders from the command line, the rest from params.yaml."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "teacher", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--student", type=Path, action="append", required=True, help="may be given several times")
    parser.add_argument("--count", type=int, default=300, help="inputs of each kind")
    options = parser.parse_args()
    if options.count < 1:
        raise InputError(f"--count: {options.count}, wanted 1 or more")
    runtime = start(load_params("runtime", RuntimeParams), SEED)
    temperature = load_params("distil", DistilParams).temperature
    found = measure(options.data, options.teacher, options.student, options.count, temperature, runtime)
    write_text(options.out, found.to_csv(index=False, lineterminator="\n"))


if __name__ == "__main__":
    with clean_exit():
        main()
