"""An ONNX model folder, called as the torch models are.

A folder has the graph, `model.onnx`, beside the config and the tokenizer of the network that it stands for.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from stages.core.errors import InputError
from stages.core.models.source import check_config

GRAPH = "model.onnx"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # a graph has the third where its family tells types apart
OUTPUTS = ("start_logits", "end_logits")


def is_onnx_folder(folder: Path) -> bool:
    """Whether `folder` holds a graph for ONNX Runtime."""
    return (folder / GRAPH).is_file()


class OnnxModel(nn.Module):
    """The graph in a folder, run by ONNX Runtime on the CPU with as many threads as torch has when it is loaded.

    Each window is run by itself, without its padding: int8 rounds the activations of all that is run together on one
    scale, so that an answer would depend on what it is asked beside. Tensors may come from any device; what comes back
    is on the CPU. There is nothing to train and no dropout.
    """

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        super().__init__()
        check_config(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        # A thread that waits for work by spinning would take the core from the model that is timed next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(
                str(folder / GRAPH), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors have no common base but this
            reason = " ".join(str(error).split())
            raise InputError(f"{folder / GRAPH}: ONNX Runtime does not load it ({reason})") from error
        self.wanted = [each.name for each in self.session.get_inputs()]
        given = {each.name for each in self.session.get_outputs()}
        if not set(OUTPUTS) <= given or not set(self.wanted) <= set(INPUTS):
            raise InputError(
                f"{folder / GRAPH}: reads {', '.join(sorted(self.wanted))} and gives {', '.join(sorted(given))};"
                f" wanted {', '.join(INPUTS)} and {', '.join(OUTPUTS)}, as `export` writes them"
            )

    def forward(self, **inputs: Tensor) -> QuestionAnsweringModelOutput:
        """Start and end logits (B, L) float32 of `input_ids`, `attention_mask` and, optional, `token_type_ids` (B, L).

        Padding comes last in a window, and its logits are 0. Token types are zero where they are wanted and not given,
        as in the torch models.
        """
        given = {"token_type_ids": torch.zeros_like(inputs["input_ids"]), **inputs}
        arrays = {name: given[name].cpu().numpy() for name in self.wanted}
        logits = torch.zeros(len(OUTPUTS), *inputs["input_ids"].shape)
        for row, length in enumerate(inputs["attention_mask"].sum(dim=1).tolist()):
            window = {name: array[row : row + 1, :length] for name, array in arrays.items()}
            for flat, found in zip(logits, self.session.run(list(OUTPUTS), window), strict=True):
                flat[row, :length] = torch.from_numpy(found[0])
        start, end = logits
        return QuestionAnsweringModelOutput(start_logits=start, end_logits=end)
