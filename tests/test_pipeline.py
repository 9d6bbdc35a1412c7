"""The shape of the pipeline: what dvc.yaml says of a stage is what the stage's code does."""

import ast
import dataclasses
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from stages.core.params import load_params, read_yaml
from stages.core.report.variants import VARIANTS
from stages.core.training.settings import DistilParams
from stages.core.training.space import space_around
from stages.tune import TuneParams

ROOT = Path(__file__).parent.parent
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
NAMES = ["prepare", "teacher", "cache_teacher", "baseline", "student_init", "distil", "tune"]
NAMES += ["prune", "prune_curve", "finetune", "export", "prune_teacher", "evaluate", "benchmark", "report"]
stage = pytest.mark.parametrize("name", NAMES)


def imported_files(path: Path) -> Iterator[Path]:
    """The files of this project that `path` imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            modules = [f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)]
        for module in modules:
            file = ROOT / (module.replace(".", "/") + ".py")
            if module.startswith("stages.") and file.exists():
                yield file


def import_closure(path: Path) -> set[str]:
    seen: set[Path] = set()
    ahead = [path]
    while ahead:
        file = ahead.pop()
        if file not in seen:
            seen.add(file)
            ahead.extend(imported_files(file))
    return {file.relative_to(ROOT).as_posix() for file in seen}


def outputs(settings: dict[str, Any]) -> list[str]:
    listed = [out for key in ("outs", "metrics", "plots") for out in settings.get(key, [])]
    return [out if isinstance(out, str) else next(iter(out)) for out in listed]


def test_the_stages_are_the_scripts() -> None:
    assert list(STAGES) == NAMES
    scripts = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"}
    assert scripts == set(NAMES)


@stage
def test_code_dependencies_are_the_import_closure(name: str) -> None:
    listed = {dep for dep in STAGES[name]["deps"] if dep.endswith(".py")}
    assert listed == import_closure(ROOT / f"stages/{name}.py")


@stage
def test_a_stage_depends_on_no_more_of_the_data_than_it_reads(name: str) -> None:
    """Else other inputs for students would train the teacher anew, and another test set everybody."""
    given = re.findall(r"data/prepared\S*", STAGES[name]["cmd"])
    parts = {"data/prepared/labelled"} | ({"data/prepared/students"} if name != "teacher" else set())
    wanted = {"data/prepared": parts, "data/prepared/test.json": {"data/prepared/test.json"}}
    listed = {dep for dep in STAGES[name]["deps"] if dep.startswith("data/prepared")}
    if name == "prepare":
        assert given == ["data/prepared"] and not listed
    else:
        assert listed == set().union(*(wanted[path] for path in given))


@stage
def test_parameters_are_the_sections_the_script_loads(name: str) -> None:
    source = (ROOT / f"stages/{name}.py").read_text(encoding="utf-8")
    loaded = set(re.findall(r'load_params\(\s*"(\w+)", \w+\)', source))
    listed = set(STAGES[name]["params"])
    assert loaded == listed


@stage
def test_each_stage_says_what_it_does_and_depends_on_the_pinned_packages(name: str) -> None:
    settings = STAGES[name]
    assert settings["desc"].endswith(".")
    assert "requirements.txt" in settings["deps"]
    assert settings["deps"] == sorted(settings["deps"])
    assert settings["cmd"].startswith(f"python -m stages.{name} ")


@stage
def test_paths_in_the_command_are_tracked(name: str) -> None:
    settings = STAGES[name]
    paths = [word for word in settings["cmd"].split() if "/" in word and not word.startswith("scratch/")]
    known = [*settings["deps"], *outputs(settings)]
    for path in paths:
        assert any(each == path or each.startswith(f"{path}/") for each in known), path


@stage
def test_every_stage_that_computes_has_a_seed(name: str) -> None:
    section = {"prepare": "data"}.get(name, name)
    assert "seed" in read_yaml(ROOT / "params.yaml")[section]


def test_init_files_are_empty() -> None:
    assert all(path.stat().st_size == 0 for path in (ROOT / "stages").rglob("__init__.py"))


def test_every_section_of_params_is_read_by_a_stage() -> None:
    sections = set(read_yaml(ROOT / "params.yaml"))
    read = {each for settings in STAGES.values() for each in settings["params"]}
    assert sections == read


def test_every_profile_loads_and_has_the_sections_of_the_default() -> None:
    default = read_yaml(ROOT / "params.yaml")
    for path in (ROOT / "profiles").glob("**/params.yaml"):
        profile = read_yaml(path)
        assert {key: set(value) for key, value in profile.items()} == {k: set(v) for k, v in default.items()}, path


@stage
def test_shipped_parameters_load(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(f"stages.{name}")
    section = {"prepare": "data"}.get(name, name)
    schemas = [each for each in vars(module).values() if dataclasses.is_dataclass(each) and isinstance(each, type)]
    (schema,) = [each for each in schemas if each.__name__.lower() == f"{section}params".replace("_", "")]
    monkeypatch.chdir(ROOT)
    for path in [Path("params.yaml"), *Path("profiles").glob("**/params.yaml")]:
        assert load_params(section, schema, path)


def test_shipped_searches_hold_their_default_point() -> None:
    for path in [ROOT / "params.yaml", *(ROOT / "profiles").glob("**/params.yaml")]:
        space_around(load_params("distil", DistilParams, path), load_params("tune", TuneParams, path).space)


def test_evaluation_runs_over_all_variants() -> None:
    assert tuple(STAGES["evaluate"]["matrix"]["variant"]) == VARIANTS


def test_outputs_that_dvc_keeps_are_ignored_by_git_up_front() -> None:
    ignored = {line.strip().strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    for settings in STAGES.values():
        for out in settings.get("outs", []):
            if isinstance(out, str):
                parts = out.split("/")
                assert any("/".join(parts[: n + 1]) in ignored for n in range(len(parts))), out


def test_parameters_are_block_style_without_interpolation() -> None:
    for path in [ROOT / "params.yaml", *(ROOT / "profiles").glob("**/params.yaml")]:
        text = path.read_text(encoding="utf-8")
        values = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
        assert not any(character in line.replace(": []", "") for line in values for character in "{}[]"), path


def test_metrics_are_finite_numbers_under_role_names() -> None:
    for path in [*ROOT.glob("metrics/**/*.json"), *ROOT.glob("profiles/**/metrics/**/*.json")]:
        text = path.read_text(encoding="utf-8")

        def leaves(value: Any) -> Iterator[Any]:
            yield from (
                [leaf for each in value.values() for leaf in leaves(each)] if isinstance(value, dict) else [value]
            )

        assert all(type(leaf) in (int, float) for leaf in leaves(json.loads(text, parse_constant=lambda name: name))), (
            path
        )


def test_an_override_of_a_parameter_changes_one_line(tmp_path: Path) -> None:
    """DVC drops comments and blank lines right behind a list when it rewrites the file: there must be none."""
    for path in [ROOT / "params.yaml", *(ROOT / "profiles").glob("**/params.yaml")]:
        copy = tmp_path / "params.yaml"
        copy.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
        apply_overrides(copy, ["distil.temperature=4.25"])
        before, after = (each.read_text(encoding="utf-8").splitlines() for each in (path, copy))
        changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        temperature = read_yaml(path)["distil"]["temperature"]
        assert changed == [(f"  temperature: {temperature}", "  temperature: 4.25")], path
