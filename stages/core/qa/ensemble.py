"""Ready question answering models asked the same questions, each in windows that its own tokenizer cuts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from stages.core.data.average import average
from stages.core.data.batches import FlatLogits
from stages.core.data.carry import carry_over
from stages.core.data.cutting import Cutter, load_cutter
from stages.core.data.prepared import Questions
from stages.core.models.checkpoint import load_checkpoint
from stages.core.models.families import move
from stages.core.qa.decoding import DecodeParams
from stages.core.qa.evaluation import answer, quality
from stages.core.qa.inference import predict_logits
from stages.core.qa.scoring import score


@dataclass(frozen=True)
class Said:
    """Questions in the windows of one model, and its flat logits (N,) of them."""

    questions: Questions
    logits: FlatLogits

    def f1(self, decode: DecodeParams) -> float:
        """Return the F1 of the answers in percent, by the official SQuAD v1.1 definition."""
        answers = answer(self.questions, self.logits, decode)
        return quality(score(self.questions.examples, answers))["f1"]


@dataclass(frozen=True)
class Reader:
    """A model and what cuts text for it: nothing, where questions come in its own windows."""

    model: PreTrainedModel
    cutter: Cutter | None = None

    def read(self, questions: Questions, *, batch_size: int, device: torch.device, precision: str) -> Said:
        """Return what the model says of the questions, as float32; raises InputError where they cannot be cut.

        Precision is that of the forward pass, fp32 or bf16.
        """
        own = questions
        if self.cutter is not None:
            own = Questions(questions.examples, self.cutter.cut(questions.examples))
        logits = predict_logits(self.model, own.windows, batch_size=batch_size, device=device, precision=precision)
        return Said(own, logits)


def pool(said: Sequence[Said], questions: Questions) -> Said:
    """Return what several models said of the same questions, carried over to these windows of them and averaged."""
    carried = [carry_over(each.logits, each.questions.windows, questions.windows) for each in said]
    return Said(questions, average(carried, questions.windows))


def load_reader(folder: Path, like: Questions, device: torch.device) -> Reader:
    """Return the model in `folder` with windows of its own, in size like those of `like`; raises InputError."""
    length, stride = (int(like.windows.metadata[key]) for key in ("max_length", "doc_stride"))
    return Reader(move(load_checkpoint(folder), device), load_cutter(folder, max_length=length, doc_stride=stride))
