"""A tokenizer with the size of its windows: what cuts questions for one model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from stages.core.data.examples import Example
from stages.core.data.windows import Windows, make_windows
from stages.core.models.encoder import load_tokenizer
from stages.core.models.positions import positions
from stages.core.params import require


@dataclass(frozen=True)
class Cutter:
    """A tokenizer, tokens in a window at most, and tokens that neighbouring windows share."""

    tokenizer: PreTrainedTokenizerFast
    max_length: int
    doc_stride: int

    def cut(self, examples: Sequence[Example]) -> Windows:
        """Return the windows of examples; raises InputError where one cannot be cut."""
        return make_windows(examples, self.tokenizer, max_length=self.max_length, doc_stride=self.doc_stride)


def load_cutter(source: Path, *, max_length: int, doc_stride: int) -> Cutter:
    """Return what cuts for the model in the folder `source`; raises InputError where it has too few positions."""
    room = positions(source)
    require(
        max_length <= room,
        "params.yaml: windows.max_length",
        max_length,
        f"at most {room}, which is all that the model in {source} has positions for",
    )
    return Cutter(load_tokenizer(source), max_length, doc_stride)
