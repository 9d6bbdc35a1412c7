"""The measurements over several runs: what their arms set, which runs are taken for done, and the tables of them."""

import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from profiles.measuring import SECTIONS, Arm, main, pairs, table
from stages.core.errors import InputError
from stages.core.files import write_json
from stages.core.params import read_yaml

ROOT = Path(__file__).parent.parent
PROFILES = ROOT / "profiles"
KINDS = ("other_offsets", "other_paragraphs", "paragraphs", "cloze")

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
        ("unlabelled-cpu", {"distil.epochs", "unlabelled.sources", *(f"unlabelled.{kind}" for kind in KINDS)}),
        ("teachers-cpu", {"distil.epochs", "cache_teacher.others"}),
        ("cloze-teacher-cpu", {"teacher.epochs", "data.cloze_questions"}),
    ],
)
def test_arms_differ_in_what_is_tried_and_in_questions_and_passes_alone(
    profile: str, tried: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for arm in arms_of(profile):
        before, after = settings(profile, arm, tmp_path)
        assert {key: set(value) for key, value in before.items()} == {
            key: set(value) for key, value in after.items()
        }, "an override names a key that no stage knows"
        assert after["data"]["train_questions"] == arm.size
        changed = {f"{key}.{name}" for key in before for name in before[key] if before[key][name] != after[key][name]}
        assert changed <= {"data.train_questions", *tried}
        assert set(arm.values) == {"data.train_questions", *tried}
        assert arm.params() == {section: after[section] for section in SECTIONS}, "DVC makes something else of it"


def test_inputs_times_passes_are_the_same_in_all_arms_of_a_size(tmp_path: Path) -> None:
    inputs: dict[int, set[int]] = {}
    for arm in arms_of("unlabelled-cpu"):
        _, after = settings("unlabelled-cpu", arm, tmp_path)
        unlabelled = sum(int(str(after["unlabelled"][kind])) for kind in KINDS)
        passes = int(str(after["distil"]["epochs"]))
        if arm.name in ("cloze_once", "cloze_text"):
            assert unlabelled == after["unlabelled"]["cloze"]
            assert passes == 1
        else:
            assert unlabelled == (0 if arm.name == "labels_only" else arm.size)
        assert (after["unlabelled"]["sources"] != []) == (arm.name in ("paragraphs", "paragraphs_text", "cloze_text"))
        inputs.setdefault(arm.size, set()).add((arm.size + unlabelled) * passes)
    assert list(inputs) == [1000, 3000, 10000]
    assert all(len(each) == 1 for each in inputs.values())


def test_a_teachers_questions_times_passes_are_the_same_in_all_arms_of_a_size_but_one(tmp_path: Path) -> None:
    shown: dict[int, set[int]] = {}
    for arm in arms_of("cloze-teacher-cpu"):
        _, after = settings("cloze-teacher-cpu", arm, tmp_path)
        labelled, cloze = (int(str(after["data"][name])) for name in ("train_questions", "cloze_questions"))
        assert (cloze > 0) == (arm.name == "cloze_first") and arm.variant == "teacher"
        passes, cloze_passes = (int(str(after["teacher"][name])) for name in ("epochs", "cloze_epochs"))
        if arm.name == "labels_twice":
            assert passes == 2
        else:
            shown.setdefault(arm.size, set()).add(labelled * passes + cloze * cloze_passes)
    assert {size: len(each) for size, each in shown.items()} == {1000: 1, 3000: 1}


def test_the_second_teacher_answers_in_every_other_arm(tmp_path: Path) -> None:
    others = [settings("teachers-cpu", arm, tmp_path)[1]["cache_teacher"]["others"] for arm in arms_of("teachers-cpu")]
    assert others == [[], ["../second-teacher"]] * 3


def test_what_is_kept_of_the_parameters_is_what_distilled_depends_on() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    makers = {out: name for name, stage in stages.items() for out in stage.get("outs", []) if isinstance(out, str)}
    reached, ahead = set(), ["evaluate"]
    while ahead:
        name = ahead.pop()
        reached.add(name)
        needed = [each.replace("${item.variant}", "distilled") for each in stages[name]["deps"]]
        ahead += {
            maker for out, maker in makers.items() for each in needed if f"{each}/".startswith(f"{out}/")
        } - reached
    assert reached == {"prepare", "teacher", "cache_teacher", "distil", "evaluate"}
    assert set(SECTIONS) == {section for name in reached for section in stages[name]["params"]}


NAMES = ("labels_only", "other_offsets", "paragraphs")
ARMS = [Arm(size, name, {"data.train_questions": size}) for size in (1000, 3000) for name in NAMES]
WORDS = ("Tea", "Salt", "Rice", "Corn")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of runs, none there yet, in a working folder with parameters and test questions."""
    monkeypatch.chdir(tmp_path)
    sections = "".join(f"{section}:\n  rate: 2.0e-4\n" for section in (*SECTIONS, "prune"))
    Path("params.yaml").write_text(sections, encoding="utf-8")
    paragraphs = [
        {
            "context": f"{word} is here.",
            "qas": [{"id": word, "question": "What is here?", "answers": [{"text": word, "answer_start": 0}]}],
        }
        for word in WORDS
    ]
    article = {"title": "Food", "paragraphs": paragraphs}
    write_json(Path("data/prepared/test.json"), {"version": "1.1", "data": [article]})
    return tmp_path / "runs"


def finish(arm: Arm, runs: Path, wrong: Sequence[str] = (), updates: int = 1) -> None:
    """Leave what a run leaves that answers all but the `wrong` questions."""
    write_json(arm.folder(runs) / "params.json", arm.told())
    (arm.folder(runs) / "updates.json").write_text(json.dumps(updates), encoding="utf-8")
    predictions = {word: "here" if word in wrong else word for word in WORDS}
    write_json(arm.folder(runs) / "predictions.json", predictions)


def measure(monkeypatch: pytest.MonkeyPatch, runs: Path, *options: str, arms: Sequence[Arm] = ARMS) -> None:
    """The command with `out.csv` in the working folder as its --out."""
    monkeypatch.setattr("sys.argv", ["measure.py", "--runs", str(runs), "--out", "out.csv", *options])
    main(arms, "inputs", "what it does", runs)


def test_table_has_a_row_per_complete_run_and_its_gain_over_the_first_of_its_size(runs: Path) -> None:
    labels_only, other_offsets, paragraphs = ARMS[:3]
    finish(labels_only, runs, wrong=["Tea", "Salt"], updates=432)
    other_offsets.folder(runs).mkdir()  # a run that was stopped before its end
    finish(paragraphs, runs, wrong=["Tea"], updates=426)
    finish(ARMS[-1], runs)  # with nothing to compare it with

    found: pd.DataFrame = table(ARMS, runs, "inputs")
    assert list(found["inputs"]) == ["labels_only", "paragraphs"]
    assert list(found["updates"]) == [432, 426]
    assert list(found["f1"]) == [50.0, 75.0]
    assert list(found["gain"]) == [0.0, 25.0]
    assert (found["gain_low"] <= found["gain"]).all() and (found["gain"] <= found["gain_high"]).all()


def test_pairs_have_every_two_complete_runs_of_a_size(runs: Path) -> None:
    for arm, wrong in zip(ARMS[:4], (["Tea", "Salt"], ["Tea"], [], WORDS), strict=True):
        finish(arm, runs, wrong)
    found = pairs(ARMS, runs, "inputs")
    assert list(zip(found["inputs"], found["less"], found["f1"], strict=True)) == [
        ("other_offsets", "labels_only", 25.0),
        ("paragraphs", "labels_only", 50.0),
        ("paragraphs", "other_offsets", 25.0),
    ]
    assert set(found["labelled_questions"]) == {1000}
    gains = table(ARMS[:3], runs, "inputs").set_index("inputs")
    bounds = ["f1_low", "f1_high"], ["gain_low", "gain_high"]
    assert found.loc[1, bounds[0]].tolist() == gains.loc["paragraphs", bounds[1]].tolist(), "not the table's interval"


def test_answers_to_other_questions_are_refused(runs: Path) -> None:
    finish(ARMS[0], runs)
    write_json(ARMS[0].folder(runs) / "predictions.json", {"Tea": "Tea"})
    with pytest.raises(InputError, match=r"test.json: not the questions that .*1000-labels_only answered"):
        table(ARMS, runs, "inputs")


@pytest.mark.parametrize("variant", ["distilled", "teacher"])
def test_a_measurement_goes_on_where_it_stopped_and_is_recorded_at_its_end(
    runs: Path, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    growing: list[int] = []
    arms = [replace(arm, variant=variant) for arm in ARMS]

    def dvc(command: list[str]) -> subprocess.CompletedProcess[bytes]:
        assert command[:3] == ["dvc", "exp", "run"] and command[-1] == f"evaluate@{variant}"
        assert not Path("out.csv").exists()
        growing.append(len(pd.read_csv(runs / "table.csv")) if growing else 0)
        if len(growing) == 3:
            raise KeyboardInterrupt
        Path("plots/loss").mkdir(parents=True, exist_ok=True)
        Path(f"plots/loss/{variant}.csv").write_text("step,loss\n10,2.0\n426,1.0\n", encoding="utf-8")
        write_json(Path(f"predictions/{variant}.json"), {word: word for word in WORDS})
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", dvc)
    with pytest.raises(KeyboardInterrupt):
        measure(monkeypatch, runs, arms=arms)
    assert all(arm.is_done(runs) for arm in arms[:2]) and not any(arm.is_done(runs) for arm in arms[2:])
    measure(monkeypatch, runs, "--pairs", "pairs.csv", arms=arms)
    assert growing == [0, 1, 2, 2, 3, 4, 5]
    assert list(pd.read_csv("out.csv")["updates"]) == [426] * 6
    assert Path("out.csv").read_bytes() == (runs / "table.csv").read_bytes()
    assert len(pd.read_csv("pairs.csv")) == 6


def change(section: str, line: str) -> None:
    """Let the section of params.yaml have this line alone."""
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(re.sub(rf"(?m)^{section}:\n.*$", f"{section}:\n  {line}", text), encoding="utf-8")


def test_a_run_with_other_parameters_is_refused_and_another_spelling_is_not(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("something was run"))
    for arm in ARMS:
        finish(arm, runs)
    change("teacher", "rate: 0.0002")
    change("prune", "rate: 0.1")  # nothing that `distilled` depends on
    measure(monkeypatch, runs)

    change("evaluate", "rate: 0.1")
    told = "1000-labels_only: evaluate.rate was 0.0002 when it ran and is 0.1 now; delete the folder, .* or restore"
    with pytest.raises(InputError, match=told):
        measure(monkeypatch, runs)
    change("evaluate", "pace: 0.0002")
    with pytest.raises(InputError, match=r"evaluate.pace was no key when it ran and is 0.0002 now"):
        measure(monkeypatch, runs, "--partial")


def test_a_run_that_fails_is_told_of_in_one_line_and_is_not_done(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda command: subprocess.CompletedProcess(command, 255))
    with pytest.raises(InputError, match=r"1000-labels_only: `dvc exp run .* evaluate@distilled` has failed"):
        measure(monkeypatch, runs)
    assert not ARMS[0].is_done(runs)


def test_a_table_of_nothing_is_not_written(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(ARMS[1], runs)  # not the first of its size
    with pytest.raises(InputError, match=r"out.csv: not written, for too few arms are done for a row"):
        measure(monkeypatch, runs, "--partial")
    finish(ARMS[0], runs)
    finish(ARMS[1], runs)
    measure(monkeypatch, runs, "--partial", "--pairs", "pairs.csv")
    shutil.rmtree(ARMS[1].folder(runs))
    Path("out.csv").unlink()
    with pytest.raises(InputError, match=r"pairs.csv: not written, for too few arms are done for a row"):
        measure(monkeypatch, runs, "--partial", "--pairs", "pairs.csv")
    assert not Path("out.csv").exists(), "both or none"


def test_of_pairs_each_is_a_row_of_its_own_that_is_not_lost(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arm in ARMS[:3]:
        finish(arm, runs)
    measure(monkeypatch, runs, "--partial", "--pairs", "pairs.csv")
    shutil.rmtree(ARMS[1].folder(runs))
    Path("out.csv").unlink()
    with pytest.raises(InputError, match=r"pairs.csv: .* lost: 2, such as 1000,other_offsets,labels_only; .* --pairs"):
        measure(monkeypatch, runs, "--partial", "--pairs", "pairs.csv")


def test_a_run_of_which_the_parameters_are_not_known_is_refused(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(ARMS[1], runs)
    (ARMS[1].folder(runs) / "params.json").unlink()
    with pytest.raises(InputError, match=r"1000-other_offsets: has predictions.json but no params.json, .*delete"):
        measure(monkeypatch, runs)


def test_a_run_that_scored_another_model_is_refused(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(replace(ARMS[0], variant="teacher"), runs)
    with pytest.raises(InputError, match=r"1000-labels_only: arm.variant was 'teacher' when it ran and is 'distilled'"):
        measure(monkeypatch, runs)


def test_a_partial_record_is_of_the_arms_that_are_done_and_loses_no_row(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("something was run"))
    with pytest.raises(InputError, match="no arm is done"):
        measure(monkeypatch, runs, "--partial")
    for arm in ARMS[:2]:
        finish(arm, runs)
    measure(monkeypatch, runs, "--partial")
    assert list(pd.read_csv("out.csv")["inputs"]) == ["labels_only", "other_offsets"]
    finish(ARMS[2], runs)
    measure(monkeypatch, runs, "--partial")

    before = Path("out.csv").read_bytes()
    ARMS[1].folder(runs).rename(runs / "elsewhere")
    with pytest.raises(InputError, match=r"out.csv: not written, .* lost: 1, such as 1000,other_offsets;"):
        measure(monkeypatch, runs, "--partial")
    assert Path("out.csv").read_bytes() == before
