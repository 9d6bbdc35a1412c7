"""What stages hand on: each setting, model, window and seed reaches the function that it is for.

The functions themselves are tested elsewhere; here each is stopped when a stage calls it, and looked at for what it was
given. The toy settings differ wherever one could stand in for another.
"""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from stages.core.data.prepared import load_split
from stages.core.data.windows import NO_LABEL
from stages.core.models.checkpoint import load_checkpoint
from stages.core.models.families import layers
from stages.core.runtime import RuntimeParams
from stages.core.training.fit import History, TrainingSet
from stages.core.training.settings import FitParams
from stages.core.training.space import Knob
from stages.prepare import UnlabelledParams
from tests import toy_pipeline
from tests.toy_pipeline import DISTIL, FINETUNE, PRUNE, TUNE, WINDOWS, Pipeline
from tests.toy_training import weights_of

Given = dict[str, Any]


class Called(BaseException):
    """A function has been called; holds what it was given, by the names of its parameters. Nothing catches it."""

    def __init__(self, given: Given) -> None:
        super().__init__()
        self.given = given


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A pipeline run up to its models, with inputs without labels; then tuned at values that are nobody else's."""
    pipeline = Pipeline(tmp_path_factory.mktemp("finished"))
    pipeline.unlabelled = UnlabelledParams(other_offsets=8, other_paragraphs=0, cloze=0, sources=(), paragraphs=0)
    pipeline.tune_params = replace(pipeline.tune_params, updates=8, finalists=1)
    for name, step in pipeline.steps().items():
        if name not in ("student_init", "prune_curve", "benchmark", "report") and not name.startswith("evaluate"):
            step()
    chosen = "tuned:\n  temperature: 3.5\n  alpha: 0.65\n  learning_rate: 0.002\n"
    (pipeline.root / "metrics" / "best_params.yaml").write_text(chosen, encoding="utf-8")
    return pipeline


def called(monkeypatch: pytest.MonkeyPatch, target: str, step: Callable[[], None]) -> Given:
    """Run a stage until it calls `target`; return what it gives it."""
    module, name = target.rsplit(".", 1)
    signature = inspect.signature(getattr(importlib.import_module(module), name))

    def stop(*given: Any, **named: Any) -> None:
        bound = signature.bind(*given, **named)
        bound.apply_defaults()
        raise Called(dict(bound.arguments))

    with monkeypatch.context() as patched, pytest.raises(Called) as stopped:
        patched.setattr(target, stop)
        step()
    return stopped.value.given


def weights(finished: Pipeline, model: str) -> dict[str, bytes]:
    return weights_of(load_checkpoint(finished.root / "models" / model))


def has_unlabelled(training: TrainingSet) -> bool:
    return bool((training.windows.start_positions == NO_LABEL).any())


ANSWERS = {
    **dict.fromkeys(("prune", "prune_curve", "finetune", "prune_teacher"), (3.5, 0.65)),
    **dict.fromkeys(("baseline", "student_init"), (2.0, 0.9)),
}


