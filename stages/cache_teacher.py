"""Teacher x windows -> cached start and end logits, so that students learn from it without running it.

Reads the teacher and the prepared windows of train and dev, and of inputs without labels where there are any; writes
ragged half-precision logits bound to a fingerprint of tokenizer, windows and teacher. Where students read other
windows, the logits are carried over to them by characters; the probabilities of further teachers are averaged with
its own. Dev is scored from the cache and from the live teacher in fp32: neither a faster forward pass, nor half
precision, nor the carriage may cost anything. Train is scored from the cache and from the pass that it was made in.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from stages.core.errors import InputError, clean_exit
from stages.core.models.source import resolve_model
from stages.core.params import load_params, require
from stages.core.qa.decoding import DecodeParams
from stages.core.runtime import RuntimeParams, start


@dataclass(frozen=True)
class CacheTeacherParams:
    """The `cache_teacher` section."""

    seed: int  # nothing is drawn here; the generators are seeded all the same
    batch_size: int  # windows a forward pass
    precision: str  # of the forward pass: fp32 or bf16
    others: tuple[str, ...]  # further ready QA models, as model specs, whose answers are averaged with the teacher's
    f1_tolerance: float  # points of dev F1 by which the cache may fall short of the live teacher

    def check(self) -> None:
        """Vouch for ranges."""
        require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")
        require(self.precision in ("fp32", "bf16"), "precision", self.precision, "fp32 or bf16")
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
    """Run the teacher over every window, cache what it says, score the cache against the live teacher.

    A cache that falls short is not left behind. One that is better is none the worse for it: a student's tokens may be
    whole words where the teacher's are pieces, and a piece of an answer then becomes all of it.
    """
    others = [resolve_model(spec) for spec in params.others]  # a bad one stops here, before anything heavy is imported
    from stages.core.data.logits import OWN, load_logits, save_logits
    from stages.core.data.prepared import (
        UNLABELLED,
        Questions,
        has_own_windows,
        has_unlabelled,
        load_split,
        load_taught,
    )
    from stages.core.files import whole_folder, write_json
    from stages.core.models.checkpoint import load_checkpoint
    from stages.core.models.encoder import fingerprint
    from stages.core.models.families import move
    from stages.core.qa.ensemble import Reader, Said, load_reader, pool

    runtime = start(runtime_params, params.seed)
    made_by, device, exact = fingerprint(teacher), runtime.device, params.precision == "fp32"
    panel = [Reader(move(load_checkpoint(teacher), device))]
    panel += [load_reader(each, load_split(data, "dev"), device) for each in others]

    def ask(questions: Questions, precision: str) -> list[Said]:
        size = params.batch_size
        return [each.read(questions, batch_size=size, device=device, precision=precision) for each in panel]

    scores: dict[str, dict[str, float]] = {}
    with whole_folder(out) as folder:
        for split in ("train", "dev", UNLABELLED) if has_unlabelled(data) else ("train", "dev"):
            questions, taught = load_split(data, split), load_taught(data, split)
            said = ask(questions, params.precision)
            pooled = pool(said, taught)
            save_logits(folder / f"{split}.safetensors", pooled.logits, taught.windows, made_by)
            if has_own_windows(data):
                own = pool(said, questions)  # for the teacher's own sake, as when it is pruned
                save_logits(folder / f"{OWN}{split}.safetensors", own.logits, questions.windows, made_by)
            if split == UNLABELLED:
                continue  # nothing to score by
            live = said if exact or split != "dev" else ask(questions, "fp32")
            cached = Said(taught, load_logits(folder / f"{split}.safetensors", taught.windows, made_by))
            scores[split] = {"f1_live": live[0].f1(decode), "f1_cached": cached.f1(decode)}
            if others and split == "dev":
                scores[split] |= {
                    f"f1_other_{number}": each.f1(decode) for number, each in enumerate(live[1:], start=1)
                }
                scores[split]["f1_mean"] = pool(live, questions).f1(decode)
        wanted, found = scores["dev"]["f1_mean" if others else "f1_live"], scores["dev"]["f1_cached"]
        if wanted - found > params.f1_tolerance:
            raise InputError(
                f"{out}: dev F1 is {found} from the cache and {wanted} live; "
                "the cache is not usable: set cache_teacher.precision to fp32, or raise f1_tolerance"
            )
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
