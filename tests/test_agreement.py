"""Forms of one model are compared logit by logit; one that differs is named."""

import copy
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from stages.core.errors import InputError
from stages.core.qa import agreement
from stages.core.qa.agreement import EXCESS, describe_forms, largest_difference, require_agreement
from stages.core.qa.decoding import DecodeParams
from tests.toy_questions import toy_questions

LONG = 24  # tokens
LOGITS = (torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0]))


def test_the_largest_difference_of_either_logit_counts() -> None:
    assert largest_difference(LOGITS, LOGITS) == 0
    assert largest_difference(LOGITS, (LOGITS[0], LOGITS[1] - torch.tensor([0.0, 0.25]))) == 0.25
    assert largest_difference((LOGITS[0] + 1.23456, LOGITS[1]), LOGITS) == 1.23
    assert math.isnan(largest_difference(LOGITS, (LOGITS[0] * torch.nan, LOGITS[1])))


@pytest.mark.parametrize("difference", [1.1e-4, math.inf, math.nan])
def test_a_form_that_differs_is_named_in_one_line(difference: float) -> None:
    forms = {name: {"largest_difference": 0.0} for name in ("finetuned", "stock", "onnx", "int8")}
    forms["int8"]["largest_difference"] = 0.7
    require_agreement(forms, ("stock", "onnx"), 1e-4)
    forms["onnx"]["largest_difference"] = difference
    with pytest.raises(InputError, match=f"form onnx: .* differs by {difference} from that of finetuned") as error:
        require_agreement(forms, ("stock", "onnx"), 1e-4)
    assert len(str(error.value).splitlines()) == 1


def test_a_difference_that_only_its_rounding_puts_beyond_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = toy_questions(tmp_path / "tokenizer", 4, seed=1)
    monkeypatch.setattr(agreement, "open_model", lambda folder: Rounded())
    monkeypatch.setattr(agreement, "file_mb", lambda folder: 1.0)
    monkeypatch.setattr(agreement, "largest_difference", lambda *_: 1.24e-4)  # as of one of 1.236e-4
    folders = {name: tmp_path / name for name in ("first", "near")}
    decode = DecodeParams(n_best=4, max_answer_length=8)
    found = describe_forms(folders, questions, decode, batch_size=4, held=("near",), tolerance=1.237e-4)
    assert found["near"][EXCESS] == 0.0
    require_agreement(found, ("near",), 1.237e-4)


class Rounded(nn.Module):
    """Says of each token its number plus `off`, by way of a sum that float32 rounds in the long windows only."""

    def __init__(self, off: float = 0.0, large: float = 0.0) -> None:
        super().__init__()
        self.off = off
        self.exact: list[int] = []  # lengths of the windows asked in float64
        self.register_buffer("large", torch.tensor(large))

    def forward(self, input_ids: Tensor, **inputs: Tensor) -> SimpleNamespace:
        """The logits, (B, L) each."""
        lengths = inputs["attention_mask"].sum(1, keepdim=True)
        large = self.large * (lengths > LONG)
        if large.dtype == torch.float64:
            self.exact += lengths.flatten().tolist()
        logits = input_ids.to(large.dtype) / 3 + large - large + self.off
        return SimpleNamespace(start_logits=logits, end_logits=logits)


def test_rounding_is_told_from_a_difference_in_float64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = toy_questions(tmp_path / "tokenizer", 12, seed=1)
    forms = {
        "first": Rounded(large=2.0**20),
        "same": Rounded(),
        "near": Rounded(5e-5, large=2.0**20),
        "other": Rounded(1.0),
        "int8": Rounded(1.0),
    }
    opened: list[str] = []

    def open_form(folder: Path) -> nn.Module:
        opened.append(folder.name)
        model = copy.deepcopy(forms[folder.name])  # the one that is made float64 is read only once
        model.exact = forms[folder.name].exact
        return model

    monkeypatch.setattr(agreement, "open_model", open_form)
    monkeypatch.setattr(agreement, "file_mb", lambda folder: 1.0)
    folders = {name: tmp_path / name for name in forms}
    decode = DecodeParams(n_best=4, max_answer_length=8)
    held = ("same", "near", "other")
    found = describe_forms(folders, questions, decode, batch_size=4, held=held, tolerance=1e-4)
    # The first is off by its rounding, which no form is held to; the other is off by 1 where nothing was rounded.
    assert found["same"]["largest_difference"] > 1e-2 and found["same"][EXCESS] < -1e-2
    require_agreement(found, ("same",), 1e-4)
    lengths = questions.windows.lengths.tolist()
    rounded = [each for each in lengths if each > LONG]
    assert 0 < len(rounded) < len(lengths) and sorted(forms["first"].exact) == sorted(rounded + lengths)
    assert found["other"][EXCESS] == 1.0
    with pytest.raises(InputError, match=r"form other: .*; in float64 it is 1\.0 further from it than rounding "):
        require_agreement(found, held, 1e-4)
    # No others are asked about.
    assert EXCESS not in found["int8"] and EXCESS not in found["near"]
    assert opened == ["first", "same", "first", "near", "other", "first", "int8"]
