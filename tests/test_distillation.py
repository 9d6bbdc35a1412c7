"""One distillation run, once and again, and as a trial of the search."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import optuna
import pytest
import torch
from optuna.trial import Trial
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from stages.core.data.batches import ordered_batches, shuffled_batches
from stages.core.errors import InputError
from stages.core.models.checkpoint import load_checkpoint, save_checkpoint
from stages.core.qa.decoding import DecodeParams
from stages.core.qa.evaluation import quality, score_model
from stages.core.qa.inference import predict_logits
from stages.core.training.distillation import distil
from stages.core.training.fit import History, TrainingSet
from stages.core.training.lessons import Lessons, new_student, some
from stages.core.training.losses import DistillationLoss, IntermediateLoss
from stages.core.training.settings import DistilParams, StudentParams
from stages.core.training.trials import TrialRun
from tests.toy_models import toy_qa_model, toy_tokenizer
from tests.toy_questions import toy_questions
from tests.toy_training import CPU, fit_params, weights_of

STUDENT = StudentParams((0, 2))
DECODE = DecodeParams(n_best=5, max_answer_length=4)


def distil_params(**changes: Any) -> DistilParams:
    knobs: dict[str, Any] = {
        "temperature": 2.0,
        "alpha": 0.9,
        "hidden_weight": 1.0,
        "relation_weight": 0.0,
        "relation_heads": 4,
        "student_layers": (1, 2),
        "teacher_layers": (1, 3),
    }
    return DistilParams(**{**vars(fit_params(dropout=0.1)), **knobs, **changes})


@pytest.fixture
def lessons(tmp_path: Path) -> Lessons:
    teacher = toy_qa_model("bert", 1)
    train, dev = (toy_questions(tmp_path / "tokenizer", count, seed=count) for count in (12, 6))
    logits = predict_logits(teacher, train.windows, batch_size=4, device=CPU.device, precision="fp32")
    return Lessons(teacher, TrainingSet(train.windows, logits), dev)


def run(lessons: Lessons, folder: Path, **changes: Any) -> tuple[PreTrainedModel, History]:
    folder.mkdir(parents=True)
    return distil(lessons, STUDENT, distil_params(**changes), CPU, scratch=folder, name="run")


def test_equal_settings_give_equal_students_one_after_the_other(lessons: Lessons, tmp_path: Path) -> None:
    before = weights_of(lessons.teacher)
    first = run(lessons, tmp_path / "first")
    torch.rand(3)
    second = run(lessons, tmp_path / "second")
    assert weights_of(first[0]) == weights_of(second[0])
    assert first[1] == second[1]
    assert weights_of(first[0]) != weights_of(run(lessons, tmp_path / "other", temperature=3.0)[0])
    assert weights_of(lessons.teacher) == before, "the teacher has changed"


def test_the_loss_is_that_of_the_settings(lessons: Lessons, tmp_path: Path) -> None:
    """One batch, and a rate at which nothing moves: the history is the loss of the student as it was cut."""
    weights: dict[str, Any] = {"hidden_weight": 2.0, "relation_weight": 0.5, "relation_heads": 2}
    once: dict[str, Any] = {"batch_size": 12, "epochs": 1, "log_steps": 1, "dropout": 0.0, "learning_rate": 1e-30}
    _, history = run(lessons, tmp_path / "run", alpha=0.25, teacher_layers=(2, 3), **weights, **once)
    student, teacher = new_student(lessons, STUDENT, 1), lessons.teacher
    pairs, answers = [(1, 2), (2, 3)], DistillationLoss(2.0, 0.25)
    loss = IntermediateLoss(answers, student, teacher, pairs, 2.0, relation_weight=0.5, relation_heads=2)
    (batch,) = ordered_batches(lessons.training.windows, 12, lessons.training.teacher_logits)
    expected = {name: value.item() for name, value in loss(student.eval(), batch).items()}
    assert set(expected) == {"loss", "hard", "soft", "hidden", "relation"}
    assert {name: history[0][name] for name in expected} == pytest.approx(expected, rel=1e-4)


def test_the_student_starts_as_the_teachers_layers(lessons: Lessons, tmp_path: Path) -> None:
    student, _ = run(lessons, tmp_path / "still", learning_rate=1e-30, weight_decay=0.0)
    assert student.config.num_hidden_layers == 2
    taught = {name.replace("layer.1.", "layer.2."): weight for name, weight in student.state_dict().items()}
    assert all(torch.equal(weight, lessons.teacher.state_dict()[name]) for name, weight in taught.items())


def test_no_weight_on_hidden_states_spares_the_teachers_forward(
    lessons: Lessons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, aligned = run(lessons, tmp_path / "aligned")
    assert "hidden" in aligned[0]

    def never(**_: object) -> None:
        raise AssertionError("the teacher was run")

    monkeypatch.setattr(lessons.teacher, "forward", never)
    # What is cut from the teacher is a copy of it, a patched forward included.
    monkeypatch.setattr("stages.core.training.distillation.new_student", lambda *_: toy_qa_model("bert", 2, layers=2))
    _, unaligned = run(lessons, tmp_path / "unaligned", hidden_weight=0.0)
    assert "hidden" not in unaligned[0]


def encoder_of(folder: Path, family: str) -> StudentParams:
    save_checkpoint(toy_qa_model(family, 5, width=16), toy_tokenizer(folder / "tokenizer", family), folder / "encoder")
    return StudentParams((0, 2), encoder=str(folder / "encoder"))


def test_a_student_may_be_cut_from_an_encoder_of_its_own(lessons: Lessons, tmp_path: Path) -> None:
    student = encoder_of(tmp_path, "bert")
    made = new_student(lessons, student, seed=1)
    whole = load_checkpoint(Path(student.encoder)).state_dict()
    taught = {name.replace("layer.1.", "layer.2."): weight for name, weight in made.state_dict().items()}
    assert made.config.num_hidden_layers == 2
    assert all(torch.equal(weight, whole[name]) for name, weight in taught.items())
    trained = distil(lessons, student, distil_params(), CPU, scratch=tmp_path, name="run")[0]
    assert trained.config.hidden_size == 16


def test_students_of_other_seeds_may_start_from_the_same_weights(lessons: Lessons, tmp_path: Path) -> None:
    """A head and projections are drawn: the encoder has no head, and another width than the teacher."""
    student = encoder_of(tmp_path, "bert")
    path = Path(student.encoder) / "model.safetensors"
    bare = {name: weight for name, weight in load_file(path).items() if "qa_outputs" not in name}
    save_file(bare, path, metadata={"format": "pt"})
    # One batch of all windows, and a rate at which nothing moves: what is seen is where they start.
    still = distil_params(learning_rate=1e-30, weight_decay=0.0, batch_size=99, epochs=1, log_steps=1, dropout=0.0)

    def start(seed: int, start_seed: int | None) -> tuple[bytes, float]:
        settings, scratch = replace(still, seed=seed), tmp_path / f"{seed} {start_seed}"
        scratch.mkdir()
        made, history = distil(lessons, student, settings, CPU, scratch=scratch, name="run", start_seed=start_seed)
        return made.qa_outputs.weight.detach().numpy().tobytes(), history[0]["hidden"]  # type: ignore[operator, union-attr]

    head, hidden = start(1, None)
    other, elsewhere = start(2, None)
    assert head != other and abs(hidden - elsewhere) > 1e-4 * hidden
    again, near = start(2, 1)
    assert head == again and near == pytest.approx(hidden, rel=1e-5)


@pytest.mark.parametrize("own", [True, False])
def test_windows_cut_for_another_student_are_refused(lessons: Lessons, tmp_path: Path, own: bool) -> None:
    student = encoder_of(tmp_path, "roberta") if own else STUDENT
    with pytest.raises(InputError, match=r"^params.yaml: student.encoder is .* run prepare again$"):
        new_student(replace(lessons, own_windows=not own), student, seed=1)


@dataclass
class FakeTrial:
    """Stands in for Optuna's trial: keeps what is reported and prunes after a given number of reports."""

    number: int = 4
    prune_after: int = 99
    reported: list[tuple[float, int]] = field(default_factory=list)

    def report(self, value: float, step: int) -> None:
        self.reported.append((value, step))

    def should_prune(self) -> bool:
        return len(self.reported) >= self.prune_after


