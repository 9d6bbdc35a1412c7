"""The whole procedure at toy size: budgets kept in their own measure, every ingredient with an effect, no drift."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

import stages.core.pruning.costs
from stages.core.data.batches import Batch
from stages.core.data.prepared import Questions
from stages.core.data.windows import NO_LABEL
from stages.core.models.macs import count_macs
from stages.core.pruning.budget import choose_masks, cost_of
from stages.core.pruning.costs import count_encoder_parameters, latency_costs, mac_costs
from stages.core.pruning.curve import CRITERIA, Curve, differences, points
from stages.core.pruning.importance import magnitude_scores, mask_fisher
from stages.core.pruning.procedure import mean_length, prune, sample_batches
from stages.core.pruning.surgery import remove
from stages.core.qa.inference import predict_logits
from stages.core.qa.scoring import Scores
from stages.core.training.fit import TrainingSet
from stages.core.training.losses import DistillationLoss, IntermediateLoss, LabelLoss
from stages.core.training.recovery import recover
from tests import toy_pipeline
from tests.toy_clock import clock_of_products
from tests.toy_models import toy_qa_model
from tests.toy_questions import toy_questions
from tests.toy_training import CPU, weights_of

# Without dropout, so that two calls in one process train alike.
PRUNE = replace(toy_pipeline.PRUNE, dropout=0.0)
FINETUNE = replace(toy_pipeline.FINETUNE, dropout=0.0)
ANSWERS = DistillationLoss(2.0, 0.9)
PLAIN = replace(PRUNE, rounds=1, repair_windows=0, recovery_windows=0)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    questions: Questions = toy_questions(tmp_path_factory.mktemp("tokenizer"), 24, seed=1)
    teacher = toy_qa_model("bert", 1)
    logits = predict_logits(teacher, questions.windows, batch_size=8, device=CPU.device, precision="fp32")
    return TrainingSet(questions.windows, logits)


def pruned(training: TrainingSet, scratch: Path, **changes: Any) -> PreTrainedModel:
    scratch.mkdir(exist_ok=True)
    return prune(toy_qa_model("bert", 2), training, ANSWERS, replace(PRUNE, **changes), CPU, scratch=scratch)[0]


def test_each_budget_is_kept_in_its_own_measure(
    training: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, length = toy_qa_model("bert", 2), mean_length(training)
    by_macs = pruned(training, tmp_path / "a")
    assert 0.5 < count_macs(by_macs, length) / count_macs(whole, length) <= 0.6
    by_parameters = pruned(training, tmp_path / "b", macs_kept=0.0, parameters_kept=0.4)
    assert 0.3 < count_encoder_parameters(by_parameters) / count_encoder_parameters(whole) <= 0.4
    with clock_of_products(monkeypatch, stages.core.pruning.costs):
        by_latency = pruned(training, tmp_path / "c", macs_kept=0.0, latency_kept=0.5, rounds=1)
        times = latency_costs(whole, length=length, device=CPU.device)
    assert 0.4 < cost_of(by_latency, times) / cost_of(whole, times) <= 0.5


def test_one_plain_round_is_fisher_scores_choice_and_removal(training: TrainingSet, tmp_path: Path) -> None:
    model = toy_qa_model("bert", 2)
    scores = mask_fisher(model, sample_batches(training, 16, PLAIN), ANSWERS, CPU.device)
    table = mac_costs(model, mean_length(training))
    masks = choose_masks(scores, table, budget=0.6 * cost_of(model, table), minimum_neurons=8)
    found, history = prune(model, training, ANSWERS, PLAIN, CPU, scratch=tmp_path)
    assert history == []
    assert weights_of(found) == weights_of(remove(model, *masks))


def test_a_model_that_is_its_own_teacher_is_scored_by_labels_first(
    training: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def look(model: PreTrainedModel, batches: list[Batch], loss: object, device: torch.device) -> Any:
        labels = torch.cat([batch.start_positions for batch in batches])
        seen.append((type(loss), bool((labels == NO_LABEL).any()), len(labels)))
        return mask_fisher(model, batches, ANSWERS, device)

    monkeypatch.setattr("stages.core.pruning.procedure.mask_fisher", look)
    mixed = training.join(TrainingSet(training.windows.without_labels(), training.teacher_logits))
    params = replace(PRUNE, fisher_windows=24, recovery_windows=0)
    for itself in (True, False):
        prune(toy_qa_model("bert", 2), mixed, ANSWERS, params, CPU, scratch=tmp_path, its_own_teacher=itself)
    taught = (DistillationLoss, True, 24)
    assert seen == [(LabelLoss, False, 24), taught, taught, taught]


@pytest.mark.parametrize(
    "changes", [{"rounds": 1}, {"repair_windows": 0}, {"recovery_windows": 0}, {"hidden_weight": 0.0}]
)
def test_every_ingredient_has_an_effect(training: TrainingSet, tmp_path: Path, changes: dict[str, Any]) -> None:
    with_it = weights_of(pruned(training, tmp_path / "with"))
    assert with_it == weights_of(pruned(training, tmp_path / "again"))
    assert with_it != weights_of(pruned(training, tmp_path / "without", **changes))


def test_a_sample_has_the_logits_of_its_own_tokens_and_is_drawn_by_the_seed(training: TrainingSet) -> None:
    """Logits that spell the token tell whose they are."""
    spelt = training.windows.input_ids.float()
    samples = {
        seed: sample_batches(TrainingSet(training.windows, (spelt, -spelt)), 8, replace(PLAIN, seed=seed))
        for seed in (1, 2)
    }
    for batch in samples[1]:
        assert batch.teacher_start_logits is not None and batch.teacher_end_logits is not None
        real = batch.attention_mask.bool()
        assert torch.equal(batch.teacher_start_logits[real], batch.input_ids[real].float())
        assert torch.equal(batch.teacher_end_logits[real], -batch.input_ids[real].float())
    asked = [[batch.input_ids.tolist() for batch in sample] for sample in samples.values()]
    assert asked[0] != asked[1]


def test_repair_gets_the_whole_model_its_windows_and_its_ridge(
    training: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole model in every round, as nothing is trained between them."""
    seen = []

    def look(_: object, whole: PreTrainedModel, batches: list[Batch], *, ridge: float, device: torch.device) -> None:
        seen.append((weights_of(whole), sum(len(batch.rows) for batch in batches), ridge, device))

    monkeypatch.setattr("stages.core.pruning.procedure.repair", look)
    pruned(training, tmp_path / "scratch", ridge=0.125, repair_windows=12, recovery_windows=0)
    assert seen == [(weights_of(toy_qa_model("bert", 2)), 12, 0.125, CPU.device)] * PRUNE.rounds


