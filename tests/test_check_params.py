"""What is wrong anywhere in params.yaml is told at once, all of it, without the packages that compute."""

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from profiles.check_params import SECTIONS, faults
from stages.core.params import read_yaml

ROOT = Path(__file__).parents[1]
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Parameters with nothing wrong: those in the repository, with settings for a model of six layers."""
    folder = tmp_path_factory.mktemp("models")
    params: dict[str, Any] = read_yaml(ROOT / "params.yaml")
    params["encoder"] = {"model": model(folder / "six", num_hidden_layers=6, hidden_size=384), "sha256": ""}
    params["student"] = {"encoder": "", "sha256": "", "layers": [0, 2, 4]}
    params["student_init"]["candidates"] = {"alternate": [0, 2, 4], "last": [3, 4, 5]}
    layers = {"student_layers": [0, 3], "teacher_layers": [0, 6]}
    params["distil"] |= {**layers, "hidden_weight": 1.0, "relation_weight": 0.0, "relation_heads": 12}
    params["tune"]["space"] = {"temperature": {"low": 1.0, "high": 8.0, "scale": "log"}}
    return params


def model(folder: Path, **fields: object) -> str:
    """A folder that says how deep and wide its model is, without weights that load."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / "model.safetensors").write_bytes(b"")
    return str(folder)


def told(folder: Path, params: dict[str, Any], *changes: Change, models: bool = True) -> list[str]:
    changed = copy.deepcopy(params)
    for change in changes:
        change(changed)
    (folder / "params.yaml").write_text(yaml.safe_dump(changed))
    return [line.replace(f"{folder}/", "") for line in faults(folder / "params.yaml", models=models)]


def test_each_section_is_read_as_its_stages_read_it() -> None:
    assert set(SECTIONS) == set(read_yaml(ROOT / "params.yaml"))
    scripts = [path.read_text() for path in (ROOT / "stages").glob("*.py")]
    read = {call for text in scripts for call in re.findall(r'load_params\("(\w+)", (\w+)', text)}
    assert read - {("tuned", "TunedParams")} == {(section, schema.__name__) for section, schema in SECTIONS.items()}


def test_sound_parameters_have_no_fault(sound: dict[str, Any], tmp_path: Path) -> None:
    assert told(tmp_path, sound) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda p: p.pop("export"), "params.yaml: section 'export' is missing"),
        (lambda p: p.update(exports={}), "params.yaml: exports: no such section; known: runtime, encoder, data"),
        (lambda p: p["report"].update(samples=-1), "params.yaml: report.samples is -1, wanted 0 or more"),
        (lambda p: p["finetune"].update(epochs="two"), "params.yaml: finetune.epochs: 'two' is a str, wanted int"),
        (lambda p: p["distil"].update(temperature=9.0), "params.yaml: tune.space.temperature: [1.0, 8.0] leaves out"),
        (lambda p: p["encoder"].update(model="nowhere"), "model 'nowhere': no such folder"),
        (lambda p: p["encoder"].update(sha256="ab"), "model '"),
        (lambda p: p["cache_teacher"].update(others=["nowhere"]), "model 'nowhere': no such folder"),
        (lambda p: p["student"].update(encoder="nowhere"), "model 'nowhere': no such folder"),
        (
            lambda p: p["student"].update(layers=[0, 2, 6]),
            "params.yaml: student.layers is [0, 2, 6], wanted numbers from 0 to 5: ",
        ),
        (
            lambda p: p["student_init"]["candidates"].update(last=[4, 5, 6]),
            "params.yaml: student_init.candidates.last is [4, 5, 6], wanted numbers from 0 to 5: ",
        ),
        (
            lambda p: p["distil"].update(student_layers=[0, 4]),
            "params.yaml: distil.student_layers is [0, 4], wanted numbers from 0, its embeddings, to 3, its last",
        ),
        (
            lambda p: p["distil"].update(teacher_layers=[-1, 6]),
            "params.yaml: distil.teacher_layers is [-1, 6], wanted numbers from 0, its embeddings, to 6, its last",
        ),
        (
            lambda p: p["distil"].update(relation_weight=1.0, relation_heads=5),
            "params.yaml: distil.relation_heads is 5, wanted a divisor of ",
        ),
    ],
)
def test_a_fault_is_told(change: Change, line: str, sound: dict[str, Any], tmp_path: Path) -> None:
    (found,) = told(tmp_path, sound, change)
    assert found.startswith(line)


def test_all_that_is_wrong_is_told_at_once(sound: dict[str, Any], tmp_path: Path) -> None:
    found = told(
        tmp_path,
        sound,
        lambda p: p["report"].update(samples=-1),
        lambda p: p["benchmark"].update(questions=0),
        lambda p: p["tune"].update(trial_epochs=0),
        lambda p: p["cache_teacher"].update(others=["nowhere"]),
        lambda p: p["student"].update(layers=[7, 8]),
        lambda p: p["student_init"]["candidates"].update(last=[9]),
    )
    assert [re.split(" is |: no such", line)[0].removeprefix("params.yaml: ") for line in found] == [
        "tune.trial_epochs",
        "benchmark.questions",
        "report.samples",
        "model 'nowhere'",
        "student.layers",
        "student_init.candidates.last",
    ]