def trial_run(lessons: Lessons, folder: Path) -> TrialRun:
    folder.mkdir()
    training = some(lessons.training, 8, seed=1)
    return TrialRun(lessons, training, STUDENT, distil_params(), DECODE, CPU, folder)


POINT = {"temperature": 4.0, "alpha": 0.6, "learning_rate": 5e-3}


def test_a_trial_is_a_distillation_at_its_point_judged_on_dev_after_each_epoch(
    lessons: Lessons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    students: list[PreTrainedModel] = []  # at toy size F1 does not tell two students apart

    def keep(*given: Any, **named: Any) -> tuple[PreTrainedModel, History]:
        students.append(distil(*given, **named)[0])
        return students[0], []

    monkeypatch.setattr("stages.core.training.trials.distil", keep)
    trial, objective = FakeTrial(), trial_run(lessons, tmp_path / "trial")
    value = objective(cast(Trial, trial), POINT)
    judged: list[float] = []

    def judge(_: int, student: PreTrainedModel) -> None:
        judged.append(quality(score_model(student, lessons.dev, DECODE, CPU.device, 4))["f1"])

    (tmp_path / "plain").mkdir()
    settings = replace(objective.settings, **cast(dict[str, Any], POINT))
    plain, _ = distil(
        lessons,
        STUDENT,
        settings,
        CPU,
        scratch=tmp_path / "plain",
        name="plain",
        training=objective.training,
        after_epoch=judge,
    )
    assert trial.reported == list(zip(judged, (0, 1), strict=True))
    assert value == judged[-1]
    assert weights_of(students[0]) == weights_of(plain)


def test_a_lagging_trial_stops(lessons: Lessons, tmp_path: Path) -> None:
    trial = FakeTrial(prune_after=1)
    with pytest.raises(optuna.TrialPruned):
        trial_run(lessons, tmp_path / "trial")(cast(Trial, trial), POINT)
    assert len(trial.reported) == 1


def test_a_trial_goes_on_from_no_other_and_leaves_nothing_behind(lessons: Lessons, tmp_path: Path) -> None:
    """Not even from one of its own number, as another search in another storage may have left it."""
    objective = trial_run(lessons, tmp_path / "trial")
    reported = []
    for _ in range(2):
        trial = FakeTrial()
        objective(cast(Trial, trial), POINT)
        reported.append(trial.reported)
        assert list((tmp_path / "trial").iterdir()) == []
    assert reported[0] == reported[1]
    assert len(reported[0]) == 2


def test_a_trial_knows_its_updates(lessons: Lessons, tmp_path: Path) -> None:
    objective = trial_run(lessons, tmp_path / "trial")
    assert objective.epoch_updates == len(list(shuffled_batches(objective.training.windows, 4, torch.Generator())))


def ids_of(training: TrainingSet) -> Sequence[str]:
    return training.windows.question_ids


def test_some_windows_are_drawn_by_seed_in_their_order(lessons: Lessons) -> None:
    drawn = some(lessons.training, 5, seed=1)
    everything = list(ids_of(lessons.training))
    assert len(ids_of(drawn)) == len(set(ids_of(drawn))) == 5
    assert sorted(ids_of(drawn), key=everything.index) == list(ids_of(drawn))
    assert ids_of(some(lessons.training, 5, seed=1)) == ids_of(drawn)
    assert {ids_of(some(lessons.training, 5, seed=seed)) for seed in range(4)} != {ids_of(drawn)}
    assert ids_of(some(lessons.training, 99, seed=1)) == ids_of(lessons.training)
