"""Models come from where the spec says, load in all five families, and are cut by layers."""

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from stages.core.errors import InputError
from stages.core.models.checkpoint import save_checkpoint
from stages.core.models.encoder import (
    build_qa_model,
    cut_layers,
    fingerprint,
    is_qa_checkpoint,
    load_qa_model,
    load_tokenizer,
    make_config,
)
from stages.core.models.families import FAMILIES, layers
from stages.core.models.positions import positions
from stages.core.models.source import resolve_model
from tests.toy_models import FAMILY_NAMES, toy_config, toy_inputs, toy_pruned_model, toy_qa_model, toy_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved toy model."""
    save_checkpoint(toy_qa_model("bert", 1), toy_tokenizer(tmp_path / "tokenizer", "bert"), tmp_path / "model")
    return tmp_path / "model"


def write_bare_encoder(model_folder: Path, family: str, seed: int) -> None:
    """Save weights without a head and without the family's prefix, as a pretrained encoder has them."""
    model = toy_qa_model(family, seed)
    save_checkpoint(model, toy_tokenizer(model_folder.parent / "tokenizer", family), model_folder)
    weights = load_file(model_folder / "model.safetensors")
    bare = {name.removeprefix(f"{family}."): weight for name, weight in weights.items() if "qa_outputs" not in name}
    save_file(bare, model_folder / "model.safetensors", metadata={"format": "pt"})


def refused(spec: str | Path, sha256: str = "") -> str:
    with pytest.raises(InputError) as error:
        resolve_model(str(spec), sha256)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_folder_spec_with_sha256(folder: Path) -> None:
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert resolve_model(str(folder), digest) == folder
    assert digest in refused(folder, "0" * 64)


