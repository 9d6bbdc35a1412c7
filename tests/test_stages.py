"""Every stage at toy size, one after the other: which files each writes, and what it refuses."""

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import torch
from optuna.trial import Trial
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from stages import evaluate, tune
from stages.cache_teacher import CacheTeacherParams
from stages.core.data.batches import Batch, collate, ordered_batches
from stages.core.data.examples import read_squad, write_squad
from stages.core.data.logits import load_logits
from stages.core.data.prepared import Questions, load_split, load_taught
from stages.core.data.settings import WindowsParams
from stages.core.data.windows import NO_LABEL
from stages.core.errors import InputError
from stages.core.models.checkpoint import load_checkpoint, save_checkpoint
from stages.core.models.encoder import fingerprint, load_tokenizer
from stages.core.models.macs import count_macs
from stages.core.models.source import EncoderParams, file_sha256
from stages.core.params import read_yaml
from stages.core.pruning.curve import CRITERIA
from stages.core.qa.ensemble import Reader, Said
from stages.core.qa.evaluation import quality, score_model
from stages.core.qa.inference import predict_logits
from stages.core.qa.scoring import Scores
from stages.core.report.variants import VARIANTS
from stages.core.training import finals, fit
from stages.core.training.fit import History
from stages.core.training.lessons import in_the_teachers_tokens, load_lessons
from stages.core.training.losses import LabelLoss, Loss, LossTerms
from stages.core.training.settings import FitParams, StudentParams, TunedParams
from stages.core.training.space import Knob
from stages.core.training.trials import TrialRun
from stages.prepare import UnlabelledParams
from tests.toy_models import FAMILY_NAMES, toy_qa_model, toy_tokenizer
from tests.toy_pipeline import DECODE, DISTIL, RUNTIME, TUNE, WINDOWS, Pipeline
from tests.toy_questions import toy_examples
from tests.toy_training import weights_of

QUALITY_KEYS = {
    "exact_match",
    "exact_match_low",
    "exact_match_high",
    "f1",
    "f1_low",
    "f1_high",
    "parameters",
    "macs",
    "size_mb",
    "questions",
}


def model_files(name: str, weights: str = "model.safetensors") -> set[str]:
    return {f"models/{name}/{file}" for file in ("config.json", weights, "tokenizer.json", "tokenizer_config.json")}


WRITTEN = {
    "prepare": {f"data/labelled/{split}.{kind}" for split in ("train", "dev") for kind in ("json", "safetensors")}
    | {"data/students/unlabelled.json", "data/test.json", "metrics/data.json"},
    "teacher": model_files("teacher") | {"metrics/teacher.json", "loss/teacher.csv"},
    "cache_teacher": {"cache/train.safetensors", "cache/dev.safetensors", "metrics/cache_teacher.json"},
    "baseline": model_files("baseline")
    | model_files("hard_label")
    | {"metrics/baseline.json", "loss/baseline.csv", "loss/hard_label.csv"},
    "student_init": {"plots/student_init.csv"},
    "distil": model_files("distilled") | {"metrics/distil.json", "loss/distilled.csv"},
    "tune": model_files("tuned")
    | {"metrics/tune.json", "loss/tuned.csv", "metrics/best_params.yaml"}
    | {"plots/tune_trials.csv", "plots/tune_importance.csv"},
    "prune": model_files("pruned") | {"metrics/prune.json", "loss/pruned.csv"},
    "prune_curve": {"plots/prune_curve.csv", "plots/prune_curve_differences.csv"},
    "finetune": model_files("finetuned") | {"metrics/finetune.json", "loss/finetuned.csv"},
    "export": model_files("export/stock")
    | model_files("export/onnx", "model.onnx")
    | model_files("int8", "model.onnx")
    | {"metrics/export.json"},
    "prune_teacher": model_files("teacher_pruned") | {"metrics/prune_teacher.json", "loss/teacher_pruned.csv"},
    **{f"evaluate@{name}": {f"metrics/quality/{name}.json", f"predictions/{name}.json"} for name in VARIANTS},
    "benchmark": {"metrics/latency.json", "metrics/environment.yaml"},
    "report": {
        "metrics/report.md",
        "plots/differences.csv",
        "plots/em_f1.png",
        "plots/loss_curves.png",
        "plots/prune_curve.png",
        "plots/quality.csv",
        "plots/quality_vs_size.png",
        "plots/samples.csv",
    },
}


Run = tuple[Pipeline, dict[str, dict[str, bytes]]]


def run_all(pipeline: Pipeline) -> dict[str, dict[str, bytes]]:
    """Run every stage; return the files that each has written or changed, by stage."""
    written: dict[str, dict[str, bytes]] = {}
    before = pipeline.files()
    for name, step in pipeline.steps().items():
        step()
        after = pipeline.files()
        assert set(before) <= set(after), f"{name} has removed files"
        written[name] = {path: content for path, content in after.items() if before.get(path) != content}
        before = after
    return written


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    pipeline = Pipeline(tmp_path_factory.mktemp("first"))
    return pipeline, run_all(pipeline)


@pytest.mark.parametrize("stage", WRITTEN)
def test_stage_writes_exactly_its_files(run: Run, stage: str) -> None:
    assert set(run[1][stage]) == WRITTEN[stage]


def test_all_stages_were_run(run: Run) -> None:
    assert list(run[1]) == list(WRITTEN)


def test_a_second_run_elsewhere_writes_the_same_bytes(run: Run, tmp_path: Path) -> None:
    again = run_all(Pipeline(tmp_path))
    for stage, files in run[1].items():
        if stage != "benchmark":
            assert {path for path, content in files.items() if again[stage][path] != content} <= {"metrics/report.md"}


def test_no_file_names_the_folder_it_was_made_in(run: Run) -> None:
    place = str(run[0].root).encode()
    assert [path for files in run[1].values() for path, content in files.items() if place in content] == []


def test_metrics_are_flat_finite_numbers_in_sorted_order(run: Run) -> None:
    for path in run[0].root.glob("metrics/**/*.json"):
        text = path.read_text(encoding="utf-8")
        assert "NaN" not in text
        assert "Infinity" not in text
        assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"


def test_quality_has_the_keys_of_every_variant(run: Run) -> None:
    for variant in VARIANTS:
        quality = run[0].json(f"metrics/quality/{variant}.json")
        assert set(quality) == QUALITY_KEYS
        assert quality["questions"] == 8
        ids = {example.id for example in read_squad(run[0].root / "data" / "test.json")}
        assert set(run[0].json(f"predictions/{variant}.json")) == ids


