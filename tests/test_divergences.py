"""How far a student is from its teacher on inputs learned from and on others: the figures and the inputs."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import log_softmax

from profiles import divergences as module
from profiles.divergences import NEW, OF_THE_DATA, divergences, inputs, main, measure
from stages.core.data import cloze
from stages.core.data.cutting import Cutter
from stages.core.data.examples import Example
from stages.core.data.prepared import Questions, load_split, windows_path
from stages.core.errors import InputError
from stages.core.models.checkpoint import load_checkpoint, save_checkpoint
from stages.core.qa.ensemble import Reader, Said
from stages.core.runtime import start
from tests.toy_models import toy_qa_model, toy_tokenizer
from tests.toy_pipeline import RUNTIME, UNLABELLED, Pipeline
from tests.toy_questions import toy_questions

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data with cloze questions, and three models that have learned nothing, one with another tokenizer."""
    pipeline = Pipeline(tmp_path_factory.mktemp("divergences"))
    pipeline.unlabelled = replace(UNLABELLED, cloze=20)
    pipeline.prepare()
    for name, family, seed in (("teacher", "bert", 1), ("other", "bert", 2), ("strange", "roberta", 1)):
        tokenizer = toy_tokenizer(pipeline.root / "tokenizers" / family, family)
        save_checkpoint(toy_qa_model(family, seed), tokenizer, pipeline.root / name)
    return pipeline.root


def run(root: Path, *students: str, monkeypatch: pytest.MonkeyPatch, out: Path, count: int = 12) -> pd.DataFrame:
    monkeypatch.chdir(ROOT)
    words = ["--data", root / "data", "--teacher", root / "teacher", "--out", out / "found.csv", "--count", count]
    words += [each for name in students for each in ("--student", root / name)]
    monkeypatch.setattr(sys, "argv", ["divergences", *map(str, words)])
    main()
    return pd.read_csv(out / "found.csv")


def test_a_model_is_not_far_from_itself_and_others_are(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = run(prepared, "teacher", "other", "strange", monkeypatch=monkeypatch, out=tmp_path)
    assert len(found) == 5 * 3
    assert found["questions"].tolist()[:9] == [12] * 3 + [8] * 3 + [12] * 3
    assert found["input"].tolist()[::3] == [OF_THE_DATA, NEW, OF_THE_DATA, NEW, NEW]
    own = found["student"] == str(prepared / "teacher")
    assert own.sum() == 5
    assert (found[own]["divergence"] == 0).all()
    assert (found[~own]["divergence_low"] > 0).all()


def test_the_students_answers_are_held_to_the_teachers_and_not_the_other_way_round(prepared: Path) -> None:
    data, teacher, other, runtime = prepared / "data", prepared / "teacher", prepared / "other", start(RUNTIME, 1)
    found = measure(data, teacher, [other], 12, 3.0, runtime).set_index("inputs")["divergence"]
    dev = load_split(data, "dev")
    heard, said = (
        Reader(load_checkpoint(folder)).read(dev, batch_size=4, device=runtime.device, precision="fp32")
        for folder in (teacher, other)
    )
    assert np.isclose(found["questions of dev"], divergences(heard, said, 3.0).mean(), atol=6e-4)
    assert not np.isclose(found["questions of dev"], divergences(said, heard, 3.0).mean(), atol=6e-4)
    assert not np.isclose(found["questions of dev"], divergences(heard, said, 1.0).mean(), atol=6e-4)


def test_data_without_unlabelled_inputs_have_the_other_kinds(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared / "data", tmp_path / "data")
    windows_path(tmp_path / "data", "unlabelled").unlink()
    assert len(inputs(tmp_path / "data", 5)) == 4


def test_a_divergence_is_that_of_its_definition(tmp_path: Path) -> None:
    """KL of softmaxes over context and position 0, at a temperature, times its square: window by window, by scipy."""
    questions, temperature = toy_questions(tmp_path, 6, seed=1), 3.0
    windows = questions.windows
    student, teacher = 5 * torch.randn(2, 2, int(windows.row_splits[-1]), generator=torch.Generator().manual_seed(1))
    found = divergences(Said(questions, tuple(teacher)), Said(questions, tuple(student)), temperature)
    wanted = []
    for row in range(len(windows)):
        first = int(windows.row_splits[row])
        places = [first, *range(first + int(windows.context_start[row]), first + int(windows.context_stop[row]))]
        its, teachers = (log_softmax(each[:, places].numpy() / temperature, axis=1) for each in (student, teacher))
        wanted.append((np.exp(teachers) * (teachers - its)).sum(axis=1).mean() * temperature**2)
    assert np.allclose(found, wanted, rtol=1e-5)


def test_what_is_new_has_not_been_learned_from(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEED", 0)  # one more is the seed of the data: the same cloze questions are drawn again
    found = inputs(prepared / "data", 25)
    assert [kind for kind, _ in found] == [
        "labelled questions",
        "questions of dev",
        "inputs without labels",
        "cloze questions on paragraphs of train",
        "cloze questions on paragraphs of dev",
    ]
    seen = {(each.context, each.question) for each in found["inputs without labels", OF_THE_DATA]}
    new = found["cloze questions on paragraphs of train", NEW]
    assert len(seen) == 20
    assert 0 < len(new) < 25
    assert not any((each.context, each.question) in seen for each in new)
    assert not any(each.answers for rows in found.values() for each in rows)


def test_questions_that_a_model_cannot_cut_are_not_drawn(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those of a first draw every other one: to one of the models they are too long."""
    first = inputs(prepared / "data", 6)["cloze questions on paragraphs of dev", NEW]
    long = {each.question for each in first[::2]}
    refuse = Cutter.refuse

    def refuse_some(self: Cutter, example: Example) -> str:
        return "too long" if example.question in long and self.tokenizer.sep_token == "</s>" else refuse(self, example)

    monkeypatch.setattr(Cutter, "refuse", refuse_some)
    drawn: list[str] = []

    def listen(self: Reader, questions: Questions, **given: Any) -> Said:
        drawn.extend(each.question for each in questions.examples)
        return read(self, questions, **given)

    read = Reader.read
    monkeypatch.setattr(Reader, "read", listen)
    measure(prepared / "data", prepared / "teacher", [prepared / "strange"], 6, 2.0, start(RUNTIME, 1))
    assert set(drawn) >= {each.question for each in first[1::2]} and not set(drawn) & long


@pytest.mark.parametrize(
    ("count", "told"), [(0, "--count: 0, wanted 1 or more"), (12, "--count: 12 cloze questions are more than train")]
)
def test_a_count_without_as_many_questions_is_refused(
    count: int, told: str, prepared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cloze, "MISSES", 0)  # as if there were no more
    with pytest.raises(InputError, match=told):
        run(prepared, "teacher", monkeypatch=monkeypatch, out=tmp_path, count=count)
    assert not list(tmp_path.iterdir())
