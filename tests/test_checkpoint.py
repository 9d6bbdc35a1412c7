"""A model folder is written whole, always with the same bytes, and gives back the same logits."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from stages.core.errors import InputError
from stages.core.models import checkpoint
from stages.core.models.checkpoint import load_checkpoint, save_checkpoint
from stages.core.models.encoder import cut_layers, load_tokenizer
from tests.toy_models import FAMILY_NAMES, toy_emptied_model, toy_inputs, toy_pruned_model, toy_qa_model, toy_tokenizer


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("make", [toy_qa_model, toy_pruned_model, toy_emptied_model])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_round_trip_is_exact(family: str, make: Callable[[str, int], PreTrainedModel], tmp_path: Path) -> None:
    model = make(family, 1)
    model.train()
    tokenizer = toy_tokenizer(tmp_path / "tokenizer", family)
    save_checkpoint(model, tokenizer, tmp_path / "first")
    loaded = load_checkpoint(tmp_path / "first")
    assert not loaded.training
    inputs = toy_inputs(family)
    expected, found = model.eval()(**inputs), loaded(**inputs)
    assert torch.equal(expected.start_logits, found.start_logits)
    assert torch.equal(expected.end_logits, found.end_logits)
    save_checkpoint(loaded, load_tokenizer(tmp_path / "first"), tmp_path / "elsewhere" / "second")
    assert contents(tmp_path / "first") == contents(tmp_path / "elsewhere" / "second")


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_pruned_and_cut_round_trip(family: str, tmp_path: Path) -> None:
    model = cut_layers(toy_pruned_model(family, 1), [0, 2])
    save_checkpoint(model, toy_tokenizer(tmp_path / "tokenizer", family), tmp_path / "model")
    inputs = toy_inputs(family)
    assert torch.equal(load_checkpoint(tmp_path / "model")(**inputs).start_logits, model(**inputs).start_logits)


def test_bytes_hold_nothing_of_the_past(tmp_path: Path) -> None:
    tokenizer, model = toy_tokenizer(tmp_path / "tokenizer", "bert"), toy_qa_model("bert", 1)
    save_checkpoint(model, tokenizer, tmp_path / "first")
    tokenizer(["who"], ["the king was old"], truncation="only_second", max_length=5, padding="max_length")
    model.config._name_or_path = str(tmp_path)
    save_checkpoint(copy.deepcopy(model), tokenizer, tmp_path / "second")
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    assert not any(str(tmp_path).encode() in data for data in contents(tmp_path / "second").values())


def test_saving_replaces_whole_folders_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = toy_tokenizer(tmp_path / "tokenizer", "bert")
    save_checkpoint(toy_qa_model("bert", 1), tokenizer, tmp_path / "model")
    (tmp_path / "model" / "stale.txt").write_text("of an earlier run")
    before = contents(tmp_path / "model")

    def disk_full(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write_tokenizer", disk_full)
        with pytest.raises(OSError, match="no space"):
            save_checkpoint(toy_qa_model("bert", 2), tokenizer, tmp_path / "model")
    assert contents(tmp_path / "model") == before
    save_checkpoint(toy_qa_model("bert", 2), tokenizer, tmp_path / "model")
    assert "stale.txt" not in contents(tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "tokenizer"]


def test_bad_folders_are_one_line(tmp_path: Path) -> None:
    def fault(folder: Path) -> str:
        with pytest.raises(InputError) as error:
            load_checkpoint(folder)
        assert len(str(error.value).splitlines()) == 1
        return str(error.value)

    assert "no such model folder" in fault(tmp_path / "missing")
    assert "no config.json" in fault(tmp_path)
    model, folder = toy_pruned_model("bert", 1), tmp_path / "model"
    tokenizer = toy_tokenizer(tmp_path / "tokenizer", "bert")
    save_checkpoint(model, tokenizer, folder)
    config = json.loads((folder / "config.json").read_text())

    def with_shapes(table: object) -> str:
        (folder / "config.json").write_text(json.dumps(config | {"pruned_shapes": table}))
        return fault(folder)

    table = config["pruned_shapes"]
    assert "size mismatch" in with_shapes([table[0] | {"neurons": 8}, *table[1:]])
    assert "layer 0 has heads [7]" in with_shapes([table[0] | {"heads": [7]}, *table[1:]])
    assert "layer 0 has -1 neurons" in with_shapes([table[0] | {"neurons": -1}, *table[1:]])
    assert "has 2 layers and the config 3" in with_shapes(table[:2])
    assert "no list of heads and neurons" in with_shapes({"heads": 3})
    model.qa_outputs = torch.nn.Identity()
    save_checkpoint(model, tokenizer, folder)
    assert "no question answering head" in fault(folder)
