"""One call that opens any model folder which answers questions: torch or ONNX, whoever asks need not know."""

from pathlib import Path

from torch import nn

from stages.core.models.checkpoint import load_checkpoint
from stages.core.models.session import OnnxModel, is_onnx_folder


def open_model(folder: Path) -> nn.Module:
    """The model in `folder`, in eval mode: call it with the keyword tensors of `Batch.model_inputs`.

    It returns `start_logits` and `end_logits`, (B, L). Raises InputError.
    """
    return OnnxModel(folder).eval() if is_onnx_folder(folder) else load_checkpoint(folder)
