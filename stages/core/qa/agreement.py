"""How far several forms of one model agree: the largest difference of a logit, and how each answers.

Forms in float32 that add up in another order differ by rounding, most where a network makes much of little. So where a
form differs from the model by more than is allowed, the judge is the model in float64: on each window in question the
form may be as far from that as the model's own float32 logits are, and by what is allowed further.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from stages.core.data.batches import FlatLogits
from stages.core.data.prepared import Questions
from stages.core.data.windows import Windows
from stages.core.errors import InputError
from stages.core.models.answering import file_mb, open_model
from stages.core.qa.decoding import DecodeParams
from stages.core.qa.evaluation import answer, quality
from stages.core.qa.inference import predict_logits
from stages.core.qa.scoring import score

Forms = Mapping[str, Mapping[str, float]]

EXCESS = "excess_over_rounding"


def describe_forms(
    folders: Mapping[str, Path],
    questions: Questions,
    decode: DecodeParams,
    *,
    batch_size: int,
    held: Sequence[str],
    tolerance: float,
) -> dict[str, dict[str, float]]:
    """Return for each form exact_match, f1, size_mb and largest_difference, in logits, to the first of `folders`.

    A form of those `held` to `tolerance` that goes beyond it has excess_over_rounding too: how much further it is from
    what the first says in float64 than the first in float32 is, in the window where that is most, of those where it
    went beyond. Each form is read back from its folder and runs on the CPU. Raises InputError for a folder that does
    not open.
    """
    found: dict[str, dict[str, float]] = {}
    reference: FlatLogits | None = None
    windows, first = questions.windows, next(iter(folders.values()))

    def ask(model: nn.Module, asked: Windows) -> FlatLogits:
        return predict_logits(model, asked, batch_size=batch_size, device=torch.device("cpu"), precision="fp32")

    for name, folder in folders.items():
        logits = ask(open_model(folder), windows)
        reference = reference or logits
        found[name] = {
            **quality(score(questions.examples, answer(questions, logits, decode))),
            "size_mb": file_mb(folder),
            "largest_difference": largest_difference(reference, logits),
        }
        if name in held and not found[name]["largest_difference"] <= tolerance:
            rows = _beyond(reference, logits, windows, tolerance)
            found[name][EXCESS] = 0.0  # where the difference is beyond only as it is rounded
            if len(rows):
                exact = ask(open_model(first).double(), windows.take(rows))
                further = _errors(logits, exact, windows, rows) - _errors(reference, exact, windows, rows)
                found[name][EXCESS] = _three_digits(further.max())
    return found


def largest_difference(first: FlatLogits, second: FlatLogits) -> float:
    """Return the largest difference of a start or end logit, to three significant digits; NaN if there is a NaN."""
    differences = [(one - other).abs().max() for one, other in zip(first, second, strict=True)]
    return _three_digits(torch.stack(differences).max())


def require_agreement(forms: Forms, names: Sequence[str], tolerance: float) -> None:
    """Raise InputError, one line, if one of the forms `names` differs from the first by more than `tolerance`.

    What rounding explains does not count; see the head of this file.
    """
    for name in names:
        form, first = forms[name], next(iter(forms))
        if form.get(EXCESS, form["largest_difference"]) <= tolerance:
            continue
        further = f"; in float64 it is {form[EXCESS]} further from it than rounding explains" if EXCESS in form else ""
        raise InputError(
            f"form {name}: a logit on dev differs by {form['largest_difference']} from that of {first}, by more than"
            f" export.tolerance {tolerance}{further}; nothing is written. Raise the tolerance only if you know why"
        )


def _beyond(reference: FlatLogits, logits: FlatLogits, windows: Windows, tolerance: float) -> Tensor:
    """Return the windows, (R,) int64, in which a logit differs by more than `tolerance` or is NaN."""
    beyond = torch.stack([~((one - other).abs() <= tolerance) for one, other in zip(reference, logits, strict=True)])
    tokens = torch.nonzero(beyond.any(0)).flatten()
    rows: Tensor = torch.unique(torch.searchsorted(windows.row_splits, tokens, right=True) - 1)
    return rows


def _errors(logits: FlatLogits, exact: FlatLogits, windows: Windows, rows: Tensor) -> Tensor:
    """Return the largest difference in each of `rows`, (R,); `logits` are of all `windows`, `exact` of those alone."""
    tokens, lengths = windows.tokens_of(rows), windows.lengths[rows].tolist()
    apart = torch.stack([(one[tokens] - other).abs() for one, other in zip(logits, exact, strict=True)])
    return torch.stack([each.max() for each in torch.split(apart, lengths, dim=1)])


def _three_digits(number: Tensor) -> float:
    return float(f"{float(number):.2e}")