def test_models_have_the_shapes_their_stages_promise(run: Run) -> None:
    size = {variant: run[0].json(f"metrics/quality/{variant}.json") for variant in VARIANTS}
    for key in ("parameters", "macs", "size_mb"):
        assert size["teacher"][key] > size["tuned"][key] > size["pruned"][key]
        assert len({size[name][key] for name in ("hard_label", "baseline", "distilled", "tuned")}) == 1
        assert size["pruned"][key] == size["finetuned"][key]
        assert (size["int8"][key] == size["finetuned"][key]) == (key != "size_mb")
        assert size["teacher_pruned"][key] < size["tuned"][key]
    assert size["teacher_pruned"]["macs"] <= size["finetuned"]["macs"]
    found = run[0].json("metrics/prune.json")
    assert 0.5 < found["macs_kept"] <= 0.6
    assert found["heads_kept"] < found["heads"] == 8
    assert found["neurons_kept"] < found["neurons"] == 128


def test_the_curve_has_a_row_for_each_share_before_and_after_recovery(run: Run) -> None:
    curve = pd.read_csv(run[0].root / "plots" / "prune_curve.csv")
    assert curve["macs_kept"].tolist() == [0.4, 0.8]
    before, after = list(CRITERIA), [f"{criterion}_recovered" for criterion in CRITERIA]
    assert set(curve.columns) == {"macs_kept", *before, *after}
    gains = pd.read_csv(run[0].root / "plots" / "prune_curve_differences.csv")
    assert len(gains) == 2 * 2 * 2
    recovered = gains[(gains["recovered"] == "yes") & (gains["over"] == "magnitude")].set_index("macs_kept")["f1"]
    at = curve.set_index("macs_kept")
    expected = at["fisher_repaired_recovered"] - at["magnitude_recovered"]
    assert recovered.tolist() == pytest.approx(expected.tolist(), abs=1e-3)


def test_the_loss_of_rounds_is_kept(run: Run) -> None:
    """Two rounds: one recovery of 2 windows' updates for two epochs; the teacher's goes on into its fine-tuning."""
    rounds, whole = (pd.read_csv(run[0].root / "loss" / f"{name}.csv") for name in ("pruned", "teacher_pruned"))
    finetuned = pd.read_csv(run[0].root / "loss" / "finetuned.csv")
    assert rounds["step"].tolist() == [2, 4]
    assert whole["step"].tolist() == [2, 4, *(4 + finetuned["step"])]
    assert whole["step"].is_monotonic_increasing and whole["epoch"].is_monotonic_increasing


def test_the_environment_says_where_models_were_timed(run: Run) -> None:
    found = read_yaml(run[0].root / "metrics" / "environment.yaml")
    assert {"device": "cpu", "threads": "1", "torch": torch.__version__, "questions": 3}.items() <= found.items()
    assert f"| processor | {found['processor']} |" in (run[0].root / "metrics" / "report.md").read_text()


def test_cuts_are_compared_with_the_first_at_equal_updates(run: Run) -> None:
    cuts = pd.read_csv(run[0].root / "plots" / "student_init.csv", index_col="cut")
    assert cuts["layers"].to_dict() == {"alternate": "0 2", "first": "0 1"}
    assert set(cuts["updates"]) == {5}
    assert cuts.loc["alternate", ["f1_to_first", "f1_to_first_low", "f1_to_first_high"]].tolist() == [0, 0, 0]
    gain = cuts.loc["first", "f1"] - cuts.loc["alternate", "f1"]
    assert cuts.loc["first", "f1_to_first"] == pytest.approx(gain, abs=1e-3)


def test_training_changes_every_model(run: Run) -> None:
    trained = [name for name in VARIANTS if name != "int8"]
    weights = {name: run[0].files()[f"models/{name}/model.safetensors"] for name in trained}
    best = read_yaml(run[0].root / "metrics" / "best_params.yaml")
    default = all(getattr(DISTIL, name) == value for section in best.values() for name, value in section.items())
    assert (weights["tuned"] == weights["distilled"]) == default
    weights.pop("tuned")
    assert len(set(weights.values())) == len(weights)


def test_baseline_and_control_have_the_same_updates(run: Run) -> None:
    curves = [pd.read_csv(run[0].root / "loss" / f"{name}.csv") for name in ("baseline", "hard_label")]
    assert curves[0]["step"].tolist() == curves[1]["step"].tolist()
    assert curves[0]["learning_rate"].tolist() == curves[1]["learning_rate"].tolist()
    assert list(curves[0].columns) == ["step", "epoch", "learning_rate", "loss", "hard", "soft"]
    assert list(curves[1].columns) == ["step", "epoch", "learning_rate", "loss"]


def test_the_cache_is_as_good_as_the_teacher(run: Run) -> None:
    for scores in run[0].json("metrics/cache_teacher.json").values():
        assert scores["f1_cached"] == pytest.approx(scores["f1_live"], abs=0.5)
    assert (
        run[0].json("metrics/cache_teacher.json")["dev"]["f1_live"] == run[0].json("metrics/teacher.json")["dev"]["f1"]
    )