@pytest.mark.parametrize("section", ["student_init", "distil", "tune"])
def test_layers_of_a_student_are_looked_at_beside_faulty_sections(
    section: str, sound: dict[str, Any], tmp_path: Path
) -> None:
    found = told(tmp_path, sound, lambda p: p[section].update(seed=-1), lambda p: p["student"].update(layers=[0, 2, 9]))
    assert [line.split(" is ")[0] for line in found] == [f"params.yaml: {section}.seed", "params.yaml: student.layers"]


def test_models_are_looked_for_where_that_is_asked(sound: dict[str, Any], tmp_path: Path) -> None:
    changes = [lambda p: p["encoder"].update(model="nowhere"), lambda p: p["report"].update(samples=-1)]
    assert len(told(tmp_path, sound, *changes)) == 2
    assert told(tmp_path, sound, *changes, models=False) == ["params.yaml: report.samples is -1, wanted 0 or more"]


def test_every_line_names_the_file_that_was_read(sound: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump({**sound, "tune": {**sound["tune"], "space": {}}}))
    (found,) = faults(path)
    assert found.startswith(f"{path}: tune.space: nothing to search")


def test_layers_are_those_of_the_model_that_is_cut(sound: dict[str, Any], tmp_path: Path) -> None:
    """DistilBERT has its own names for depth and width; the teacher's layers are of the teacher all the same."""
    own = model(tmp_path / "own", n_layers=4, dim=384)

    def change(params: dict[str, Any]) -> None:
        params["student"]["encoder"] = own
        params["distil"].update(teacher_layers=[0, 7], relation_weight=1.0, relation_heads=7)

    six = sound["encoder"]["model"]
    assert told(tmp_path, sound, change) == [
        "params.yaml: student.layers is [0, 2, 4], wanted numbers from 0 to 3: own has 4 layers",
        "params.yaml: student_init.candidates.alternate is [0, 2, 4], wanted numbers from 0 to 3: own has 4 layers",
        "params.yaml: student_init.candidates.last is [3, 4, 5], wanted numbers from 0 to 3: own has 4 layers",
        "params.yaml: distil.teacher_layers is [0, 7], wanted numbers from 0, its embeddings, to 6, its last",
        "params.yaml: distil.relation_heads is 7, wanted a divisor of 384, the width of own",
        f"params.yaml: distil.relation_heads is 7, wanted a divisor of 384, the width of {six}",
    ]


@pytest.mark.parametrize(
    ("space", "asked"), [({}, False), ({"hidden_weight": {"low": 0.0, "high": 1.0, "scale": "linear"}}, True)]
)
def test_states_count_where_a_weight_or_a_search_asks_for_them(
    space: dict[str, Any], asked: bool, sound: dict[str, Any], tmp_path: Path
) -> None:
    def change(params: dict[str, Any]) -> None:
        params["distil"].update(hidden_weight=0.0, teacher_layers=[0, 12])
        params["tune"]["space"] |= space

    assert bool(told(tmp_path, sound, change)) == asked


def test_depth_that_a_config_leaves_to_its_class_is_left_to_the_stages(sound: dict[str, Any], tmp_path: Path) -> None:
    vague = model(tmp_path / "vague")

    def change(params: dict[str, Any]) -> None:
        params["encoder"]["model"] = vague
        params["distil"].update(relation_weight=1.0, relation_heads=5)

    assert told(tmp_path, sound, change) == []


def test_a_config_that_cannot_be_read_hides_no_other_fault(sound: dict[str, Any], tmp_path: Path) -> None:
    folder = model(tmp_path / "broken", num_hidden_layers=6)
    (tmp_path / "broken/config.json").write_text("{")
    found = told(
        tmp_path,
        sound,
        lambda p: p["encoder"].update(model=folder),
        lambda p: p["report"].update(samples=-1),
        lambda p: p["cache_teacher"].update(others=["nowhere"]),
    )
    assert [line.partition(":")[0] for line in found] == ["params.yaml", "model 'nowhere'", "broken/config.json"]


@pytest.mark.parametrize(("samples", "code"), [(0, 0), (-1, 2)])
def test_the_command_needs_nothing_that_computes(
    samples: int, code: int, sound: dict[str, Any], tmp_path: Path
) -> None:
    told(tmp_path, sound, lambda p: p["report"].update(samples=samples))
    traps = tmp_path / "traps"
    traps.mkdir()
    for name in ("torch", "transformers", "datasets", "pandas", "optuna"):
        (traps / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (traps, ROOT)))}
    command = [sys.executable, "-m", "profiles.check_params"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    wanted = "error: params.yaml: report.samples is -1" if code else "params.yaml: nothing wrong in its 21 sections"
    assert (done.returncode, len(lines)) == (code, 1)
    assert lines[0].startswith(wanted)


@pytest.mark.parametrize("text", ["", "- a list\n"])
def test_a_file_without_sections_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="no sections here"):
        list(faults(path))
