"""What is inside a teacher carried over to other tokens: against a loop over characters, and in the loss."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.core.data.batches import Heard, collate
from stages.core.data.carry import best_windows
from stages.core.data.prepared import Questions
from stages.core.data.windows import Windows
from stages.core.models.checkpoint import save_checkpoint
from stages.core.training.alignment import align, shared_characters
from stages.core.training.distillation import distil
from stages.core.training.fit import TrainingSet
from stages.core.training.lessons import Lessons
from stages.core.training.losses import DistillationLoss, IntermediateLoss, relation_divergence, relation_vectors
from stages.core.training.settings import DistilParams, StudentParams
from tests.toy_models import toy_qa_model, toy_tokenizer
from tests.toy_papers import Paper, drawn_paper, windows_of
from tests.toy_questions import toy_examples, windows_of_family
from tests.toy_training import CPU, fit_params, weights_of


def heard_by(teacher: Windows, student: Windows) -> Heard:
    return Heard(teacher, torch.from_numpy(best_windows(teacher, student)), teacher.same_tokens(student))


def characters(windows: Windows, row: int) -> list[set[int]]:
    """The characters of each token of a window; none outside the context."""
    first = int(windows.row_splits[row])
    inside = range(int(windows.context_start[row]), int(windows.context_stop[row]))
    spans = windows.offset_mapping[first : int(windows.row_splits[row + 1])].tolist()
    return [set(range(*span)) if place in inside else set() for place, span in enumerate(spans)]


def plain_weights(student: Windows, row: int, heard: Heard) -> list[list[float]]:
    """Of each token of a student window the share that each of the teacher's tokens has in it, counted one by one."""
    theirs = characters(heard.windows, int(heard.rows[row]))
    shares = []
    for place, mine in enumerate(characters(student, row)):
        counts = [float(len(mine & its)) for its in theirs]
        if place == 0:
            counts[0] = 1.0
        shares.append([count / max(sum(counts), 1.0) for count in counts])
    return shares


def check_against_characters(student: Windows, heard: Heard, seed: int = 0) -> Tensor:
    """Compare mask and carried states of all windows in one batch, and return the mask."""
    batch = collate(student, torch.arange(len(student)), heard=heard)
    states = torch.randn(*batch.input_ids.shape, 5, generator=torch.Generator().manual_seed(seed))
    found = align(batch)
    carried = found.carry(states)
    for row in range(len(student)):
        shares = torch.tensor(plain_weights(student, row, heard))
        expected = shares @ states[row, : shares.shape[1]]
        torch.testing.assert_close(carried[row, : len(shares)], expected)
        assert found.mask[row, : len(shares)].tolist() == [sum(share) > 0 for share in shares.tolist()]
        assert not found.mask[row, len(shares) :].any(), "padding is aligned"
    return found.mask


@pytest.mark.parametrize("seed", range(8))
def test_a_token_gets_the_mean_of_those_that_share_its_characters(seed: int) -> None:
    """Tokens of several characters, of none and of a shared one, gaps, and windows that do not show the same text."""
    draw = random.Random(seed)
    sizes = {f"q{number}": draw.randint(5, 60) for number in range(5)}
    cut = [{key: drawn_paper(draw, size) for key, size in sizes.items()} for _ in range(2)]
    student, teacher = windows_of(cut[0], "student"), windows_of(cut[1], "teacher")
    mask = check_against_characters(student, heard_by(teacher, student), seed)
    assert mask[:, 0].all()
    assert 0.1 < mask[:, 2:].float().mean() < 0.9, "all or nothing is aligned"


@pytest.mark.parametrize(("mine", "its"), [("bert", "roberta"), ("roberta", "bert"), ("mpnet", "bert")])
def test_real_tokenizers_meet_by_characters(tmp_path: Path, mine: str, its: str) -> None:
    examples = toy_examples(6, seed=3)
    student, teacher = (
        windows_of_family(examples, tmp_path / family, family, max_length=40, doc_stride=4) for family in (mine, its)
    )
    heard = heard_by(teacher, student)
    mask = check_against_characters(student, heard)
    batch = collate(student, torch.arange(len(student)), heard=heard)
    assert (mask & batch.context_mask).sum() > 0.8 * batch.context_mask.sum(), "text that both show is not aligned"
    assert not (mask & ~batch.context_mask).any(), "questions are aligned, whose characters are not known"


def test_shared_characters_are_counted() -> None:
    mine, its = torch.tensor([[[0, 4]]]), torch.tensor([[[0, 1], [1, 3], [3, 9], [9, 12]]])
    assert shared_characters(mine, its).tolist() == [[[1, 2, 1, 0]]]