def test_repair_does_not_undo_a_recovery(
    training: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing removed there is nothing to repair, neither before what a recovery has learned nor after it."""
    learned: list[dict[str, bytes]] = []

    def look(model: PreTrainedModel, *given: Any, **named: Any) -> object:
        assert weights_of(model) == (learned or [weights_of(toy_qa_model("bert", 2))])[-1]
        history = recover(model, *given, **named)
        learned.append(weights_of(model))
        return history

    monkeypatch.setattr("stages.core.pruning.procedure.recover", look)
    assert weights_of(pruned(training, tmp_path / "scratch", macs_kept=1.0, rounds=3)) == learned[-1]
    assert len({tuple(each.values()) for each in learned}) == 2


def test_the_last_round_is_left_to_recover(training: TrainingSet, tmp_path: Path) -> None:
    pruned(training, tmp_path / "scratch", rounds=3)
    kept = sorted(path.name for path in (tmp_path / "scratch").iterdir())
    assert [name[: len("round 1 ")] for name in kept] == ["round 1 ", "round 2 "]


def test_recovery_does_not_go_on_from_a_checkpoint_of_other_units(training: TrainingSet, tmp_path: Path) -> None:
    """As many units, but others: the shapes fit, the weights do not."""
    heads = torch.ones(3, 4, dtype=torch.bool)
    neurons = torch.ones(3, 64, dtype=torch.bool)
    model, found = toy_qa_model("bert", 2), []
    for gone in (0, 1):
        mask = heads.clone()
        mask[0, gone] = False
        pruned = remove(model, mask, neurons)
        recover(pruned, model, ANSWERS, training, FINETUNE, CPU, hidden_weight=0.0, scratch=tmp_path, name="it")
        found.append(weights_of(pruned))
    assert found[0] != found[1]
    assert len(list(tmp_path.iterdir())) == 2


def test_recovery_holds_each_layer_to_the_whole_models(training: TrainingSet, tmp_path: Path) -> None:
    """With the model itself as the whole one the alignment costs nothing at first; with another one it does."""
    model, other = toy_qa_model("bert", 2), toy_qa_model("bert", 3)
    histories = [
        recover(
            remove(model, torch.ones(3, 4, dtype=torch.bool), torch.ones(3, 64, dtype=torch.bool)),
            whole,
            ANSWERS,
            training,
            replace(FINETUNE, learning_rate=1e-9, log_steps=1),
            CPU,
            hidden_weight=1.0,
            scratch=tmp_path,
            name=name,
        )
        for name, whole in (("same", model), ("other", other))
    ]
    assert histories[0][0]["hidden"] == pytest.approx(0, abs=1e-6)
    assert histories[1][0]["hidden"] > 0.1


def test_recovery_aligns_every_layer(training: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Looked(IntermediateLoss):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            seen.append((self.layer_map, self.weight))

    monkeypatch.setattr("stages.core.training.recovery.IntermediateLoss", Looked)
    model = toy_qa_model("bert", 2)
    recover(model, model, ANSWERS, training, FINETUNE, CPU, hidden_weight=0.25, scratch=tmp_path, name="it")
    assert seen == [(((1, 1), (2, 2), (3, 3)), 0.25)]


def test_the_curve_judges_before_and_after_a_recovery_under_the_whole_model(
    training: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[dict[str, bytes]] = []
    recovered: list[tuple[object, ...]] = []

    def judge(small: PreTrainedModel) -> Scores:
        judged.append(weights_of(small))
        return Scores(np.zeros(1), np.zeros(1), missing=0)

    def look(*given: Any, **named: Any) -> object:
        recovered.append((weights_of(given[1]), given[4], named["hidden_weight"], named["updates"], named["name"]))
        return recover(*given, **named)

    monkeypatch.setattr("stages.core.pruning.curve.recover", look)
    model = toy_qa_model("bert", 2)
    Curve(model, training, ANSWERS, PRUNE, FINETUNE, 3, CPU, judge, tmp_path).draw([0.5])
    assert len(judged) == 2 * len(CRITERIA)
    assert all(before != after for before, after in zip(judged[::2], judged[1::2], strict=True))
    expected = (weights_of(model), FINETUNE, FINETUNE.hidden_weight, 3)
    assert recovered == [(*expected, f"{criterion} 0.5") for criterion in CRITERIA]


def test_a_point_recovers_alike_whatever_was_drawn_before_it(training: TrainingSet, tmp_path: Path) -> None:
    judged: list[dict[str, bytes]] = []

    def judge(small: PreTrainedModel) -> Scores:
        judged.append(weights_of(small))
        return Scores(np.zeros(1), np.zeros(1), missing=0)

    finetune = replace(FINETUNE, dropout=0.3)
    curve = Curve(toy_qa_model("bert", 2), training, ANSWERS, PRUNE, finetune, 3, CPU, judge, tmp_path)
    curve.draw([0.5])
    alone, judged[:] = judged.copy(), []
    curve.draw([0.25, 0.5])
    assert judged[len(alone) :] == alone


def test_the_curve_of_a_teacher_knows_it_as_its_own(
    training: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def look(model: PreTrainedModel, *_: object, its_own_teacher: bool, **named: Any) -> Any:
        asked.append(its_own_teacher)
        return model, []

    def judge(small: PreTrainedModel) -> Scores:
        return Scores(np.zeros(1), np.zeros(1), missing=0)

    monkeypatch.setattr("stages.core.pruning.curve.prune", look)
    given = (toy_qa_model("bert", 2), training, ANSWERS, PRUNE, FINETUNE, 0, CPU, judge, tmp_path)
    for itself in (True, False):
        Curve(*given, its_own_teacher=itself).draw([0.5])
    assert asked == [True, True, False, False]


def test_points_of_the_curve_are_what_their_criteria_say(training: TrainingSet, tmp_path: Path) -> None:
    model = toy_qa_model("bert", 2)
    length = mean_length(training)

    def judge(small: PreTrainedModel) -> Scores:
        """The model's MACs in place of a score."""
        return Scores(np.zeros(1), np.array([float(count_macs(small, length))]), missing=0)

    curve = Curve(model, training, ANSWERS, PRUNE, FINETUNE, 0, CPU, judge, tmp_path)
    table = mac_costs(model, mean_length(training))
    masks = choose_masks(magnitude_scores(model), table, budget=0.5 * cost_of(model, table), minimum_neurons=8)
    assert weights_of(curve.pruned("magnitude", 0.5)) == weights_of(remove(model, *masks))
    fisher, _ = prune(model, training, ANSWERS, replace(PLAIN, macs_kept=0.5), CPU, scratch=tmp_path)
    assert weights_of(curve.pruned("fisher", 0.5)) == weights_of(fisher)
    unrecovered = replace(PRUNE, macs_kept=0.5, recovery_windows=0)
    repaired, _ = prune(model, training, ANSWERS, unrecovered, CPU, scratch=tmp_path)
    assert weights_of(curve.pruned("fisher_repaired", 0.5)) == weights_of(repaired)
    drawn = points(curve.draw([0.9, 0.5]))
    assert drawn["macs_kept"].tolist() == [0.5, 0.9]
    assert (drawn.iloc[0, 1:] <= 0.5 * count_macs(model, length)).all()
    assert (drawn.iloc[1, 1:] > 0.8 * count_macs(model, length)).all()


def test_differences_of_the_curve_are_paired() -> None:
    """Repair wins three points on every question over magnitude, and nothing on average over plain Fisher scores."""
    f1 = np.array([10.0, 20.0, 30.0, 40.0])
    apart = f1 + np.array([3.0, -3.0, 3.0, -3.0])
    scored = {"magnitude": f1 - 3, "fisher": apart, "fisher_repaired": f1}
    found = {0.5: {name: Scores(np.zeros(4), values, missing=0) for name, values in scored.items()}}
    frame = differences(found, ["a", "b", "c", "d"], resamples=200, seed=1)
    assert frame[["macs_kept", "recovered", "over"]].to_numpy().tolist() == [
        [0.5, "no", "magnitude"],
        [0.5, "no", "fisher"],
    ]
    assert frame.loc[0, ["f1", "f1_low", "f1_high"]].tolist() == [3, 3, 3]
    assert frame.loc[1, "f1"] == 0 and frame.loc[1, "f1_low"] < 0 < frame.loc[1, "f1_high"]


def test_differences_of_the_curve_draw_whole_paragraphs() -> None:
    """All questions of a paragraph are won or lost together: drawn one by one they would never all be alike."""
    won = np.array([10.0] * 4 + [-10.0] * 4)
    scored = {"magnitude": np.zeros(8), "fisher": np.zeros(8), "fisher_repaired": won}
    found = {0.5: {name: Scores(np.zeros(8), values, missing=0) for name, values in scored.items()}}
    frame = differences(found, ["a"] * 4 + ["b"] * 4, resamples=500, seed=1)
    assert frame[["f1_low", "f1_high"]].to_numpy().tolist() == [[-10, 10]] * 2
