"""What a student is taught by: gold spans, the teacher's softened answers, its hidden states, its relations of tokens.

Every loss is called with a model and a `Batch` and returns its parts by name, "loss" among them, each a mean over the
batch; that of gold spans is one over its labelled windows. Softmaxes of teacher and student run over the same
positions: context tokens and the class "no answer here" at position 0; padding and question tokens get no
probability, however soft the temperature.

Sizes: B windows, L tokens, H and H' widths of student and teacher.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.core.data.batches import Batch
from stages.core.data.windows import NO_LABEL
from stages.core.errors import InputError
from stages.core.models.families import layers
from stages.core.training.alignment import Alignment, align

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
    """Mean squared error of two layers' states (B, L, H), each token's state normalised, over the tokens compared.

    Without the normalisation the layers with the largest states would own the loss. After PKD (Sun et al. 2019), which
    divides the first token's state by its length; here each token's has its mean taken away and its spread made 1.
    `mask` is (B, L), 1 or true on these: all real ones, or those that are aligned.
    """
    width = (student.shape[-1],)
    normalised = [functional.layer_norm(states.float(), width) for states in (student, teacher)]
    per_token = (normalised[0] - normalised[1]).square().mean(dim=-1)  # (B, L)
    return (per_token * mask).sum() / mask.sum()


def relation_divergence(student: Tensor, teacher: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Kullback-Leibler divergence of how tokens relate to each other in two models, mean over heads and tokens.

    `student` (B, L, H) and `teacher` (B, L, H') are the vectors, of all attention heads side by side, that one of the
    query, key or value matrices makes. Both are cut into `heads` relation heads; a token's relation is the softmax of
    its scaled products with those tokens of its window that are compared (`mask` (B, L) is 1 or true there: all real
    ones, or those that are aligned). Neither widths nor numbers of attention heads have to agree (Wang et al. 2021,
    "MiniLMv2", equation 5). Raises InputError where `heads` does not divide both widths.
    """
    log_student, log_teacher = (_log_relations(vectors, mask, heads) for vectors in (student, teacher))
    per_token = functional.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=-1)  # (B, A, L)
    return (per_token * mask[:, None]).sum() / (mask.sum() * heads)


def _log_relations(vectors: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Log softmax (B, heads, L, L) of the products of vectors (B, L, H) with each other."""
    windows, length, width = vectors.shape
    if width % heads:
        raise InputError(f"relation_heads {heads} does not divide the attention's width {width}; give a divisor")
    cut = vectors.float().view(windows, length, heads, width // heads).transpose(1, 2)  # (B, heads, L, H / heads)
    # Autocast would multiply in bf16 all the same, whose rounding drowns the small differences of a good student.
    with torch.autocast(vectors.device.type, enabled=False):
        products = cut @ cut.transpose(-1, -2) / math.sqrt(width // heads)
        return functional.log_softmax(products.masked_fill(mask[:, None, None] == 0, MASKED_LOGIT), dim=-1)


@contextmanager
def relation_vectors(model: nn.Module) -> Iterator[list[Tensor]]:
    """Inside, a forward pass leaves the last layer's queries, keys and values, (B, L, H) each, in the list yielded."""
    found: list[Tensor] = []
    last = layers(model)[-1]  # type: ignore[arg-type]
    with ExitStack() as hooks:
        for part in (last.query, last.key, last.value):
            hook = part.register_forward_hook(lambda _module, _inputs, output: found.append(output))
            hooks.callback(hook.remove)
        yield found


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
    """Distillation of the answers, plus what lies inside: hidden states and relations, each with a weight of its own.

    Hidden states of chosen student layers are held to those of teacher layers. Where the widths differ a learned
    projection per pair stands between; it is a parameter of the loss, not of the student, and so is gone when the
    student is saved. Relations are those of the last layers' queries, keys and values. A weight of 0 switches a part
    off, and it costs nothing then. Where the teacher reads other tokens, its states are carried over to the student's
    tokens (see stages/core/training/alignment.py).
    """

    def __init__(
        self,
        answers: DistillationLoss,
        student: nn.Module,
        teacher: nn.Module,
        layer_map: Sequence[tuple[int, int]],
        weight: float,
        *,
        relation_weight: float = 0.0,
        relation_heads: int = 1,
    ) -> None:
        """`layer_map` pairs (student, teacher) entries of hidden_states: 0 the embeddings, i the i-th layer's output.

        `weight` is that of the hidden states. Raises InputError for a layer either model does not have.
        """
        super().__init__()
        self.answers, self.layer_map, self.weight = answers, tuple(layer_map), weight
        self.relation_weight, self.relation_heads = relation_weight, relation_heads
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
        same = widths[0] == widths[1] or weight == 0
        self.projections = nn.ModuleList(
            nn.Identity() if same else nn.Linear(widths[0], widths[1], bias=False) for _ in self.layer_map
        )

    def forward(self, model: nn.Module, batch: Batch) -> LossTerms:
        """Return "loss" and its parts "hard", "soft" and, where their weights are above 0, "hidden" and "relation"."""
        output, relations = self._run(model, batch.model_inputs())
        with torch.no_grad():
            wanted, wanted_relations = self._run(self._teacher[0], batch.teacher_inputs())
        tokens = align(batch)
        terms = self.answers.terms(output, batch)
        if self.weight:
            terms["hidden"] = self._hidden(output.hidden_states, wanted.hidden_states, tokens)
            terms["loss"] = terms["loss"] + self.weight * terms["hidden"]
        if self.relation_weight:
            terms["relation"] = self._relation(relations, wanted_relations, tokens)
            terms["loss"] = terms["loss"] + self.relation_weight * terms["relation"]
        return terms

    def _run(self, model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Any, list[Tensor]]:
        with relation_vectors(model) as vectors:
            return model(**inputs, output_hidden_states=self.weight > 0), vectors

    def _hidden(self, student: Sequence[Tensor], teacher: Sequence[Tensor], tokens: Alignment) -> Tensor:
        errors = [
            hidden_alignment(project(student[mine]), tokens.carry(teacher[its]), tokens.mask)
            for (mine, its), project in zip(self.layer_map, self.projections, strict=True)
        ]
        return torch.stack(errors).mean()

    def _relation(self, student: Sequence[Tensor], teacher: Sequence[Tensor], tokens: Alignment) -> Tensor:
        divergences = [
            relation_divergence(mine, tokens.carry(its), tokens.mask, self.relation_heads)
            for mine, its in zip(student, teacher, strict=True)
        ]
        return torch.stack(divergences).mean()
