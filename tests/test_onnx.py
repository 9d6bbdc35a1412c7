"""ONNX graphs answer as the torch models they are made of, at any size, and eight bits stay close."""

import copy
import logging
import shutil
from pathlib import Path

import onnx
import pytest
import torch

from stages.core.errors import InputError
from stages.core.models.answering import open_model
from stages.core.models.onnx import save_onnx
from stages.core.models.session import OnnxModel
from tests.toy_graphs import inputs_of, largest_difference, to_int8, write_forms
from tests.toy_models import FAMILY_NAMES, toy_emptied_model, toy_inputs, toy_pruned_model, toy_tokenizer


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_graph_answers_as_torch_at_any_size(family: str, forms: dict[str, Path]) -> None:
    reference = open_model(forms[family] / "torch")
    assert largest_difference(reference, open_model(forms[family] / "onnx"), family) < 1e-5


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_graphs_of_layers_with_unlike_heads_and_neurons_answer_as_torch(family: str, tmp_path: Path) -> None:
    folder = write_forms(tmp_path, family, toy_pruned_model)
    reference = open_model(folder / "torch")
    assert largest_difference(reference, open_model(folder / "onnx"), family) < 1e-5
    spread = float(reference(**inputs_of(family, (30,))).start_logits.detach().std())
    assert 0 < largest_difference(reference, open_model(folder / "int8"), family) < 0.3 * spread


def test_exporting_repeats_to_the_byte_prints_nothing_and_leaves_all_as_it_was(
    forms: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model, tokenizer = toy_emptied_model("bert", 1), toy_tokenizer(tmp_path / "tokenizer", "bert")
    weights, state, level = copy.deepcopy(model.state_dict()), torch.random.get_rng_state(), logging.getLogger().level
    capfd.readouterr()
    save_onnx(model.train(), tokenizer, tmp_path / "onnx")
    to_int8("bert", tmp_path / "onnx", tmp_path / "int8")
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert model.training
    assert model.config._attn_implementation == "sdpa"
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert logging.getLogger().level == level
    for form in ("onnx", "int8"):
        again, first = ({p.name: p.read_bytes() for p in (r / form).iterdir()} for r in (tmp_path, forms["bert"]))
        assert again == first
        assert not any(word in first["model.onnx"] for word in (b".py", b"/tmp", b"site-packages"))


def test_token_types_are_zero_where_none_are_given(forms: dict[str, Path]) -> None:
    graph, inputs = open_model(forms["bert"] / "onnx"), toy_inputs("bert")
    zeros = torch.zeros_like(inputs["input_ids"])
    assert torch.equal(graph(**inputs).end_logits, graph(**inputs, token_type_ids=zeros).end_logits)
    assert not torch.equal(graph(**inputs).end_logits, graph(**inputs, token_type_ids=zeros + 1).end_logits)
    # A tokenizer may give token types to a model that has none: RoBERTa's graph does not ask for them.
    graph, inputs = open_model(forms["roberta"] / "onnx"), toy_inputs("roberta")
    assert graph(**inputs, token_type_ids=zeros).end_logits.shape == zeros.shape


def test_a_spoilt_graph_is_one_line(forms: dict[str, Path], tmp_path: Path) -> None:
    for fault in (b"", b"no graph", (forms["bert"] / "onnx" / "model.onnx").read_bytes()[:5000]):
        (tmp_path / "config.json").write_bytes((forms["bert"] / "onnx" / "config.json").read_bytes())
        (tmp_path / "model.onnx").write_bytes(fault)
        with pytest.raises(InputError, match="ONNX Runtime does not load it") as error:
            open_model(tmp_path)
        assert len(str(error.value).splitlines()) == 1


def test_a_graph_runs_on_as_many_threads_as_torch(forms: dict[str, Path]) -> None:
    try:
        for threads in (2, 1):
            torch.set_num_threads(threads)
            session = OnnxModel(forms["bert"] / "onnx").session
            assert session.get_session_options().intra_op_num_threads == threads
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(("name", "other"), [("attention_mask", "position_ids"), ("end_logits", "end")])
def test_a_graph_with_other_inputs_or_outputs_is_one_line(
    name: str, other: str, forms: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(forms["bert"] / "onnx", tmp_path / "onnx")
    proto = onnx.load(tmp_path / "onnx/model.onnx")
    for each in (*proto.graph.input, *proto.graph.output):
        each.name = other if each.name == name else each.name
    for node in proto.graph.node:
        for places in (node.input, node.output):
            places[:] = [other if each == name else each for each in places]
    onnx.save(proto, tmp_path / "onnx/model.onnx")
    with pytest.raises(InputError, match=f"model.onnx: reads .*{other}.*wanted input_ids") as error:
        open_model(tmp_path / "onnx")
    assert len(str(error.value).splitlines()) == 1
