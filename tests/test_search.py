"""The search on an objective without a model: what it tries, what it stops early, and that a kill changes nothing."""

import math
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pandas as pd
import pytest
from optuna.trial import Trial

from stages.core.errors import InputError
from stages.core.training.search import KNOBS, Point, Space, best_point, on_boundary, search, trials_table

SPACE = Space(temperature=(1.0, 8.0), alpha=(0.5, 1.0), learning_rate=(1e-4, 8e-4))
DEFAULT = {"temperature": 2.0, "alpha": 0.9, "learning_rate": 3e-4}
TRIALS = 9


def hill(point: Point) -> float:
    """F1 with its top at temperature 4, alpha 0.7, learning rate 2e-4."""
    away = (math.log(point["temperature"] / 4), point["alpha"] - 0.7, math.log(point["learning_rate"] / 2e-4))
    return 70 - 10 * sum(each**2 for each in away)


class Climbing:
    """An objective that is judged twice, half of the height and then all of it, and keeps the points it was given."""

    def __init__(self, stop: int | None = None, at_the_end: Callable[[], None] | None = None) -> None:
        self.stop, self.at_the_end = stop, at_the_end
        self.points: list[Point] = []

    def __call__(self, trial: Trial, point: Point) -> float:
        self.points.append(point)
        for epoch in range(2):
            trial.report(hill(point) * (epoch + 1) / 2, epoch)
            if len(self.points) - 1 == self.stop and self.at_the_end is not None:
                self.at_the_end()
            if trial.should_prune():
                raise optuna.TrialPruned
        return hill(point)


def run(
    folder: Path, objective: Callable[[Trial, Point], float], *, trials: int = TRIALS, seed: int = 5
) -> optuna.Study:
    return search(objective, SPACE, DEFAULT, trials=trials, seed=seed, storage=folder / "trials.sqlite")


@pytest.fixture(scope="module")
def points_and_table(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Point], pd.DataFrame]:
    objective = Climbing()
    study = run(tmp_path_factory.mktemp("uninterrupted"), objective)
    return objective.points, trials_table(study)


@pytest.fixture(scope="module")
def uninterrupted(points_and_table: tuple[list[Point], pd.DataFrame]) -> pd.DataFrame:
    return points_and_table[1]


def test_the_default_comes_first_and_the_others_lie_in_the_space(
    points_and_table: tuple[list[Point], pd.DataFrame],
) -> None:
    points, table = points_and_table
    assert points[0] == DEFAULT
    assert len({tuple(point.values()) for point in points}) == TRIALS
    for point in points:
        assert all(getattr(SPACE, name)[0] <= point[name] <= getattr(SPACE, name)[1] for name in KNOBS)
        assert all(value == float(f"{value:.3g}") for value in point.values()), "does not read well"
    assert table[list(KNOBS)].to_dict("records") == points


def test_the_seed_decides(tmp_path: Path, uninterrupted: pd.DataFrame) -> None:
    for name, seed in (("again", 5), ("other", 6)):
        (tmp_path / name).mkdir()
        table = trials_table(run(tmp_path / name, Climbing(), trials=5, seed=seed))
        assert table.equals(uninterrupted[:5]) == (seed == 5)
        assert table.loc[0, "temperature"] == 2.0


def test_the_search_finds_better_than_the_default(uninterrupted: pd.DataFrame) -> None:
    complete = uninterrupted[uninterrupted["state"] == "complete"]["f1"]
    assert complete.max() > complete[0] + 2


