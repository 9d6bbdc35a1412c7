"""The measurements over several runs: what their arms set, and the table they draw from finished runs."""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from dvc.utils.hydra import apply_overrides

from profiles.measuring import Arm, table
from stages.core.params import read_yaml

PROFILES = Path(__file__).parent.parent / "profiles"
KINDS = ("other_offsets", "other_paragraphs", "paragraphs")

Values = dict[str, dict[str, object]]


def arms_of(profile: str) -> Sequence[Arm]:
    """The arms that a profile's measure.py lists."""
    spec = importlib.util.spec_from_file_location(profile.replace("-", "_"), PROFILES / profile / "measure.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    arms: Sequence[Arm] = module.ARMS
    return arms


def settings(profile: str, arm: Arm, folder: Path) -> tuple[Values, Values]:
    """The profile's parameters before and after the overrides of an arm."""
    copy = folder / "params.yaml"
    copy.write_text((PROFILES / profile / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    before: Values = read_yaml(copy)
    apply_overrides(copy, [each.removeprefix("--set-param=") for each in arm.overrides])
    return before, read_yaml(copy)


@pytest.mark.parametrize(
    ("profile", "tried"),
    [
        ("unlabelled-cpu", {f"unlabelled.{kind}" for kind in KINDS}),
        ("teachers-cpu", {"cache_teacher.others"}),
    ],
)
def test_arms_differ_in_what_is_tried_and_in_questions_and_passes_alone(
    profile: str, tried: set[str], tmp_path: Path
) -> None:
    for arm in arms_of(profile):
        before, after = settings(profile, arm, tmp_path)
        assert {key: set(value) for key, value in before.items()} == {
            key: set(value) for key, value in after.items()
        }, "an override names a key that no stage knows"
        assert after["data"]["train_questions"] == arm.size
        changed = {f"{key}.{name}" for key in before for name in before[key] if before[key][name] != after[key][name]}
        assert changed <= {"data.train_questions", "distil.epochs", *tried}


def test_inputs_times_passes_are_the_same_in_all_arms_of_a_size(tmp_path: Path) -> None:
    inputs: dict[int, set[int]] = {}
    for arm in arms_of("unlabelled-cpu"):
        _, after = settings("unlabelled-cpu", arm, tmp_path)
        unlabelled = sum(int(str(after["unlabelled"][kind])) for kind in KINDS)
        assert unlabelled == (0 if arm.name == "labels_only" else arm.size)
        inputs.setdefault(arm.size, set()).add((arm.size + unlabelled) * int(str(after["distil"]["epochs"])))
    assert list(inputs) == [1000, 3000, 10000]
    assert all(len(each) == 1 for each in inputs.values())


def test_the_second_teacher_answers_in_every_other_arm(tmp_path: Path) -> None:
    others = [settings("teachers-cpu", arm, tmp_path)[1]["cache_teacher"]["others"] for arm in arms_of("teachers-cpu")]
    assert others == [[], ["../second-teacher"]] * 3


def test_table_has_a_row_per_complete_run_and_its_gain_over_the_first_of_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepared = tmp_path / "data" / "prepared"
    prepared.mkdir(parents=True)
    paragraphs = [
        {
            "context": f"{word} is here.",
            "qas": [{"id": word, "question": "What is here?", "answers": [{"text": word, "answer_start": 0}]}],
        }
        for word in ("Tea", "Salt", "Rice", "Corn")
    ]
    article = {"title": "Food", "paragraphs": paragraphs}
    (prepared / "test.json").write_text(json.dumps({"version": "1.1", "data": [article]}), encoding="utf-8")

    runs = tmp_path / "runs"
    right = {word: word for word in ("Tea", "Salt", "Rice", "Corn")}
    for name, predictions, updates in (
        ("1000-labels_only", {**right, "Tea": "here", "Salt": "here"}, 432),
        ("1000-paragraphs", {**right, "Tea": "here"}, 426),
    ):
        (runs / name).mkdir(parents=True)
        (runs / name / "predictions.json").write_text(json.dumps(predictions), encoding="utf-8")
        (runs / name / "updates.json").write_text(json.dumps(updates), encoding="utf-8")
    (runs / "1000-other_offsets").mkdir()  # a run that was stopped before its end

    (runs / "3000-paragraphs").mkdir()
    (runs / "3000-paragraphs" / "predictions.json").write_text(
        "{}", encoding="utf-8"
    )  # with nothing to compare it with

    names = ("labels_only", "other_offsets", "paragraphs")
    found: pd.DataFrame = table([Arm(size, name, {}) for size in (1000, 3000) for name in names], runs, "inputs")
    assert list(found["inputs"]) == ["labels_only", "paragraphs"]
    assert list(found["updates"]) == [432, 426]
    assert list(found["f1"]) == [50.0, 75.0]
    assert list(found["gain"]) == [0.0, 25.0]
    assert (found["gain_low"] <= found["gain"]).all() and (found["gain"] <= found["gain_high"]).all()
