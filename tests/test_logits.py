"""A cache of the teacher's answers comes back to the windows and the teacher it was made for, and to no others."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stages.core.data.batches import FlatLogits
from stages.core.data.logits import load_logits, save_logits
from stages.core.data.windows import Windows, save_windows
from stages.core.errors import InputError
from tests.toy_questions import toy_questions

TEACHER = "a" * 64


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Windows:
    return toy_questions(tmp_path_factory.mktemp("tokenizer"), 6, seed=1).windows


@pytest.fixture
def logits(windows: Windows) -> FlatLogits:
    generator = torch.Generator().manual_seed(1)
    start, end = (torch.randn(len(windows.input_ids), generator=generator) for _ in range(2))
    return start, end


@pytest.fixture
def cache(tmp_path: Path, windows: Windows, logits: FlatLogits) -> Path:
    save_logits(tmp_path / "new" / "cache.safetensors", logits, windows, TEACHER)
    return tmp_path / "new" / "cache.safetensors"


def refusal(cache: Path, windows: Windows, teacher: str = TEACHER) -> str:
    with pytest.raises(InputError) as caught:
        load_logits(cache, windows, teacher)
    message = str(caught.value)
    assert message.startswith(f"{cache}: ")
    assert "\n" not in message
    return message


def test_logits_come_back_in_half_precision(cache: Path, windows: Windows, logits: FlatLogits) -> None:
    for read, written in zip(load_logits(cache, windows, TEACHER), logits, strict=True):
        assert torch.equal(read, written.half())


def test_file_is_small_and_alone(cache: Path, windows: Windows) -> None:
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]
    assert cache.stat().st_size < 4 * len(windows.input_ids) + 100 * len(windows) + 1000


def test_same_logits_give_the_same_bytes(cache: Path, windows: Windows, logits: FlatLogits) -> None:
    before = cache.read_bytes()
    for _ in range(5):
        save_logits(cache, logits, windows, TEACHER)
        assert cache.read_bytes() == before


def test_another_teacher_is_refused(cache: Path, windows: Windows) -> None:
    assert "made with teacher aaaaaaaaaaaa, asked for with bbbbbbbbbbbb" in refusal(cache, windows, "b" * 64)


def test_another_tokenizer_is_refused(cache: Path, windows: Windows) -> None:
    other = replace(windows, metadata={**windows.metadata, "tokenizer": "c" * 64})
    assert "made with tokenizer" in refusal(cache, other)


def test_other_tokens_are_refused(cache: Path, windows: Windows) -> None:
    changed = windows.input_ids.clone()
    changed[3] += 1
    assert "made with windows" in refusal(cache, replace(windows, input_ids=changed))


def test_other_questions_are_refused(cache: Path, windows: Windows) -> None:
    assert "made with windows" in refusal(cache, replace(windows, question_ids=windows.question_ids[::-1]))
    assert "made with windows" in refusal(cache, windows.take(torch.arange(len(windows) - 1)))


def test_windows_at_other_places_of_the_text_are_refused(cache: Path, windows: Windows) -> None:
    moved = replace(windows, offset_mapping=windows.offset_mapping + 1)
    assert "its windows are not the ones asked for" in refusal(cache, moved)


def test_a_file_of_something_else_is_refused(cache: Path, windows: Windows) -> None:
    save_windows(windows, cache)
    assert refusal(cache, windows).endswith("holds something else; run the cache_teacher stage again")


def test_missing_cache_is_named(tmp_path: Path, windows: Windows) -> None:
    assert refusal(tmp_path / "cache.safetensors", windows).endswith("no such file; run the cache_teacher stage")


def test_a_cache_that_is_not_whole_is_refused(cache: Path, windows: Windows) -> None:
    cache.write_bytes(cache.read_bytes()[:100])
    assert refusal(cache, windows).endswith("run the cache_teacher stage again")