def test_package_spec_runs_no_code(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "carrier_of_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    folder.rename(package / "model")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert resolve_model("package:carrier_of_weights/model") == package / "model"
    assert "carrier_of_weights" not in sys.modules
    assert "no folder 'other'" in refused("package:carrier_of_weights/other")


def test_bad_specs_say_what_to_do(folder: Path, tmp_path: Path) -> None:
    assert "all 40 hex digits" in refused("owner/name")
    assert "all 40 hex digits" in refused("owner/name@main")
    assert "not installed" in refused("package:no_such_package/model")
    assert "not installed" in refused("package:no.such/model")
    assert "no config.json" in refused(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pickled" in refused(folder)
    (folder / "pytorch_model.bin").rename(folder / "model-00001-of-00002.safetensors")
    assert "several" in refused(folder)


def test_hub_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert "not downloaded from the hub" in refused(f"owner/name@{'0' * 40}")


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_head_comes_from_the_seed_alone(family: str, tmp_path: Path) -> None:
    write_bare_encoder(tmp_path / "model", family, seed=1)
    assert not is_qa_checkpoint(tmp_path / "model")
    state = torch.random.get_rng_state()
    first = load_qa_model(tmp_path / "model", seed=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    again, other = (load_qa_model(tmp_path / "model", seed=seed) for seed in (5, 6))
    assert torch.equal(first.qa_outputs.weight, again.qa_outputs.weight)
    assert not torch.equal(first.qa_outputs.weight, other.qa_outputs.weight)
    expected = toy_qa_model(family, 1)
    expected.qa_outputs.load_state_dict(first.qa_outputs.state_dict())
    inputs = toy_inputs(family)
    assert torch.equal(first(**inputs).start_logits, expected(**inputs).start_logits)
    assert first.config._attn_implementation == FAMILIES[family].attention_kernel
    assert not first.training
    assert {weight.dtype for weight in first.parameters()} == {torch.float32}


def test_loading_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_bare_encoder(tmp_path / "model", "bert", seed=1)
    capfd.readouterr()
    load_qa_model(tmp_path / "model", seed=0)
    assert capfd.readouterr() == ("", "")


def test_head_of_another_width_is_replaced_by_two_labels(tmp_path: Path) -> None:
    write_bare_encoder(tmp_path / "model", "bert", seed=1)
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text()) | {"id2label": {"0": "a", "1": "b", "2": "c"}, "dtype": "float16"}
    path.write_text(json.dumps(config))
    model = load_qa_model(tmp_path / "model", seed=0)
    assert model.qa_outputs.out_features == 2
    assert model.dtype == torch.float32


def test_models_that_cannot_load_say_why(folder: Path) -> None:
    def fault() -> str:
        with pytest.raises(InputError) as error:
            load_qa_model(folder, seed=0)
        assert len(str(error.value).splitlines()) == 1
        return str(error.value)

    weights, config = load_file(folder / "model.safetensors"), (folder / "config.json").read_text()
    lost = {name: weight for name, weight in weights.items() if "layer.2.output" not in name}
    save_file(lost, folder / "model.safetensors", metadata={"format": "pt"})
    assert "4 weights" in fault()
    half = {name: weight for name, weight in weights.items() if name != "qa_outputs.bias"}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    assert "qa_outputs.bias is missing, the other part of the head is not" in fault()
    (folder / "model.safetensors").write_bytes(b"not safetensors at all")
    assert "does not load" in fault()
    with pytest.raises(InputError, match="not a safetensors file"):
        is_qa_checkpoint(folder)
    (folder / "config.json").write_text(json.dumps({**json.loads(config), "hidden_size": "wide"}))
    assert "config.json of a bert model" in fault() and "hidden_size" in fault()
    with pytest.raises(InputError, match="hidden_size"):
        positions(folder)
    (folder / "config.json").write_text(config.replace('"bert"', '"gpt2"'))
    assert "bert, distilbert, roberta, electra, mpnet" in fault()
    (folder / "config.json").write_text("{")
    assert "not valid JSON" in fault()


def test_weights_inside_the_encoder_that_have_no_place_are_told_of(folder: Path) -> None:
    """Of a kind that transformers has given up, or of more layers than the config counts; a pooler is none of them."""
    path = folder / "model.safetensors"
    weights, config = load_file(path), json.loads((folder / "config.json").read_text())
    save_file({**weights, "bert.pooler.dense.weight": torch.zeros(2, 2)}, path, metadata={"format": "pt"})
    load_qa_model(folder, seed=0)
    for prefix in ("bert.", ""):
        relative = {f"{prefix}encoder.layer.0.attention.self.distance_embedding.weight": torch.zeros(3, 8)}
        save_file({**weights, **relative}, path, metadata={"format": "pt"})
        with pytest.raises(InputError, match=rf"1 weights have no place .*{min(relative)} first; mend config.json"):
            load_qa_model(folder, seed=0)
    save_file(weights, path, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(InputError, match=r"weights have no place .*encoder.layer.2"):
        load_qa_model(folder, seed=0)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_config_that_asks_for_other_outputs_is_overruled(family: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    save_checkpoint(toy_qa_model(family, 1), toy_tokenizer(tmp_path / "tokenizer", family), model)
    asked = {"return_dict": False, "output_attentions": True, "output_hidden_states": True}
    fields = json.loads((model / "config.json").read_text()) | asked
    (model / "config.json").write_text(json.dumps(fields))
    found = load_qa_model(model, seed=0)(**toy_inputs(family))
    assert (found.start_logits.shape, found.attentions, found.hidden_states) == (found.end_logits.shape, None, None)


def test_pruned_model_is_no_start(tmp_path: Path) -> None:
    tokenizer = toy_tokenizer(tmp_path / "tokenizer", "bert")
    save_checkpoint(toy_pruned_model("bert", 1), tokenizer, tmp_path / "model")
    with pytest.raises(InputError, match="pruned"):
        load_qa_model(tmp_path / "model", seed=0)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_tokenizers_give_offsets(family: str, tmp_path: Path) -> None:
    tokenizer = toy_tokenizer(tmp_path, family)
    context = "The old bridge, by the castle."
    encoded = tokenizer("which bridge?", context, return_offsets_mapping=True)
    sides = encoded.sequence_ids(0)
    spans = [
        context[start:end] for (start, end), side in zip(encoded["offset_mapping"], sides, strict=True) if side == 1
    ]
    assert "".join(spans).replace(" ", "") == context.replace(" ", "")
    assert encoded["input_ids"][0] == tokenizer.cls_token_id


@pytest.mark.parametrize("family", [family for family in FAMILY_NAMES if family != "roberta"])
def test_a_tokenizer_that_would_lower_case_what_its_model_reads_cased_is_told_of(family: str, tmp_path: Path) -> None:
    """Of WordPiece, transformers takes the vocabulary from tokenizer.json, and the case from the file beside it."""
    toy_tokenizer(tmp_path, family)
    saved, beside = tmp_path / "tokenizer.json", tmp_path / "tokenizer_config.json"
    document, told = (json.loads(path.read_text(encoding="utf-8")) for path in (saved, beside))
    cased = document["normalizer"] | {"lowercase": False}
    saved.write_text(json.dumps(document | {"normalizer": cased}), encoding="utf-8")
    beside.write_text(json.dumps({key: value for key, value in told.items() if key != "do_lower_case"}))
    with pytest.raises(InputError, match=r"disagree on the normalizer: .*lowercase is False and True.*; name a copy"):
        load_tokenizer(tmp_path)
    for mended in ({"do_lower_case": False}, {"tokenizer_class": "PreTrainedTokenizerFast"}):
        beside.write_text(json.dumps(told | mended))
        assert load_tokenizer(tmp_path).backend_tokenizer.normalizer.normalize_str("Paris") == "Paris"


def test_of_a_tokenizer_another_kind_of_part_is_told_of_in_a_line_and_another_word_for_the_same_is_not(
    tmp_path: Path,
) -> None:
    toy_tokenizer(tmp_path / "bert", "bert"), toy_tokenizer(tmp_path / "roberta", "roberta")
    paths = {family: tmp_path / family / "tokenizer.json" for family in ("bert", "roberta")}
    documents = {family: json.loads(path.read_text(encoding="utf-8")) for family, path in paths.items()}
    same = {
        "bert": {"normalizer": documents["bert"]["normalizer"] | {"lowercase": True, "strip_accents": True}},
        "roberta": {"pre_tokenizer": documents["roberta"]["pre_tokenizer"] | {"trim_offsets": False}},
    }
    for family, path in paths.items():
        path.write_text(json.dumps(documents[family] | same[family]), encoding="utf-8")
        load_tokenizer(tmp_path / family)
    other = {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Lowercase"}, {"type": "StripAccents"}]}
    paths["bert"].write_text(json.dumps(documents["bert"] | {"normalizer": other}), encoding="utf-8")
    with pytest.raises(InputError, match="the normalizer: type is Sequence and BertNormalizer; name"):
        load_tokenizer(tmp_path / "bert")


def test_a_tokenizer_of_no_known_kind_is_an_input_error(tmp_path: Path) -> None:
    toy_tokenizer(tmp_path, "bert")
    path = tmp_path / "tokenizer.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**document, "model": {"type": "Unheard"}}), encoding="utf-8")
    with pytest.raises(InputError, match="no tokenizer loads from here"):
        load_tokenizer(tmp_path)


def test_no_tokenizer_is_an_input_error(tmp_path: Path) -> None:
    for empty in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match="tokenizer"):
            load_tokenizer(empty)


def test_code_that_comes_with_a_tokenizer_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    toy_tokenizer(tmp_path, "bert")
    ran, path = tmp_path / "ran", tmp_path / "tokenizer_config.json"
    brought = ["from pathlib import Path", "from transformers import BertTokenizerFast", f"Path({str(ran)!r}).touch()"]
    brought.append("class Brought(BertTokenizerFast): ...")
    (tmp_path / "brought.py").write_text("\n".join(brought))
    own = {"tokenizer_class": "Brought", "auto_map": {"AutoTokenizer": [None, "brought.Brought"]}}
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | own), encoding="utf-8")
    with pytest.raises(InputError, match="no tokenizer loads from here"):
        load_tokenizer(tmp_path)
    assert not ran.exists()
    AutoTokenizer.from_pretrained(str(tmp_path), trust_remote_code=True)
    assert ran.exists(), "this code would not have run anyway"


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_cut_layers_is_the_model_without_the_others(family: str) -> None:
    model, inputs = toy_qa_model(family, 1), toy_inputs(family)
    small = cut_layers(model, [0, 2])
    for kept, source in zip(layers(small), (layers(model)[0], layers(model)[2]), strict=True):
        assert torch.equal(kept.query.weight, source.query.weight)
    whole, less = (each(**inputs, output_hidden_states=True) for each in (model, small))
    start = whole.start_logits
    assert start.shape == whole.end_logits.shape == inputs["input_ids"].shape
    assert (len(whole.hidden_states), len(less.hidden_states)) == (4, 3)
    assert torch.equal(whole.hidden_states[1], less.hidden_states[1])
    assert not torch.equal(start, less.start_logits)
    assert (model.config.num_hidden_layers, small.config.num_hidden_layers) == (3, 2)
    with torch.no_grad():
        for weight in small.parameters():
            weight.zero_()
    assert torch.equal(model(**inputs).start_logits, start)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_cut_with_all_layers_changes_nothing(family: str) -> None:
    model, inputs = toy_pruned_model(family, 1), toy_inputs(family)
    assert torch.equal(cut_layers(model, range(3))(**inputs).start_logits, model(**inputs).start_logits)


@pytest.mark.parametrize("keep", [[], [3], [-1], [1, 0], [1, 1]])
def test_bad_layers_are_refused(keep: list[int]) -> None:
    with pytest.raises(InputError, match="from 0 to 2"):
        cut_layers(toy_qa_model("bert", 1), keep)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_padding_does_not_change_logits(family: str) -> None:
    model = toy_qa_model(family, 1)
    padded = toy_inputs(family, lengths=(12, 7))
    alone = {name: values[1:, :7] for name, values in padded.items()}
    assert torch.allclose(model(**padded).end_logits[1, :7], model(**alone).end_logits[0], atol=1e-5)


def test_fingerprint_sees_weights_and_config(folder: Path) -> None:
    first = fingerprint(folder)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config + "\n")
    assert fingerprint(folder) != first
    (folder / "config.json").write_text(config)
    assert fingerprint(folder) == first
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b" ")
    assert fingerprint(folder) != first


@pytest.mark.parametrize("padding", [1, 5])
def test_roberta_counts_positions_from_behind_its_padding_index(padding: int, tmp_path: Path) -> None:
    config = toy_config("roberta").to_dict() | {"pad_token_id": padding, "max_position_embeddings": 64}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    room = positions(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "pad_token_id": None}), encoding="utf-8")
    with pytest.raises(InputError, match=r"config.json: pad_token_id is null"):
        positions(tmp_path)
    model = build_qa_model(make_config(config))
    shown = {"input_ids": torch.full((1, room), 9), "attention_mask": torch.ones(1, room, dtype=torch.long)}
    assert model(**shown).start_logits.shape == (1, room)
    with pytest.raises((IndexError, RuntimeError), match=r"out of (range|bounds)"):
        model(input_ids=torch.full((1, room + 1), 9))


@pytest.mark.parametrize(("family", "room"), [("bert", 512), ("mpnet", 510)])
def test_positions_are_the_familys_own_where_the_config_leaves_them_out(family: str, room: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(f'{{"model_type": "{family}"}}', encoding="utf-8")
    assert positions(tmp_path) == room
