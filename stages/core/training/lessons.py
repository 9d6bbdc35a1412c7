"""What a student's training starts from: the teacher, the prepared data, the teacher's cached answers, matched."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from stages.core.data.logits import load_logits
from stages.core.data.prepared import Questions, load_split
from stages.core.models.checkpoint import load_checkpoint
from stages.core.models.encoder import fingerprint
from stages.core.models.families import move
from stages.core.training.fit import TrainingSet


@dataclass(frozen=True)
class Lessons:
    """The teacher, training windows with its logits, and dev questions to judge by."""

    teacher: PreTrainedModel
    training: TrainingSet
    dev: Questions


def load_lessons(data: Path, teacher: Path, cache: Path, device: torch.device) -> Lessons:
    """Load all three; raises InputError where the cache is not this teacher's on these windows."""
    windows = load_split(data, "train").windows
    logits = load_logits(cache / "train.safetensors", windows, fingerprint(teacher))
    return Lessons(move(load_checkpoint(teacher), device), TrainingSet(windows, logits), load_split(data, "dev"))


def some(training: TrainingSet, count: int, seed: int) -> TrainingSet:
    """Return a training set of `count` windows (all, if there are fewer), drawn at random, in their order."""
    drawn = torch.randperm(len(training.windows), generator=torch.Generator().manual_seed(seed))[:count]
    return training.take(drawn.sort().values)
