"""What a student is taught by: gold spans, the teacher's softened answers, the teacher's hidden states.

Every loss is called with a model and a `Batch` and returns its parts by name, "loss" among them, each a mean over the
batch; that of gold spans is one over its labelled windows. Softmaxes of teacher and student run over the same
positions: context tokens and the class "no answer here" at position 0; padding and question tokens get no
probability, however soft the temperature.

Sizes: B windows, L tokens, H and H' widths of student and teacher.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.core.data.batches import Batch
from stages.core.data.windows import NO_LABEL
from stages.core.errors import InputError

MASKED_LOGIT = -1e4  # finite: 0 * log(0) stays 0 in the divergence where -inf would make it NaN

LossTerms = dict[str, Tensor]


class Loss(Protocol):
    """A loss as `fit` and the Fisher scores call it."""

    def __call__(self, model: nn.Module, batch: Batch) -> LossTerms:
        """Return the named parts for one batch."""


def span_cross_entropy(start_logits: Tensor, end_logits: Tensor, batch: Batch) -> Tensor:
    """Mean over the labelled windows of the cross-entropies of gold start and end, halved; logits (B, L).

    Of a batch without a label it is 0.
    """
    masked = [logits.float().masked_fill(~batch.context_mask, MASKED_LOGIT) for logits in (start_logits, end_logits)]
    labelled = (batch.start_positions != NO_LABEL).sum().clamp(min=1)
    start, end = (
        functional.cross_entropy(logits, gold, ignore_index=NO_LABEL, reduction="sum") / labelled
        for logits, gold in zip(masked, (batch.start_positions, batch.end_positions), strict=True)
    )
    return (start + end) / 2


def soft_divergence(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of softened distributions, summed over positions, averaged over the batch, times T².

    `student`, `teacher` and `mask` are (B, L). T² keeps the gradient's size as the temperature changes (Hinton et al.
    2015, "Distilling the Knowledge in a Neural Network").
    """
    log_student, log_teacher = (
        functional.log_softmax((logits.float() / temperature).masked_fill(~mask, MASKED_LOGIT), dim=-1)
        for logits in (student, teacher)
    )
    divergence = functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def hidden_alignment(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of two layers' states (B, L, H), each token's state normalised, over real tokens only.

    Without the normalisation the layers with the largest states would own the loss (Sun et al. 2019, PKD). `mask` is
    (B, L), 1 on real tokens.
    """
    width = (student.shape[-1],)
    normalised = [functional.layer_norm(states.float(), width) for states in (student, teacher)]
    per_token = (normalised[0] - normalised[1]).square().mean(dim=-1)  # (B, L)
    return (per_token * mask).sum() / mask.sum()


class LabelLoss:
    """Gold spans only: the hard-label control and the teacher's own training."""

    def __call__(self, model: nn.Module, batch: Batch) -> LossTerms:
        """Return the cross-entropy as "loss"."""
        output = model(**batch.model_inputs())
        return {"loss": span_cross_entropy(output.start_logits, output.end_logits, batch)}


class DistillationLoss:
    """`alpha` parts of the teacher's cached answers at `temperature`, the rest gold spans."""

    def __init__(self, temperature: float, alpha: float) -> None:
        """Keep the two knobs; alpha 1 is the teacher alone."""
        self.temperature, self.alpha = temperature, alpha

    def __call__(self, model: nn.Module, batch: Batch) -> LossTerms:
        """Return "loss" and its parts "hard" and "soft"."""
        return self.terms(model(**batch.model_inputs()), batch)

    def terms(self, output: Any, batch: Batch) -> LossTerms:
        """Return the parts for a forward pass already made."""
        if batch.teacher_start_logits is None or batch.teacher_end_logits is None:
            raise InputError("distillation needs the teacher's logits in each batch; give the cache of cache_teacher")
        hard = span_cross_entropy(output.start_logits, output.end_logits, batch)
        pairs = (
            (output.start_logits, batch.teacher_start_logits),
            (output.end_logits, batch.teacher_end_logits),
        )
        parts = [soft_divergence(mine, its, batch.context_mask, self.temperature) for mine, its in pairs]
        soft = (parts[0] + parts[1]) / 2
        return {"loss": self.alpha * soft + (1 - self.alpha) * hard, "hard": hard, "soft": soft}


class IntermediateLoss(nn.Module):
    """Distillation of the answers, plus chosen student layers held to teacher layers, from the first update on.

    Where the widths differ a learned projection per pair stands between; it is a parameter of the loss, not of the
    student, and so is gone when the student is saved.
    """

    def __init__(
        self,
        answers: DistillationLoss,
        student: nn.Module,
        teacher: nn.Module,
        layer_map: Sequence[tuple[int, int]],
        weight: float,
    ) -> None:
        """`layer_map` pairs (student, teacher) entries of hidden_states: 0 the embeddings, i the i-th layer's output.

        Raises InputError for a layer either model does not have.
        """
        super().__init__()
        self.answers, self.layer_map, self.weight = answers, tuple(layer_map), weight
        # In a tuple: no submodule, so never trained or saved. Not frozen: students cut from it would be frozen too.
        self._teacher = (teacher.eval(),)
        widths = []
        for number, (name, model) in enumerate((("student", student), ("teacher", teacher))):
            config: Any = model.config
            deepest = config.num_hidden_layers
            for layer in (pair[number] for pair in layer_map):
                if not 0 <= layer <= deepest:
                    raise InputError(f"distil: {name} layer {layer} does not exist; the {name} has {deepest}")
            widths.append(config.hidden_size)
        same = widths[0] == widths[1]
        self.projections = nn.ModuleList(
            nn.Identity() if same else nn.Linear(widths[0], widths[1], bias=False) for _ in self.layer_map
        )

    def forward(self, model: nn.Module, batch: Batch) -> LossTerms:
        """Return "loss" and its parts "hard", "soft" and "hidden"."""
        inputs = batch.model_inputs()
        output = model(**inputs, output_hidden_states=True)
        with torch.no_grad():
            wanted = self._teacher[0](**inputs, output_hidden_states=True).hidden_states
        errors = [
            hidden_alignment(project(output.hidden_states[mine]), wanted[its], batch.attention_mask)
            for (mine, its), project in zip(self.layer_map, self.projections, strict=True)
        ]
        hidden = torch.stack(errors).mean()
        terms = self.answers.terms(output, batch)
        return {**terms, "loss": terms["loss"] + self.weight * hidden, "hidden": hidden}
