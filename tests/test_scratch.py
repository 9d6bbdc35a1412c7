"""The folder of an unfinished run: another one for everything that the run depends on."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import stages.core
from stages.core.runtime import Runtime
from stages.core.training.scratch import passing_folder, run_key, scratch_folder


@dataclass(frozen=True)
class Settings:
    rate: float = 0.1
    layers: tuple[int, ...] = (1, 3)


@dataclass(frozen=True)
class OtherSettings:
    rate: float = 0.1
    layers: tuple[int, ...] = (1, 3)


@pytest.fixture
def inputs(tmp_path: Path) -> list[Path]:
    """A folder with a file in a folder of its own, and a file."""
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "deep" / "train.json").write_text("questions")
    (tmp_path / "cache").write_text("logits")
    return [tmp_path / "data", tmp_path / "cache"]


def name_of(root: Path, settings: Sequence[Any], inputs: Sequence[Path]) -> str:
    with scratch_folder(root / "scratch", settings, inputs) as folder:
        return folder.name


def test_the_same_run_finds_the_same_folder_wherever_it_lies(tmp_path: Path, inputs: list[Path]) -> None:
    first = name_of(tmp_path, [Settings()], inputs)
    assert name_of(tmp_path, [Settings()], inputs) == first
    moved = [path.rename(tmp_path / f"moved_{path.name}") for path in inputs]
    assert name_of(tmp_path / "elsewhere", [Settings()], moved) == first


def test_every_setting_counts(tmp_path: Path, inputs: list[Path]) -> None:
    variants = [
        [Settings()],
        [replace(Settings(), rate=0.2)],
        [replace(Settings(), layers=(1, 2))],
        [OtherSettings()],
        [Settings(), Settings()],
        [],
    ]
    assert len({name_of(tmp_path, settings, inputs) for settings in variants}) == len(variants)


def test_every_byte_of_every_input_counts(tmp_path: Path, inputs: list[Path]) -> None:
    names = {name_of(tmp_path, [Settings()], inputs), name_of(tmp_path, [Settings()], inputs[:1])}
    (inputs[0] / "deep" / "train.json").write_text("Questions")
    names.add(name_of(tmp_path, [Settings()], inputs))
    inputs[1].write_text("logits ")
    names.add(name_of(tmp_path, [Settings()], inputs))
    (inputs[0] / "dev.json").write_text("more")
    names.add(name_of(tmp_path, [Settings()], inputs))
    assert len(names) == 5


def test_the_code_counts(tmp_path: Path, inputs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = Path(stages.core.__path__[0]).parent
    copied = shutil.copytree(shipped, tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    first = name_of(tmp_path, [Settings()], inputs)
    monkeypatch.setattr(stages.core, "__path__", [str(copied / "core")])
    assert name_of(tmp_path, [Settings()], inputs) == first, "only where the code lies has changed"
    for changed in (copied / "core" / "training" / "fit.py", copied / "distil.py"):
        before = name_of(tmp_path, [Settings()], inputs)
        changed.write_text(changed.read_text() + "# another word\n")
        assert name_of(tmp_path, [Settings()], inputs) != before, changed


@pytest.mark.parametrize("library", [torch, transformers])
def test_library_versions_count(
    tmp_path: Path, inputs: list[Path], monkeypatch: pytest.MonkeyPatch, library: Any
) -> None:
    first = name_of(tmp_path, [Settings()], inputs)
    monkeypatch.setattr(library, "__version__", "0.0.1")
    assert name_of(tmp_path, [Settings()], inputs) != first


def test_folder_is_removed_when_all_went_well(tmp_path: Path, inputs: list[Path]) -> None:
    with scratch_folder(tmp_path / "scratch", [Settings()], inputs) as folder:
        (folder / "run.pt").write_text("weights")
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("stopped", [ValueError, KeyboardInterrupt])
def test_folder_is_kept_and_found_again_when_the_run_was_stopped(
    tmp_path: Path, inputs: list[Path], stopped: type[BaseException]
) -> None:
    with pytest.raises(stopped), scratch_folder(tmp_path / "scratch", [Settings()], inputs) as folder:
        (folder / "run.pt").write_text("weights")
        raise stopped
    with scratch_folder(tmp_path / "scratch", [Settings()], inputs) as folder:
        assert (folder / "run.pt").read_text() == "weights"


def test_a_stopped_run_is_not_mistaken_for_another(tmp_path: Path, inputs: list[Path]) -> None:
    with pytest.raises(ValueError), scratch_folder(tmp_path / "scratch", [Settings()], inputs) as kept:
        raise ValueError
    with scratch_folder(tmp_path / "scratch", [Settings(rate=0.3)], inputs) as folder:
        assert list(folder.iterdir()) == []
    assert kept.is_dir()


def test_the_order_of_a_mapping_counts_and_the_key_names_the_folder(tmp_path: Path, inputs: list[Path]) -> None:
    @dataclass(frozen=True)
    class Search:
        space: dict[str, int]

    orders = [Search({"alpha": 1, "temperature": 2}), Search({"temperature": 2, "alpha": 1})]
    assert len({run_key([each], inputs) for each in orders}) == 2
    assert name_of(tmp_path, orders[:1], inputs) == run_key(orders[:1], inputs)


def test_what_is_computed_on_counts(inputs: list[Path]) -> None:
    """A run in bf16, on another processor or with other threads must not go on from a checkpoint in fp32."""
    here = Runtime(torch.device("cpu"), "fp32", "one", 2)
    changes: list[dict[str, Any]] = [{}, {"precision": "bf16"}, {"processor": "other"}, {"threads": 1}]
    changes.append({"device": torch.device("cuda")})
    assert len({run_key([replace(here, **each)], inputs) for each in changes}) == len(changes)
    assert run_key([replace(here)], inputs) == run_key([here], inputs)


def test_passing_folders_are_apart_and_removed_even_when_the_run_was_stopped(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), passing_folder(tmp_path / "root") as first, passing_folder(first) as second:
        (second / "run.pt").write_text("weights")
        assert first != second
        raise KeyboardInterrupt
    assert list((tmp_path / "root").iterdir()) == []
