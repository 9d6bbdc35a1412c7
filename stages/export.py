"""The recovered student in forms that run elsewhere: stock transformers, ONNX, and the variant int8.

Reads the recovered student, training windows and dev; writes its stock and its ONNX form, whose logits have to be the
student's, and int8, which is judged, timed and reported as a model of its own: weights in eight bits for good,
activations as they come (dynamic quantisation), evened out beforehand by what training windows show of them, the answer
head in float32. All of it is computed on the CPU, where these forms run.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from stages.core.errors import clean_exit
from stages.core.params import load_params, require
from stages.core.qa.decoding import DecodeParams
from stages.core.runtime import RuntimeParams, start


@dataclass(frozen=True)
class ExportParams:
    """The `export` section."""

    seed: int  # of the windows drawn
    batch_size: int  # windows a forward pass
    tolerance: float  # by how much logits of stock and ONNX may differ from the student's, rounding apart
    calibration_windows: int  # training windows on which the activations' sizes are measured
    smoothing: float  # how much of the activations' unevenness goes to int8's matrices, 0 (none) to 1
    signed_weights: bool  # int8's weights: true is faster where there is VNNI and saturates where there is none

    def check(self) -> None:
        """Vouch for ranges."""
        require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")
        require(self.calibration_windows >= 1, "calibration_windows", self.calibration_windows, "1 or more")
        require(self.tolerance > 0, "tolerance", self.tolerance, "above 0")
        require(0 <= self.smoothing <= 1, "smoothing", self.smoothing, "0 to 1")


def run(
    params: ExportParams,
    runtime: RuntimeParams,
    decode: DecodeParams,
    *,
    data: Path,
    model: Path,
    out: Path,
    int8: Path,
    metrics: Path,
) -> None:
    """Write the forms, let each answer dev, and keep them only if those in float32 have the student's logits."""
    from stages.core.data.prepared import load_read_by
    from stages.core.files import whole_folder, write_json
    from stages.core.models.checkpoint import load_checkpoint, save_checkpoint
    from stages.core.models.encoder import load_tokenizer
    from stages.core.models.onnx import save_onnx
    from stages.core.models.quantisation import calibration_batches, save_onnx_int8
    from stages.core.models.stock import stock_form
    from stages.core.qa.agreement import describe_forms, require_agreement

    start(replace(runtime, device="cpu"), params.seed)
    student, tokenizer = load_checkpoint(model), load_tokenizer(model)
    train, dev = (load_read_by(tokenizer, data, name) for name in ("train", "dev"))
    shown = calibration_batches(
        train.windows, params.calibration_windows, batch_size=params.batch_size, seed=params.seed
    )
    with whole_folder(out) as exported, whole_folder(int8) as quantised:
        forms = {"finetuned": model, "stock": exported / "stock", "onnx": exported / "onnx", "int8": quantised}
        save_checkpoint(stock_form(student), tokenizer, forms["stock"])
        save_onnx(student, tokenizer, forms["onnx"])
        save_onnx_int8(
            forms["onnx"],
            forms["int8"],
            shown,
            smoothing=params.smoothing,
            signed_weights=params.signed_weights,
        )
        same, tolerance = ("stock", "onnx"), params.tolerance
        found = describe_forms(forms, dev, decode, batch_size=params.batch_size, held=same, tolerance=tolerance)
        require_agreement(found, same, tolerance)
    write_json(metrics, found)


def main() -> None:
    """Take paths from the command line and values from params.yaml."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--data", "--model", "--out", "--int8", "--metrics"):
        parser.add_argument(name, type=Path, required=True)
    paths = vars(parser.parse_args())
    params, runtime = load_params("export", ExportParams), load_params("runtime", RuntimeParams)
    run(params, runtime, load_params("decode", DecodeParams), **paths)


if __name__ == "__main__":
    with clean_exit():
        main()