@pytest.mark.parametrize("stage", ANSWERS)
def test_the_loss_has_the_tuned_values_or_the_baselines(
    finished: Pipeline, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    given = called(monkeypatch, "stages.core.training.losses.DistillationLoss", finished.steps()[stage])
    assert (given["temperature"], given["alpha"]) == ANSWERS[stage]


def test_pruning_gets_its_settings_the_tuned_student_and_all_windows(
    finished: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = called(monkeypatch, "stages.core.pruning.procedure.prune", finished.prune)
    assert given["params"] == PRUNE
    assert not given["its_own_teacher"]
    assert weights_of(given["model"]) == weights(finished, "tuned")
    assert has_unlabelled(given["training"])


def test_a_teacher_in_the_students_place_is_known_as_its_own(
    finished: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    for curve, step in ((False, finished.prune), (True, finished.prune_curve)):
        target = "stages.core.pruning.curve.Curve" if curve else "stages.core.pruning.procedure.prune"
        assert called(monkeypatch, target, lambda step=step: step("teacher"))["its_own_teacher"]
        assert not called(monkeypatch, target, step)["its_own_teacher"]


def test_the_teacher_is_pruned_and_recovered_with_a_seed_of_its_own(
    finished: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = called(monkeypatch, "stages.core.pruning.procedure.prune", finished.prune_teacher)
    share = given["params"].macs_kept
    assert given["params"] == replace(PRUNE, seed=toy_pipeline.PRUNE_TEACHER_SEED, macs_kept=share)
    assert 0 < share < PRUNE.macs_kept
    assert given["its_own_teacher"]
    assert weights_of(given["model"]) == weights(finished, "teacher")
    assert has_unlabelled(given["training"])
    given = called(monkeypatch, "stages.core.training.recovery.recover", finished.prune_teacher)
    assert given["params"] == replace(FINETUNE, seed=toy_pipeline.PRUNE_TEACHER_SEED)
    assert given["hidden_weight"] == FINETUNE.hidden_weight
    assert weights_of(given["whole"]) == weights(finished, "teacher")
    assert has_unlabelled(given["training"])


def test_recovery_gets_the_pruned_student_and_the_whole_one(
    finished: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = called(monkeypatch, "stages.core.training.recovery.recover", finished.finetune)
    assert (given["params"], given["hidden_weight"]) == (FINETUNE, FINETUNE.hidden_weight)
    assert weights_of(given["pruned"]) == weights(finished, "pruned")
    assert weights_of(given["whole"]) == weights(finished, "tuned")
    assert has_unlabelled(given["training"])


def test_the_curve_gets_a_seed_of_its_own_and_its_intervals_paragraphs(
    finished: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = called(monkeypatch, "stages.core.pruning.curve.Curve", finished.prune_curve)
    assert given["prune"] == replace(PRUNE, seed=toy_pipeline.PRUNE_CURVE_SEED)
    assert given["finetune"] == replace(FINETUNE, seed=toy_pipeline.PRUNE_CURVE_SEED)
    assert weights_of(given["model"]) == weights(finished, "tuned")
    assert has_unlabelled(given["training"])
    given = called(monkeypatch, "stages.core.pruning.curve.differences", finished.prune_curve)
    assert list(given["clusters"]) == paragraphs_of_dev(finished)


def paragraphs_of_dev(finished: Pipeline) -> list[str]:
    return [example.context for example in load_split(finished.root / "data", "dev").examples]


def test_each_cut_is_trained_as_long_from_its_own_layers(finished: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bytes, int, int | None]] = []

    def look(
        model: PreTrainedModel, _: object, __: object, params: FitParams, *___: object, updates: int, **____: object
    ) -> History:
        last = layers(model)[-1].query.weight
        seen.append((last.detach().numpy().tobytes(), params.seed, updates))
        return []

    monkeypatch.setattr("stages.core.training.fit.fit", look)
    given = called(monkeypatch, "stages.core.training.cuts.compare_cuts", finished.student_init)
    teacher = layers(load_checkpoint(finished.root / "models" / "teacher"))
    expected = [teacher[cut[-1]].query.weight.detach().numpy().tobytes() for cut in Pipeline.cuts.values()]
    assert seen == [(each, toy_pipeline.STUDENT_INIT_SEED, 5) for each in expected]
    assert list(given["clusters"]) == paragraphs_of_dev(finished)


@pytest.mark.parametrize(
    ("target", "step"),
    [
        ("stages.core.qa.inference.predict_logits", lambda pipeline: pipeline.evaluate("teacher")),
        ("stages.core.qa.latency.one_by_one", lambda pipeline: pipeline.benchmark()),
    ],
)
def test_questions_are_cut_as_the_parameters_say(
    finished: Pipeline, monkeypatch: pytest.MonkeyPatch, target: str, step: Callable[[Pipeline], None]
) -> None:
    windows = called(monkeypatch, target, lambda: step(finished))["windows"]
    assert windows.metadata["doc_stride"] == str(WINDOWS.doc_stride)
    assert windows.metadata["max_length"] == str(WINDOWS.max_length)


@pytest.mark.parametrize(
    ("target", "step"),
    [
        ("stages.core.qa.inference.predict_logits", lambda pipeline: pipeline.evaluate("teacher")),
        ("stages.core.qa.latency.measure", lambda pipeline: pipeline.benchmark()),
    ],
)
def test_what_is_evaluated_or_timed_runs_in_a_precision_of_its_own_not_in_that_of_training(
    finished: Pipeline, monkeypatch: pytest.MonkeyPatch, target: str, step: Callable[[Pipeline], None]
) -> None:
    monkeypatch.setattr(toy_pipeline, "RUNTIME", replace(toy_pipeline.RUNTIME, precision="bf16"))
    assert called(monkeypatch, target, lambda: step(finished))["precision"] == "fp32"


DATA = {"data/labelled", "data/students"}
LESSONS = DATA | {"models/teacher", "cache"}
NAMED_BY: dict[str, tuple[str, set[str]]] = {
    "teacher": ("TeacherParams EncoderParams", {"data/labelled", "encoder"}),
    "baseline": ("BaselineParams StudentParams", LESSONS),
    "student_init": ("StudentInitParams BaselineParams StudentParams", LESSONS),
    "distil": ("DistilParams StudentParams", LESSONS),
    "tune": ("TuneParams DistilParams StudentParams DecodeParams", LESSONS),
    "prune": ("PruneParams TunedParams", DATA | {"cache", "models/tuned"}),
    "prune_curve": ("PruneCurveParams PruneParams FinetuneParams TunedParams", DATA | {"cache", "models/tuned"}),
    "finetune": ("FinetuneParams TunedParams", DATA | {"cache", "models/pruned", "models/tuned"}),
    "prune_teacher": ("PruneTeacherParams PruneParams FinetuneParams TunedParams", LESSONS | {"models/finetuned"}),
}


@pytest.mark.parametrize("stage", NAMED_BY)
def test_an_unfinished_run_is_named_by_all_that_its_training_depends_on(
    finished: Pipeline, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """So that a stage that was interrupted never goes on under other settings; the cache is of one teacher."""
    given = called(monkeypatch, "stages.core.training.scratch.scratch_folder", finished.steps()[stage])
    settings, inputs = NAMED_BY[stage]
    assert sorted(type(each).__name__ for each in given["settings"]) == sorted([*settings.split(), "Runtime"])
    assert {path.relative_to(finished.root).as_posix() for path in given["inputs"]} == inputs


def test_a_final_is_named_by_its_point_and_by_what_the_default_starts_from(
    finished: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask_for_a_folder(trial: object, default: object, points: object, checkpoints: Any, **_: object) -> None:
        monkeypatch.setattr("stages.core.training.scratch.run_key", stop)
        checkpoints(replace(DISTIL, seed=99))

    def stop(settings: object, inputs: object) -> None:
        raise Called({"settings": settings})

    monkeypatch.setattr("stages.core.training.finals.finals", ask_for_a_folder)
    with pytest.raises(Called) as stopped:
        finished.tune()
    settings = stopped.value.given["settings"]
    assert settings[:2] == [replace(DISTIL, seed=99), DISTIL]
    assert sorted(type(each).__name__ for each in settings[2:]) == ["Runtime", "StudentParams"]


def test_a_search_is_shared_by_other_processors_and_budgets_and_by_no_other_trials(
    finished: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def name(runtime: RuntimeParams = toy_pipeline.RUNTIME, **changes: Any) -> str:
        with monkeypatch.context() as patched:
            patched.setattr(toy_pipeline, "RUNTIME", runtime)
            given = called(monkeypatch, "stages.core.training.search.search", lambda: finished.tune(**changes))
        return str(given["name"])

    plain, runtime = name(), toy_pipeline.RUNTIME
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("stages.core.runtime._processor", lambda device: "another processor")
        assert name(replace(runtime, threads=2)) == plain
    storage = f"sqlite:///{tmp_path}/shared.sqlite"
    assert name(updates=99) == name(average=True) == name(storage=storage) == plain
    space = {**TUNE.space, "alpha": Knob(0.6, 1.0, "linear")}
    others = [name(replace(runtime, precision="bf16")), name(seed=2), name(space=space), name(trial_windows=12)]
    assert len({plain, *others, name(trial_epochs=1)}) == 6


def test_export_gets_its_settings_and_training_windows(finished: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    target = "stages.core.models.quantisation.save_onnx_int8"
    for smoothing, signed in ((0.3, True), (0.7, False)):
        step = lambda: finished.export(smoothing=smoothing, signed_weights=signed)  # noqa: B023, E731  called at once
        given = called(monkeypatch, target, step)
        assert (given["smoothing"], given["signed_weights"]) == (smoothing, signed)
    assert sum(len(batch.rows) for batch in given["batches"]) == toy_pipeline.CALIBRATION_WINDOWS
    given = called(monkeypatch, "stages.core.models.quantisation.calibration_batches", finished.export)
    train = load_split(finished.root / "data", "train").windows
    assert given["windows"].question_ids == train.question_ids
    assert given["seed"] == toy_pipeline.EXPORT_SEED


def test_no_two_seeds_of_the_toy_settings_are_alike() -> None:
    seeds = [toy_pipeline.PRUNE_TEACHER_SEED, toy_pipeline.PRUNE_CURVE_SEED, toy_pipeline.STUDENT_INIT_SEED]
    seeds += [toy_pipeline.EXPORT_SEED, PRUNE.seed]
    assert len(set(seeds)) == len(seeds)
