"""Any model folder that answers questions, torch or ONNX: whoever opens or weighs it need not know which."""

from pathlib import Path

from torch import nn

from stages.core.models.checkpoint import load_checkpoint
from stages.core.models.session import GRAPH, OnnxModel, is_onnx_folder
from stages.core.models.source import WEIGHTS


def open_model(folder: Path) -> nn.Module:
    """The model in `folder`, in eval mode: call it with the keyword tensors of `Batch.model_inputs`.

    It returns `start_logits` and `end_logits`, (B, L). Raises InputError.
    """
    return OnnxModel(folder).eval() if is_onnx_folder(folder) else load_checkpoint(folder)


def file_mb(folder: Path) -> float:
    """Return the size in 10^6 bytes of the file that `open_model` reads the weights from."""
    name = GRAPH if is_onnx_folder(folder) else WEIGHTS
    return round((folder / name).stat().st_size / 1e6, 3)
