"""The stock form gives the pruned model's logits where nothing of this project can be imported."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.core.models.checkpoint import load_checkpoint, save_checkpoint
from stages.core.models.families import layers
from stages.core.models.stock import stock_form
from tests.toy_models import FAMILY_NAMES, toy_emptied_model, toy_inputs, toy_pruned_model, toy_qa_model, toy_tokenizer

PLAIN = """
import importlib.util, sys
from safetensors.torch import load_file, save_file
from transformers import AutoModelForQuestionAnswering, AutoTokenizer
assert importlib.util.find_spec("stages") is None
for folder in sys.argv[1:]:
    model, info = AutoModelForQuestionAnswering.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert AutoTokenizer.from_pretrained(folder).is_fast
    output = model(**load_file(folder + "/../inputs.safetensors"))
    save_file({"start": output.start_logits.detach(), "end": output.end_logits.detach()}, folder + "/logits")
"""


def test_plain_transformers_answers_as_the_pruned_model(tmp_path: Path) -> None:
    models = {
        f"{family} {make.__name__}": (family, make(family, 1))
        for family in FAMILY_NAMES
        for make in (toy_pruned_model, toy_emptied_model)
    }
    folders = [tmp_path / name / "stock" for name in models]
    for folder, (family, model) in zip(folders, models.values(), strict=True):
        save_checkpoint(stock_form(model), toy_tokenizer(tmp_path / "tokenizer", family), folder)
        save_file(toy_inputs(family), folder.parent / "inputs.safetensors")
    subprocess.run([sys.executable, "-I", "-c", PLAIN, *map(str, folders)], cwd=tmp_path, check=True)
    for folder, (family, model) in zip(folders, models.values(), strict=True):
        inputs = toy_inputs(family)
        real, expected, found = inputs["attention_mask"].bool(), model(**inputs), load_file(folder / "logits")
        assert torch.allclose(found["start"][real], expected.start_logits[real], atol=1e-5), folder
        assert torch.allclose(found["end"][real], expected.end_logits[real], atol=1e-5), folder


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_what_was_removed_is_zero_and_each_head_has_its_old_place(family: str) -> None:
    whole, pruned = toy_qa_model(family, 1), toy_pruned_model(family, 1)
    first, stock = layers(whole)[0], layers(stock_form(pruned))[0]
    kept = torch.tensor([False, True, False, True]).repeat_interleave(first.head_size)
    for part in ("query", "key", "value"):
        weight, source = getattr(stock, part).weight, getattr(first, part).weight
        assert torch.equal(weight, source * kept[:, None])
    assert torch.equal(stock.attention_output.weight, first.attention_output.weight * kept)
    assert int((stock.ffn_in.weight != 0).any(dim=1).sum()) == 32


def test_an_unpruned_model_is_its_own_stock_form(tmp_path: Path) -> None:
    model, tokenizer = toy_qa_model("mpnet", 1), toy_tokenizer(tmp_path / "tokenizer", "mpnet")
    for name, each in (("model", model), ("stock", stock_form(model))):
        save_checkpoint(each, tokenizer, tmp_path / name)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("model", "stock")]
    assert weights[0] == weights[1]
    assert not hasattr(load_checkpoint(tmp_path / "stock").config, "pruned_shapes")
