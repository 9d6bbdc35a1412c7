"""Each loss against a plain, slow reference: numbers from lists, one position at a time, no masks."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stages.core.data.batches import Batch
from stages.core.errors import InputError
from stages.core.models.checkpoint import save_checkpoint
from stages.core.models.encoder import cut_layers
from stages.core.models.families import layers
from stages.core.training.fit import TrainingSet, fit
from stages.core.training.losses import (
    DistillationLoss,
    IntermediateLoss,
    LabelLoss,
    hidden_alignment,
    relation_divergence,
    relation_vectors,
    soft_divergence,
    span_cross_entropy,
)
from tests.toy_models import FAMILY_NAMES, toy_inputs, toy_qa_model, toy_tokenizer
from tests.toy_questions import toy_questions
from tests.toy_training import CPU, fit_params

# Three windows: class "no answer" (n), question (q), context (c), padding (-).
KINDS = ("nqqcccc", "nqccc--", "nqqc---")
ALLOWED = torch.tensor([[kind in "nc" for kind in row] for row in KINDS])
REAL = torch.tensor([[kind != "-" for kind in row] for row in KINDS])
TEMPERATURES = (0.5, 1.0, 2.0, 8.0, 1e5)


def logits(seed: int, spread: float = 3.0) -> Tensor:
    return torch.randn(ALLOWED.shape, generator=torch.Generator().manual_seed(seed)) * spread


def batch(seed: int = 0) -> Batch:
    return Batch(
        rows=torch.arange(3),
        input_ids=torch.where(REAL, torch.arange(21).view(3, 7) + 5, 0),
        attention_mask=REAL.long(),
        token_type_ids=None,
        context_mask=ALLOWED,
        start_positions=torch.tensor([4, 0, 3]),
        end_positions=torch.tensor([6, 0, 3]),
        teacher_start_logits=logits(seed + 100),
        teacher_end_logits=logits(seed + 200),
    )


class Answering(nn.Module):
    """Stands in for a student: the same logits whatever it is asked, as parameters, so that they have gradients."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.start, self.end = nn.Parameter(logits(seed + 1)), nn.Parameter(logits(seed + 2))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(start_logits=self.start, end_logits=self.end)


def plain_softmax(row: Tensor, allowed: Tensor, temperature: float) -> list[float]:
    """Probabilities of the allowed positions, the others left out altogether."""
    powers = [math.exp(value / temperature) for value, keep in zip(row.tolist(), allowed, strict=True) if keep]
    return [power / sum(powers) for power in powers]


def plain_divergence(student: Tensor, teacher: Tensor, temperature: float) -> float:
    total = 0.0
    for mine, its, allowed in zip(student, teacher, ALLOWED, strict=True):
        pairs = zip(plain_softmax(its, allowed, temperature), plain_softmax(mine, allowed, temperature), strict=True)
        total += sum(wanted * math.log(wanted / found) for wanted, found in pairs)
    return temperature**2 * total / len(student)


def plain_cross_entropy(rows: Tensor, gold: Tensor) -> float:
    total = 0.0
    for row, allowed, position in zip(rows, ALLOWED, gold.tolist(), strict=True):
        total -= math.log(plain_softmax(row, allowed, 1.0)[int(allowed[:position].sum())])
    return total / len(rows)


