"""ONNX graphs answer as the torch models they are made of, at any size, and eight bits stay close."""

import copy
import logging
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor
from transformers import PreTrainedModel

from stages.core.errors import InputError
from stages.core.models.answering import open_model
from stages.core.models.checkpoint import save_checkpoint
from stages.core.models.families import FAMILIES
from stages.core.models.onnx import save_onnx, save_onnx_int8
from tests.toy_models import FAMILY_NAMES, toy_emptied_model, toy_inputs, toy_tokenizer

SIZES = [(12, 7, 3), (1,), (30,), (5, 5), (64, 20, 33, 50, 2)]


def inputs_of(family: str, lengths: tuple[int, ...]) -> dict[str, Tensor]:
    inputs = toy_inputs(family, len(lengths), lengths)
    if FAMILIES[family].token_types:
        inputs["token_type_ids"] = (torch.arange(max(lengths)) > max(lengths) // 2).long().expand(len(lengths), -1)
    return inputs


def largest_difference(first: PreTrainedModel, second: torch.nn.Module, family: str) -> float:
    found = [0.0]
    for lengths in SIZES:
        inputs = inputs_of(family, lengths)
        real = inputs["attention_mask"].bool()
        with torch.inference_mode():
            expected, given = first(**inputs), second(**inputs)
        for name in ("start_logits", "end_logits"):
            assert given[name].dtype == torch.float32
            found.append(float((expected[name] - given[name])[real].abs().max()))
    return max(found)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each family a model with sublayers pruned and removed, as float32 graph, as int8 graph, and a second time."""
    found = {}
    for family in FAMILY_NAMES:
        root = found[family] = tmp_path_factory.mktemp(family)
        model, tokenizer = toy_emptied_model(family, 1), toy_tokenizer(root / "tokenizer", family)
        save_checkpoint(model, tokenizer, root / "torch")
        save_onnx(model, tokenizer, root / "onnx")
        save_onnx_int8(root / "onnx", root / "int8", reduce_range=False)
    return found


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_graph_answers_as_torch_at_any_size(family: str, folders: dict[str, Path]) -> None:
    reference = open_model(folders[family] / "torch")
    assert largest_difference(reference, open_model(folders[family] / "onnx"), family) < 1e-5


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_eight_bits_are_close_but_not_the_same(family: str, folders: dict[str, Path]) -> None:
    reference = open_model(folders[family] / "torch")
    difference = largest_difference(reference, open_model(folders[family] / "int8"), family)
    spread = float(reference(**inputs_of(family, (30,))).start_logits.detach().std())
    assert 0 < difference < 0.3 * spread


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_all_matrices_but_the_head_are_in_eight_bits(family: str, folders: dict[str, Path]) -> None:
    graph = onnx.load(folders[family] / "int8" / "model.onnx").graph
    whole = {each.name: list(each.dims) for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT}
    assert list(whole.values()).count([32, 2]) == 1, "the answer head"
    # Positions, token types and MPNet's bias are small tables that are looked up; they stay.
    matrices = {name for name, dims in whole.items() if len(dims) == 2 and 1 not in dims and dims != [32, 2]}
    assert all("embeddings" in name or "relative_attention_bias" in name for name in matrices)
    assert not any("word_embeddings" in name for name in matrices)


def test_exporting_repeats_to_the_byte_prints_nothing_and_leaves_all_as_it_was(
    folders: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model, tokenizer = toy_emptied_model("bert", 1), toy_tokenizer(tmp_path / "tokenizer", "bert")
    weights, state, level = copy.deepcopy(model.state_dict()), torch.random.get_rng_state(), logging.getLogger().level
    capfd.readouterr()
    save_onnx(model.train(), tokenizer, tmp_path / "onnx")
    save_onnx_int8(tmp_path / "onnx", tmp_path / "int8", reduce_range=False)
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert model.training
    assert model.config._attn_implementation == "sdpa"
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert logging.getLogger().level == level
    for form in ("onnx", "int8"):
        again, first = ({p.name: p.read_bytes() for p in (r / form).iterdir()} for r in (tmp_path, folders["bert"]))
        assert again == first
        assert not any(word in first["model.onnx"] for word in (b".py", b"/tmp", b"site-packages"))


def test_seven_bits_use_half_the_range(folders: dict[str, Path], tmp_path: Path) -> None:
    save_onnx_int8(folders["bert"] / "onnx", tmp_path / "int8", reduce_range=True)
    for folder, largest in ((folders["bert"] / "int8", 127), (tmp_path / "int8", 64)):
        graph = onnx.load(folder / "model.onnx").graph
        weights = [numpy_helper.to_array(each) for each in graph.initializer if each.name.endswith("_quantized")]
        matrices = [each for each in weights if len(each) < 400]  # the embeddings are looked up, not summed
        assert max(abs(each.astype(int)).max() for each in matrices) == largest


def test_token_types_are_zero_where_none_are_given(folders: dict[str, Path]) -> None:
    graph, inputs = open_model(folders["bert"] / "onnx"), toy_inputs("bert")
    zeros = torch.zeros_like(inputs["input_ids"])
    assert torch.equal(graph(**inputs).end_logits, graph(**inputs, token_type_ids=zeros).end_logits)
    assert not torch.equal(graph(**inputs).end_logits, graph(**inputs, token_type_ids=zeros + 1).end_logits)
    # A tokenizer may give token types to a model that has none: RoBERTa's graph does not ask for them.
    graph, inputs = open_model(folders["roberta"] / "onnx"), toy_inputs("roberta")
    assert graph(**inputs, token_type_ids=zeros).end_logits.shape == zeros.shape


def test_a_spoilt_graph_is_one_line(folders: dict[str, Path], tmp_path: Path) -> None:
    for fault in (b"", b"no graph", (folders["bert"] / "onnx" / "model.onnx").read_bytes()[:5000]):
        (tmp_path / "config.json").write_bytes((folders["bert"] / "onnx" / "config.json").read_bytes())
        (tmp_path / "model.onnx").write_bytes(fault)
        with pytest.raises(InputError, match="ONNX Runtime does not load it") as error:
            open_model(tmp_path)
        assert len(str(error.value).splitlines()) == 1