def test_text_that_the_teachers_window_does_not_show_is_left_alone() -> None:
    paper: Paper = [[(0, 2), (2, 4), (4, 6), (6, 8)]]
    student, teacher = windows_of({"q": paper}, "student"), windows_of({"q": [[(2, 4), (4, 6)]]}, "teacher")
    batch = collate(student, torch.tensor([0]), heard=heard_by(teacher, student))
    found = align(batch)
    assert found.mask.tolist() == [[True, False, False, True, True, False, False]]
    carried = found.carry(torch.ones(1, 7, 3))
    assert carried[0, :, 0].tolist() == [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]


def test_where_tokens_are_the_same_all_of_them_are_aligned_with_themselves() -> None:
    student = windows_of({"q": [[(0, 2), (2, 4)]], "r": [[(0, 3)]]}, "one")
    batch = collate(student, torch.tensor([0, 1]))
    found, states = align(batch), torch.randn(2, 5, 3)
    assert found.mask is batch.attention_mask
    assert found.carry(states) is states
    inputs = batch.model_inputs()
    assert all(tensor is inputs[name] for name, tensor in batch.teacher_inputs().items())


def test_a_teacher_of_another_family_that_reads_the_same_tokens_is_aligned_with_all_of_them(tmp_path: Path) -> None:
    """BERT's question and separators, too, teach DistilBERT, which has no token types."""
    student, heard = across(tmp_path, families=("distilbert", "bert"))
    assert heard.same_tokens
    batch = collate(student, torch.arange(len(student)), heard=heard)
    found, states = align(batch), torch.randn(*batch.input_ids.shape, 3)
    assert torch.equal(found.mask, batch.attention_mask)
    assert found.carry(states) is states
    assert "token_type_ids" in batch.teacher_inputs() and "token_type_ids" not in batch.model_inputs()


def across(
    tmp_path: Path, seed: int = 4, count: int = 5, families: tuple[str, str] = ("roberta", "bert")
) -> tuple[Windows, Heard]:
    """Windows of a student and its teacher: byte-level ones and shorter WordPiece ones, or of other `families`."""
    examples = toy_examples(count, seed=seed)
    student, teacher = (
        windows_of_family(examples, tmp_path / family, family, max_length=40, doc_stride=4) for family in families
    )
    return student, heard_by(teacher, student)


