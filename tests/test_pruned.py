"""Pruned folders open with AutoModelForQuestionAnswering after one import of ours, and not by accident without it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForQuestionAnswering, PreTrainedModel

from stages.core.errors import InputError
from stages.core.models import pruned
from stages.core.models.checkpoint import load_checkpoint, save_checkpoint
from stages.core.models.encoder import cut_layers
from stages.core.models.families import family_name
from stages.core.models.shapes import shapes_of
from tests.toy_models import (
    FAMILY_KERNELS,
    FAMILY_NAMES,
    toy_emptied_model,
    toy_inputs,
    toy_pruned_model,
    toy_tokenizer,
)
from tests.toy_repository import ROOT

Make = Callable[[str, int], PreTrainedModel]


def saved(model: PreTrainedModel, folder: Path) -> Path:
    save_checkpoint(model, toy_tokenizer(folder / "tokenizer", family_name(model.config.model_type)), folder / "model")
    return folder / "model"


@pytest.mark.parametrize(("family", "kernel"), FAMILY_KERNELS)
@pytest.mark.parametrize("make", [toy_pruned_model, toy_emptied_model])
def test_auto_class_opens_the_folder(make: Make, family: str, kernel: str, tmp_path: Path) -> None:
    model, inputs = make(family, 1), toy_inputs(family)
    model.set_attn_implementation(kernel)
    opened = AutoModelForQuestionAnswering.from_pretrained(saved(model, tmp_path), attn_implementation=kernel)
    assert type(opened) is pruned.PRUNED_CLASSES[family]
    assert shapes_of(opened) == shapes_of(model)
    found, expected = opened(**inputs), model(**inputs)
    assert torch.equal(found.start_logits, expected.start_logits)
    assert torch.equal(found.end_logits, expected.end_logits)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_its_own_save_opens_again_in_both_ways(family: str, tmp_path: Path) -> None:
    opened = AutoModelForQuestionAnswering.from_pretrained(saved(toy_emptied_model(family, 1), tmp_path))
    opened.save_pretrained(tmp_path / "again")
    inputs = toy_inputs(family)
    expected = opened(**inputs).start_logits
    again = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "again")
    assert torch.equal(again(**inputs).start_logits, expected)
    assert torch.equal(load_checkpoint(tmp_path / "again")(**inputs).start_logits, expected)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_registered_models_are_cut_like_stock_ones(family: str, tmp_path: Path) -> None:
    model, inputs = toy_pruned_model(family, 1), toy_inputs(family)
    loaded = load_checkpoint(saved(model, tmp_path))
    assert isinstance(loaded, pruned.PRUNED_CLASSES[family])
    cut = cut_layers(loaded, [0, 2])
    assert torch.equal(cut(**inputs).end_logits, cut_layers(model, [0, 2])(**inputs).end_logits)
    assert torch.equal(load_checkpoint(saved(cut, tmp_path / "cut"))(**inputs).end_logits, cut(**inputs).end_logits)


PLAIN = """
import sys
from transformers import AutoModelForQuestionAnswering
try:
    AutoModelForQuestionAnswering.from_pretrained(sys.argv[1])
except ValueError as error:
    print(error)
assert not any(name.startswith("stages") for name in sys.modules)
"""


def test_plain_transformers_refuses_the_folder(tmp_path: Path) -> None:
    folder = saved(toy_pruned_model("bert", 1), tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(folder)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "has model type `pruned-bert` but Transformers does not recognize this architecture" in done.stdout


OURS_INSTALLED = """
import sys
import stages.core.models.pruned as pruned
from transformers import AutoModelForQuestionAnswering
model = AutoModelForQuestionAnswering.from_pretrained(sys.argv[1])
print(type(model).__name__, pruned.__file__)
"""


def test_the_installed_package_opens_the_folder_from_anywhere(tmp_path: Path) -> None:
    """Installed from a copy: a build leaves folders beside its sources."""
    copy, installed, elsewhere = tmp_path / "copy", tmp_path / "installed", tmp_path / "elsewhere"
    shutil.copytree(ROOT / "stages", copy / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--target", str(installed), str(copy)], check=True)
    elsewhere.mkdir()
    folder = saved(toy_pruned_model("bert", 1), tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", OURS_INSTALLED, str(folder)],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    name, place = done.stdout.split()
    assert name == "PrunedBertForQuestionAnswering"
    assert Path(place).is_relative_to(installed)


def test_a_config_without_its_table_is_refused(tmp_path: Path) -> None:
    folder = saved(toy_pruned_model("bert", 1), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    del config["pruned_shapes"]
    (folder / "config.json").write_text(json.dumps(config))
    for open_folder in (load_checkpoint, AutoModelForQuestionAnswering.from_pretrained):
        with pytest.raises(InputError, match="pruned_shapes"):
            open_folder(folder)