def test_a_cache_in_bf16_is_near_the_exact_one_and_held_against_the_exact_teacher(
    copied: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = copied.json("metrics/cache_teacher.json")
    asked = []

    def listen(self: Reader, questions: Questions, *, precision: str, **given: Any) -> Said:
        asked.append((len(questions.examples), precision))
        return read(self, questions, precision=precision, **given)

    read = Reader.read
    monkeypatch.setattr(Reader, "read", listen)
    windows = load_split(copied.root / "data", "train").windows
    made_by = fingerprint(copied.root / "models" / "teacher")
    before = load_logits(copied.root / "cache" / "train.safetensors", windows, made_by)
    copied.cache_teacher(precision="bf16")
    after = load_logits(copied.root / "cache" / "train.safetensors", windows, made_by)
    assert asked == [(24, "bf16"), (8, "bf16"), (8, "fp32")]
    asked.clear()
    copied.cache_teacher(str(copied.root / "models" / "teacher"), precision="bf16")
    assert asked == [(24, "bf16")] * 2 + [(8, "bf16")] * 2 + [(8, "fp32")] * 2
    for old, new in zip(before, after, strict=True):
        assert 0 < (old - new).abs().max() < 0.1
    found = copied.json("metrics/cache_teacher.json")["dev"]
    assert found["f1_live"] == found["f1_other_1"] == found["f1_mean"] == exact["dev"]["f1_live"]
    params = CacheTeacherParams(seed=1, batch_size=4, precision="fp16", others=(), f1_tolerance=0.5)
    assert refusal(params.check) == "precision is 'fp16', wanted fp32 or bf16"


def test_a_teacher_of_several_trainings_is_their_mean(copied: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[int, list[float]]] = []

    def nearly(model: nn.Module, *arguments: Any, **named: Any) -> History:
        bias = model.qa_outputs.bias  # type: ignore[union-attr]
        started.append((arguments[2].seed, bias.tolist()))  # type: ignore[operator]
        with torch.no_grad():
            bias += 1e-3 * len(started)  # type: ignore[operator]
        return [{"step": 2, "epoch": 1.0, "loss": float(len(started))}]

    monkeypatch.setattr(fit, "fit", nearly)
    copied.teacher(runs=3)
    assert [seed for seed, _ in started] == [1, 2, 3]
    assert started[0][1] == started[1][1] == started[2][1], "all from the same start"
    bias = load_checkpoint(copied.root / "models" / "teacher").qa_outputs.bias  # type: ignore[union-attr]
    expected = [value + 2e-3 for value in started[0][1]]
    assert bias.tolist() == pytest.approx(expected, rel=1e-4)  # type: ignore[operator]
    metrics = copied.json("metrics/teacher.json")
    assert (metrics["trained"], metrics["averaged"]) == (3, 3)
    losses = pd.read_csv(copied.root / "loss" / "teacher.csv")
    assert losses["step"].tolist() == [2, 4, 6] and losses["loss"].tolist() == [1.0, 2.0, 3.0]


def test_a_teacher_learns_from_cloze_questions_before_all_its_trainings(
    copied: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied.prepare(cloze_questions=10)
    cloze, train = (load_split(copied.root / "data", name).windows for name in ("cloze", "train"))
    plain, told = fit.fit, []

    def listen(
        model: nn.Module, loss: Loss, data: fit.TrainingSet, params: FitParams, *rest: Any, **named: Any
    ) -> History:
        start = copy.deepcopy(list(model.parameters()))
        rows = plain(model, loss, data, params, *rest, **named)
        told.append((data.windows.fingerprint(), params.epochs, start, copy.deepcopy(list(model.parameters()))))
        return rows

    monkeypatch.setattr(fit, "fit", listen)
    copied.teacher(cloze_epochs=3, epochs=1, runs=2)
    asked = [(windows, epochs) for windows, epochs, *_ in told]
    assert asked == [(cloze.fingerprint(), 3), (train.fingerprint(), 1), (train.fingerprint(), 1)]
    (_, after_cloze), *others = ([start, end] for *_, start, end in told)
    for start, _ in others:
        assert all(map(torch.equal, start, others[0][0])) and all(map(torch.equal, start, after_cloze))
    metrics = copied.json("metrics/teacher.json")
    assert metrics["trained"] == 2 and set(metrics["dev_after_cloze"]) == set(metrics["dev"])
    steps = pd.read_csv(copied.root / "loss" / "teacher.csv")["step"]
    updates = [3 * -(-len(cloze) // 4), *[-(-len(train) // 4)] * 2]
    assert steps.iloc[-1] == sum(updates) and steps.is_monotonic_increasing
    alone = weights(copied, "teacher")
    copied.teacher(cloze_epochs=3, epochs=1, runs=2)
    assert weights(copied, "teacher") == alone


def test_trainings_of_a_teacher_differ_in_their_order_and_dropout(copied: Pipeline) -> None:
    copied.teacher(epochs=1)
    alone = load_checkpoint(copied.root / "models" / "teacher")
    copied.teacher(epochs=1, runs=2)
    mean = load_checkpoint(copied.root / "models" / "teacher")
    metrics = copied.json("metrics/teacher.json")
    assert metrics["trained"] == 2
    apart = max(float((a - b).detach().abs().max()) for a, b in zip(alone.parameters(), mean.parameters(), strict=True))
    assert apart > 1e-4


def test_the_search_starts_at_the_default_and_the_best_student_of_its_finals_is_tuned(run: Run) -> None:
    trials = pd.read_csv(run[0].root / "plots" / "tune_trials.csv")
    knobs = list(TUNE.space)
    assert trials.loc[0, knobs].tolist() == [2.0, 0.9, 5e-3, 1.0]
    in_full = trials[trials["full_f1"].notna()].drop(index=0)
    assert len(in_full) == 2
    # Where one that was stopped stands is not in the table; those that were not are taken in the order of their F1.
    complete = trials[trials["state"] == "complete"].drop(index=0)
    ranked = complete.sort_values("f1", ascending=False, kind="stable").index.tolist()
    chosen_complete = in_full.index[in_full["state"] == "complete"].tolist()
    assert chosen_complete == sorted(ranked[: len(chosen_complete)])
    chosen = read_yaml(run[0].root / "metrics" / "best_params.yaml")
    assert list(chosen) == ["tuned", "also_tuned"]
    best = trials.loc[trials["full_f1"].idxmax()]
    assert {**chosen["tuned"], **chosen["also_tuned"]} == best[knobs].to_dict()
    metrics = run[0].json("metrics/tune.json")
    assert metrics["dev"]["f1"] == metrics["search"]["best_full_f1"] == best["full_f1"]
    found = metrics["search"]
    assert found["default_full_f1"] == trials.loc[0, "full_f1"] == run[0].json("metrics/distil.json")["dev"]["f1"]
    complete = trials[trials["state"] == "complete"]
    assert found["best_trial_f1"] == complete["f1"].max() >= found["default_trial_f1"] == trials.loc[0, "f1"]
    # 4 updates an epoch; another trial was started only while fewer than 32 were spent.
    assert found["updates"] == 4 * trials["epochs"].sum() >= 32 > 4 * trials["epochs"][:-1].sum()


@pytest.fixture
def copied(run: Run, tmp_path: Path) -> Pipeline:
    """A finished pipeline that a test may spoil."""
    pipeline = Pipeline(tmp_path)
    shutil.copytree(run[0].root, tmp_path, dirs_exist_ok=True)
    return pipeline


def weights(pipeline: Pipeline, model: str) -> bytes:
    return (pipeline.root / "models" / model / "model.safetensors").read_bytes()


def test_baseline_without_the_teachers_answers_is_the_control(copied: Pipeline) -> None:
    """Same initialisation, order, dropout and updates: only the loss lies between the two."""
    assert weights(copied, "baseline") != weights(copied, "hard_label")
    control = weights(copied, "hard_label")
    copied.baseline(alpha=0.0)
    assert weights(copied, "baseline") == weights(copied, "hard_label") == control


HEIGHTS = (40.0, 41.0, 70.0, 50.0)


def judge(trial_run: TrialRun, trial: Trial, _: object) -> float:
    """Stands in for a trial's training: as many epochs as it has, the third trial the best."""
    for epoch in range(trial_run.settings.epochs):
        trial.report(HEIGHTS[trial.number], epoch)
    return HEIGHTS[trial.number]


def forgetful(copied: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search is made up, and the default's student has forgotten everything, so that a finalist beats it."""
    monkeypatch.setattr(TrialRun, "__call__", judge)
    folder = copied.root / "models" / "distilled"
    student = load_checkpoint(folder)
    for parameter in student.qa_outputs.parameters():  # type: ignore[operator, union-attr]
        parameter.data.fill_(float("nan"))
    save_checkpoint(student, load_tokenizer(folder), folder)


def test_tuned_is_distilled_at_the_best_point(copied: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    forgetful(copied, monkeypatch)
    # Trials of one epoch; what is distilled in full has two.
    copied.tune(finalists=1, trial_epochs=1, updates=16)
    trials = pd.read_csv(copied.root / "plots" / "tune_trials.csv")
    assert trials["epochs"].tolist() == [1] * 4
    third = trials.loc[2, list(TUNE.space)].to_dict()
    assert vars(copied.tuned) == {name: third[name] for name in vars(copied.tuned)}
    copied.distil(**third)
    assert weights(copied, "tuned") == weights(copied, "distilled")


@pytest.mark.parametrize("finalists", [1, 3])
def test_the_default_and_as_many_trials_as_finalists_end_before_one_is_stopped(
    copied: Pipeline, monkeypatch: pytest.MonkeyPatch, finalists: int
) -> None:
    def sinking(trial_run: TrialRun, trial: Trial, _: object) -> float:
        for epoch in range(trial_run.settings.epochs):
            trial.report(50.0 - trial.number, epoch)
            if epoch + 1 < trial_run.settings.epochs and trial.should_prune():
                raise optuna.TrialPruned
        return 50.0 - trial.number

    monkeypatch.setattr(TrialRun, "__call__", sinking)
    copied.tune(finalists=finalists, updates=8 * (finalists + 1) + 1)
    trials = pd.read_csv(copied.root / "plots" / "tune_trials.csv")
    assert trials["state"].tolist() == ["complete"] * (finalists + 1) + ["pruned"]
    assert copied.json("metrics/tune.json")["search"]["finalists"] == finalists


def test_a_default_that_no_finalist_beats_is_tuned_to_the_byte(
    copied: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrialRun, "__call__", judge)
    monkeypatch.setattr(finals, "distil", lambda lessons, *_, **__: (lessons.teacher.apply(_spoil), []))
    copied.tune()
    assert copied.tuned == TunedParams(2.0, 0.9, 5e-3)
    assert weights(copied, "tuned") == weights(copied, "distilled")
    assert (copied.root / "loss" / "tuned.csv").read_bytes() == (copied.root / "loss" / "distilled.csv").read_bytes()
    trials = pd.read_csv(copied.root / "plots" / "tune_trials.csv")
    assert trials.loc[2:3, "full_f1"].tolist() == [0.0, 0.0], "a student that has diverged answers nothing"


def test_students_that_dev_cannot_tell_apart_are_averaged(copied: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrialRun, "__call__", judge)
    plain = finals.distil

    def nearly(*arguments: Any, **named: Any) -> tuple[PreTrainedModel, History]:
        student = load_checkpoint(copied.root / "models" / "distilled")
        with torch.no_grad():
            student.qa_outputs.bias += 1e-3 * (1 + len(made))  # type: ignore[operator, union-attr]
        made.append(student)
        return student, plain(*arguments, **named)[1]

    made: list[PreTrainedModel] = []
    monkeypatch.setattr(finals, "distil", nearly)
    copied.tune(average=True)
    tuned, distilled = (load_checkpoint(copied.root / "models" / name) for name in ("tuned", "distilled"))
    assert len(made) == 2
    shift = tuned.qa_outputs.bias - distilled.qa_outputs.bias  # type: ignore[operator, union-attr]
    assert shift.tolist() == pytest.approx([1e-3, 1e-3], rel=1e-3), "the mean of 0, 1 and 2 thousandths"
    metrics = copied.json("metrics/tune.json")
    assert metrics["search"]["averaged"] == 3
    assert metrics["search"]["tuned_f1"] == metrics["dev"]["f1"]


def _spoil(module: nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.data.fill_(float("nan"))


def test_a_knob_left_out_stays_as_in_distil(copied: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    forgetful(copied, monkeypatch)
    copied.tune(space={"alpha": TUNE.space["alpha"]})
    assert list(read_yaml(copied.root / "metrics" / "best_params.yaml")) == ["tuned"]
    assert (copied.tuned.temperature, copied.tuned.learning_rate) == (DISTIL.temperature, DISTIL.learning_rate)
    assert copied.tuned.alpha != DISTIL.alpha


JOINING = """
import sys
from pathlib import Path
from tests.toy_pipeline import Pipeline
pipeline = Pipeline.at(Path(sys.argv[1]))
pipeline.tune(join=True, storage=sys.argv[2])
"""


def test_another_process_joins_a_search_and_writes_nothing(
    run: Run, copied: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stage holds its first trial until a second process has run all others that the budget has room for."""
    storage = f"sqlite:///{copied.root}/shared.sqlite"
    with pytest.raises(InputError, match=r"holds no search .* start the tune stage first"):
        copied.tune(join=True, storage=storage)
    train, before = (
        TrialRun.__call__,
        {path: content for path, content in copied.files().items() if ".sqlite" not in path},
    )

    def wait_for_the_other(self: TrialRun, trial: Trial, point: Any) -> float:
        if trial.number == 0:
            command, root = [sys.executable, "-c", JOINING, copied.root, storage], Path(__file__).parents[1]
            joined = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
            assert joined.returncode == 0, joined.stderr
            now = {path: content for path, content in copied.files().items() if ".sqlite" not in path}
            assert now == before, "the second process has written or removed files"
        return train(self, trial, point)

    monkeypatch.setattr(TrialRun, "__call__", wait_for_the_other)
    copied.tune(storage=storage)
    trials = pd.read_csv(copied.root / "plots" / "tune_trials.csv")
    alone = pd.read_csv(run[0].root / "plots" / "tune_trials.csv")
    assert trials["trial"].tolist() == list(range(len(trials)))
    assert trials.loc[0, list(TUNE.space)].tolist() == alone.loc[0, list(TUNE.space)].tolist()
    assert trials.loc[0, ["f1", "state"]].tolist() == alone.loc[0, ["f1", "state"]].tolist()
    assert copied.json("metrics/tune.json")["search"]["updates"] >= 32


@pytest.mark.parametrize(
    ("flags", "said"), [(["--join"], "params.yaml: tune.storage is ''"), ([], "arguments are required: --distilled")]
)
def test_the_command_to_join_a_search_needs_no_outputs_but_a_shared_storage(flags: list[str], said: str) -> None:
    """With the repository's params.yaml, whose search is that of one process."""
    named = [f"--{name}=nowhere" for name in ("data", "teacher", "cache", "scratch")]
    command = [sys.executable, "-m", "stages.tune", *named, *flags]
    refused = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert said in refused.stderr.splitlines()[-1]


def test_forms_agree_and_eight_bits_are_small(run: Run) -> None:
    forms = run[0].json("metrics/export.json")
    assert forms["finetuned"]["largest_difference"] == 0
    assert forms["stock"]["largest_difference"] < 1e-4
    assert 0 < forms["onnx"]["largest_difference"] < 1e-4 < forms["int8"]["largest_difference"]
    assert forms["finetuned"]["f1"] == forms["stock"]["f1"] == forms["onnx"]["f1"]
    assert forms["finetuned"]["f1"] == run[0].json("metrics/finetune.json")["dev"]["f1"]
    assert forms["stock"]["size_mb"] > forms["finetuned"]["size_mb"] > forms["int8"]["size_mb"]


def refusal(step: Callable[[], None]) -> str:
    with pytest.raises(InputError) as error:
        step()
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


CONSUMERS = ("baseline", "student_init", "distil", "tune", "prune", "prune_curve", "finetune", "prune_teacher")


@pytest.mark.parametrize("stage", CONSUMERS)
def test_a_cache_of_another_teacher_is_refused(copied: Pipeline, stage: str) -> None:
    model = load_checkpoint(copied.root / "models" / "teacher")
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    save_checkpoint(model, toy_tokenizer(copied.root / "tokenizer", "bert"), copied.root / "models" / "teacher")
    message = refusal(copied.steps()[stage])
    assert f"{copied.root / 'cache' / 'train.safetensors'}: made with teacher " in message
    assert message.endswith("run cache_teacher again")


def test_a_cache_of_other_windows_is_refused(copied: Pipeline) -> None:
    copied.prepare(train_questions=20)
    assert "made with windows" in refusal(copied.baseline)


def test_windows_longer_than_a_models_positions_are_refused(copied: Pipeline) -> None:
    """The toy encoders have few positions; the int8 form has the config that tells how many."""
    evaluation = evaluate.EvaluateParams(seed=1, batch_size=4, resamples=100, precision="fp32")
    places = {"model": copied.root / "models" / "int8", "questions": copied.root / "data" / "test.json"}
    longer = WindowsParams(max_length=512, doc_stride=8)
    message = refusal(
        lambda: evaluate.run(evaluation, RUNTIME, longer, DECODE, **places, predictions=None, metrics=None)
    )
    assert "windows.max_length is 512, wanted at most " in message


@pytest.mark.parametrize("lost", [{"teacher 1"}, {"teacher 0"}, {"teacher 0", "teacher 1"}])
def test_of_several_teachers_one_that_diverges_is_left_out(
    copied: Pipeline, monkeypatch: pytest.MonkeyPatch, lost: set[str]
) -> None:
    from stages.core.training import fit as fitting

    train = fitting.fit

    def loses(model: Any, *given: Any, name: str, **options: Any) -> Any:
        history = train(model, *given, name=name, **options)
        if name in lost:
            model.qa_outputs.bias.data.fill_(float("nan"))
        return history

    diverges = r"teacher.learning_rate 0.005: training diverges; lower it"
    copied.teacher()
    alone = copied.json("metrics/teacher.json")["dev"]
    monkeypatch.setattr(fitting, "fit", loses)
    if len(lost) == 2:
        assert diverges in refusal(lambda: copied.teacher(runs=2))
        return
    copied.teacher(runs=2)
    found = copied.json("metrics/teacher.json")
    assert (found["averaged"], found["trained"]) == (0, 2)
    assert lost == {"teacher 0"} or found["dev"] == alone
    if lost == {"teacher 0"}:
        assert diverges in refusal(copied.teacher), "the only one"


def test_a_missing_cache_is_refused(copied: Pipeline) -> None:
    shutil.rmtree(copied.root / "cache")
    assert "no such file; run the cache_teacher stage" in refusal(copied.distil)


def test_a_cache_that_scores_worse_than_the_teacher_is_refused(
    copied: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that turned every answer round would teach nonsense; it must not get past its own stage."""
    from stages.core.data import logits

    read, before = logits.load_logits, copied.files()
    monkeypatch.setattr(logits, "load_logits", lambda *given: tuple(-each for each in read(*given)))
    assert refusal(copied.cache_teacher).endswith("set cache_teacher.precision to fp32, or raise f1_tolerance")
    assert copied.files() == before, "left the refused cache behind"


def test_a_form_that_differs_stops_export_and_leaves_everything_as_it_was(copied: Pipeline) -> None:
    before = copied.files()
    message = refusal(lambda: copied.export(tolerance=1e-12, smoothing=0.0))
    assert message.startswith("form onnx: a logit on dev differs by ")
    assert copied.files() == before


def test_a_stock_form_that_differs_stops_export_too(copied: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.core.models import stock

    def nearly(model: PreTrainedModel) -> PreTrainedModel:
        found = plain(model)
        with torch.no_grad():
            found.qa_outputs.bias += 0.01  # type: ignore[operator, union-attr]
        return found

    plain, before = stock.stock_form, copied.files()
    monkeypatch.setattr(stock, "stock_form", nearly)
    assert refusal(copied.export).startswith("form stock: a logit on dev differs by 0.01")
    assert copied.files() == before


@pytest.mark.parametrize(
    ("stage", "arm", "model"),
    [
        ("teacher", None, "teacher"),
        ("baseline", "baseline", "baseline"),
        ("baseline", "hard_label", "hard_label"),
        ("distil", None, "distilled"),
        ("tune", None, "tuned"),
        ("prune", None, "pruned"),
        ("finetune", None, "finetuned"),
        ("prune_teacher", None, "teacher_pruned"),
    ],
)
def test_a_stages_dev_scores_are_those_of_the_model_that_it_saves(
    run: Run, stage: str, arm: str | None, model: str
) -> None:
    told = run[0].json(f"metrics/{stage}.json")
    saved, dev = load_checkpoint(run[0].root / "models" / model), load_split(run[0].root / "data", "dev")
    scored = quality(score_model(saved, dev, DECODE, torch.device("cpu"), 4))
    assert (told[arm] if arm else told)["dev"] == scored


@pytest.mark.parametrize(("stage", "saved"), [("baseline", ["baseline", "hard_label"]), ("prune", ["pruned"])])
def test_what_is_scored_is_what_is_saved(
    copied: Pipeline, monkeypatch: pytest.MonkeyPatch, stage: str, saved: list[str]
) -> None:
    """Where toy models score alike."""
    scored: list[dict[str, bytes]] = []

    def listen(model: PreTrainedModel, *given: Any) -> Scores:
        scored.append(weights_of(model))
        return score_model(model, *given)

    monkeypatch.setattr("stages.core.qa.evaluation.score_model", listen)
    getattr(copied, stage)()
    assert scored == [weights_of(load_checkpoint(copied.root / "models" / name)) for name in saved]


def test_teachers_of_several_tokenizers_are_averaged(copied: Pipeline) -> None:
    """With itself the teacher's mean is its own answers; with another model's it is between the two."""
    alone = copied.json("metrics/cache_teacher.json")
    copied.cache_teacher(str(copied.root / "models" / "teacher"))
    found = copied.json("metrics/cache_teacher.json")
    assert found["train"].keys() == alone["train"].keys()
    assert set(found["dev"]) == {"f1_live", "f1_cached", "f1_other_1", "f1_mean"}
    assert len(set(found["dev"].values())) == 1
    save_checkpoint(toy_qa_model("roberta", 9), toy_tokenizer(copied.root / "t", "roberta"), copied.root / "other")
    copied.cache_teacher(str(copied.root / "other"))
    windows = load_split(copied.root / "data", "train").windows
    made_by = fingerprint(copied.root / "models" / "teacher")
    mixed = load_logits(copied.root / "cache" / "train.safetensors", windows, made_by)
    copied.cache_teacher()
    own = load_logits(copied.root / "cache" / "train.safetensors", windows, made_by)
    for batch in ordered_batches(windows, 64):
        of_each = [collate(windows, batch.rows, each) for each in (mixed, own)]
        mean, mine = (
            each.teacher_start_logits.masked_fill(~batch.context_mask, -torch.inf).softmax(1)  # type: ignore[union-attr]
            for each in of_each
        )
        assert ((2 * mean - mine) > -0.01).all(), "what is left is no probability"
        assert not torch.allclose(mean, mine, atol=0.1)


def test_another_teacher_that_is_none_is_refused(copied: Pipeline) -> None:
    assert refusal(lambda: copied.cache_teacher("nowhere")).startswith("model 'nowhere': no such folder")
    bare = copied.root / "encoder"
    assert "no question answering head here" in refusal(lambda: copied.cache_teacher(str(bare)))


def test_without_dev_source_whole_articles_are_held_out(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    pipeline.prepare(dev=())
    train, dev = (load_split(tmp_path / "data", name) for name in ("train", "dev"))
    assert len(train.examples) + len(dev.examples) == 24
    assert not {each.title for each in train.examples} & {each.title for each in dev.examples}


def test_a_ready_qa_checkpoint_is_verified_and_scored_but_not_trained(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, ready=True)
    pipeline.encoder = EncoderParams(pipeline.encoder.model, file_sha256(tmp_path / "encoder" / "model.safetensors"))
    pipeline.prepare(cloze_questions=5)
    pipeline.teacher()
    encoder, made = (load_file(tmp_path / name / "model.safetensors") for name in ("encoder", "models/teacher"))
    assert all(torch.equal(made[name], weight) for name, weight in encoder.items())
    metrics = pipeline.json("metrics/teacher.json")
    assert metrics["trained"] == 0 and "dev_after_cloze" not in metrics
    dev = load_split(tmp_path / "data", "dev")
    scored = quality(score_model(load_checkpoint(tmp_path / "encoder"), dev, DECODE, torch.device("cpu"), 4))
    assert metrics["dev"] == scored
    assert (tmp_path / "loss" / "teacher.csv").read_text() == "step,epoch,learning_rate,loss\n"
    pipeline.encoder = EncoderParams(pipeline.encoder.model, "0" * 64)
    assert "correct the spec or the sha256" in refusal(pipeline.teacher)


def test_stages_read_no_more_of_the_data_than_dvc_watches_for_them(copied: Pipeline) -> None:
    """The parts are those of tests/test_pipeline.py."""
    (copied.root / "data" / "test.json").unlink()
    for stage in ("cache_teacher", "baseline", "student_init", "distil", "tune", "prune", "prune_curve", "finetune"):
        getattr(copied, stage)()
    copied.export()
    copied.prune_teacher()
    shutil.rmtree(copied.root / "data" / "students")
    copied.teacher()


class Killed(BaseException):
    """Stands in for a kill: nothing catches it."""


def killed(*given: Any) -> None:
    """What is killed when it is called."""
    raise Killed


def test_an_interrupted_stage_goes_on_and_writes_the_same_bytes(
    run: Run, copied: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search is stopped in its third trial, then in its second final, then at the last step, after all training."""
    judge, judged = TrialRun.__call__, []

    def stop_at_the_third(self: TrialRun, trial: Any, point: Any) -> float:
        judged.append(point)
        if len(judged) == 3:
            raise Killed
        return judge(self, trial, point)

    for path in WRITTEN["tune"]:
        (copied.root / path).unlink()
    monkeypatch.setattr(TrialRun, "__call__", stop_at_the_third)
    with pytest.raises(Killed):
        copied.tune()
    assert any((copied.root / "scratch" / "tune").iterdir())
    keep, kept = fit._keep, []

    def stop_in_the_second_final(path: Path, *given: Any) -> None:
        keep(path, *given)
        if path.stem.startswith("finalist"):
            kept.append(path.stem)
        if len(set(kept)) == 2:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(fit, "_keep", stop_in_the_second_final)
        copied.tune()
    first, second = dict.fromkeys(kept)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(fit, "_keep", lambda path, *given: (kept.append(path.stem), keep(path, *given)))
        patch.setattr(tune, "_write_search", killed)
        copied.tune()
    with monkeypatch.context() as patch:
        patch.setattr(fit, "_keep", killed)
        copied.tune()
    assert kept == [*4 * [first], *4 * [second]], "a final that had ended was begun anew, or one under way was"
    trials = len(run[1]["tune"]["plots/tune_trials.csv"].splitlines()) - 1
    assert len(judged) == trials + 1, "the two finished trials were not taken over"
    files = copied.files()
    assert {path: files[path] for path in WRITTEN["tune"]} == run[1]["tune"]
    assert not any((copied.root / "scratch" / "tune").iterdir())


@pytest.mark.parametrize("kept", [1, 3, 6])
def test_a_teacher_that_is_stopped_in_its_cloze_questions_or_after_goes_on(
    copied: Pipeline, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    copied.prepare(cloze_questions=10)
    settings = {"cloze_epochs": 2, "epochs": 1, "runs": 2}
    copied.teacher(**settings)
    wanted = [weights(copied, "teacher"), (copied.root / "loss" / "teacher.csv").read_bytes()]
    metrics = copied.json("metrics/teacher.json")
    keep, checkpoints = fit._keep, []

    def stop(path: Path, *given: Any) -> None:
        keep(path, *given)
        checkpoints.append(path.stem)
        if len(checkpoints) == kept:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(fit, "_keep", stop)
        copied.teacher(**settings)
    # Three updates an epoch, then six: a checkpoint at the end of an epoch and, in a longer one, at the third update.
    assert checkpoints == ["cloze", "cloze", "teacher 0", "teacher 0", "teacher 1", "teacher 1"][:kept]
    copied.teacher(**settings)
    assert [weights(copied, "teacher"), (copied.root / "loss" / "teacher.csv").read_bytes()] == wanted
    assert copied.json("metrics/teacher.json") == metrics


def test_a_teacher_whose_cloze_questions_diverge_is_refused(copied: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    copied.prepare(cloze_questions=10)
    train = fit.fit

    def loses(model: Any, *given: Any, name: str, **options: Any) -> History:
        history = train(model, *given, name=name, **options)
        if name == "cloze":
            model.qa_outputs.bias.data.fill_(float("nan"))
        return history

    monkeypatch.setattr(fit, "fit", loses)
    shutil.rmtree(copied.root / "models" / "teacher")
    assert "teacher.learning_rate 0.005: training diverges; lower it" in refusal(copied.teacher)
    assert not (copied.root / "models" / "teacher").exists()


def test_a_stopped_teacher_does_not_go_on_from_another_encoder(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    pipeline.prepare()
    teacher_stage = (tmp_path / "models" / "teacher", tmp_path / "scratch" / "teacher")
    (tmp_path / "models").write_text("in the way")  # so that the stage fails after its training
    with pytest.raises(OSError):
        pipeline.teacher()
    (kept,) = teacher_stage[1].iterdir()
    weights = load_file(tmp_path / "encoder" / "model.safetensors")
    save_file({name: weight * 2 for name, weight in weights.items()}, tmp_path / "encoder" / "model.safetensors")
    (tmp_path / "models").unlink()
    pipeline.teacher()
    assert kept.is_dir(), "took over the checkpoint of another encoder"


@pytest.mark.parametrize("family", [family for family in FAMILY_NAMES if family != "bert"])
def test_every_family_is_teacher_and_student(tmp_path: Path, family: str) -> None:
    pipeline = Pipeline(tmp_path, family)
    steps = pipeline.steps()
    for name in ("prepare", "teacher", "cache_teacher", "baseline", "distil", "evaluate@teacher", "evaluate@baseline"):
        steps[name]()
    assert pipeline.json("metrics/teacher.json")["trained"] == 1
    sizes = [pipeline.json(f"metrics/quality/{name}.json")["parameters"] for name in ("teacher", "baseline")]
    assert sizes[0] > sizes[1]
    assert load_checkpoint(tmp_path / "models" / "baseline").config.model_type == family


@pytest.fixture(scope="module")
def across(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A teacher with byte-level BPE, students of a narrower WordPiece encoder, and inputs without labels."""
    pipeline = Pipeline(tmp_path_factory.mktemp("across"), "roberta")
    pipeline.unlabelled = UnlabelledParams(other_offsets=8, other_paragraphs=0, cloze=4, sources=(), paragraphs=0)
    pipeline.teacher_epochs = 20  # until it is sure of its answers, so that they are not lost on the way
    tokenizer = toy_tokenizer(pipeline.root / "student" / "tokenizer", "bert")
    save_checkpoint(toy_qa_model("bert", 5, width=16), tokenizer, pipeline.root / "student" / "encoder")
    pipeline.student = StudentParams((0, 2), encoder=str(pipeline.root / "student" / "encoder"))
    return pipeline, run_all(pipeline)


def test_students_of_another_tokenizer_run_through_all_stages(across: Run) -> None:
    own = {f"data/students/student_{name}.safetensors" for name in ("train", "dev", "unlabelled")}
    kept = {f"cache/own_{name}.safetensors" for name in ("train", "dev", "unlabelled")}
    unlabelled = {"data/students/unlabelled.safetensors", "cache/unlabelled.safetensors"}
    assert kept <= set(across[1]["cache_teacher"])
    assert {name: set(files) - own - kept - unlabelled for name, files in across[1].items()} == WRITTEN
    assert own <= set(across[1]["prepare"])
    for variant in VARIANTS:
        kind = across[0].json(f"models/{variant}/config.json")["model_type"].removeprefix("pruned-")
        of_teacher = variant in ("teacher", "teacher_pruned")
        assert kind == ("roberta" if of_teacher else "bert")
        tokenizers = [across[0].root / part / "tokenizer.json" for part in (f"models/{variant}", "student/encoder")]
        assert (tokenizers[0].read_bytes() == tokenizers[1].read_bytes()) != of_teacher


def test_inputs_without_labels_are_taught_in_the_tokens_of_both(across: Run) -> None:
    root = across[0].root
    folders = (root / "data", root / "models" / "teacher", root / "cache")
    lessons = load_lessons(*folders, torch.device("cpu"), run_teacher=True)
    for taught in (lessons, in_the_teachers_tokens(lessons, *folders)):
        windows = taught.training.windows
        unlabelled = torch.nonzero(windows.start_positions == NO_LABEL).flatten()
        assert len({windows.question_ids[row] for row in unlabelled}) == 12
    heard = lessons.training.heard
    assert heard is not None and not heard.same_tokens
    assert [heard.windows.question_ids[row] for row in heard.rows] == list(lessons.training.windows.question_ids)


def test_the_pruned_teacher_learns_from_its_own_answers_and_costs_no_more(across: Run) -> None:
    """Each is priced at the length of its own windows."""
    pipeline = across[0]
    costs = []
    for variant, load in (("finetuned", load_taught), ("teacher_pruned", load_split)):
        length = round(float(load(pipeline.root / "data", "train").windows.lengths.float().mean()))
        costs.append(count_macs(load_checkpoint(pipeline.root / "models" / variant), length))
    assert 0.5 * costs[0] < costs[1] <= costs[0]
    teacher = load_checkpoint(pipeline.root / "models" / "teacher")
    windows = load_split(pipeline.root / "data", "train").windows
    said = predict_logits(teacher, windows, batch_size=4, device=torch.device("cpu"), precision="fp32")
    cached = load_logits(
        pipeline.root / "cache" / "own_train.safetensors", windows, fingerprint(pipeline.root / "models" / "teacher")
    )
    for live, read in zip(said, cached, strict=True):
        torch.testing.assert_close(read.float(), live, atol=2e-3, rtol=2e-3)


def test_a_model_is_pruned_recovered_and_exported_in_the_tokens_that_it_reads(across: Run, tmp_path: Path) -> None:
    """The teacher in the student's place; its tokens are none of the student's."""
    shutil.copytree(across[0].root, tmp_path, dirs_exist_ok=True)
    pipeline, models = Pipeline.at(tmp_path), tmp_path / "models"
    dev = load_split(tmp_path / "data", "dev")
    pipeline.prune("teacher")
    scored = score_model(load_checkpoint(models / "pruned"), dev, DECODE, torch.device("cpu"), 4)
    assert pipeline.json("metrics/prune.json")["dev"] == quality(scored)
    assert "tuned: reads other tokens than the windows are cut to" in refusal(pipeline.finetune)
    for name in ("tuned", "finetuned"):
        shutil.rmtree(models / name)
        shutil.copytree(models / "teacher", models / name)
    pipeline.finetune()
    scored = score_model(load_checkpoint(models / "finetuned"), dev, DECODE, torch.device("cpu"), 4)
    assert pipeline.json("metrics/finetune.json")["dev"] == quality(scored)
    pipeline.export()
    assert pipeline.json("metrics/export.json")["finetuned"]["f1"] == quality(scored)["f1"]


def test_a_model_of_a_tokenizer_that_has_cut_nothing_is_refused(across: Run, tmp_path: Path) -> None:
    shutil.copytree(across[0].root, tmp_path, dirs_exist_ok=True)
    pipeline, fault = Pipeline.at(tmp_path), "reads other tokens than the windows are cut to"
    tokenizer = toy_tokenizer(tmp_path / "t", "mpnet")
    for name in ("distilled", "tuned", "pruned", "finetuned"):
        shutil.rmtree(tmp_path / "models" / name)
        save_checkpoint(toy_qa_model("mpnet", 3), tokenizer, tmp_path / "models" / name)
    for step in (pipeline.tune, pipeline.prune, pipeline.prune_curve, pipeline.finetune, pipeline.prune_teacher):
        assert fault in refusal(step)
    assert "not cut to the tokens that this model reads" in refusal(pipeline.export)


def test_a_teacher_that_is_smaller_than_the_student_is_not_pruned_to_its_size(copied: Pipeline) -> None:
    shutil.rmtree(copied.root / "models" / "finetuned")
    tokenizer = load_tokenizer(copied.root / "models" / "tuned")
    save_checkpoint(toy_qa_model("bert", 3, width=64), tokenizer, copied.root / "models" / "finetuned")
    assert "times the MACs of the teacher, wanted fewer" in refusal(copied.prune_teacher)


def test_a_point_at_which_training_diverges_is_a_bad_trial_and_no_end(copied: Pipeline) -> None:
    copied.tune(space={"learning_rate": Knob(5e-3, 1e30, "log")}, seed=3)
    trials = pd.read_csv(copied.root / "plots" / "tune_trials.csv")
    assert (trials["f1"] == 0).any()
    assert copied.tuned.learning_rate < 1e10


def test_a_cut_that_the_encoder_does_not_have_is_refused_before_any_training(
    copied: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.core.training.fit.fit", None)
    copied.cuts = {"first": (0, 1), "deep": (0, 9)}
    assert "9" in refusal(copied.student_init)


def test_the_carried_cache_answers_as_the_teacher_or_with_whole_words(across: Run) -> None:
    found = across[0].json("metrics/cache_teacher.json")["dev"]
    assert found["f1_live"] == across[0].json("metrics/teacher.json")["dev"]["f1"]
    # Not worse; better where the student's tokens are whole words and the teacher had named a piece of one.
    assert 60 < found["f1_live"] <= found["f1_cached"] <= found["f1_live"] + 100 / 8, "one question of eight"


def test_word_pieces_are_carried_to_byte_level_tokens_too(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    tokenizer = toy_tokenizer(tmp_path / "student" / "tokenizer", "roberta")
    save_checkpoint(toy_qa_model("roberta", 5, width=16), tokenizer, tmp_path / "student" / "encoder")
    pipeline.student = StudentParams((0, 2), encoder=str(tmp_path / "student" / "encoder"))
    for step in (pipeline.prepare, pipeline.teacher, pipeline.cache_teacher, pipeline.baseline):
        step()
    found = pipeline.json("metrics/cache_teacher.json")["dev"]
    assert found["f1_cached"] == pytest.approx(found["f1_live"], abs=0.5)
    assert load_checkpoint(tmp_path / "models" / "baseline").config.model_type == "roberta"


def test_students_of_another_tokenizer_are_held_to_what_is_inside_the_teacher(across: Run) -> None:
    pipeline = across[0]
    history = pd.read_csv(pipeline.root / "loss" / "distilled.csv")
    assert (history[["hidden", "relation"]] > 0).all(axis=None)
    assert "hidden_weight" in pd.read_csv(pipeline.root / "plots" / "tune_trials.csv")
    held = weights_of(load_checkpoint(pipeline.root / "models" / "distilled"))
    for key in ("hidden_weight", "relation_weight"):
        pipeline.distil(**{key: 0.0})
        assert weights_of(load_checkpoint(pipeline.root / "models" / "distilled")) != held


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """As many inputs without labels as there are questions."""
    pipeline = Pipeline(tmp_path_factory.mktemp("more"))
    write_squad(pipeline.root / "corpus" / "more.json", toy_examples(16, seed=4, articles=2))
    pipeline.unlabelled = UnlabelledParams(
        other_offsets=8,
        other_paragraphs=4,
        cloze=4,
        sources=(str(pipeline.root / "corpus" / "more.json"),),
        paragraphs=8,
    )
    return pipeline, run_all(pipeline)


def test_students_learn_from_inputs_without_labels_too(run: Run, more: Run) -> None:
    extra = {"data/students/unlabelled.safetensors", "cache/unlabelled.safetensors"}
    assert {name: set(files) - extra for name, files in more[1].items()} == WRITTEN
    assert extra <= set(more[0].files())
    same = (
        *WRITTEN["teacher"],
        *(f"{part}/{name}.safetensors" for part in ("data/labelled", "cache") for name in ("train", "dev")),
    )
    assert all(more[0].files()[path] == run[0].files()[path] for path in same)
    for stage, model in (("baseline", "baseline"), ("distil", "distilled"), ("tune", "tuned"), ("prune", "pruned")):
        path = f"models/{model}/model.safetensors"
        assert more[1][stage][path] != run[1][stage][path]
    for name in ("baseline", "distilled"):
        steps = [pd.read_csv(each[0].root / "loss" / f"{name}.csv")["step"].max() for each in (run, more)]
        assert steps[1] == 2 * steps[0]


def test_the_control_sees_labelled_windows_only_as_often(more: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    curves = [pd.read_csv(more[0].root / "loss" / f"{name}.csv") for name in ("baseline", "hard_label")]
    assert curves[0]["step"].tolist() == curves[1]["step"].tolist()
    assert curves[0]["learning_rate"].tolist() == curves[1]["learning_rate"].tolist()
    labels = []

    def listen(self: LabelLoss, model: nn.Module, batch: Batch) -> LossTerms:
        labels.extend(batch.start_positions.tolist())
        return learn(self, model, batch)

    learn = LabelLoss.__call__
    monkeypatch.setattr(LabelLoss, "__call__", listen)
    more[0].baseline()
    assert len(labels) == 4 * 24
    assert -1 not in labels


def test_a_cache_without_the_inputs_that_have_no_labels_is_refused(copied: Pipeline) -> None:
    copied.unlabelled = UnlabelledParams(other_offsets=8, other_paragraphs=0, cloze=0, sources=(), paragraphs=0)
    copied.prepare()
    assert "unlabelled.safetensors: no such file; run the cache_teacher stage" in refusal(copied.baseline)


def test_evaluate_scores_any_model_on_any_file_and_prints(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = run[0].files()
    evaluate.run(
        evaluate.EvaluateParams(seed=1, batch_size=4, resamples=100, precision="fp32"),
        RUNTIME,
        WINDOWS,
        DECODE,
        model=run[0].root / "models" / "finetuned",
        questions=run[0].root / "data" / "test.json",
        predictions=None,
        metrics=None,
    )
    assert json.loads(capsys.readouterr().out) == run[0].json("metrics/quality/finetuned.json")
    assert run[0].files() == before
