"""Teacher x windows -> cached start and end logits, so that students learn from it without running it.

Reads the teacher and the prepared windows of train and dev; writes ragged half-precision logits bound to a
fingerprint of tokenizer, windows and teacher. Where students read other windows, the logits are carried over to them by
characters. Dev is scored from the cache and from the live teacher: neither half precision nor the carriage may cost
anything.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from stages.core.errors import InputError, clean_exit
from stages.core.params import load_params, require
from stages.core.qa.decoding import DecodeParams
from stages.core.runtime import RuntimeParams, start


@dataclass(frozen=True)
class CacheTeacherParams:
    """The `cache_teacher` section."""

    seed: int  # nothing is drawn here; the generators are seeded all the same
    batch_size: int  # windows a forward pass
    f1_tolerance: float  # points of dev F1 that the cache may differ from the live teacher

    def check(self) -> None:
        """Vouch for ranges."""
        require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")
        require(self.f1_tolerance >= 0, "f1_tolerance", self.f1_tolerance, "0 or more")


def run(
    params: CacheTeacherParams,
    runtime_params: RuntimeParams,
    decode: DecodeParams,
    *,
    data: Path,
    teacher: Path,
    out: Path,
    metrics: Path,
) -> None:
    """Run the teacher over every window, cache what it says, score the cache against the live teacher."""
    from stages.core.data.carry import carry_over
    from stages.core.data.logits import load_logits, save_logits
    from stages.core.data.prepared import load_split, load_taught
    from stages.core.files import write_json
    from stages.core.models.checkpoint import load_checkpoint
    from stages.core.models.encoder import fingerprint
    from stages.core.models.families import move
    from stages.core.qa.evaluation import answer, quality
    from stages.core.qa.inference import predict_logits

    runtime = start(runtime_params, params.seed)
    model, made_by = move(load_checkpoint(teacher), runtime.device), fingerprint(teacher)
    scores: dict[str, object] = {}
    for split in ("train", "dev"):
        questions, taught = load_split(data, split), load_taught(data, split)
        logits = predict_logits(
            model, questions.windows, batch_size=params.batch_size, device=runtime.device, precision="fp32"
        )
        carried = carry_over(logits, questions.windows, taught.windows)
        save_logits(out / f"{split}.safetensors", carried, taught.windows, made_by)
        cached = load_logits(out / f"{split}.safetensors", taught.windows, made_by)
        live = quality(questions, answer(questions, logits, decode))
        read = quality(taught, answer(taught, cached, decode))
        if split == "dev" and abs(live["f1"] - read["f1"]) > params.f1_tolerance:
            raise InputError(
                f"{out}: dev F1 is {read['f1']} from the cache and {live['f1']} live; the cache is not usable"
            )
        scores[split] = {"f1_live": live["f1"], "f1_cached": read["f1"]}
    write_json(metrics, scores)


def main() -> None:
    """Take paths from the command line and values from params.yaml."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--data", "--teacher", "--out", "--metrics"):
        parser.add_argument(name, type=Path, required=True)
    paths = vars(parser.parse_args())
    params, runtime = load_params("cache_teacher", CacheTeacherParams), load_params("runtime", RuntimeParams)
    run(params, runtime, load_params("decode", DecodeParams), **paths)


if __name__ == "__main__":
    with clean_exit():
        main()
