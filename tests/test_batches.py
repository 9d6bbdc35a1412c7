"""Batches pad ragged windows, mask what is no context, and show every window once."""

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from stages.core.data.batches import (
    BUCKET_BATCHES,
    Batch,
    FlatLogits,
    Heard,
    collate,
    count_batches,
    ordered_batches,
    shuffled_batches,
)
from stages.core.data.windows import Windows

PAD = 7
CPU = torch.device("cpu")


def make(lengths: list[int], uses_token_types: bool = True) -> Windows:
    """Windows of these lengths: every token has a number of its own, two question tokens and one at the end."""
    tokens = torch.arange(100, 100 + sum(lengths), dtype=torch.int32)
    count = torch.tensor(lengths)
    return Windows(
        question_ids=tuple(f"q{number}" for number in range(len(lengths))),
        input_ids=tokens,
        token_type_ids=tokens % 2,
        offset_mapping=torch.zeros(len(tokens), 2, dtype=torch.int32),
        row_splits=torch.tensor([0, *lengths]).cumsum(0),
        context_start=torch.full_like(count, 2),
        context_stop=count - 1,
        start_positions=torch.arange(len(lengths)) % 2 * 2,
        end_positions=torch.arange(len(lengths)) % 2 * 3,
        metadata={"pad_token_id": str(PAD), "uses_token_types": str(uses_token_types)},
    )


def logits_of(windows: Windows) -> FlatLogits:
    start = windows.input_ids.to(torch.float16) / 8
    return start, -start


def slow_pad(windows: Windows, rows: list[int], flat: Tensor, value: float) -> list[list[float]]:
    parts = [flat[int(windows.row_splits[row]) : int(windows.row_splits[row + 1])].tolist() for row in rows]
    longest = max(map(len, parts))
    return [part + [value] * (longest - len(part)) for part in parts]


LENGTHS = [5, 9, 4, 9, 7]
ROWS = [3, 0, 2]


@pytest.fixture
def windows() -> Windows:
    return make(LENGTHS)


@pytest.fixture
def batch(windows: Windows) -> Batch:
    return collate(windows, torch.tensor(ROWS), logits_of(windows))


def test_batch_is_the_rows_padded_one_by_one(windows: Windows, batch: Batch) -> None:
    start, end = logits_of(windows)
    assert batch.token_type_ids is not None
    assert batch.teacher_start_logits is not None
    assert batch.teacher_end_logits is not None
    assert batch.rows.tolist() == ROWS
    assert batch.input_ids.tolist() == slow_pad(windows, ROWS, windows.input_ids, PAD)
    assert batch.token_type_ids.tolist() == slow_pad(windows, ROWS, windows.token_type_ids, 0)
    assert batch.attention_mask.tolist() == slow_pad(windows, ROWS, torch.ones(sum(LENGTHS), dtype=torch.int64), 0)
    assert batch.teacher_start_logits.tolist() == slow_pad(windows, ROWS, start.float(), 0)
    assert batch.teacher_end_logits.tolist() == slow_pad(windows, ROWS, end.float(), 0)
    assert batch.start_positions.tolist() == [2, 0, 0]
    assert batch.end_positions.tolist() == [3, 0, 0]


def test_context_mask_is_context_and_the_first_position(batch: Batch) -> None:
    wanted = [[position == 0 or 2 <= position < LENGTHS[row] - 1 for position in range(9)] for row in ROWS]
    assert batch.context_mask.tolist() == wanted


def test_every_label_is_inside_the_context_mask(windows: Windows) -> None:
    for batch in ordered_batches(windows, 2):
        for labels in (batch.start_positions, batch.end_positions):
            assert batch.context_mask.gather(1, labels[:, None]).all()


def test_types_are_those_a_model_and_a_loss_take(batch: Batch) -> None:
    tensors = {field.name: getattr(batch, field.name) for field in fields(batch)}
    kinds = {name: tensor.dtype for name, tensor in tensors.items() if tensor is not None}
    assert kinds.pop("context_mask") == torch.bool
    assert kinds.pop("teacher_start_logits") == kinds.pop("teacher_end_logits") == torch.float32
    assert set(kinds.values()) == {torch.int64}
    heard = collate(make(LENGTHS), torch.tensor(ROWS), heard=Heard(make(LENGTHS), torch.arange(len(LENGTHS))))
    for characters in (heard.characters, heard.teacher_characters):
        assert characters is not None and characters.dtype == torch.int32
    assert {tensor.dtype for tensor in heard.teacher_inputs().values()} == {torch.int64}


def test_model_is_given_token_types_only_where_its_family_has_them(windows: Windows, batch: Batch) -> None:
    assert list(batch.model_inputs()) == ["input_ids", "attention_mask", "token_type_ids"]
    without = collate(make(LENGTHS, uses_token_types=False), torch.tensor(ROWS))
    assert without.token_type_ids is None
    assert list(without.model_inputs()) == ["input_ids", "attention_mask"]


def test_batch_without_teacher_has_no_teacher_logits(windows: Windows) -> None:
    batch = collate(windows, torch.tensor(ROWS))
    assert batch.teacher_start_logits is batch.teacher_end_logits is None