def test_a_batch_has_the_teachers_windows_at_the_same_width(tmp_path: Path) -> None:
    student, heard = across(tmp_path)
    rows = torch.tensor([3, 0])
    lengths = [*student.lengths[rows].tolist(), *heard.windows.lengths[heard.rows[rows]].tolist()]
    for widths, width in ((1, max(lengths)), (16, 16 * -(-max(lengths) // 16))):
        batch = collate(student, rows, heard=heard, widths=widths)
        alone = collate(heard.windows, heard.rows[rows])
        inputs = batch.teacher_inputs()
        shapes = {tuple(tensor.shape) for tensor in (*inputs.values(), *batch.model_inputs().values())}
        assert shapes == {(2, min(width, 40))}
        assert alone.input_ids.shape[1] < batch.input_ids.shape[1], "nothing of the teacher's windows is padded"
        for name, tensor in alone.model_inputs().items():
            torch.testing.assert_close(inputs[name][:, : tensor.shape[1]], tensor)
            assert name == "input_ids" or not inputs[name][:, tensor.shape[1] :].any()


def test_the_loss_holds_a_student_to_a_teacher_of_other_tokens(tmp_path: Path) -> None:
    """Each part of it written out once more, from the two models run by themselves."""
    windows, heard = across(tmp_path)
    student, teacher = toy_qa_model("roberta", 1, width=16).eval(), toy_qa_model("bert", 2)
    zeros = torch.zeros(len(windows.input_ids))
    batch = collate(windows, torch.arange(len(windows)), (zeros, zeros), heard=heard)
    pairs = [(1, 2), (3, 3)]
    torch.manual_seed(1)  # of the projections
    loss = IntermediateLoss(
        DistillationLoss(2.0, 0.5), student, teacher, pairs, 2.0, relation_weight=0.5, relation_heads=2
    )
    terms = loss(student, batch)
    alone = collate(heard.windows, heard.rows)
    with torch.no_grad(), relation_vectors(student) as my_vectors, relation_vectors(teacher) as its_vectors:
        mine = student(**batch.model_inputs(), output_hidden_states=True).hidden_states
        its = teacher(**alone.model_inputs(), output_hidden_states=True).hidden_states
        errors: list[Tensor] = []
        for (low, high), project in zip(pairs, loss.projections, strict=True):
            squares = []
            for row in range(len(windows)):
                shares = torch.tensor(plain_weights(windows, row, heard))
                wanted = shares @ its[high][row, : shares.shape[1]]
                got = project(mine[low][row, : len(shares)])
                normal = [torch.nn.functional.layer_norm(part, (32,)) for part in (got, wanted)]
                squares.append((normal[0] - normal[1]).square().mean(-1)[shares.sum(-1) > 0])
            errors.append(torch.cat(squares).mean())
    expected = torch.stack(errors).mean()
    torch.testing.assert_close(terms["hidden"].detach(), expected)
    torch.testing.assert_close(
        terms["loss"].detach(),
        0.5 * terms["soft"] + 0.5 * terms["hard"] + 2.0 * terms["hidden"] + 0.5 * terms["relation"],
        check_dtype=False,
    )
    divergences = []
    for mine, its in zip(my_vectors, its_vectors, strict=True):
        windows_of_it = []
        for row in range(len(windows)):
            shares = torch.tensor(plain_weights(windows, row, heard))
            kept = shares.sum(-1) > 0
            wanted = (shares @ its[row, : shares.shape[1]])[kept]
            pair = [part.view(len(part), 2, -1).transpose(0, 1) for part in (mine[row, : len(shares)][kept], wanted)]
            logs = [(part @ part.transpose(1, 2) / part.shape[-1] ** 0.5).log_softmax(-1) for part in pair]
            windows_of_it.append((logs[1].exp() * (logs[1] - logs[0])).sum(-1).mean(0))
        divergences.append(torch.cat(windows_of_it).mean())
    torch.testing.assert_close(terms["relation"].detach(), torch.stack(divergences).mean(), rtol=1e-4, atol=1e-7)


def test_relations_are_those_of_the_aligned_tokens(tmp_path: Path) -> None:
    """A model beside itself: what one tokenizer cuts as the other does relates as it does."""
    windows, _ = across(tmp_path)
    model = toy_qa_model("roberta", 1)
    zeros = torch.zeros(len(windows.input_ids))
    rows = torch.arange(len(windows))
    batch = collate(windows, rows, (zeros, zeros), heard=Heard(windows, rows))
    answers = DistillationLoss(2.0, 0.5)
    loss = IntermediateLoss(answers, model, model, [(1, 1)], 1.0, relation_weight=1.0, relation_heads=2)
    terms = loss(model.eval(), batch)
    assert terms["hidden"].item() == pytest.approx(0, abs=1e-6)
    assert terms["relation"].item() == pytest.approx(0, abs=1e-6)
    vectors = torch.randn(len(windows), batch.input_ids.shape[1], 8)
    mask = align(batch).mask
    noise = vectors + 100 * torch.randn_like(vectors) * ~mask[:, :, None]
    torch.testing.assert_close(relation_divergence(vectors, noise, mask, 2), torch.tensor(0.0))


def test_a_training_set_keeps_what_its_windows_have_heard(tmp_path: Path) -> None:
    """Also behind another, whose windows and teacher's windows are others."""
    windows, heard = across(tmp_path)
    others, theirs = across(tmp_path / "others", seed=9, count=3)
    whole, behind = (
        TrainingSet(each, (torch.zeros(len(each.input_ids)),) * 2, listened)
        for each, listened in ((windows, heard), (others, theirs))
    )
    both = whole.take(torch.tensor([4, 1])).join(behind)
    assert both.heard is not None
    its = both.heard.windows
    ids = [its.question_ids[row] for row in both.heard.rows.tolist()]
    assert ids == list(both.windows.question_ids)
    assert ids == [windows.question_ids[4], windows.question_ids[1], *others.question_ids]
    batch = collate(both.windows, torch.arange(len(ids)), heard=both.heard)
    assert (align(batch).mask & batch.context_mask).sum() > 0.5 * batch.context_mask.sum()


def test_where_the_teacher_is_not_run_its_windows_change_nothing(tmp_path: Path) -> None:
    windows, heard = across(tmp_path, families=("bert", "roberta"))
    assert heard.windows.lengths.max() > windows.lengths.max(), "they would widen no batch"
    teacher, encoder = toy_qa_model("roberta", 1), tmp_path / "encoder"
    save_checkpoint(toy_qa_model("bert", 5, width=16), toy_tokenizer(tmp_path / "own", "bert"), encoder)
    training = TrainingSet(windows, (torch.zeros(len(windows.input_ids)),) * 2, heard)
    dev = Questions(toy_examples(5, seed=4), windows)
    settings: dict[str, Any] = {**vars(fit_params(dropout=0.1)), "temperature": 2.0, "alpha": 0.9, "relation_heads": 2}
    params = DistilParams(**settings, hidden_weight=0.0, relation_weight=0.0, student_layers=(1,), teacher_layers=(1,))
    trained = []
    for name, given in (("with", training), ("without", replace(training, heard=None))):
        (tmp_path / name).mkdir()
        lessons = Lessons(teacher, given, dev, own_windows=True)
        student = StudentParams((0, 1), encoder=str(encoder))
        trained.append(weights_of(distil(lessons, student, params, CPU, scratch=tmp_path / name, name="run")[0]))
    assert trained[0] == trained[1]
