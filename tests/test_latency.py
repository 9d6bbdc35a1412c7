"""Timing in turn, with models that take exactly as long as they are told; then the stage on toy models."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.benchmark import BenchmarkParams, run
from stages.core.data.examples import Answer, Example, write_squad
from stages.core.data.settings import WindowsParams
from stages.core.data.windows import make_windows
from stages.core.errors import InputError
from stages.core.models.checkpoint import save_checkpoint
from stages.core.models.onnx import save_onnx
from stages.core.qa import latency
from stages.core.qa.latency import measure, one_by_one
from stages.core.report.inputs import read_environment
from stages.core.report.variants import VARIANTS
from stages.core.runtime import RuntimeParams
from tests.toy_models import toy_qa_model, toy_tokenizer

CPU = torch.device("cpu")
Call = tuple[str, int]


class Clock:
    """A clock that only models move."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls: list[Call] = []

    def perf_counter(self) -> float:
        return self.seconds


class Timed(nn.Module):
    """Takes so many seconds a question, and twice that for its first passes, as cold models do."""

    def __init__(self, name: str, clock: Clock, seconds: float, cold: int = 0) -> None:
        super().__init__()
        self.name, self.clock, self.cost, self.cold = name, clock, seconds, cold
        self.autocast = False

    def forward(self, input_ids: Tensor) -> None:
        assert not self.training
        assert torch.is_autocast_enabled("cpu") == self.autocast
        assert torch.is_inference_mode_enabled()
        self.clock.calls.append((self.name, int(input_ids[0, 0])))
        self.clock.seconds += self.cost * len(input_ids) * (2 if self.cold > 0 else 1)
        self.cold -= 1


class Inputs:
    """Stands for a Batch of so many questions, numbered from `first`."""

    def __init__(self, first: int, size: int) -> None:
        self.ids = torch.arange(first, first + size)[:, None]

    def to(self, device: torch.device) -> "Inputs":
        return self

    def model_inputs(self) -> dict[str, Tensor]:
        return {"input_ids": self.ids}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=made.perf_counter))
    return made


def time_both(models: dict[str, nn.Module], warmup: int = 2, repeats: int = 3) -> dict[str, dict[str, float]]:
    alone = [Inputs(number, 1) for number in range(8)]
    together = [Inputs(first, 4) for first in (0, 4)]
    stand_ins: Any = [dict.fromkeys(models, each) for each in (alone, together)]
    return measure(models, *stand_ins, warmup=warmup, repeats=repeats, device=CPU, precision="fp32")


def test_milliseconds_and_rates(clock: Clock) -> None:
    timings = time_both({"slow": Timed("slow", clock, 0.02, cold=2), "fast": Timed("fast", clock, 0.005, cold=2)})
    assert list(timings) == ["slow", "fast"]
    assert timings["slow"] == pytest.approx(
        {"latency_ms_p50": 20.0, "latency_ms_p95": 20.0, "questions_per_second": 50.0}
    )
    assert timings["fast"] == pytest.approx(
        {"latency_ms_p50": 5.0, "latency_ms_p95": 5.0, "questions_per_second": 200.0}
    )


def test_without_warm_up_cold_passes_show(clock: Clock) -> None:
    timings = time_both({"model": Timed("model", clock, 0.02, cold=6)}, warmup=0)  # three of 24 timed ones are
    assert timings["model"]["latency_ms_p50"] == pytest.approx(20.0)
    assert timings["model"]["latency_ms_p95"] == pytest.approx(40.0)


def test_models_take_turns_at_every_question(clock: Clock) -> None:
    names = ["a", "b", "c"]
    time_both({name: Timed(name, clock, 0.001) for name in names}, warmup=1, repeats=2)
    passes = clock.calls[3 : 3 + 2 * 2 * 8 * 3]  # after one warm-up pass each
    timed = passes[1::2]
    assert timed == passes[::2], "each behind an untimed pass of its own on the same input"
    turns = [timed[place : place + 3] for place in range(0, len(timed), 3)]
    assert [number for turn in turns for _, number in turn] == [n for _ in range(2) for n in range(8) for _ in names]
    assert all(sorted(name for name, _ in turn) == names for turn in turns)
    assert [turn[0][0] for turn in turns[:4]] == ["a", "b", "c", "a"]  # each is first in its turn