def test_batch_moves_whole(windows: Windows) -> None:
    heard = Heard(windows, torch.arange(len(windows)))
    moved = collate(windows, torch.tensor(ROWS), logits_of(windows), heard=heard).to(torch.device("meta"))
    assert {getattr(moved, field.name).device.type for field in fields(moved)} == {"meta"}
    assert collate(make([4], uses_token_types=False), torch.tensor([0])).to(CPU).token_type_ids is None


def test_inference_goes_over_every_window_once_longest_first(windows: Windows) -> None:
    batches = list(ordered_batches(windows, 2))
    assert [batch.rows.tolist() for batch in batches] == [[1, 3], [4, 0], [2]]
    assert [batch.input_ids.shape[1] for batch in batches] == [9, 7, 4]


def test_inference_keeps_windows_without_a_label_apart(windows: Windows) -> None:
    none = torch.tensor([-1, 2, -1, 0, -1])
    batches = list(ordered_batches(replace(windows, start_positions=none, end_positions=none), 2))
    assert [batch.rows.tolist() for batch in batches] == [[1, 3], [4, 0], [2]]
    assert [batch.start_positions.tolist() for batch in batches] == [[2, 0], [-1, -1], [-1]]
    (only,) = ordered_batches(windows.without_labels().take(torch.tensor([2])), 2)
    assert only.rows.tolist() == [0]


def test_teacher_logits_go_with_their_windows_in_any_order(windows: Windows) -> None:
    generator = torch.Generator().manual_seed(13)
    logits = logits_of(windows)
    for batch in (*ordered_batches(windows, 2, logits), *shuffled_batches(windows, 2, generator, logits)):
        assert batch.teacher_start_logits is not None
        own = batch.attention_mask.bool()
        assert torch.equal(batch.teacher_start_logits[own] * 8, batch.input_ids[own].float())


def rows_of(windows: Windows, batch_size: int, generator: torch.Generator) -> list[list[int]]:
    return [batch.rows.tolist() for batch in shuffled_batches(windows, batch_size, generator)]


def many(count: int) -> Windows:
    draw = torch.Generator().manual_seed(count)
    return make(torch.randint(4, 60, (count,), generator=draw).tolist())


def test_training_goes_over_every_window_once() -> None:
    drawn = rows_of(many(300), 4, torch.Generator().manual_seed(13))
    assert sorted(row for rows in drawn for row in rows) == list(range(300))
    assert max(map(len, drawn)) == 4


def test_order_of_training_is_drawn_from_the_generator_alone() -> None:
    windows = many(300)
    generator = torch.Generator().manual_seed(13)
    first, second = rows_of(windows, 4, generator), rows_of(windows, 4, generator)
    torch.manual_seed(99)
    assert rows_of(windows, 4, torch.Generator().manual_seed(13)) == first
    assert second != first
    assert {tuple(sorted(rows)) for rows in first} != {tuple(sorted(rows)) for rows in second}


def test_training_does_not_go_from_short_to_long() -> None:
    windows = many(4 * BUCKET_BATCHES)  # sorted together
    longest = [int(windows.lengths[rows].max()) for rows in rows_of(windows, 4, torch.Generator().manual_seed(13))]
    assert longest != sorted(longest)
    half = len(longest) // 2
    assert abs(sum(longest[:half]) - sum(longest[half:])) < 0.2 * sum(longest)


def test_little_is_padding() -> None:
    windows = many(600)
    batches = list(shuffled_batches(windows, 8, torch.Generator().manual_seed(13)))
    padded = sum(batch.input_ids.numel() for batch in batches) / int(windows.lengths.sum()) - 1
    mixed = sum(8 * int(windows.lengths[rows].max()) for rows in torch.arange(600).split(8))
    assert padded < 0.05 < mixed / int(windows.lengths.sum()) - 1


@pytest.mark.parametrize("count", [1, 2, 3, 2 * BUCKET_BATCHES, 2 * BUCKET_BATCHES + 1, 4 * BUCKET_BATCHES + 5])
def test_number_of_batches_is_known_before(count: int) -> None:
    windows = many(count)
    assert count_batches(windows, 2) == len(rows_of(windows, 2, torch.Generator().manual_seed(13)))


@pytest.mark.parametrize(("longest", "width"), [(1, 8), (8, 8), (9, 16), (17, 20), (20, 20)])
def test_batches_are_padded_to_steps_of_width_and_no_further_than_windows_go(longest: int, width: int) -> None:
    cut = make([longest, 1])
    cut = replace(cut, metadata={**cut.metadata, "max_length": "20"})
    rows = torch.tensor([0, 1])
    heard = Heard(cut, rows)
    plain, wide = (collate(cut, rows, logits_of(cut), heard=heard, widths=step) for step in (1, 8))
    assert wide.input_ids.shape == (2, width)
    for field in fields(Batch):
        before, after = getattr(plain, field.name), getattr(wide, field.name)
        if before.dim() > 1:
            assert torch.equal(after[:, :longest], before)
            assert (after[:, longest:] == (PAD if field.name.endswith("input_ids") else 0)).all()
        else:
            assert torch.equal(after, before)


def test_the_order_does_not_depend_on_the_width() -> None:
    cut = make([3 + number % 11 for number in range(50)])
    cut = replace(cut, metadata={**cut.metadata, "max_length": "16"})
    plain, wide = (
        [batch.rows.tolist() for batch in shuffled_batches(cut, 4, torch.Generator().manual_seed(1), widths=step)]
        for step in (1, 8)
    )
    assert plain == wide
