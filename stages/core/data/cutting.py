"""A tokenizer with the size of its windows: what cuts questions for one model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from stages.core.data.examples import Example, Refusal
from stages.core.data.windows import Windows, make_windows
from stages.core.errors import InputError
from stages.core.models.encoder import load_tokenizer, make_config, read_config
from stages.core.models.families import FAMILIES, family_name
from stages.core.models.positions import positions
from stages.core.params import require

SPARE = 8  # tokens: four are around a question and its paragraph at most, and a tokenizer may put a blank before them


@dataclass(frozen=True)
class Cutter:
    """A tokenizer, tokens in a window at most, and tokens that neighbouring windows share."""

    tokenizer: PreTrainedTokenizerFast
    max_length: int
    doc_stride: int
    token_types: bool  # whether the model is told question and paragraph apart

    def cut(self, examples: Sequence[Example]) -> Windows:
        """Return the windows of examples; raises InputError where one cannot be cut."""
        return make_windows(
            examples,
            self.tokenizer,
            max_length=self.max_length,
            doc_stride=self.doc_stride,
            token_types=self.token_types,
        )

    def refuse(self, example: Example) -> str:
        """Return why an example cannot be cut, or an empty text.

        Only what may be too long, with as many tokens as bytes, or may be nothing to the tokenizer is given to it.
        """
        may_be_long = len(example.question.encode()) + SPARE + self.doc_stride >= self.max_length
        if may_be_long or not any(character.isalnum() for character in example.context):
            try:
                self.cut([replace(example, answers=())])
            except InputError as error:
                return str(error).removeprefix(f"id {example.id!r}: ")
        return ""


def refusal_of(cutters: Sequence[Cutter]) -> Refusal:
    """Return what says why one of them cannot cut an example, the first that cannot."""
    return lambda example: next(filter(None, (cutter.refuse(example) for cutter in cutters)), "")


def load_cutter(source: Path, *, max_length: int, doc_stride: int) -> Cutter:
    """Return what cuts for the model in the folder `source`.

    Token types go by the model's family: the class that a tokenizer is saved with may leave them out. Raises InputError
    where the model has too few positions, or the tokenizer has more tokens than the model or lacks what windows need.
    """
    room = positions(source)
    require(
        max_length <= room,
        "params.yaml: windows.max_length",
        max_length,
        f"at most {room}, which is all that the model in {source} has positions for",
    )
    tokenizer, fields = load_tokenizer(source), read_config(source)
    if tokenizer.pad_token is None:
        raise InputError(f"{source}: the tokenizer has no pad_token; name it in tokenizer_config.json")
    sides = tokenizer("a", "a").sequence_ids(0)
    if sides[0] is not None or None not in sides[: sides.index(1)][1:]:
        raise InputError(
            f"{source}: the tokenizer puts no token before a question, or none between it and its paragraph;"
            " save it with the template of its model"
        )
    known, wanted = make_config(fields).vocab_size, max(tokenizer.get_vocab().values()) + 1
    if wanted > known:
        raise InputError(f"{source}: the tokenizer has {wanted} tokens, the model {known}; save the two together")
    return Cutter(tokenizer, max_length, doc_stride, FAMILIES[family_name(fields["model_type"])].token_types)
