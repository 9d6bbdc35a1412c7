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
class Batch:
    """B windows padded to L tokens."""

    rows: Tensor  # (B,) int64, window numbers
    input_ids: Tensor  # (B, L) int64
    attention_mask: Tensor  # (B, L) int64
    token_type_ids: Tensor | None  # (B, L) int64
    context_mask: Tensor  # (B, L) bool: context tokens, and position 0, the class "no answer in this window"
    start_positions: Tensor  # (B,) int64, -1 without a label
    end_positions: Tensor  # (B,) int64, inclusive, -1 without a label
    teacher_start_logits: Tensor | None = None  # (B, L) float32, 0 on padding
    teacher_end_logits: Tensor | None = None  # (B, L) float32

    def model_inputs(self) -> dict[str, Tensor]:
        """Return what a model's forward takes."""
        inputs = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        return inputs if self.token_type_ids is None else {**inputs, "token_type_ids": self.token_type_ids}

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`; a GPU is not waited for."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors: dict[str, Tensor] = {name: value for name, value in found.items() if value is not None}
        if device.type == "cuda":  # only from pinned memory does a copy go on by itself
            tensors = {n: value if value.is_cuda else value.pin_memory() for n, value in tensors.items()}
        return replace(self, **{name: value.to(device, non_blocking=True) for name, value in tensors.items()})


def collate(windows: Windows, rows: Tensor, teacher_logits: FlatLogits | None = None, *, widths: int = 1) -> Batch:
    """Pad the windows `rows`, (B,) int64, into one batch, as wide as the longest.

    With `widths` above 1 it is padded on to the next multiple of that, or to the size that windows were cut to.
    """
    lengths = windows.lengths[rows]
    width = int(lengths.max())
    if widths > 1:
        width = min(-(-width // widths) * widths, int(windows.metadata["max_length"]))
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
    widths: int = 1,
) -> Iterator[Batch]:
    """Yield every window once, in an order drawn from `generator`, windows of similar length together: for training.

    For `widths` see `collate`; the order does not depend on it.
    """
    order = torch.randperm(len(windows), generator=generator)
    batches: list[Tensor] = []
    for bucket in torch.split(order, batch_size * BUCKET_BATCHES):
        by_length = bucket[torch.argsort(windows.lengths[bucket], stable=True)]
        batches.extend(torch.split(by_length, batch_size))
    for number in torch.randperm(len(batches), generator=generator).tolist():
        yield collate(windows, batches[number], teacher_logits, widths=widths)


def count_batches(windows: Windows, batch_size: int) -> int:
    """Return how many batches `shuffled_batches` yields."""
    whole, rest = divmod(len(windows), batch_size * BUCKET_BATCHES)
    return whole * BUCKET_BATCHES + -(-rest // batch_size)
