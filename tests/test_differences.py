"""Differences between files of predictions: the figures, and what is refused."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from profiles.differences import RESAMPLES, SEED, main
from stages.core.data.examples import write_squad
from stages.core.errors import InputError
from stages.core.qa.significance import bootstrap_interval
from tests.toy_questions import toy_examples


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight questions, and three models: one right in all, one wrong in two, one that says too much in one."""
    questions = toy_examples(8, seed=3)
    write_squad(tmp_path / "test.json", questions)
    right = {each.id: each.answers[0].text for each in questions}
    first, second, *_ = right
    models = {
        "right": right,
        "wrong": right | {first: "river", second: ""},
        "half": right | {first: right[first] + " river"},
    }
    for name, answers in models.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(answers), encoding="utf-8")
    return tmp_path


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *pairs: tuple[str, str], names: tuple[str, ...]) -> pd.DataFrame:
    words = [each for name in names for each in ("--predictions", name, str(folder / f"{name}.json"))]
    words += [each for pair in pairs for each in ("--less", *pair)]
    out = folder / "found" / "differences.csv"
    monkeypatch.setattr(
        sys, "argv", ["differences", "--questions", str(folder / "test.json"), "--out", str(out), *words]
    )
    main()
    return pd.read_csv(out).set_index("comparison")


def test_each_pair_has_its_difference_and_share(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(folder, monkeypatch, ("wrong", "right"), ("half", "right"), names=("right", "wrong", "half"))
    assert list(found.index) == ["wrong - right", "half - right"]
    assert "planned" not in found
    assert found["exact_match"].tolist() == [-25, -12.5]
    # Half of the words are right, all of the answer is there: an F1 of 2/3.
    assert np.allclose(found["f1"], [-25, -100 / 3 / 8], atol=1e-3)
    assert np.allclose(found["f1_kept"], [75, 100 - 100 / 3 / 8], atol=1e-3)
    assert ((found["f1_low"] <= found["f1"]) & (found["f1"] <= found["f1_high"])).all()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "not the answers to these 8"),
        ("[]", "holds a list, not a mapping"),
        ("{", "not JSON"),
        (None, "no such file"),
        (json.dumps({f"3-{number}": None for number in range(8)}), "the answer to question '3-0' is None, wanted text"),
    ],
)
def test_what_is_no_file_of_these_answers_is_refused(
    text: str | None, told: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "wrong.json"
    path.unlink()
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=rf"wrong\.json: {told}"):
        run(folder, monkeypatch, ("wrong", "right"), names=("right", "wrong"))
    assert not (folder / "found").exists()


def test_a_name_without_a_file_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="--less: 'wrong' names no predictions, wanted one of right, half"):
        run(folder, monkeypatch, ("wrong", "right"), names=("right", "half"))


def test_a_name_of_two_files_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="--predictions: 'right' names two files"):
        run(folder, monkeypatch, ("right", "half"), names=("right", "half", "right"))


def test_paragraphs_are_resampled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(folder, monkeypatch, ("wrong", "right"), names=("right", "wrong")).iloc[0]
    questions = toy_examples(8, seed=3)
    less = np.array([-100.0] * 2 + [0.0] * 6)  # wrong in two questions, those of one paragraph

    def interval(clusters: list[str]) -> tuple[float, float]:
        drawn = bootstrap_interval(less, clusters, resamples=RESAMPLES, seed=SEED)
        return round(drawn.low, 3), round(drawn.high, 3)

    shown = (found["exact_match_low"], found["exact_match_high"])
    assert shown == interval([each.context for each in questions])
    assert shown != interval([each.id for each in questions])