def test_cross_entropy_equals_the_plain_one() -> None:
    asked = batch()
    starts = plain_cross_entropy(logits(1), asked.start_positions)
    ends = plain_cross_entropy(logits(2), asked.end_positions)
    assert float(span_cross_entropy(logits(1), logits(2), asked)) == pytest.approx((starts + ends) / 2, rel=1e-5)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_divergence_equals_the_plain_one(temperature: float) -> None:
    # Softened that far two distributions hardly differ: float32 keeps few digits of what is left.
    spread = 3.0 * max(1.0, temperature / 10)
    found = float(soft_divergence(logits(1, spread), logits(2, spread), ALLOWED, temperature))
    assert found == pytest.approx(plain_divergence(logits(1, spread), logits(2, spread), temperature), rel=1e-4)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_equal_answers_diverge_by_nothing(temperature: float) -> None:
    assert float(soft_divergence(logits(1), logits(1), ALLOWED, temperature)) == 0
    elsewhere = torch.where(ALLOWED, logits(1), logits(3, 100.0))
    assert float(soft_divergence(logits(1), elsewhere, ALLOWED, temperature)) == 0, "only other outside the context"
    lifted = float(soft_divergence(logits(1), logits(1) + 7, ALLOWED, temperature))
    assert lifted == pytest.approx(0, abs=1e-6 * temperature**2)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_padding_and_question_get_no_gradient(temperature: float) -> None:
    student, asked = Answering(), batch()
    DistillationLoss(temperature, 0.5)(student, asked)["loss"].backward()
    for given in (student.start.grad, student.end.grad):
        assert given is not None
        assert (given[~ALLOWED] == 0).all()
        assert (given[ALLOWED] != 0).all()


@pytest.mark.parametrize("temperature", [2.0, 5.0])
def test_divergence_is_scaled_by_the_square_of_the_temperature(temperature: float) -> None:
    """Logits times T at temperature T are the logits at temperature 1."""
    cold = float(soft_divergence(logits(1), logits(2), ALLOWED, 1.0))
    warm = float(soft_divergence(temperature * logits(1), temperature * logits(2), ALLOWED, temperature))
    assert warm == pytest.approx(temperature**2 * cold, rel=1e-5)


def test_gradients_keep_their_size_as_the_temperature_rises() -> None:
    sizes = []
    for temperature in (20.0, 40.0):
        student = logits(1).requires_grad_()
        soft_divergence(student, logits(2), ALLOWED, temperature).backward()
        assert student.grad is not None
        sizes.append(float(student.grad.norm()))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)


def test_losses_are_means_over_the_batch() -> None:
    asked, student = batch(), Answering()
    whole = DistillationLoss(2.0, 0.7)(student, asked)
    windows = []
    for row in range(3):
        one = Batch(**{name: value if value is None else value[row : row + 1] for name, value in vars(asked).items()})
        alone = Answering()
        alone.start, alone.end = (nn.Parameter(each[row : row + 1]) for each in (student.start, student.end))
        windows.append(DistillationLoss(2.0, 0.7)(alone, one))
    for name, value in whole.items():
        assert value.item() == pytest.approx(sum(each[name].item() for each in windows) / 3, rel=1e-5), name


def test_half_precision_logits_are_reckoned_in_float32() -> None:
    half = [logits(seed).bfloat16() for seed in (1, 2)]
    exact = soft_divergence(half[0].float(), half[1].float(), ALLOWED, 2.0)
    assert torch.equal(soft_divergence(half[0], half[1], ALLOWED, 2.0), exact)
    expected = span_cross_entropy(half[0].float(), half[1].float(), batch())
    assert torch.equal(span_cross_entropy(half[0], half[1], batch()), expected)


def test_windows_without_a_label_do_not_count_in_the_mean_of_gold_spans() -> None:
    asked = replace(batch(), start_positions=torch.tensor([4, -1, 3]), end_positions=torch.tensor([6, -1, 3]))
    kept = torch.tensor([0, 2])
    few = Batch(**{name: value if value is None else value[kept] for name, value in vars(asked).items()})
    start, end = (logits(seed).requires_grad_() for seed in (1, 2))
    found = span_cross_entropy(start, end, asked)
    assert found.item() == pytest.approx(span_cross_entropy(start[kept], end[kept], few).item(), rel=1e-6)
    found.backward()
    assert start.grad is not None
    assert (start.grad[1] == 0).all()
    assert (start.grad[0] != 0).any()


