"""Attention heads and feed-forward neurons removed from the tuned student under a budget of multiply-adds.

Reads the tuned student, prepared windows and the teacher's cache; writes a model with smaller matrices. Heads and
neurons are scored by the Fisher information of mask variables on the training loss (Kwon et al. 2022, "A Fast
Post-Training Pruning Framework for Transformers"), and those go that lose the least of it within the budget. What is
removed is removed physically: the saved model's answers are the masked model's.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from stages.core.errors import clean_exit
from stages.core.params import load_params, require
from stages.core.qa.decoding import DecodeParams
from stages.core.runtime import RuntimeParams, start
from stages.core.training.settings import TunedParams


@dataclass(frozen=True)
class PruneParams:
    """The `prune` section."""

    seed: int  # of the windows that scores are measured on
    macs_kept: float  # share of the tuned student's encoder MACs that may remain, above 0, at most 1
    fisher_windows: int  # training windows that scores are measured on
    batch_size: int  # windows a backward pass
    minimum_neurons: int  # feed-forward neurons that stay in every layer, at least

    def check(self) -> None:
        """Vouch for ranges."""
        require(0 < self.macs_kept <= 1, "macs_kept", self.macs_kept, "above 0, at most 1")
        for key in ("fisher_windows", "batch_size", "minimum_neurons"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")


def run(
    params: PruneParams,
    tuned: TunedParams,
    runtime_params: RuntimeParams,
    decode: DecodeParams,
    *,
    data: Path,
    teacher: Path,
    cache: Path,
    student: Path,
    out: Path,
    metrics: Path,
) -> None:
    """Score, choose under the budget, remove, and measure dev before any recovery."""
    from stages.core.data.batches import ordered_batches
    from stages.core.files import write_json
    from stages.core.models.checkpoint import load_checkpoint, save_checkpoint
    from stages.core.models.encoder import load_tokenizer
    from stages.core.models.families import move
    from stages.core.pruning.budget import count_macs, masks_for_budget
    from stages.core.pruning.importance import mask_fisher
    from stages.core.pruning.surgery import remove
    from stages.core.qa.evaluation import answer_with, quality
    from stages.core.training.lessons import load_lessons, some
    from stages.core.training.losses import DistillationLoss

    runtime = start(runtime_params, params.seed)
    lessons = load_lessons(data, teacher, cache, runtime.device)
    model = move(load_checkpoint(student), runtime.device)
    sample = some(lessons.training, params.fisher_windows, params.seed)
    batches = ordered_batches(sample.windows, params.batch_size, sample.teacher_logits)
    scores = mask_fisher(model, batches, DistillationLoss(tuned.temperature, tuned.alpha), runtime.device)
    length = round(float(lessons.training.windows.lengths.float().mean()))
    masks = masks_for_budget(model, scores, length=length, kept=params.macs_kept, minimum=params.minimum_neurons)
    pruned = remove(model, *masks)
    answers = answer_with(pruned, lessons.dev, decode, runtime.device, params.batch_size)
    save_checkpoint(pruned.cpu(), load_tokenizer(student), out)
    kept = {
        "macs_kept": round(count_macs(pruned, length) / count_macs(model, length), 4),
        "heads_kept": int(masks[0].sum()),
        "heads": masks[0].numel(),
        "neurons_kept": int(masks[1].sum()),
        "neurons": masks[1].numel(),
    }
    write_json(metrics, {"dev": quality(lessons.dev, answers), **kept})


def main() -> None:
    """Take paths from the command line and values from params.yaml and the search's best parameters."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--data", "--teacher", "--cache", "--student", "--best", "--out", "--metrics"):
        parser.add_argument(name, type=Path, required=True)
    paths = vars(parser.parse_args())
    params, runtime = load_params("prune", PruneParams), load_params("runtime", RuntimeParams)
    tuned = load_params("tuned", TunedParams, paths.pop("best"))
    run(params, tuned, runtime, load_params("decode", DecodeParams), **paths)


if __name__ == "__main__":
    with clean_exit():
        main()
