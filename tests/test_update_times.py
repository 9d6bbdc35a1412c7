"""The measurement of training updates: what it times, and what it refuses."""

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from ruamel.yaml import YAML
from torch import nn
from transformers import PreTrainedModel

from profiles import update_times as module
from profiles.update_times import FIRST, KINDS, main, told, update_times, use_kernel
from stages.core.data.batches import Batch
from stages.core.errors import InputError
from stages.core.runtime import Runtime
from stages.core.training.fit import TrainingSet
from stages.core.training.losses import LossTerms
from tests.toy_models import toy_qa_model
from tests.toy_questions import toy_questions
from tests.toy_training import CPU

ROOT = Path(__file__).parent.parent
CHANGES = {
    "student": {"layers": [0, 2]},
    "distil": {"student_layers": [1, 2], "teacher_layers": [1, 3], "hidden_weight": 1.0},
}


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toy encoder, beside parameters that fit it in the folder that the test runs in."""
    monkeypatch.chdir(tmp_path)
    yaml = YAML()
    document = yaml.load(ROOT / "params.yaml")
    for section, values in CHANGES.items():
        document[section].update(values)
    yaml.dump(document, tmp_path / "params.yaml")
    toy_qa_model("bert", 1).base_model.save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def lessons(encoder: Path) -> TrainingSet:
    windows = toy_questions(encoder.parent / "tokenizer", 22, seed=1).windows
    drawn = torch.randn(2, int(windows.row_splits[-1]), dtype=torch.float16)
    return TrainingSet(windows, (drawn[0], drawn[1]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_updates_do_not_count(kind: str, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A clock on which the first updates take 100 s each and all others 2 s.
    passed = [0.0]
    seconds = itertools.chain([100.0] * FIRST["cpu"], itertools.repeat(2.0))
    plain = module.lesson

    def slowed(*arguments: Any) -> Any:
        model, loss, params = plain(*arguments)

        def slow(model: nn.Module, batch: Batch) -> LossTerms:
            passed[0] += next(seconds)
            return loss(model, batch)

        return model, slow, params

    monkeypatch.setattr(module, "lesson", slowed)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: passed[0]))
    assert update_times(kind, 4, lessons(encoder), encoder, CPU, 7) == (2000.0, 0.0)


@pytest.mark.parametrize(("asked", "kernel"), [(None, "sdpa_fp32"), ("eager", "eager"), ("sdpa", "sdpa")])
@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_asked_for_is_the_one_timed(
    kind: str, asked: str | None, kernel: str, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, loaded = list[str](), list[PreTrainedModel]()
    plain, load = module.lesson, module.load_qa_model

    def watched(*arguments: Any) -> Any:
        model, loss, params = plain(*arguments)

        def watching(model: nn.Module, batch: Batch) -> LossTerms:
            models = [model, *loaded] if kind == "distil" else [model]
            used.extend(cast(PreTrainedModel, each).config._attn_implementation for each in models)
            return loss(model, batch)

        return model, watching, params

    def remembered(*arguments: Any, **options: Any) -> PreTrainedModel:
        loaded.append(load(*arguments, **options))
        return loaded[-1]

    monkeypatch.setattr(module, "load_qa_model", remembered)
    monkeypatch.setattr(module, "lesson", watched)
    update_times(kind, 4, lessons(encoder), encoder, CPU, 1, asked)
    assert set(used) == {kernel}
    assert len(used) == (FIRST["cpu"] + 1) * (2 if kind == "distil" else 1)


def test_without_graphs_is_asked_of_the_training(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, plain = list[bool](), module.fit

    def watched(*arguments: Any, **options: Any) -> Any:
        (runtime,) = (each for each in arguments if isinstance(each, Runtime))
        asked.append(runtime.cuda_graphs)
        return plain(*arguments, **options)

    monkeypatch.setattr(module, "fit", watched)
    for other in (None, "ungraphed"):
        update_times("teacher", 4, lessons(encoder), encoder, CPU, 1, other)
    assert asked == [True, False]


@pytest.mark.parametrize(
    ("beside", "graphs"), [([], True), (["--beside", "ungraphed"], True), (["--beside", "eager"], False)]
)
def test_a_kernel_of_transformers_is_compared_without_graphs(
    beside: list[str], graphs: bool, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = set[bool]()

    def watched(kind: str, windows: int, training: object, encoder: Path, runtime: Runtime, *_: object) -> Any:
        asked.add(runtime.cuda_graphs)
        return 1.0, 0.0

    monkeypatch.setattr("sys.argv", ["update_times", "teacher:4", *beside])
    monkeypatch.setattr(module, "update_times", watched)
    monkeypatch.setattr(module, "resolve_model", lambda *_: encoder)
    monkeypatch.setattr(module, "start", lambda params, seed: Runtime(torch.device("cuda"), "bf16"))
    monkeypatch.setattr(module, "load_split", lambda *_: SimpleNamespace(windows=lessons(encoder).windows))
    main()
    assert asked == {graphs}


def test_a_kernel_is_chosen_once_and_not_in_every_update(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, plain = list[str](), module.use_kernel

    def watched(model: PreTrainedModel, kernel: str) -> None:
        chosen.append(kernel)
        plain(model, kernel)

    monkeypatch.setattr(module, "use_kernel", watched)
    update_times("teacher", 4, lessons(encoder), encoder, CPU, 1, "eager")
    assert chosen == ["eager"]


def test_a_kernel_that_a_family_lacks_is_refused() -> None:
    model = toy_qa_model("mpnet", 1)
    use_kernel(model, "eager")
    with pytest.raises(InputError, match=r"--beside is 'sdpa', wanted eager, the only kernel .* MPNetForQuestion"):
        use_kernel(model, "sdpa")


def test_on_a_cpu_there_are_no_graphs_to_do_without(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["update_times", "teacher:4", "--beside", "ungraphed"])
    monkeypatch.setattr(module, "start", lambda params, seed: replace(CPU, cuda_graphs=False))
    with pytest.raises(InputError, match="--beside is 'ungraphed', wanted eager or sdpa without a CUDA device or"):
        main()


def test_two_kernels_are_timed_in_turn_and_their_medians_compared() -> None:
    asked: list[str | None] = []
    times = {None: iter([40.0, 90.0, 50.0]), "eager": iter([75.0, 70.0, 200.0])}

    def measure(kernel: str | None) -> tuple[float, float]:
        asked.append(kernel)
        return next(times[kernel]), 0.0

    assert told(measure, 16, "eager", 3) == "50.0 ms an update, 75.0 with eager: 1.50 times as long"
    assert asked == [None, "eager"] * 3
    assert told(lambda kernel: (80.0, 20.0), 16, None) == "80.0 ms an update, GPU busy 20.0 ms, 200 windows a second"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["tuned:4"], "tuned:4: wanted KIND:WINDOWS, with one of teacher, baseline, distil and 1 or more"),
        (["teacher"], "teacher:: wanted KIND:WINDOWS"),
        (["distil:0"], "distil:0: wanted KIND:WINDOWS"),
        (["teacher:4", "--updates", "0"], "--updates is 0, wanted 1 or more"),
        (["teacher:4", "--turns", "0"], "--turns is 0, wanted 1 or more"),
        (["teacher:4", "--beside", "flash"], "--beside is 'flash', wanted eager or sdpa or ungraphed"),
    ],
)
def test_what_cannot_be_timed_is_refused(arguments: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["update_times", *arguments])
    with pytest.raises(InputError, match=complaint):
        main()
