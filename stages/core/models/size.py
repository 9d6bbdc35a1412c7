"""How big a model is: parameters, multiply-adds, bytes on disk."""

from pathlib import Path

from transformers import PreTrainedModel

from stages.core.models.macs import count_macs
from stages.core.models.source import WEIGHTS


def describe_size(model: PreTrainedModel, folder: Path, *, length: int) -> dict[str, float]:
    """Return parameters, macs of one window of `length` tokens, and size_mb (10^6 bytes) of the saved weights."""
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "macs": count_macs(model, length),
        "size_mb": round((folder / WEIGHTS).stat().st_size / 1e6, 3),
    }