def test_each_model_is_timed_on_its_own_batches(clock: Clock) -> None:
    """In other tokens the same questions are other windows, in batches more or fewer."""
    models: dict[str, nn.Module] = {name: Timed(name, clock, 0.01) for name in ("a", "b")}
    alone: Any = {"a": [Inputs(0, 1), Inputs(1, 1)], "b": [Inputs(10, 2), Inputs(20, 1)]}
    together: Any = {"a": [Inputs(0, 2)], "b": [Inputs(10, 2), Inputs(20, 1)]}
    timings = measure(models, alone, together, warmup=0, repeats=1, device=CPU, precision="fp32")
    assert clock.calls[::2] == [("a", 0), ("b", 10), ("b", 20), ("a", 1), ("a", 0), ("b", 10), ("b", 20)]
    assert clock.calls[1::2] == clock.calls[::2]
    assert timings["a"]["questions_per_second"] == pytest.approx(2 / 0.02)
    assert timings["b"]["questions_per_second"] == pytest.approx(2 / 0.03)


def test_a_model_is_timed_in_the_precision_that_is_asked_for(clock: Clock) -> None:
    model = Timed("model", clock, 0.001)
    model.autocast = True
    inputs: Any = {"model": [Inputs(0, 1)]}
    measure({"model": model}, inputs, inputs, warmup=1, repeats=1, device=CPU, precision="bf16")
    assert clock.calls


def test_training_mode_comes_back(clock: Clock) -> None:
    models: dict[str, nn.Module] = {"on": Timed("on", clock, 0.001).train(), "off": Timed("off", clock, 0.001).eval()}
    time_both(models)
    assert models["on"].training
    assert not models["off"].training


def toy_examples() -> list[Example]:
    long = "the old town on the river has a bridge of stone , the new city by the sea has a castle . " * 3
    contexts = {"short": "the king built a ship", "long": long.strip(), "middle": "the queen was in the school"}
    return [
        Example(key, "title", context, "what was it ?", (Answer("the", context.index("the")),))
        for key, context in contexts.items()
    ]


def test_one_by_one_keeps_the_windows_of_a_question_together(tmp_path: Path) -> None:
    windows = make_windows(
        toy_examples(), toy_tokenizer(tmp_path, "bert"), max_length=32, doc_stride=8, token_types=True
    )
    batches = one_by_one(windows)
    assert len(windows) > len(batches) == 3
    keys = [[windows.question_ids[row] for row in batch.rows.tolist()] for batch in batches]
    assert [set(each) for each in keys] == [{"short"}, {"long"}, {"middle"}]
    assert sum(len(each) for each in keys) == len(windows)


PARAMS = BenchmarkParams(seed=1, questions=2, warmup=1, batch_size=2, repeats=2)
RUNTIME = RuntimeParams(device="cpu", precision="fp32", threads=1, cuda_graphs=True)
WINDOWS = WindowsParams(max_length=32, doc_stride=8)


def test_the_stage_times_every_variant(tmp_path: Path) -> None:
    models, questions, out = tmp_path / "models", tmp_path / "test.json", tmp_path / "metrics" / "latency.json"
    tokenizer = toy_tokenizer(tmp_path / "tokenizer", "bert")
    for layers, variant in enumerate(VARIANTS, start=1):
        save = save_onnx if variant == "int8" else save_checkpoint
        save(toy_qa_model("bert", seed=layers, layers=layers, width=8), tokenizer, models / variant)
    # A family that does not take the first one's inputs.
    other = toy_tokenizer(tmp_path / "other", "distilbert")
    save_checkpoint(toy_qa_model("distilbert", seed=1, layers=1, width=8), other, models / VARIANTS[-1])
    write_squad(questions, toy_examples())
    trained = replace(RUNTIME, precision="bf16")
    run(PARAMS, trained, WINDOWS, models=models, questions=questions, out=out, environment=tmp_path / "where.yaml")
    timings = json.loads(out.read_text(encoding="utf-8"))
    assert list(timings) == sorted(VARIANTS)
    for row in timings.values():
        assert list(row) == ["latency_ms_p50", "latency_ms_p95", "questions_per_second"]
        assert 0 < row["latency_ms_p50"] <= row["latency_ms_p95"]
        assert row["questions_per_second"] > 0
    where = read_environment(tmp_path / "where.yaml")
    assert (where["training_precision"], where["timing_precision"]) == ("bf16", "fp32"), "timed as they are saved"
    assert (where["questions"], where["repeats"]) == (2, 2)


def test_the_stage_misses_a_model(tmp_path: Path) -> None:
    write_squad(tmp_path / "test.json", toy_examples())
    with pytest.raises(InputError, match="teacher"):
        run(
            PARAMS,
            RUNTIME,
            WINDOWS,
            models=tmp_path,
            questions=tmp_path / "test.json",
            out=tmp_path / "out.json",
            environment=tmp_path / "where.yaml",
        )
    assert [path.name for path in tmp_path.iterdir()] == ["test.json"]


@pytest.mark.parametrize(("key", "value"), [("questions", 0), ("warmup", -1), ("batch_size", 0), ("repeats", 0)])
def test_parameters_are_checked(key: str, value: int) -> None:
    PARAMS.check()
    with pytest.raises(InputError, match=key):
        replace(PARAMS, **{key: value}).check()