def test_a_batch_without_labels_has_no_gold_spans_to_learn() -> None:
    none = torch.full((3,), -1)
    student, asked = Answering(), replace(batch(), start_positions=none, end_positions=none)
    terms = DistillationLoss(2.0, 0.7)(student, asked)
    assert terms["hard"].item() == 0
    assert terms["loss"].item() == pytest.approx(0.7 * terms["soft"].item())
    terms["hard"].backward()
    assert student.start.grad is not None
    assert (student.start.grad == 0).all()


def test_where_all_have_labels_the_mean_is_the_usual_one_to_the_last_bit() -> None:
    asked, found = batch(), []
    for mean in (True, False):
        start, end = (logits(seed).requires_grad_() for seed in (1, 2))
        loss = span_cross_entropy(start, end, asked)
        if mean:
            parts = ((start, asked.start_positions), (end, asked.end_positions))
            means = [cross_entropy(each.masked_fill(~ALLOWED, -1e4), gold) for each, gold in parts]
            loss = (means[0] + means[1]) / 2
        (0.3 * loss).backward()
        found.append((loss.detach(), start.grad, end.grad))
    for usual, ours in zip(*found, strict=True):
        assert usual is not None
        assert ours is not None
        assert torch.equal(usual, ours)


def test_label_loss_is_the_cross_entropy_of_gold_spans() -> None:
    student, asked = Answering(), batch()
    assert LabelLoss()(student, asked) == {"loss": span_cross_entropy(student.start, student.end, asked)}


def test_distillation_is_alpha_parts_teacher_and_the_rest_gold() -> None:
    student, asked = Answering(), batch()
    hard = LabelLoss()(student, asked)["loss"].item()
    starts = plain_divergence(student.start, logits(100), 2.0)
    soft = (starts + plain_divergence(student.end, logits(200), 2.0)) / 2
    for alpha in (0.0, 0.3, 1.0):
        terms = {name: value.item() for name, value in DistillationLoss(2.0, alpha)(student, asked).items()}
        assert terms == pytest.approx({"loss": alpha * soft + (1 - alpha) * hard, "hard": hard, "soft": soft}, rel=1e-5)


def test_distillation_without_the_cache_is_refused() -> None:
    asked = Batch(**{**vars(batch()), "teacher_end_logits": None})
    with pytest.raises(InputError, match="cache_teacher"):
        DistillationLoss(2.0, 0.5)(Answering(), asked)


def states(seed: int, width: int = 4) -> Tensor:
    return torch.randn(*REAL.shape, width, generator=torch.Generator().manual_seed(seed))


def plain_alignment(student: Tensor, teacher: Tensor) -> float:
    def normalised(state: Tensor) -> list[float]:
        values = state.tolist()
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / len(values)
        return [(value - mean) / math.sqrt(variance + 1e-5) for value in values]

    errors = [
        (mine - its) ** 2
        for row, column in REAL.nonzero().tolist()
        for mine, its in zip(normalised(student[row, column]), normalised(teacher[row, column]), strict=True)
    ]
    return sum(errors) / len(errors)


def test_alignment_equals_the_plain_one() -> None:
    found = float(hidden_alignment(states(1), states(2), REAL.long()))
    assert found == pytest.approx(plain_alignment(states(1), states(2)), rel=1e-5)


def test_alignment_sees_directions_of_real_tokens_only() -> None:
    scaled = torch.where(REAL[..., None], 5 * states(1) + 3, 1e3 * states(2))
    assert float(hidden_alignment(states(1), states(1), REAL.long())) == 0
    assert float(hidden_alignment(states(1), scaled, REAL.long())) == pytest.approx(0, abs=1e-4)


