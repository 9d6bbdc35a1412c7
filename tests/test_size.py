"""Sizes come from the config and the file that is run, whatever form the model has."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from stages.core.errors import InputError
from stages.core.models.checkpoint import save_checkpoint
from stages.core.models.macs import count_macs
from stages.core.models.size import describe_size
from tests.toy_models import FAMILY_NAMES, toy_emptied_model, toy_qa_model, toy_tokenizer


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_folder_is_as_big_as_the_model_saved_in_it(family: str, tmp_path: Path) -> None:
    tokenizer = toy_tokenizer(tmp_path / "tokenizer", family)
    for model in (toy_qa_model(family, 1), toy_emptied_model(family, 1)):
        save_checkpoint(model, tokenizer, tmp_path / "model")
        size = describe_size(tmp_path / "model", length=11)
        weights = load_file(tmp_path / "model" / "model.safetensors").values()
        assert size["parameters"] == sum(weight.numel() for weight in weights)
        assert size["macs"] == count_macs(model, 11)
        assert size["size_mb"] == round((tmp_path / "model" / "model.safetensors").stat().st_size / 1e6, 3)


def test_a_graph_beside_the_config_is_what_counts_on_disk(tmp_path: Path) -> None:
    save_checkpoint(toy_qa_model("bert", 1), toy_tokenizer(tmp_path / "tokenizer", "bert"), tmp_path / "model")
    before = describe_size(tmp_path / "model", length=11)
    (tmp_path / "model" / "model.safetensors").unlink()
    (tmp_path / "model" / "model.onnx").write_bytes(bytes(4000))
    assert describe_size(tmp_path / "model", length=11) == before | {"size_mb": 0.004}
    (tmp_path / "model" / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config\.json"):
        describe_size(tmp_path / "model", length=11)
