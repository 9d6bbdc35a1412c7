"""How far several forms of one model agree: the largest difference of a logit, and how each answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from stages.core.data.batches import FlatLogits
from stages.core.data.prepared import Questions
from stages.core.errors import InputError
from stages.core.models.answering import file_mb, open_model
from stages.core.qa.decoding import DecodeParams
from stages.core.qa.evaluation import answer, quality
from stages.core.qa.inference import predict_logits
from stages.core.qa.scoring import score

Forms = Mapping[str, Mapping[str, float]]


def describe_forms(
    folders: Mapping[str, Path], questions: Questions, decode: DecodeParams, *, batch_size: int
) -> dict[str, dict[str, float]]:
    """Return for each form exact_match, f1, size_mb and largest_difference, in logits, to the first of `folders`.

    Each form is read back from its folder and runs on the CPU. Raises InputError for a folder that does not open.
    """
    found: dict[str, dict[str, float]] = {}
    reference: FlatLogits | None = None
    for name, folder in folders.items():
        logits = predict_logits(
            open_model(folder),
            questions.windows,
            batch_size=batch_size,
            device=torch.device("cpu"),
            precision="fp32",
        )
        reference = reference or logits
        found[name] = {
            **quality(score(questions.examples, answer(questions, logits, decode))),
            "size_mb": file_mb(folder),
            "largest_difference": largest_difference(reference, logits),
        }
    return found


def largest_difference(first: FlatLogits, second: FlatLogits) -> float:
    """Return the largest difference of a start or end logit, to three significant digits; NaN if there is a NaN."""
    differences = [(one - other).abs().max() for one, other in zip(first, second, strict=True)]
    return float(f"{float(torch.stack(differences).max()):.2e}")


def require_agreement(forms: Forms, names: Sequence[str], tolerance: float) -> None:
    """Raise InputError, one line, if one of the forms `names` differs from the first by more than `tolerance`."""
    for name in names:
        if not (difference := forms[name]["largest_difference"]) <= tolerance:
            raise InputError(
                f"form {name}: a logit on dev differs by {difference} from that of {next(iter(forms))}, by more than"
                f" export.tolerance {tolerance}; nothing is written. Raise the tolerance only if rounding explains it"
            )
