"""What is told of a search: which knobs matter, how flat the optimum is, what it has cost."""

import json
import random
from collections.abc import Callable

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from stages.core.training.outcome import ENOUGH_TRIALS, importances, knobs_table, near_best, paid, summary, trials_table
from stages.core.training.search import Budget
from stages.core.training.space import Knob, Space

SPACE = Space(
    {"temperature": Knob(1.0, 8.0, "log"), "alpha": Knob(0.0, 1.0, "linear")}, {"temperature": 2.0, "alpha": 0.5}
)


def study_of(*trials: tuple[float, float, float, bool]) -> optuna.Study:
    """A study of trials (temperature, alpha, F1, whether it was complete), an epoch for a stopped one, else two."""
    study = optuna.create_study(direction="maximize")
    for temperature, alpha, f1, complete in trials:
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if complete else TrialState.PRUNED,
                value=f1,
                params={"temperature": temperature, "alpha": alpha},
                distributions={"temperature": FloatDistribution(1, 8, log=True), "alpha": FloatDistribution(0, 1)},
                intermediate_values={0: f1, 1: f1} if complete else {0: f1},
            )
        )
    return study


def drawn(
    count: int, f1: Callable[[float, float], float], complete: bool = True
) -> list[tuple[float, float, float, bool]]:
    generator = random.Random(count)
    points = [(8 ** generator.random(), generator.random()) for _ in range(count)]
    return [(*point, f1(*point), complete) for point in points]


def test_the_knob_that_f1_depends_on_is_the_important_one() -> None:
    for f1, knob in ((lambda t, _: 60 - t, "temperature"), (lambda _, a: 60 * a, "alpha")):
        found = importances(study_of(*drawn(40, f1)), SPACE)
        assert set(found) == {"temperature", "alpha"}
        assert sum(found.values()) == pytest.approx(1)
        assert found[knob] > 0.8
        assert importances(study_of(*drawn(40, f1)), SPACE) == found, "not repeatable"


@pytest.mark.parametrize(("stopped_at", "counts_as"), [(90.0, 90.0), (10.0, 0.0)])
def test_a_stopped_trial_counts_where_it_stands_among_the_complete_ones(stopped_at: float, counts_as: float) -> None:
    """Stopped are the trials of high alpha: before all others, or behind them."""
    trials = [(t, a, stopped_at if a > 0.8 else 50 + t / 100, a <= 0.8) for t, a, *_ in drawn(40, lambda t, a: 0)]
    as_complete = importances(study_of(*[(t, a, f1 if ok else counts_as, True) for t, a, f1, ok in trials]), SPACE)
    assert importances(study_of(*trials), SPACE) == as_complete


@pytest.mark.parametrize(
    "trials",
    [
        drawn(ENOUGH_TRIALS - 1, lambda t, a: t),
        drawn(40, lambda t, a: 50.0),
        [*drawn(30, lambda t, a: 0.0), *drawn(3, lambda t, a: 50.0)],
        [*drawn(30, lambda t, a: 10.0, complete=False), *drawn(3, lambda t, a: 50.0)],
    ],
)
def test_too_few_trials_and_trials_of_which_no_quarter_stands_out_have_no_importance(
    trials: list[tuple[float, float, float, bool]],
) -> None:
    study = study_of(*trials)
    assert importances(study, SPACE) == {}
    table = knobs_table(study, SPACE, SPACE.default)
    assert table["importance"].isna().all()
    assert "nan" not in table.to_csv(index=False).lower()


TRIALS = [
    (2.0, 0.5, 59.0, True),  # the default, just within 1 F1 of the best
    (1.0, 0.25, 58.9, True),
    (1.02, 0.75, 60.0, True),
    (4.0, 0.6, 99.0, False),
    (8.0, 0.7, 59.5, True),
]


def test_a_row_per_knob_tells_what_lies_near_the_best() -> None:
    study = study_of(*TRIALS)
    assert [trial.number for trial in near_best(study)] == [0, 2, 4]
    table = knobs_table(study, SPACE, {"temperature": 1.02, "alpha": 0.75}).set_index("knob")
    assert table.loc["temperature", ["default", "chosen", "boundary"]].tolist() == [2.0, 1.02, "low"]
    assert table.loc["temperature", ["near_low", "near_high"]].tolist() == [1.02, 8.0]
    assert table.loc["temperature", "near_share"] == 0.99  # 1 - log 1.02 / log 8
    assert table.loc["alpha", ["chosen", "boundary", "near_low", "near_high", "near_share"]].tolist() == [
        0.75, "", 0.5, 0.75, 0.25,
    ]  # fmt: skip
    assert table.loc["alpha", ["low", "high", "scale"]].tolist() == [0.0, 1.0, "linear"]


def test_the_summary_is_of_finite_numbers() -> None:
    budget, chosen = Budget(updates=200, epoch_updates=25, epochs=2, unstopped=3), {"temperature": 1.02, "alpha": 0.75}
    found = summary(study_of(*TRIALS), SPACE, budget, {0: 70.0, 2: 71.0, 4: 69.0}, chosen)
    json.dumps(found, allow_nan=False)
    assert found == {
        "trials": 5,
        "trials_pruned": 1,
        "trials_near_best": 3,
        "updates": 4 * 50 + 25,
        "default_trial_f1": 59.0,
        "best_trial_f1": 60.0,
        "near_f1": 1.0,
        "importance_from_trials": ENOUGH_TRIALS,
        "knobs_on_boundary": 1,
        "finalists": 2,
        "default_full_f1": 70.0,
        "best_full_f1": 71.0,
    }


def test_a_trial_keeps_its_place_behind_one_that_was_superfluous() -> None:
    """Of processes that share a search one may find that another was quicker; its trial fails and keeps its place."""
    study = study_of(*TRIALS[:2])
    study.add_trial(create_trial(state=TrialState.FAIL))
    study.add_trials(study_of(*TRIALS[2:4]).trials)
    for updates, places in ((50, [0]), (51, [0, 1]), (101, [0, 1, 3]), (1000, [0, 1, 3, 4])):
        found = paid(study, Budget(updates, epoch_updates=25, epochs=2, unstopped=3))
        assert trials_table(found, SPACE)["trial"].tolist() == places
    assert trials_table(found, SPACE).equals(trials_table(study, SPACE))


def test_the_default_alone_is_a_search() -> None:
    table = knobs_table(study_of(TRIALS[0]), SPACE, SPACE.default).set_index("knob")
    assert table.loc["temperature", ["chosen", "near_low", "near_high", "near_share"]].tolist() == [2.0, 2.0, 2.0, 0.0]
