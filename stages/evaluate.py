"""One model on one set of questions -> exact match, F1, intervals, size, predictions.

Reads a saved model, torch or ONNX, and a SQuAD v1.1 file; writes quality (official SQuAD v1.1 definitions, 95 %
bootstrap intervals resampled by paragraph) and predictions in SQuAD's format, id to text. Needs no DVC: without
--metrics the quality is printed.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from stages.core.data.settings import WindowsParams
from stages.core.errors import clean_exit
from stages.core.params import load_params, require
from stages.core.qa.decoding import DecodeParams
from stages.core.runtime import RuntimeParams, start


@dataclass(frozen=True)
class EvaluateParams:
    """The `evaluate` section."""

    seed: int  # of the bootstrap
    batch_size: int  # windows a forward pass
    resamples: int  # of the bootstrap
    precision: str  # of the forward pass: fp32 or bf16

    def check(self) -> None:
        """Vouch for ranges."""
        require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")
        require(self.precision in ("fp32", "bf16"), "precision", self.precision, "fp32 or bf16")
        require(self.resamples >= 100, "resamples", self.resamples, "100 or more")


def run(
    params: EvaluateParams,
    runtime_params: RuntimeParams,
    windows: WindowsParams,
    decode: DecodeParams,
    *,
    model: Path,
    questions: Path,
    predictions: Path | None,
    metrics: Path | None,
) -> None:
    """Let the model answer every question, score the answers, measure the model."""
    from stages.core.data.cutting import load_cutter
    from stages.core.data.examples import read_squad
    from stages.core.data.prepared import Questions
    from stages.core.files import write_json
    from stages.core.models.answering import open_model
    from stages.core.models.size import describe_size
    from stages.core.qa.evaluation import answer, quality_with_intervals
    from stages.core.qa.inference import predict_logits

    runtime = start(runtime_params, params.seed)
    network, examples = open_model(model).to(runtime.device), read_squad(questions)
    cut = load_cutter(model, max_length=windows.max_length, doc_stride=windows.doc_stride).cut(examples)
    asked = Questions(examples, cut)
    logits = predict_logits(
        network, cut, batch_size=params.batch_size, device=runtime.device, precision=params.precision
    )
    answers = answer(asked, logits, decode)
    found = quality_with_intervals(asked, answers, resamples=params.resamples, seed=params.seed)
    found |= describe_size(model, length=round(float(cut.lengths.float().mean())))
    if predictions is not None:
        write_json(predictions, answers)
    if metrics is not None:
        write_json(metrics, found)
    else:
        print(json.dumps(found, indent=2, sort_keys=True))


def main() -> None:
    """Take paths from the command line and values from params.yaml."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of a saved model")
    parser.add_argument("--questions", type=Path, required=True, help="SQuAD v1.1 JSON file")
    parser.add_argument("--predictions", type=Path, help="write id to text here")
    parser.add_argument("--metrics", type=Path, help="write the quality here instead of printing it")
    paths = vars(parser.parse_args())
    params, runtime = load_params("evaluate", EvaluateParams), load_params("runtime", RuntimeParams)
    run(params, runtime, load_params("windows", WindowsParams), load_params("decode", DecodeParams), **paths)


if __name__ == "__main__":
    with clean_exit():
        main()
