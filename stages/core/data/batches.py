"""Padded batches from ragged windows, grouped by length so that little is padding.

Sizes: B windows in a batch, L tokens that they are padded to: the longest of them, where nothing else is said.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from stages.core.data.windows import NO_LABEL, Windows

FlatLogits = tuple[Tensor, Tensor]  # start and end logits of a window set, two (N,) tensors aligned with its tokens

BUCKET_BATCHES = 32  # batches that are shuffled together, then sorted by length: random enough, little padding


@dataclass(frozen=True)
class Heard:
    """The windows that a teacher reads in its own way, and which of them each window of a student listens to."""

    windows: Windows
    rows: Tensor  # (W,) int64, a number in `windows` for each of the student's W windows
    same_tokens: bool = False  # as the student's, so that none has to be aligned by characters

    def take(self, rows: Tensor) -> "Heard":
        """Return what the student windows `rows`, (R,) int64, listen to."""
        return replace(self, rows=self.rows[rows])

    def join(self, others: "Heard") -> "Heard":
        """Return what these student windows listen to and, behind them, what the others do."""
        rows = torch.cat([self.rows, others.rows + len(self.windows)])
        return Heard(self.windows.join(others.windows), rows, self.same_tokens and others.same_tokens)


@dataclass(frozen=True)
class Batch:
    """B windows padded to L tokens; where the teacher is run and has windows of its own, these beside them."""

    rows: Tensor  # (B,) int64, window numbers
    input_ids: Tensor  # (B, L) int64
    attention_mask: Tensor  # (B, L) int64
    token_type_ids: Tensor | None  # (B, L) int64
    context_mask: Tensor  # (B, L) bool: context tokens, and position 0, the class "no answer in this window"
    start_positions: Tensor  # (B,) int64, -1 without a label
    end_positions: Tensor  # (B,) int64, inclusive, -1 without a label
    teacher_start_logits: Tensor | None = None  # (B, L) float32, 0 on padding
    teacher_end_logits: Tensor | None = None  # (B, L) float32
    # (B, L, 2) int32, where the teacher reads other tokens: of each context token, first and one past the last, else 0
    characters: Tensor | None = None
    teacher_input_ids: Tensor | None = None  # (B, L) int64
    teacher_attention_mask: Tensor | None = None  # (B, L) int64
    teacher_token_type_ids: Tensor | None = None  # (B, L) int64
    teacher_characters: Tensor | None = None  # (B, L, 2) int32

    def model_inputs(self) -> dict[str, Tensor]:
        """Return what a model's forward takes."""
        return _inputs(self.input_ids, self.attention_mask, self.token_type_ids)

    def teacher_inputs(self) -> dict[str, Tensor]:
        """Return what the teacher's forward takes: the same, unless it has windows of its own."""
        if self.teacher_input_ids is None or self.teacher_attention_mask is None:
            return self.model_inputs()
        return _inputs(self.teacher_input_ids, self.teacher_attention_mask, self.teacher_token_type_ids)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`; a GPU is not waited for."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors: dict[str, Tensor] = {name: value for name, value in found.items() if value is not None}
        if device.type == "cuda":  # only from pinned memory does a copy go on by itself
            tensors = {n: value if value.is_cuda else value.pin_memory() for n, value in tensors.items()}
        return replace(self, **{name: value.to(device, non_blocking=True) for name, value in tensors.items()})


def _inputs(input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> dict[str, Tensor]:
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    return inputs if token_type_ids is None else {**inputs, "token_type_ids": token_type_ids}


def collate(
    windows: Windows,
    rows: Tensor,
    teacher_logits: FlatLogits | None = None,
    *,
    heard: Heard | None = None,
    widths: int = 1,
) -> Batch:
    """Pad the windows `rows`, (B,) int64, and those they have `heard`, into one batch, as wide as the longest of all.

    With `widths` above 1 it is padded on to the next multiple of that, or to the size that windows were cut to.
    """
    width = int(windows.lengths[rows].max())
    if heard is not None:
        width = max(width, int(heard.windows.lengths[heard.rows[rows]].max()))
    if widths > 1:
        width = min(-(-width // widths) * widths, int(windows.metadata["max_length"]))
    other_tokens = heard is not None and not heard.same_tokens
    batch = _padded(windows, rows, teacher_logits, width, characters=other_tokens)
    if heard is None:
        return batch
    its = _padded(heard.windows, heard.rows[rows], None, width, characters=other_tokens)
    return replace(
        batch,
        teacher_input_ids=its.input_ids,
        teacher_attention_mask=its.attention_mask,
        teacher_token_type_ids=its.token_type_ids,
        teacher_characters=its.characters,
    )


def _padded(
    windows: Windows, rows: Tensor, teacher_logits: FlatLogits | None, width: int, *, characters: bool
) -> Batch:
    lengths = windows.lengths[rows]
    positions = torch.arange(width)  # (L,)
    inside = positions < lengths[:, None]  # (B, L)
    index = (windows.row_splits[rows][:, None] + positions).where(inside, 0)

    def pad(flat: Tensor, value: float) -> Tensor:
        return torch.where(inside, flat[index], torch.tensor(value, dtype=flat.dtype))

    in_context = (positions >= windows.context_start[rows][:, None]) & (positions < windows.context_stop[rows][:, None])
    uses_token_types = windows.metadata["uses_token_types"] == "True"
    batch = Batch(
        rows=rows,
        input_ids=pad(windows.input_ids, int(windows.metadata["pad_token_id"])).long(),
        attention_mask=inside.long(),
        token_type_ids=pad(windows.token_type_ids, 0).long() if uses_token_types else None,
        context_mask=in_context | (positions == 0),
        start_positions=windows.start_positions[rows],
        end_positions=windows.end_positions[rows],
        characters=windows.offset_mapping[index] * inside[:, :, None] if characters else None,
    )
    if teacher_logits is None:
        return batch
    start_logits, end_logits = (pad(flat, 0.0).float() for flat in teacher_logits)
    return replace(batch, teacher_start_logits=start_logits, teacher_end_logits=end_logits)


def ordered_batches(windows: Windows, batch_size: int, teacher_logits: FlatLogits | None = None) -> Iterator[Batch]:
    """Yield every window once, longest first: for inference, so that memory peaks at once.

    Windows without a label come last, in batches of their own: a mean over a batch's labels is one over its windows.
    """
    order = torch.argsort(windows.lengths, descending=True, stable=True)
    labelled = windows.start_positions[order] != NO_LABEL
    for part in (order[labelled], order[~labelled]):
        for rows in torch.split(part, batch_size) if len(part) else ():
            yield collate(windows, rows, teacher_logits)


def shuffled_batches(
    windows: Windows,
    batch_size: int,
    generator: torch.Generator,
    teacher_logits: FlatLogits | None = None,
    *,
    heard: Heard | None = None,
    widths: int = 1,
) -> Iterator[Batch]:
    """Yield every window once, in an order drawn from `generator`, windows of similar length together: for training.

    For `heard` and `widths` see `collate`; the order depends on neither.
    """
    order = torch.randperm(len(windows), generator=generator)
    batches: list[Tensor] = []
    for bucket in torch.split(order, batch_size * BUCKET_BATCHES):
        by_length = bucket[torch.argsort(windows.lengths[bucket], stable=True)]
        batches.extend(torch.split(by_length, batch_size))
    for number in torch.randperm(len(batches), generator=generator).tolist():
        yield collate(windows, batches[number], teacher_logits, heard=heard, widths=widths)


def count_batches(windows: Windows, batch_size: int) -> int:
    """Return how many batches `shuffled_batches` yields."""
    whole, rest = divmod(len(windows), batch_size * BUCKET_BATCHES)
    return whole * BUCKET_BATCHES + -(-rest // batch_size)
