"""Windows of made-up paragraphs: only where their tokens lie matters, of real tokenizers or of none."""

import random

import torch

from stages.core.data.windows import Windows

Span = tuple[int, int]
Paper = list[list[Span]]  # the context tokens of each window of one question


def windows_of(questions: dict[str, Paper], name: str) -> Windows:
    """Windows with these tokens: before each context stand position 0 and one question token, behind it one more."""
    rows = [(key, spans) for key, paper in questions.items() for spans in paper]
    offsets = [span for _, spans in rows for span in [(0, 0), (0, 0), *spans, (0, 0)]]
    lengths = torch.tensor([0, *(len(spans) + 3 for _, spans in rows)])
    none = torch.zeros(len(rows), dtype=torch.int64)
    return Windows(
        question_ids=tuple(key for key, _ in rows),
        input_ids=torch.arange(len(offsets), dtype=torch.int32),
        token_type_ids=torch.zeros(len(offsets), dtype=torch.int32),
        offset_mapping=torch.tensor(offsets, dtype=torch.int32),
        row_splits=lengths.cumsum(0),
        context_start=none + 2,
        context_stop=lengths[1:] - 1,
        start_positions=none,
        end_positions=none,
        metadata={"tokenizer": name, "pad_token_id": "0", "uses_token_types": "False"},
    )


def drawn_paper(draw: random.Random, characters: int) -> Paper:
    """A paragraph cut at random: tokens of 0 to 6 characters, some sharing one, gaps, overlapping windows."""
    spans: list[Span] = []
    place = draw.randrange(3)
    while place < characters:
        stop = min(characters, place + draw.randint(0, 6))
        spans.append((place, stop))
        if stop == place + 1 and draw.random() < 0.5:
            spans.append((place, stop))  # bytes of one character
        place = max(stop, place + (stop == place)) + draw.choice((0, 0, 0, 1, 2))
    if all(start == stop for start, stop in spans):
        spans.append((characters - 1, characters))
    size = draw.randint(3, 12)
    overlap = draw.randint(0, size - 2)
    firsts = range(0, max(1, len(spans) - overlap), size - overlap)
    return [spans[first : first + size] for first in firsts]
