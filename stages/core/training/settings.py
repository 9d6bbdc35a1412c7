"""The settings of one training run, torch-free so that they are checked before anything heavy loads."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from stages.core.models.source import resolve_model
from stages.core.params import require


@dataclass(frozen=True)
class FitParams:
    """What `fit` takes; a training stage's section starts with these keys."""

    seed: int  # of the batch order, dropout and new weights
    epochs: int  # passes over the training windows
    batch_size: int  # windows an update
    learning_rate: float  # peak of AdamW's schedule
    warmup_ratio: float  # share of the updates in which the rate rises to its peak
    weight_decay: float  # of AdamW, on matrices only
    max_grad_norm: float  # gradients are clipped to this length
    dropout: float  # probability, while training
    freeze_embeddings: bool  # leave the word embeddings as they are: over half of a small model's weights
    log_steps: int  # updates between two rows of the loss history
    checkpoint_steps: int  # updates between two checkpoints that an interrupted run goes on from

    def check(self) -> None:
        """Vouch for ranges."""
        for key in ("epochs", "batch_size", "log_steps", "checkpoint_steps"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
        for key in ("learning_rate", "max_grad_norm"):
            require(getattr(self, key) > 0, key, getattr(self, key), "above 0")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "0 up to, not including, 1")
        require(0 <= self.warmup_ratio < 1, "warmup_ratio", self.warmup_ratio, "0 up to, not including, 1")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")


def require_soft_targets(temperature: float, alpha: float) -> None:
    """Vouch for the two knobs of distillation."""
    require(temperature > 0, "temperature", temperature, "above 0")
    require(0 <= alpha <= 1, "alpha", alpha, "0 to 1")


@dataclass(frozen=True)
class StudentParams:
    """The `student` section."""

    layers: tuple[int, ...]  # layers the student is cut from, counted from 0, in order
    encoder: str = ""  # what they are layers of: a model spec, see stages/core/models/source.py; empty: the teacher
    sha256: str = ""  # of the encoder's model.safetensors; empty: not checked

    def check(self) -> None:
        """Vouch for order; the depth of what is cut is checked when it is cut."""
        require(bool(self.encoder) or not self.sha256, "sha256", self.sha256, "'' where student.encoder is ''")
        rising = all(a < b for a, b in zip(self.layers, self.layers[1:], strict=False))
        require(bool(self.layers) and rising and self.layers[0] >= 0, "layers", self.layers, "rising layer numbers")

    def origin(self, teacher: Path) -> Path:
        """Return the folder of the model that is cut, whose tokenizer the student has too; raises InputError."""
        return resolve_model(self.encoder, self.sha256) if self.encoder else teacher


@dataclass(frozen=True)
class BaselineParams(FitParams):
    """The `baseline` section."""

    temperature: float  # softens both distributions; 1 leaves them as they are
    alpha: float  # weight of the teacher's answers, 0 to 1; gold spans have the rest

    def check(self) -> None:
        """Vouch for ranges."""
        super().check()
        require_soft_targets(self.temperature, self.alpha)


@dataclass(frozen=True)
class DistilParams(FitParams):
    """The `distil` section; `tune` searches around it."""

    temperature: float  # softens both distributions of answers; 1 leaves them as they are
    alpha: float  # weight of the teacher's answers, 0 to 1; gold spans have the rest
    hidden_weight: float  # weight of the hidden states' alignment beside the answers; 0 switches it off
    relation_weight: float  # weight of the last layers' relations of tokens beside the answers; 0 switches it off
    relation_heads: int  # parts that queries, keys and values are cut into for their relations
    student_layers: tuple[int, ...]  # aligned states of the student: 0 the embeddings, i its i-th layer's output
    teacher_layers: tuple[int, ...]  # and the teacher's states they are held to, one for one

    def check(self) -> None:
        """Vouch for ranges."""
        super().check()
        require_soft_targets(self.temperature, self.alpha)
        for key in ("hidden_weight", "relation_weight"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "0 or more")
        require(self.relation_heads >= 1, "relation_heads", self.relation_heads, "1 or more")
        pairs = f"as many layers as student_layers ({len(self.student_layers)}), at least one"
        require(len(self.teacher_layers) == len(self.student_layers) > 0, "teacher_layers", self.teacher_layers, pairs)

    def needs_teacher(self, *searched: str) -> bool:
        """Whether something inside the teacher is asked for, which is not cached, here or in a search of these."""
        weights = ("hidden_weight", "relation_weight")
        return any(getattr(self, name) > 0 or name in searched for name in weights)

    def at(self, point: Mapping[str, float]) -> "DistilParams":
        """Return these settings with the knobs of a search set to `point`."""
        changes: dict[str, Any] = dict(point)
        return replace(self, **changes)


def float_keys(schema: type[DistilParams]) -> list[str]:
    """Return the keys of a section that hold one float each: those that a search may change."""
    return [field.name for field in fields(schema) if field.type is float]


@dataclass(frozen=True)
class FinetuneParams(FitParams):
    """The `finetune` section: recovery after pruning."""

    hidden_weight: float  # of the alignment with the unpruned model's hidden states; 0 switches it off

    def check(self) -> None:
        """Vouch for ranges."""
        super().check()
        require(self.hidden_weight >= 0, "hidden_weight", self.hidden_weight, "0 or more")


@dataclass(frozen=True)
class TunedParams:
    """The `tuned` section of metrics/best_params.yaml: the loss that the search chose, for the stages after it."""

    temperature: float
    alpha: float
    learning_rate: float  # of the tuned student's own training; no stage after it trains at this rate