def test_intermediate_loss_adds_the_weighted_mean_alignment_of_the_pairs() -> None:
    teacher, student, asked = toy_qa_model("bert", 1), toy_qa_model("bert", 2, layers=2), batch()
    pairs, answers = [(0, 0), (1, 2), (2, 3)], DistillationLoss(2.0, 0.7)
    loss = IntermediateLoss(answers, student, teacher, pairs, 3.0)
    inputs = asked.model_inputs()
    mine, its = (model(**inputs, output_hidden_states=True).hidden_states for model in (student, teacher))
    hidden = sum(plain_alignment(mine[here], its[there]) for here, there in pairs) / 3
    found, without = loss(student, asked), answers(student, asked)
    assert found["hidden"].item() == pytest.approx(hidden, rel=1e-4)
    assert found["loss"].item() == pytest.approx(without["loss"].item() + 3.0 * hidden, rel=1e-4)
    assert [found[name].item() for name in ("hard", "soft")] == [without[name].item() for name in ("hard", "soft")]


def plain_relations(student: Tensor, teacher: Tensor, heads: int) -> float:
    """Token by token: distributions over the real tokens of the window, one relation head after the other."""

    def distribution(vectors: Tensor, row: int, token: int, head: int) -> list[float]:
        size = vectors.shape[-1] // heads
        mine = vectors[row, :, head * size : (head + 1) * size].tolist()
        products = [sum(a * b for a, b in zip(mine[token], mine[other], strict=True)) for other in real(row)]
        exponentials = [math.exp(product / math.sqrt(size)) for product in products]
        return [value / sum(exponentials) for value in exponentials]

    def real(row: int) -> list[int]:
        return [int(column) for column in REAL[row].nonzero().flatten()]

    divergences = []
    for row, token in REAL.nonzero().tolist():
        for head in range(heads):
            mine, its = (distribution(vectors, row, token, head) for vectors in (student, teacher))
            divergences.append(sum(b * math.log(b / a) for a, b in zip(mine, its, strict=True)))
    return sum(divergences) / len(divergences)


@pytest.mark.parametrize(("widths", "heads"), [((4, 4), 1), ((4, 4), 2), ((6, 12), 3)])
def test_relations_equal_the_plain_ones_whatever_the_widths(widths: tuple[int, int], heads: int) -> None:
    student, teacher = states(1, widths[0]), states(2, widths[1])
    found = float(relation_divergence(student, teacher, REAL.long(), heads))
    assert found == pytest.approx(plain_relations(student, teacher, heads), rel=1e-5)
    assert float(relation_divergence(student, student, REAL.long(), heads)) == 0


def test_relations_are_compared_in_full_precision_under_autocast() -> None:
    """The difference of two that are nearly alike is below what bf16 products can show."""
    student = states(1, 24)
    teacher = student + 0.01 * states(2, 24)
    plain = relation_divergence(student, teacher, REAL.long(), 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = relation_divergence(student, teacher, REAL.long(), 2)
    assert float(found) == float(plain) > 0


def test_relations_do_not_see_padding() -> None:
    noisy = torch.where(REAL[..., None], states(1), 1e3 * states(3))
    found = float(relation_divergence(noisy, states(2), REAL.long(), 2))
    assert found == pytest.approx(float(relation_divergence(states(1), states(2), REAL.long(), 2)), rel=1e-6)


def test_relation_heads_that_do_not_divide_a_width_are_refused() -> None:
    with pytest.raises(InputError, match="relation_heads 3 does not divide the attention's width 4"):
        relation_divergence(states(1), states(2, 6), REAL.long(), 3)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_relation_vectors_are_the_last_layers_own(family: str) -> None:
    model, inputs = toy_qa_model(family, 1), toy_inputs(family)
    with relation_vectors(model) as found:
        entering = model(**inputs, output_hidden_states=True).hidden_states[-2]
    last = layers(model)[-1]
    for vectors, part in zip(found, (last.query, last.key, last.value), strict=True):
        assert torch.allclose(vectors, part(entering), atol=1e-6)
    model(**inputs)
    assert len(found) == 3, "the hooks are still there"


def test_intermediate_loss_adds_the_weighted_relations_of_queries_keys_and_values() -> None:
    teacher, student, asked = toy_qa_model("bert", 1), toy_qa_model("bert", 2, layers=2, width=16), batch()
    answers = DistillationLoss(2.0, 0.7)
    loss = IntermediateLoss(answers, student, teacher, [(1, 1)], 0.0, relation_weight=3.0, relation_heads=2)
    vectors = []
    for model in (student, teacher):
        with relation_vectors(model) as found:
            model(**asked.model_inputs())
        vectors.append(found)
    relation = sum(plain_relations(mine, its, 2) for mine, its in zip(*vectors, strict=True)) / 3
    terms, without = loss(student, asked), answers(student, asked)
    assert set(terms) == {"loss", "hard", "soft", "relation"}
    assert list(loss.parameters()) == [], "a projection for hidden states that are not aligned"
    assert terms["relation"].item() == pytest.approx(relation, rel=1e-4)
    assert terms["loss"].item() == pytest.approx(without["loss"].item() + 3.0 * relation, rel=1e-4)


def test_projections_stand_only_between_other_widths() -> None:
    teacher = toy_qa_model("bert", 1)
    narrow = toy_qa_model("bert", 2, layers=2, width=16)
    same = IntermediateLoss(DistillationLoss(2.0, 0.7), cut_layers(teacher, [0, 2]), teacher, [(1, 1), (2, 3)], 1.0)
    other = IntermediateLoss(DistillationLoss(2.0, 0.7), narrow, teacher, [(1, 1), (2, 3)], 1.0)
    assert list(same.parameters()) == []
    assert [weight.shape for weight in other.parameters()] == [(32, 16), (32, 16)]
    other(narrow, batch())["hidden"].backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in other.parameters())


