"""Ranges of training settings, each fault told with the key and the value."""

from pathlib import Path
from typing import Any

import pytest

from stages.core.errors import InputError
from stages.core.pruning.settings import PruneParams
from stages.core.training.settings import DistilParams, FinetuneParams, FitParams, StudentParams, float_keys
from stages.prune_curve import PruneCurveParams
from stages.student_init import StudentInitParams
from stages.teacher import TeacherParams
from stages.tune import TuneParams

FIT: dict[str, Any] = {
    "seed": 1,
    "epochs": 2,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "warmup_ratio": 0.1,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "dropout": 0.1,
    "freeze_embeddings": False,
    "log_steps": 2,
    "checkpoint_steps": 2,
}
DISTIL: dict[str, Any] = {
    **FIT,
    "temperature": 2.0,
    "alpha": 0.9,
    "hidden_weight": 1.0,
    "relation_weight": 0.0,
    "relation_heads": 4,
    "student_layers": (1, 2),
    "teacher_layers": (2, 4),
}
FAULTS: list[tuple[str, Any]] = [
    ("epochs", 0),
    ("batch_size", 0),
    ("log_steps", 0),
    ("checkpoint_steps", 0),
    ("learning_rate", 0.0),
    ("max_grad_norm", -1.0),
    ("dropout", 1.0),
    ("dropout", -0.1),
    ("warmup_ratio", 1.0),
    ("warmup_ratio", -0.1),
    ("weight_decay", -0.01),
]


@pytest.mark.parametrize(("key", "value"), FAULTS)
def test_settings_out_of_range_are_refused(key: str, value: Any) -> None:
    for params in (FitParams(**{**FIT, key: value}), DistilParams(**{**DISTIL, key: value})):
        with pytest.raises(InputError, match=f"^{key} is {value!r}, wanted"):
            params.check()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", 0.0),
        ("alpha", -0.1),
        ("alpha", 1.1),
        ("hidden_weight", -1.0),
        ("relation_weight", -1.0),
        ("relation_heads", 0),
        ("teacher_layers", (1,)),
        ("teacher_layers", ()),
    ],
)
def test_distillation_settings_out_of_range_are_refused(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^{key} is "):
        DistilParams(**{**DISTIL, key: value}).check()


def test_no_pair_of_layers_is_refused() -> None:
    with pytest.raises(InputError, match="at least one"):
        DistilParams(**{**DISTIL, "student_layers": (), "teacher_layers": ()}).check()


def test_the_ends_of_the_ranges_are_allowed() -> None:
    ends = {"dropout": 0.0, "warmup_ratio": 0.0, "weight_decay": 0.0, "epochs": 1, "alpha": 0.0, "hidden_weight": 0.0}
    DistilParams(**{**DISTIL, **ends}).check()
    DistilParams(**{**DISTIL, "alpha": 1.0}).check()


@pytest.mark.parametrize("layers", [(), (3, 1), (1, 1), (-1, 2)])
def test_student_layers_that_do_not_rise_are_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"layers is .* wanted rising layer numbers"):
        StudentParams(layers).check()
    StudentParams((0, 2)).check()


def test_a_student_without_an_encoder_has_the_teachers_folder(tmp_path: Path) -> None:
    assert StudentParams((0, 2)).origin(tmp_path / "teacher") == tmp_path / "teacher"
    with pytest.raises(InputError, match=r"^model 'nowhere': no such folder"):
        StudentParams((0, 2), encoder="nowhere").origin(tmp_path)
    with pytest.raises(InputError, match=r"^sha256 is 'abc', wanted '' where student.encoder is ''"):
        StudentParams((0, 2), sha256="abc").check()


def test_a_point_of_the_search_changes_its_knobs_only() -> None:
    params = DistilParams(**DISTIL)
    moved = params.at({"temperature": 4.0, "learning_rate": 3e-4})
    assert vars(moved) == {**DISTIL, "temperature": 4.0, "learning_rate": 3e-4}
    assert params.temperature == 2.0


@pytest.mark.parametrize(
    ("hidden", "relation", "searched", "runs"),
    [
        (1.0, 0.0, (), True),
        (0.0, 0.5, (), True),
        (0.0, 0.0, (), False),
        (0.0, 0.0, ("temperature",), False),
        (0.0, 0.0, ("temperature", "relation_weight"), True),
    ],
)
def test_the_teacher_runs_where_what_is_inside_it_is_asked_for(
    hidden: float, relation: float, searched: tuple[str, ...], runs: bool
) -> None:
    params = DistilParams(**{**DISTIL, "hidden_weight": hidden, "relation_weight": relation})
    assert params.needs_teacher(*searched) is runs


