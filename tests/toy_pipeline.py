"""The stages with toy settings on toy questions, all files below one folder."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from safetensors.torch import load_file, save_file

from stages import (
    baseline,
    benchmark,
    cache_teacher,
    distil,
    evaluate,
    export,
    finetune,
    prepare,
    prune,
    prune_curve,
    prune_teacher,
    report,
    student_init,
    teacher,
    tune,
)
from stages.core.data.examples import write_squad
from stages.core.data.settings import WindowsParams
from stages.core.models.checkpoint import save_checkpoint
from stages.core.models.source import EncoderParams
from stages.core.params import load_params
from stages.core.pruning.settings import PruneParams
from stages.core.qa.decoding import DecodeParams
from stages.core.report.variants import VARIANTS
from stages.core.runtime import RuntimeParams
from stages.core.training.settings import BaselineParams, DistilParams, FinetuneParams, StudentParams, TunedParams
from stages.core.training.space import Knob
from tests.toy_models import toy_qa_model, toy_tokenizer
from tests.toy_questions import toy_examples
from tests.toy_training import fit_params

RUNTIME = RuntimeParams(device="cpu", precision="fp32", threads=1, cuda_graphs=True)
WINDOWS = WindowsParams(max_length=64, doc_stride=8)
DECODE = DecodeParams(n_best=5, max_answer_length=4)
FIT = vars(fit_params(learning_rate=5e-3, checkpoint_steps=3, dropout=0.1))
KNOBS = {"temperature": 2.0, "alpha": 0.9}
INSIDE: dict[str, Any] = {
    "hidden_weight": 1.0,
    "relation_weight": 0.5,
    "relation_heads": 2,
    "student_layers": (1, 2),
    "teacher_layers": (1, 3),
}
DISTIL = DistilParams(**FIT, **KNOBS, **INSIDE)
FINETUNE = FinetuneParams(**FIT, hidden_weight=1.0)
PRUNE = PruneParams(
    **FIT,
    macs_kept=0.6,
    parameters_kept=0.0,
    latency_kept=0.0,
    rounds=2,
    fisher_windows=16,
    repair_windows=8,
    ridge=0.01,
    recovery_windows=8,
    hidden_weight=0.5,
    minimum_neurons=8,
)
STUDENT = StudentParams(layers=(0, 2))
# All others are 1.
STUDENT_INIT_SEED, PRUNE_CURVE_SEED, PRUNE_TEACHER_SEED, EXPORT_SEED = 2, 3, 4, 5
CALIBRATION_WINDOWS = 8
UNLABELLED = prepare.UnlabelledParams(other_offsets=0, other_paragraphs=0, cloze=0, sources=(), paragraphs=0)
# A trial takes 4 updates an epoch, 8 in all: four trials, or more where some are stopped.
TUNE = tune.TuneParams(
    seed=1,
    updates=32,
    trial_epochs=2,
    trial_windows=16,
    finalists=2,
    average=False,
    storage="",
    space={
        "temperature": Knob(1.0, 8.0, "log"),
        "alpha": Knob(0.5, 1.0, "linear"),
        "learning_rate": Knob(1e-3, 1e-2, "log"),
        "hidden_weight": Knob(0.1, 10.0, "log"),
    },
)


class Pipeline:
    """The stages with toy settings, all files below one folder, laid out as dvc.yaml has them."""

    cuts: dict[str, tuple[int, ...]] = {"alternate": (0, 2), "first": (0, 1)}  # noqa: RUF012  read, never written
    teacher_epochs = FIT["epochs"]

    def __init__(self, root: Path, family: str = "bert", *, ready: bool = False) -> None:
        self.root, self.family = root, family
        self.student, self.distil_params, self.tune_params, self.unlabelled = STUDENT, DISTIL, TUNE, UNLABELLED
        self.encoder = EncoderParams(str(root / "encoder"), "")
        model, tokenizer = toy_qa_model(family, 1), toy_tokenizer(root / "tokenizer", family)
        save_checkpoint(model, tokenizer, root / "encoder")
        if not ready:
            weights = root / "encoder" / "model.safetensors"
            bare = {name: weight for name, weight in load_file(weights).items() if "qa_outputs" not in name}
            save_file(bare, weights, metadata={"format": "pt"})
        for name, (count, seed) in {"train": (24, 1), "dev": (8, 2), "test": (8, 3)}.items():
            write_squad(root / "corpus" / f"{name}.json", toy_examples(count, seed, articles=3))

    @classmethod
    def at(cls, root: Path) -> "Pipeline":
        """A pipeline over what another has left at `root`, nothing written anew."""
        found = cls.__new__(cls)
        found.root, found.family, found.encoder = root, "bert", EncoderParams(str(root / "encoder"), "")
        found.student, found.distil_params, found.tune_params, found.unlabelled = STUDENT, DISTIL, TUNE, UNLABELLED
        return found

    def prepare(self, **changes: Any) -> None:
        sources = {name: (f"primer:{name}",) for name in ("train", "dev", "test")}
        counts = dict.fromkeys(("train_questions", "dev_questions", "test_questions", "cloze_questions"), 0)
        params = {"seed": 1, **sources, **counts, "dev_fraction": 0.3, "on_bad_record": "error", **changes}
        prepare.run(
            prepare.DataParams(**params),
            WINDOWS,
            self.encoder,
            self.student,
            self.unlabelled,
            DECODE,
            corpus=self.root / "corpus",
            out=self.root / "data",
            metrics=self.root / "metrics" / "data.json",
        )

    def teacher(self, **changes: Any) -> None:
        teacher.run(
            teacher.TeacherParams(**{**FIT, "epochs": self.teacher_epochs, "cloze_epochs": 1, "runs": 1, **changes}),
            RUNTIME,
            self.encoder,
            DECODE,
            data=self.root / "data",
            out=self.root / "models" / "teacher",
            metrics=self.root / "metrics" / "teacher.json",
            history=self.root / "loss" / "teacher.csv",
            scratch=self.root / "scratch" / "teacher",
        )

    def cache_teacher(self, *others: str, precision: str = "fp32") -> None:
        cache_teacher.run(
            cache_teacher.CacheTeacherParams(
                seed=1, batch_size=4, precision=precision, others=others, f1_tolerance=0.5
            ),
            RUNTIME,
            DECODE,
            data=self.root / "data",
            teacher=self.root / "models" / "teacher",
            out=self.root / "cache",
            metrics=self.root / "metrics" / "cache_teacher.json",
        )

    @property
    def lessons(self) -> dict[str, Path]:
        return {
            "data": self.root / "data",
            "teacher": self.root / "models" / "teacher",
            "cache": self.root / "cache",
        }

    def outputs(self, stage: str, model: str) -> dict[str, Path]:
        return {
            "out": self.root / "models" / model,
            "metrics": self.root / "metrics" / f"{stage}.json",
            "history": self.root / "loss" / f"{model}.csv",
            "scratch": self.root / "scratch" / stage,
        }

    def baseline(self, **changes: float) -> None:
        baseline.run(
            BaselineParams(**{**FIT, **KNOBS, **changes}),
            RUNTIME,
            self.student,
            DECODE,
            **self.lessons,
            **self.outputs("baseline", "baseline"),
            control=self.root / "models" / "hard_label",
            control_history=self.root / "loss" / "hard_label.csv",
        )

    def student_init(self) -> None:
        student_init.run(
            student_init.StudentInitParams(seed=STUDENT_INIT_SEED, updates=5, resamples=100, candidates=self.cuts),
            BaselineParams(**FIT, **KNOBS),
            RUNTIME,
            self.student,
            DECODE,
            **self.lessons,
            out=self.root / "plots" / "student_init.csv",
            scratch=self.root / "scratch" / "student_init",
        )

    def distil(self, **changes: float) -> None:
        distil.run(
            replace(self.distil_params, **cast(dict[str, Any], changes)),
            RUNTIME,
            self.student,
            DECODE,
            **self.lessons,
            **self.outputs("distil", "distilled"),
        )

    def tune(self, *, join: bool = False, **changes: Any) -> None:
        places = self.outputs("tune", "tuned")
        scratch = places.pop("scratch")
        outputs = tune.TuneOutputs(
            **places,
            best=self.root / "metrics" / "best_params.yaml",
            trials=self.root / "plots" / "tune_trials.csv",
            importance=self.root / "plots" / "tune_importance.csv",
        )
        tune.run(
            replace(self.tune_params, **changes),
            self.distil_params,
            RUNTIME,
            self.student,
            DECODE,
            **self.lessons,
            scratch=scratch,
            default=None
            if join
            else tune.DefaultPoint(self.root / "models" / "distilled", self.root / "loss" / "distilled.csv"),
            outputs=None if join else outputs,
        )

    @property
    def tuned(self) -> TunedParams:
        return load_params("tuned", TunedParams, self.root / "metrics" / "best_params.yaml")

    def prune(self, student: str = "tuned") -> None:
        prune.run(
            PRUNE,
            self.tuned,
            RUNTIME,
            DECODE,
            **self.lessons,
            **self.outputs("prune", "pruned"),
            student=self.root / "models" / student,
        )

    def prune_curve(self, student: str = "tuned") -> None:
        prune_curve.run(
            prune_curve.PruneCurveParams(
                seed=PRUNE_CURVE_SEED, macs_kept=(0.8, 0.4), recovery_updates=3, resamples=100
            ),
            PRUNE,
            FINETUNE,
            self.tuned,
            RUNTIME,
            DECODE,
            **self.lessons,
            student=self.root / "models" / student,
            out=self.root / "plots" / "prune_curve.csv",
            differences=self.root / "plots" / "prune_curve_differences.csv",
            scratch=self.root / "scratch" / "prune_curve",
        )

    def finetune(self) -> None:
        finetune.run(
            FINETUNE,
            self.tuned,
            RUNTIME,
            DECODE,
            **self.lessons,
            **self.outputs("finetune", "finetuned"),
            student=self.root / "models" / "pruned",
            whole=self.root / "models" / "tuned",
        )

    def prune_teacher(self) -> None:
        prune_teacher.run(
            prune_teacher.PruneTeacherParams(seed=PRUNE_TEACHER_SEED),
            PRUNE,
            FINETUNE,
            self.tuned,
            RUNTIME,
            DECODE,
            **self.lessons,
            **self.outputs("prune_teacher", "teacher_pruned"),
            student=self.root / "models" / "finetuned",
        )

    def export(self, **changes: Any) -> None:
        params = {
            "seed": EXPORT_SEED,
            "batch_size": 4,
            "tolerance": 1e-4,
            "calibration_windows": CALIBRATION_WINDOWS,
            "smoothing": 0.8,
            "signed_weights": False,
            **changes,
        }
        export.run(
            export.ExportParams(**params),
            RUNTIME,
            DECODE,
            data=self.root / "data",
            model=self.root / "models" / "finetuned",
            out=self.root / "models" / "export",
            int8=self.root / "models" / "int8",
            metrics=self.root / "metrics" / "export.json",
        )

    def evaluate(self, variant: str) -> None:
        evaluate.run(
            evaluate.EvaluateParams(seed=1, batch_size=4, resamples=100, precision="fp32"),
            RUNTIME,
            WINDOWS,
            DECODE,
            model=self.root / "models" / variant,
            questions=self.root / "data" / "test.json",
            predictions=self.root / "predictions" / f"{variant}.json",
            metrics=self.root / "metrics" / "quality" / f"{variant}.json",
        )

    def benchmark(self) -> None:
        benchmark.run(
            benchmark.BenchmarkParams(seed=1, questions=3, warmup=1, batch_size=4, repeats=1),
            RUNTIME,
            WINDOWS,
            models=self.root / "models",
            questions=self.root / "data" / "test.json",
            out=self.root / "metrics" / "latency.json",
            environment=self.root / "metrics" / "environment.yaml",
        )

    def report(self) -> None:
        inputs = report.ReportInputs(
            questions=self.root / "data" / "test.json",
            quality=self.root / "metrics" / "quality",
            predictions=self.root / "predictions",
            latency=self.root / "metrics" / "latency.json",
            histories=self.root / "loss",
            environment=self.root / "metrics" / "environment.yaml",
            curve=self.root / "plots" / "prune_curve.csv",
            gains=self.root / "plots" / "prune_curve_differences.csv",
            cuts=self.root / "plots" / "student_init.csv",
            data=self.root / "metrics" / "data.json",
            search=self.root / "metrics" / "tune.json",
            importance=self.root / "plots" / "tune_importance.csv",
        )
        params = report.ReportParams(seed=1, resamples=100, samples=3)
        report.run(params, inputs, out=self.root / "metrics" / "report.md", plots=self.root / "plots")

    def steps(self) -> dict[str, Callable[[], None]]:
        training = (self.teacher, self.cache_teacher, self.baseline, self.student_init, self.distil, self.tune)
        pruning = (self.prune, self.prune_curve, self.finetune, self.export, self.prune_teacher)
        return {
            "prepare": self.prepare,
            **{step.__name__: step for step in (*training, *pruning)},
            **{f"evaluate@{variant}": lambda variant=variant: self.evaluate(variant) for variant in VARIANTS},  # type: ignore[misc]
            "benchmark": self.benchmark,
            "report": self.report,
        }

    def files(self) -> dict[str, bytes]:
        return {
            path.relative_to(self.root).as_posix(): path.read_bytes() for path in self.root.rglob("*") if path.is_file()
        }

    def json(self, path: str) -> Any:
        return json.loads((self.root / path).read_text(encoding="utf-8"))