def test_projections_learn_and_are_gone_when_the_student_is_saved(tmp_path: Path) -> None:
    questions = toy_questions(tmp_path / "tokenizer", 8, seed=1)
    teacher, student = toy_qa_model("bert", 1), toy_qa_model("bert", 2, layers=1, width=16)
    names = set(student.state_dict())
    loss = IntermediateLoss(DistillationLoss(2.0, 0.0), student, teacher, [(1, 3)], 1.0)
    before, untouched = loss.projections[0].weight.clone(), [weight.clone() for weight in teacher.parameters()]
    zeros = torch.zeros(int(questions.windows.row_splits[-1]))
    data = TrainingSet(questions.windows, (zeros, zeros))
    fit(student, loss, data, fit_params(), CPU, scratch=tmp_path, name="run")
    assert not torch.equal(loss.projections[0].weight, before)
    assert all(map(torch.equal, teacher.parameters(), untouched)), "the teacher was trained"
    save_checkpoint(student, toy_tokenizer(tmp_path / "tokenizer", "bert"), tmp_path / "student")
    assert set(load_file(tmp_path / "student" / "model.safetensors")) == names


def test_the_teacher_runs_without_dropout_and_gradient_and_is_not_frozen() -> None:
    """Students are cut from it again and again; of a frozen one they would be born frozen."""
    teacher = toy_qa_model("bert", 1)
    teacher.train()
    loss = IntermediateLoss(DistillationLoss(2.0, 0.7), toy_qa_model("bert", 2), teacher, [(1, 1)], 1.0)
    loss.train()
    assert not teacher.training
    loss(toy_qa_model("bert", 2), batch())["loss"].backward()
    assert all(weight.grad is None for weight in teacher.parameters())
    assert all(weight.requires_grad for weight in cut_layers(teacher, [0]).parameters())


@pytest.mark.parametrize(
    ("pair", "message"),
    [((3, 1), "student layer 3 does not exist; the student has 2"), ((1, 4), "teacher layer 4"), ((-1, 1), "layer -1")],
)
def test_layers_that_are_not_there_are_refused(pair: tuple[int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        IntermediateLoss(
            DistillationLoss(2.0, 0.7), toy_qa_model("bert", 1, layers=2), toy_qa_model("bert", 1), [(1, 1), pair], 1.0
        )