def test_a_search_may_change_every_float_of_distil_and_nothing_else() -> None:
    known = float_keys(DistilParams)
    assert known == [name for name, value in DISTIL.items() if isinstance(value, float)]
    assert {"temperature", "alpha", "learning_rate", "hidden_weight"} < set(known)


@pytest.mark.parametrize("key", ["updates", "trial_epochs", "trial_windows", "finalists"])
def test_a_search_of_nothing_is_refused(key: str) -> None:
    settings: dict[str, Any] = {"updates": 1, "trial_epochs": 1, "trial_windows": 1, "finalists": 1, "average": True}
    TuneParams(seed=1, storage="", space={}, **settings).check()
    with pytest.raises(InputError, match=f"^{key} is 0"):
        TuneParams(seed=1, storage="", space={}, **{**settings, key: 0}).check()


PRUNE: dict[str, Any] = {
    **FIT,
    "macs_kept": 0.5,
    "parameters_kept": 0.0,
    "latency_kept": 0.0,
    "rounds": 1,
    "fisher_windows": 8,
    "repair_windows": 0,
    "ridge": 0.01,
    "recovery_windows": 0,
    "hidden_weight": 0.0,
    "minimum_neurons": 1,
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("macs_kept", 1.1),
        ("macs_kept", -0.1),
        ("latency_kept", 2.0),
        ("rounds", 0),
        ("fisher_windows", 0),
        ("repair_windows", -1),
        ("ridge", 0.0),
        ("recovery_windows", -1),
        ("hidden_weight", -1.0),
        ("minimum_neurons", 0),
        ("epochs", 0),
    ],
)
def test_pruning_settings_out_of_range_are_refused(key: str, value: Any) -> None:
    PruneParams(**PRUNE).check()
    with pytest.raises(InputError, match=f"^{key} is "):
        PruneParams(**{**PRUNE, key: value}).check()


def test_pruning_has_one_budget() -> None:
    for shares in ({"macs_kept": 0.0}, {"parameters_kept": 0.5}, {"macs_kept": 0.0, "latency_kept": 0.0}):
        with pytest.raises(InputError, match=r"macs_kept, parameters_kept, latency_kept is .*exactly one"):
            PruneParams(**{**PRUNE, **shares}).check()
    latency = PruneParams(**{**PRUNE, "macs_kept": 0.0, "latency_kept": 0.7})
    latency.check()
    assert latency.kept == 0.7


def test_finetuning_and_curve_settings_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match=r"^hidden_weight is -1"):
        FinetuneParams(**FIT, hidden_weight=-1.0).check()
    for shares in ((), (0.0,), (0.5, 1.5)):
        with pytest.raises(InputError, match=r"^macs_kept is "):
            PruneCurveParams(seed=1, macs_kept=shares, recovery_updates=0, resamples=1).check()
    with pytest.raises(InputError, match=r"^recovery_updates is -1"):
        PruneCurveParams(seed=1, macs_kept=(0.5,), recovery_updates=-1, resamples=1).check()
    with pytest.raises(InputError, match=r"^resamples is 0"):
        PruneCurveParams(seed=1, macs_kept=(0.5,), recovery_updates=0, resamples=0).check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"updates": 0}, "updates is 0, wanted 1 or more"),
        ({"resamples": 0}, "resamples is 0, wanted 1 or more"),
        ({"candidates": {}}, "candidates is {}, wanted one cut or more"),
        ({"candidates": {"odd": (3, 1)}}, "candidates.odd: layers is (3, 1), wanted rising layer numbers"),
        (
            {"candidates": {"a/b": (0, 1)}},
            "candidates is 'a/b', wanted names of letters, digits, _, - and . (checkpoints are named by them)",
        ),
    ],
)
def test_cuts_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    fine: dict[str, Any] = {"seed": 1, "updates": 5, "resamples": 10, "candidates": {"first": (0, 1)}}
    StudentInitParams(**fine).check()
    with pytest.raises(InputError) as error:
        StudentInitParams(**{**fine, **changes}).check()
    assert str(error.value) == message


def test_a_teacher_is_trained_at_least_once() -> None:
    TeacherParams(**FIT, cloze_epochs=1, runs=1).check()
    with pytest.raises(InputError, match=r"^runs is 0"):
        TeacherParams(**FIT, cloze_epochs=1, runs=0).check()
    with pytest.raises(InputError, match=r"^cloze_epochs is 0"):
        TeacherParams(**FIT, cloze_epochs=0, runs=1).check()
