"""Eight bits stay close to float32, closer where activations were evened out before."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from stages.core.models.answering import open_model
from stages.core.models.checkpoint import save_checkpoint
from stages.core.models.families import layers
from stages.core.models.onnx import save_onnx, write_graph
from stages.core.models.quantisation import FLOOR, calibration_batches, largest_activations, smooth
from stages.core.models.shapes import shrink
from tests.toy_graphs import batches_of, inputs_of, largest_difference, to_int8
from tests.toy_models import FAMILY_NAMES, toy_emptied_model, toy_qa_model, toy_tokenizer
from tests.toy_questions import toy_questions


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_eight_bits_are_close_but_not_the_same(family: str, forms: dict[str, Path]) -> None:
    reference = open_model(forms[family] / "torch")
    difference = largest_difference(reference, open_model(forms[family] / "int8"), family)
    spread = float(reference(**inputs_of(family, (30,))).start_logits.detach().std())
    assert 0 < difference < 0.3 * spread


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_an_answer_in_eight_bits_does_not_depend_on_what_is_asked_beside_it(
    family: str, forms: dict[str, Path]
) -> None:
    model = open_model(forms[family] / "int8")
    together = inputs_of(family, (30, 9, 17))
    answers = model(**together)
    for row, length in enumerate((30, 9, 17)):
        alone = model(**{name: values[row : row + 1, :length] for name, values in together.items()})
        assert torch.equal(answers.start_logits[row, :length], alone.start_logits[0])
        assert torch.equal(answers.end_logits[row, :length], alone.end_logits[0])
        assert not answers.start_logits[row, length:].any()


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_all_matrices_but_the_head_are_in_eight_bits(family: str, forms: dict[str, Path]) -> None:
    graph = onnx.load(forms[family] / "int8" / "model.onnx").graph
    whole = {each.name: list(each.dims) for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT}
    assert list(whole.values()).count([32, 2]) == 1, "the answer head"
    # Positions, token types and MPNet's bias are small tables that are looked up; they stay.
    matrices = {name for name, dims in whole.items() if len(dims) == 2 and 1 not in dims and dims != [32, 2]}
    assert all("embeddings" in name or "relative_attention_bias" in name for name in matrices)
    assert not any("word_embeddings" in name for name in matrices)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_smoothing_changes_activations_and_not_answers(family: str, forms: dict[str, Path], tmp_path: Path) -> None:
    """With all of the unevenness gone to the matrices, every channel of an activation is as large as the others."""
    proto = onnx.load(forms[family] / "onnx" / "model.onnx")
    before = largest_activations(proto, batches_of(family))
    assert min(channels.max() / channels.min() for channels in before.values()) > 1.2
    smooth(proto, before, 1.0)
    after = largest_activations(proto, batches_of(family))
    assert len(after) == len(before)
    for channels in after.values():
        assert channels.max() / channels.min() == pytest.approx(1, abs=1e-3)
    tokenizer = toy_tokenizer(tmp_path / "tokenizer", family)
    save_onnx(toy_emptied_model(family, 1), tokenizer, tmp_path / "smoothed")
    write_graph(proto, tmp_path / "smoothed" / "model.onnx")
    reference = open_model(forms[family] / "torch")
    assert largest_difference(reference, open_model(tmp_path / "smoothed"), family) < 2e-5


def test_padding_counts_for_nothing(forms: dict[str, Path]) -> None:
    proto, batches = onnx.load(forms["bert"] / "onnx" / "model.onnx"), batches_of("bert")
    found = largest_activations(proto, batches)
    for batch in batches:
        batch.input_ids[batch.attention_mask == 0] = 7
    again = largest_activations(proto, batches)
    assert all((found[name] == again[name]).all() for name in found)


def test_a_channel_that_outgrows_the_others_costs_less_where_it_is_evened_out(tmp_path: Path) -> None:
    model, tokenizer = toy_qa_model("bert", 1), toy_tokenizer(tmp_path / "tokenizer", "bert")
    with torch.no_grad():
        for layer in layers(model):
            layer.attention_norm.weight[3] *= 60
            layer.ffn_in.weight[:, 3] /= 60
    save_checkpoint(model, tokenizer, tmp_path / "torch")
    save_onnx(model, tokenizer, tmp_path / "onnx")
    reference, errors = open_model(tmp_path / "torch"), []
    for smoothing in (0.0, 0.8):
        to_int8("bert", tmp_path / "onnx", tmp_path / str(smoothing), smoothing=smoothing)
        errors.append(largest_difference(reference, open_model(tmp_path / str(smoothing)), "bert"))
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize(("signed", "kind"), [(True, TensorProto.INT8), (False, TensorProto.UINT8)])
def test_weights_are_signed_or_not(signed: bool, kind: int, forms: dict[str, Path], tmp_path: Path) -> None:
    to_int8("bert", forms["bert"] / "onnx", tmp_path / "int8", signed_weights=signed)
    graph = onnx.load(tmp_path / "int8" / "model.onnx").graph
    tables = [each for each in graph.initializer if each.name.endswith("_quantized")]
    matrices = [each for each in tables if "word_embeddings" not in each.name]
    assert {each.data_type for each in matrices} == {kind}
    assert all(numpy_helper.to_array(each).ndim == 2 for each in matrices)


def test_what_is_smoothed_is_shared_by_the_strength(forms: dict[str, Path]) -> None:
    """Up to a common factor channels are divided by activation ** strength / weight ** (1 - strength)."""
    proto = onnx.load(forms["bert"] / "onnx" / "model.onnx")
    largest = largest_activations(proto, batches_of("bert"))
    name, channels = next((name, channels) for name, channels in largest.items() if "intermediate" not in name)
    tables = {each.name: numpy_helper.to_array(each) for each in proto.graph.initializer}
    entered = [node.input[1] for node in proto.graph.node if node.op_type == "MatMul" and node.input[0] == name]
    rows = np.max([np.abs(tables[table]).max(axis=1) for table in entered if table in tables], axis=0)
    smooth(proto, largest, 0.3)
    (by,) = [numpy_helper.to_array(each) for each in proto.graph.initializer if each.name == f"{name}_smoothed_by"]
    factors = 1 / by / (channels**0.3 / rows**0.7)
    assert factors == pytest.approx(np.full(len(by), factors[0]), rel=1e-4)


def test_every_batch_counts_for_the_largest_activation(forms: dict[str, Path]) -> None:
    proto, batches = onnx.load(forms["bert"] / "onnx" / "model.onnx"), batches_of("bert")
    assert len(batches) > 1
    together, alone = largest_activations(proto, batches), [largest_activations(proto, [each]) for each in batches]
    for name, channels in together.items():
        assert (channels == np.max([each[name] for each in alone], axis=0)).all()


def test_windows_to_measure_on_are_as_many_as_asked_and_drawn_by_the_seed(tmp_path: Path) -> None:
    windows = toy_questions(tmp_path, 12, seed=1).windows
    drawn = [calibration_batches(windows, 5, batch_size=2, seed=seed) for seed in (1, 1, 2)]
    rows = [sorted(tuple(row) for batch in each for row in batch.input_ids.tolist()) for each in drawn]
    assert [len(each) for each in rows] == [5, 5, 5]
    assert rows[0] == rows[1] != rows[2]


def test_a_channel_that_calibration_has_hardly_seen_counts_as_a_share_of_the_others(forms: dict[str, Path]) -> None:
    proto = onnx.load(forms["bert"] / "onnx" / "model.onnx")
    largest = largest_activations(proto, batches_of("bert"))
    name, channels = next((name, channels) for name, channels in largest.items() if "intermediate" not in name)
    channels[3] = 1e-4 * np.median(channels)
    smooth(proto, {name: channels}, 1.0)
    (by,) = [numpy_helper.to_array(each) for each in proto.graph.initializer if each.name == f"{name}_smoothed_by"]
    assert by[3] / np.median(by) == pytest.approx(1 / FLOOR, rel=0.05)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_model_that_lost_every_sublayer_is_written_too(family: str, tmp_path: Path) -> None:
    model, tokenizer = toy_qa_model(family, 1), toy_tokenizer(tmp_path / "tokenizer", family)
    shrink(model, [[], [], []], [[], [], []])
    save_checkpoint(model, tokenizer, tmp_path / "torch")
    save_onnx(model, tokenizer, tmp_path / "onnx")
    to_int8(family, tmp_path / "onnx", tmp_path / "int8")
    reference = open_model(tmp_path / "torch")
    spread = float(reference(**inputs_of(family, (30,))).start_logits.detach().std())
    assert largest_difference(reference, open_model(tmp_path / "int8"), family) < 0.3 * spread
