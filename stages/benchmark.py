"""Saved models -> how fast each answers one question, and many at once.

All variants are loaded into one process and timed in turn, question by question, so that the machine's other work
slows all alike; what compares is the ratio. Timings never repeat, so they have a file of their own that no result
shares; beside it stands what they depend on: processor, threads, versions.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import yaml

from stages.core.data.settings import WindowsParams
from stages.core.errors import clean_exit
from stages.core.params import load_params, require
from stages.core.runtime import RuntimeParams


@dataclass(frozen=True)
class BenchmarkParams:
    """The `benchmark` section."""

    seed: int  # of the choice of questions
    questions: int  # test questions timed; fewer where the test has fewer
    warmup: int  # untimed forward passes of each model before each measurement
    batch_size: int  # windows at once when throughput is measured
    repeats: int  # times over all questions

    def check(self) -> None:
        """Vouch for ranges."""
        for key in ("questions", "batch_size", "repeats"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
        require(self.warmup >= 0, "warmup", self.warmup, "0 or more")


def run(
    params: BenchmarkParams,
    runtime: RuntimeParams,
    windows: WindowsParams,
    *,
    models: Path,
    questions: Path,
    out: Path,
    environment: Path,
) -> None:
    """Load every variant, cut the same questions with its tokenizer, time all in turn, write milliseconds and rates."""
    from stages.core.data.batches import ordered_batches
    from stages.core.data.cutting import load_cutter
    from stages.core.data.examples import read_squad, sample
    from stages.core.files import write_json, write_text
    from stages.core.models.answering import open_model
    from stages.core.qa.latency import measure, one_by_one
    from stages.core.report.variants import VARIANTS
    from stages.core.runtime import describe, start

    machine = start(runtime, params.seed)  # before the models: ONNX Runtime takes its threads when it loads one
    loaded = {variant: open_model(models / variant) for variant in VARIANTS}
    examples = sample(read_squad(questions), params.questions, params.seed)
    cut = {
        variant: load_cutter(models / variant, max_length=windows.max_length, doc_stride=windows.doc_stride).cut(
            examples
        )
        for variant in VARIANTS
    }
    timings = measure(
        loaded,
        {variant: one_by_one(each) for variant, each in cut.items()},
        {variant: list(ordered_batches(each, params.batch_size)) for variant, each in cut.items()},
        warmup=params.warmup,
        repeats=params.repeats,
        device=machine.device,
        precision="fp32",  # whatever evaluation runs in: the speed of the weights as they are saved
    )
    told = {**describe(machine), "timing_precision": "fp32", "questions": len(examples), "repeats": params.repeats}
    write_text(environment, yaml.safe_dump(told, sort_keys=False))
    write_json(out, {name: {key: round(value, 2) for key, value in row.items()} for name, row in timings.items()})


def main() -> None:
    """Take paths from the command line and values from params.yaml."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--models", "--questions", "--out", "--environment"):
        parser.add_argument(name, type=Path, required=True)
    paths = parser.parse_args()
    params, runtime = load_params("benchmark", BenchmarkParams), load_params("runtime", RuntimeParams)
    run(params, runtime, load_params("windows", WindowsParams), **vars(paths))


if __name__ == "__main__":
    with clean_exit():
        main()