def test_trials_that_lag_behind_the_median_are_pruned(tmp_path: Path) -> None:
    heights = {0: (30.0, 60.0), 1: (20.0, 50.0), 2: (24.0, 90.0), 3: (26.0, 55.0), 4: (40.0, 41.0)}

    def objective(trial: Trial, point: Point) -> float:
        for epoch, height in enumerate(heights[trial.number]):
            trial.report(height, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return heights[trial.number][1]

    study = run(tmp_path, objective, trials=5)
    table = trials_table(study)
    assert list(table.columns) == ["trial", *KNOBS, "f1", "epochs", "state"]
    # Trial 2 lags behind the median 25 of the first two; trial 4 is far ahead at first, then behind the median 55.
    assert table["state"].tolist() == ["complete", "complete", "pruned", "complete", "pruned"]
    assert table["f1"].tolist() == [60.0, 50.0, 24.0, 55.0, 41.0]
    assert table["epochs"].tolist() == [2, 2, 1, 2, 2]


def test_the_best_point_is_the_earliest_of_the_highest_complete_trials(tmp_path: Path) -> None:
    heights = [50.0, 60.0, 60.0, 10.0]

    def objective(trial: Trial, point: Point) -> float:
        trial.report(99.0 if trial.number == 3 else heights[trial.number], 0)
        if trial.number == 3:
            raise optuna.TrialPruned
        return heights[trial.number]

    study = run(tmp_path, objective, trials=4)
    table = trials_table(study)
    assert table["state"].tolist() == ["complete"] * 3 + ["pruned"]
    assert best_point(study) == table.loc[1, list(KNOBS)].to_dict()


def test_a_search_that_has_its_trials_runs_none_and_more_go_on_from_there(
    tmp_path: Path, uninterrupted: pd.DataFrame
) -> None:
    run(tmp_path, Climbing(), trials=4)
    none, more = Climbing(), Climbing()
    assert len(trials_table(run(tmp_path, none, trials=4))) == 4
    assert none.points == []
    assert trials_table(run(tmp_path, more)).equals(uninterrupted)
    assert len(more.points) == TRIALS - 4


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.test_search import Climbing, run
run(Path(sys.argv[1]), Climbing(int(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGKILL)))
"""


def kill_at(trial: int, folder: Path) -> None:
    command, root = [sys.executable, "-c", KILLED, folder, str(trial)], Path(__file__).parents[1]
    killed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert killed.stderr == ""


def test_a_killed_search_goes_on_as_if_it_had_not_been(tmp_path: Path, uninterrupted: pd.DataFrame) -> None:
    """Killed in the very first trial, then in one that the sampler chose after it had learnt from others."""
    kill_at(0, tmp_path)
    kill_at(5, tmp_path)
    rest = Climbing()
    study = run(tmp_path, rest)
    assert len(rest.points) == TRIALS - 5
    assert trials_table(study).equals(uninterrupted)
    states = [trial.state.name for trial in study.get_trials()]
    assert states.count("FAIL") == 2, "no trial may be left running"
    assert len(states) == TRIALS + 2


def test_an_error_stops_the_search_and_its_trial_does_not_count(tmp_path: Path, uninterrupted: pd.DataFrame) -> None:
    def fail() -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        run(tmp_path, Climbing(3, fail))
    assert trials_table(run(tmp_path, Climbing())).equals(uninterrupted)


@pytest.mark.parametrize(("knob", "value"), [("temperature", 9.0), ("alpha", 0.4), ("learning_rate", 1e-5)])
def test_a_default_outside_the_space_is_refused(tmp_path: Path, knob: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"tune\.{knob}: \[.*\] leaves out the default {value}; widen it"):
        search(Climbing(), SPACE, {**DEFAULT, knob: value}, trials=1, seed=0, storage=tmp_path / "trials.sqlite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "knobs"),
    [
        ({}, []),
        ({"temperature": 1.02}, ["temperature"]),
        ({"temperature": 1.03}, []),
        ({"alpha": 1.0, "learning_rate": 7.9e-4}, ["alpha", "learning_rate"]),
    ],
)
def test_a_best_point_on_a_bound_is_reported(changes: dict[str, float], knobs: list[str]) -> None:
    assert on_boundary({**DEFAULT, **changes}, SPACE) == knobs


def test_zero_is_on_a_bound_of_zero() -> None:
    assert on_boundary({**DEFAULT, "alpha": 0.0}, Space((1.0, 8.0), (0.0, 1.0), (1e-4, 8e-4))) == ["alpha"]
