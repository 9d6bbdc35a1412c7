"""Forms of one model are compared logit by logit; one that differs is named."""

import math

import pytest
import torch

from stages.core.errors import InputError
from stages.core.qa.agreement import largest_difference, require_agreement

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
