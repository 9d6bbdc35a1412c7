"""The measurement of unlabelled inputs: what it sets, and the table it draws from finished runs."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from dvc.utils.hydra import apply_overrides

from stages.core.params import read_yaml

PROFILE = Path(__file__).parent.parent / "profiles" / "unlabelled-cpu"
KINDS = ("other_offsets", "other_paragraphs", "paragraphs")


@pytest.fixture(scope="module")
def measurement() -> ModuleType:
    spec = importlib.util.spec_from_file_location("unlabelled_measurement", PROFILE / "measure.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings(measurement: ModuleType, size: int, arm: str, folder: Path) -> dict[str, dict[str, object]]:
    """The profile's parameters after the overrides of an arm."""
    copy = folder / "params.yaml"
    copy.write_text((PROFILE / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    apply_overrides(copy, [each.removeprefix("--set-param=") for each in measurement.overrides(size, arm)])
    after: dict[str, dict[str, object]] = read_yaml(copy)
    return after


def test_arms_differ_in_inputs_and_in_passes_alone(measurement: ModuleType, tmp_path: Path) -> None:
    before = read_yaml(PROFILE / "params.yaml")
    for size in measurement.PASSES:
        for arm in (measurement.LABELS, *measurement.KINDS):
            after = settings(measurement, size, arm, tmp_path)
            for key in ("data", "distil", "unlabelled"):
                assert set(after[key]) == set(before[key]), "an override names a key that no stage knows"
            assert after["data"].pop("train_questions") == size
            after["distil"].pop("epochs")
            for kind in KINDS:
                after["unlabelled"].pop(kind)
            expected = {key: dict(value) for key, value in before.items()}
            del expected["data"]["train_questions"], expected["distil"]["epochs"]
            for kind in KINDS:
                del expected["unlabelled"][kind]
            assert after == expected


def test_inputs_times_passes_are_the_same_in_all_arms_of_a_size(measurement: ModuleType, tmp_path: Path) -> None:
    for size in measurement.PASSES:
        inputs = set()
        for arm in (measurement.LABELS, *measurement.KINDS):
            after = settings(measurement, size, arm, tmp_path)
            unlabelled = sum(int(str(after["unlabelled"][kind])) for kind in KINDS)
            assert unlabelled == (0 if arm == measurement.LABELS else size)
            inputs.add((size + unlabelled) * int(str(after["distil"]["epochs"])))
        assert len(inputs) == 1, size


def test_table_has_a_row_per_complete_run_and_its_gain_over_labels_only(
    measurement: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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

    table: pd.DataFrame = measurement.table(runs)
    assert list(table["inputs"]) == ["labels_only", "paragraphs"]
    assert list(table["updates"]) == [432, 426]
    assert list(table["f1"]) == [50.0, 75.0]
    assert list(table["gain"]) == [0.0, 25.0]
    assert (table["gain_low"] <= table["gain"]).all() and (table["gain"] <= table["gain_high"]).all()
