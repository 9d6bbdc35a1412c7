"""The search on an objective without a model: what it tries, spends and stops, alone, killed, and with others."""

import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
import pandas as pd
import pytest
from optuna.trial import FrozenTrial, Trial, TrialState

from stages.core.errors import InputError
from stages.core.training import presence
from stages.core.training import search as searching
from stages.core.training.outcome import finalists, paid, trials_table
from stages.core.training.places import places
from stages.core.training.search import Budget, search
from stages.core.training.space import Knob, Point, Space
from stages.core.training.storage import open_storage

SPACE = Space(
    {
        "temperature": Knob(1.0, 8.0, "log"),
        "alpha": Knob(0.5, 1.0, "linear"),
        "learning_rate": Knob(1e-4, 8e-4, "log"),
    },
    {"temperature": 2.0, "alpha": 0.9, "learning_rate": 3e-4},
)
KNOBS = list(SPACE.knobs)
EPOCH = 25  # updates
TRIAL = 2 * EPOCH  # of a trial that is not stopped
UPDATES = 9 * TRIAL
UNSTOPPED = 2  # complete trials before others are stopped


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
            if epoch == 0 and trial.should_prune():
                raise optuna.TrialPruned
        return hill(point)


class Heights:
    """An objective that is judged after each epoch with what was written down for the trial."""

    def __init__(self, *heights: Sequence[float]) -> None:
        self.heights = heights

    def __call__(self, trial: Trial, point: Point) -> float:
        for epoch, height in enumerate(self.heights[trial.number]):
            trial.report(height, epoch)
            if epoch + 1 < len(self.heights[trial.number]) and trial.should_prune():
                raise optuna.TrialPruned
        return self.heights[trial.number][-1]


def run(
    folder: Path,
    objective: Callable[[Trial, Point], float],
    *,
    updates: int = UPDATES,
    seed: int = 5,
    shared: bool = False,
    join: bool = False,
    kind: str = "sqlite",
    unstopped: int = UNSTOPPED,
    epochs: int = 2,
) -> optuna.Study:
    return search(
        objective,
        SPACE,
        Budget(updates, EPOCH, epochs, unstopped),
        seed=seed,
        name="toy",
        storage=open_storage(f"{kind}:///{folder}/trials"),
        shared=shared or join,
        join=join,
    )


@pytest.fixture(scope="module")
def points_and_table(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Point], pd.DataFrame]:
    objective = Climbing()
    study = run(tmp_path_factory.mktemp("uninterrupted"), objective)
    return objective.points, trials_table(study, SPACE)


@pytest.fixture(scope="module")
def uninterrupted(points_and_table: tuple[list[Point], pd.DataFrame]) -> pd.DataFrame:
    return points_and_table[1]


def test_the_default_comes_first_and_the_others_lie_in_the_space(
    points_and_table: tuple[list[Point], pd.DataFrame],
) -> None:
    points, table = points_and_table
    assert points[0] == SPACE.default
    assert len({tuple(point.values()) for point in points}) == len(table)
    for point in points:
        assert all(knob.low <= point[name] <= knob.high for name, knob in SPACE.knobs.items())
        assert all(value == float(f"{value:.3g}") for value in point.values()), "does not read well"
    assert table[KNOBS].to_dict("records") == points


def test_a_default_that_does_not_read_well_is_tried_exactly(tmp_path: Path) -> None:
    default, objective = {"temperature": 2.34567, "alpha": 0.87654321, "learning_rate": 3.21e-4 / 3}, Climbing()
    space = Space(SPACE.knobs, default)
    storage = open_storage(f"sqlite:///{tmp_path}/trials")
    study = search(objective, space, Budget(1, EPOCH, 2, UNSTOPPED), seed=1, name="toy", storage=storage)
    assert objective.points == [default]
    assert finalists(study, space, 1) == {}


def test_the_seed_decides(tmp_path: Path, uninterrupted: pd.DataFrame) -> None:
    for name, seed in (("again", 5), ("other", 6)):
        (tmp_path / name).mkdir()
        table = trials_table(run(tmp_path / name, Climbing(), updates=5 * TRIAL, seed=seed), SPACE)
        assert table.equals(uninterrupted[: len(table)]) == (seed == 5)
        assert table.loc[0, "temperature"] == 2.0


def test_the_search_finds_better_than_the_default(uninterrupted: pd.DataFrame) -> None:
    complete = uninterrupted[uninterrupted["state"] == "complete"]["f1"]
    assert complete.max() > complete[0] + 2


def test_trials_that_lag_behind_the_median_are_stopped_and_their_updates_buy_another(tmp_path: Path) -> None:
    heights = [(30.0, 60.0), (20.0, 50.0), (24.0, 90.0), (26.0, 55.0), (40.0, 41.0), (10.0, 95.0), (31.0, 56.0)]
    study = run(tmp_path, Heights(*heights), updates=5 * TRIAL)
    table = trials_table(study, SPACE)
    assert list(table.columns) == ["trial", *KNOBS, "f1", "epochs", "state", "full_f1"]
    # Trial 2 lags behind the median 25 of the first two; trial 4 is behind at its end, too late to save anything.
    # Trial 2 has left an epoch's updates, enough to begin trial 5, which is stopped too, and so leaves enough for none.
    assert table["state"].tolist() == ["complete", "complete", "pruned", "complete", "complete", "pruned"]
    assert table["f1"].tolist() == [60.0, 50.0, 24.0, 55.0, 41.0, 10.0]
    assert table["epochs"].tolist() == [2, 2, 1, 2, 2, 1]
    assert EPOCH * table["epochs"].sum() == 5 * TRIAL


def test_no_trial_is_stopped_before_as_many_are_complete_as_are_asked_for(tmp_path: Path) -> None:
    heights = [(60.0, 60.0), (20.0, 50.0), (10.0, 40.0), (15.0, 90.0), (20.0, 30.0)]
    study = run(tmp_path, Heights(*heights), updates=5 * TRIAL - EPOCH, unstopped=3)
    table = trials_table(study, SPACE)
    # The third lags behind the median 40 of the first two, the fourth behind 20 of the first three, the last does not.
    assert table["state"].tolist() == ["complete", "complete", "complete", "pruned", "complete"]
    assert list(finalists(study, SPACE, 9)) == [1, 3, 2, 4]  # when it was stopped, the fourth was before the third


def test_finalists_are_the_highest_trials_the_earlier_of_a_tie_first(tmp_path: Path) -> None:
    study = run(tmp_path, Heights((50, 50), (60, 60), (60, 60), (10, 99), (61, 61)), updates=4 * TRIAL + 1)
    table = trials_table(study, SPACE)
    assert table["state"].tolist() == ["complete"] * 3 + ["pruned", "complete"]
    ranked = [
        (4, table.loc[4, KNOBS].to_dict()),
        (1, table.loc[1, KNOBS].to_dict()),
        (2, table.loc[2, KNOBS].to_dict()),
        (3, table.loc[3, KNOBS].to_dict()),  # it was behind all when it was stopped
    ]
    assert list(finalists(study, SPACE, 9).items()) == ranked
    assert list(finalists(study, SPACE, 2).items()) == ranked[:2]


def test_a_stopped_trial_stands_before_the_best_that_it_beat_until_then(tmp_path: Path) -> None:
    heights = [(60, 60), (20, 58), (30, 50), (29, 99), (31, 99), (59, 57), (10, 99)]
    study = run(tmp_path, Heights(*heights), updates=6 * TRIAL, unstopped=3)
    table = trials_table(study, SPACE)
    # The medians after a pass are 30, 30 and 30.5: trial 3 is stopped, trials 4 and 5 are not, the last is.
    assert table["state"].tolist() == ["complete"] * 3 + ["pruned", "complete", "complete", "pruned"]
    # Trial 3 beat trial 1 until then, which ended at 58; the last beat none.
    assert list(finalists(study, SPACE, 9)) == [4, 3, 1, 5, 2, 6]


def test_a_trial_that_diverged_was_worse_than_any_that_was_stopped_later(tmp_path: Path) -> None:
    heights = [(50, 60, 70), (0,), (40, 50, 60), (45, 30, 99)]
    study = run(tmp_path, Heights(*heights), updates=9 * EPOCH, unstopped=3, epochs=3)
    assert trials_table(study, SPACE)["state"].tolist() == ["complete"] * 3 + ["pruned"]
    assert list(finalists(study, SPACE, 9)) == [2, 3, 1]


def test_the_default_is_no_finalist_however_good_it_is(tmp_path: Path) -> None:
    study = run(tmp_path, Heights((1, 60), (50, 59.9), (50, 60), (90, 20)), updates=4 * TRIAL)
    assert list(finalists(study, SPACE, 9)) == [2, 1, 3]


def test_students_distilled_in_full_are_told_of_beside_their_trials(
    uninterrupted: pd.DataFrame, tmp_path: Path
) -> None:
    table = trials_table(run(tmp_path, Climbing()), SPACE, {0: 70.0, 2: 71.25})
    assert table["full_f1"].dropna().to_dict() == {0: 70.0, 2: 71.25}
    assert table.drop(columns="full_f1").equals(uninterrupted.drop(columns="full_f1"))


def test_the_default_is_never_stopped_however_far_others_are_ahead(tmp_path: Path) -> None:
    """Others can be ahead only where they run at the same time: here two joined trials end before its first epoch."""

    def objective(trial: Trial, point: Point) -> float:
        if trial.number == 0:
            run(tmp_path, lambda _, __: 0.0, updates=1, join=True)  # nothing left to start in so small a budget
            run(tmp_path, Heights((), (60, 61), (62, 63)), updates=3 * TRIAL, join=True)
        for epoch, height in enumerate((1.0, 99.0)):
            trial.report(height, epoch)
            assert not trial.should_prune()
        return 99.0

    study = run(tmp_path, objective, updates=3 * TRIAL, shared=True)
    assert trials_table(study, SPACE)["state"].tolist() == ["complete"] * 3


def test_a_search_that_has_spent_its_budget_runs_nothing_and_a_larger_budget_goes_on_from_there(
    tmp_path: Path, uninterrupted: pd.DataFrame
) -> None:
    first = len(trials_table(run(tmp_path, Climbing(), updates=4 * TRIAL), SPACE))
    none, more = Climbing(), Climbing()
    assert len(trials_table(run(tmp_path, none, updates=4 * TRIAL), SPACE)) == first
    assert none.points == []
    assert trials_table(run(tmp_path, more), SPACE).equals(uninterrupted)
    assert len(more.points) == len(uninterrupted) - first


def test_a_smaller_budget_pays_for_the_first_trials_of_a_larger_search_alone(tmp_path: Path) -> None:
    for name in ("small", "large"):
        (tmp_path / name).mkdir()
    small, large = (run(tmp_path / name, Climbing(), updates=n * TRIAL) for name, n in (("small", 3), ("large", 9)))
    assert len(trials_table(large, SPACE)) > len(trials_table(small, SPACE))
    found = paid(large, Budget(3 * TRIAL, EPOCH, 2, UNSTOPPED))
    assert trials_table(found, SPACE).equals(trials_table(small, SPACE))
    assert finalists(found, SPACE, 9) == finalists(small, SPACE, 9)
    assert trials_table(paid(large, Budget(9 * TRIAL, EPOCH, 2, UNSTOPPED)), SPACE).equals(trials_table(large, SPACE))


KILLED = """
import os, signal, sys
from pathlib import Path
from stages.core.training import presence
from stages.core.training import search as searching
from tests.test_search import Climbing, run
presence.COUNT_SECONDS = 0.05
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
run(Path(sys.argv[1]), Climbing(int(sys.argv[2]), kill), kind=sys.argv[3], shared=sys.argv[4] == "shared")
"""


def kill_at(trial: int, folder: Path, *, kind: str = "sqlite", shared: bool = False) -> None:
    given = [str(folder), str(trial), kind, "shared" if shared else "alone"]
    command, root = [sys.executable, "-c", KILLED, *given], Path(__file__).parents[1]
    killed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert killed.stderr == ""


def test_a_killed_search_goes_on_as_if_it_had_not_been(tmp_path: Path, uninterrupted: pd.DataFrame) -> None:
    """Killed in the very first trial, then in one that the sampler chose after it had learnt from others."""
    kill_at(0, tmp_path)
    kill_at(5, tmp_path)
    rest = Climbing()
    study = run(tmp_path, rest)
    assert len(rest.points) == len(uninterrupted) - 5
    assert trials_table(study, SPACE).equals(uninterrupted)
    states = [trial.state.name for trial in study.get_trials()]
    assert states.count("FAIL") == 2, "no trial may be left running"
    assert len(states) == len(uninterrupted) + 2


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_what_a_killed_process_leaves_in_a_shared_storage_is_run_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The default's trial is cut off; it keeps its place and is run once its process has been silent for long."""
    kill_at(0, tmp_path, kind=kind, shared=True)
    monkeypatch.setattr(presence, "LOST_SECONDS", 0.0)
    rest = Climbing()
    study = run(tmp_path, rest, updates=4 * TRIAL, kind=kind, shared=True)
    assert rest.points[0] != SPACE.default, "took it for lost at first sight"
    table = trials_table(study, SPACE)
    assert table.loc[0, KNOBS].to_dict() == SPACE.default
    assert table["trial"].tolist() == list(range(len(rest.points)))
    assert [trial.state.name for trial in study.get_trials()].count("FAIL") == 1
    assert 4 * TRIAL <= EPOCH * table["epochs"].sum() < 5 * TRIAL


def test_an_error_stops_the_search_and_its_trial_does_not_count(tmp_path: Path, uninterrupted: pd.DataFrame) -> None:
    def fail() -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        run(tmp_path, Climbing(3, fail))
    assert trials_table(run(tmp_path, Climbing()), SPACE).equals(uninterrupted)


TOGETHER = """
import sys
from pathlib import Path
from tests.test_search import Meeting, run
folder = Path(sys.argv[1])
run(folder, Meeting(folder, "joined"), kind=sys.argv[2], join=True)
"""


class Meeting(Climbing):
    """An objective whose first trial waits until the other process has begun one too."""

    def __init__(self, folder: Path, name: str, others: Sequence["subprocess.Popen[str]"] = ()) -> None:
        super().__init__()
        self.folder, self.name, self.others = folder, name, others

    def __call__(self, trial: Trial, point: Point) -> float:
        (self.folder / f"{self.name}.began").touch()
        ends = time.monotonic() + 600
        while len(list(self.folder.glob("*.began"))) < 2:
            assert time.monotonic() < ends, "the other process has begun no trial"
            assert not any(each.poll() for each in self.others), [each.communicate()[1] for each in self.others]
            time.sleep(0.01)
        return super().__call__(trial, point)


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_two_processes_share_one_search_and_its_budget(tmp_path: Path, kind: str) -> None:
    """The second begins while the first is in the default's trial; none waits for a trial of the other's."""
    joined: list[subprocess.Popen[str]] = []
    objective = Meeting(tmp_path, "first", joined)

    def first(trial: Trial, point: Point) -> float:
        if not joined:
            command, root = [sys.executable, "-c", TOGETHER, str(tmp_path), kind], Path(__file__).parents[1]
            joined.append(subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True))
        return objective(trial, point)

    study = run(tmp_path, first, kind=kind, shared=True)
    _, complaint = joined[0].communicate(timeout=600)
    assert (joined[0].returncode, complaint) == (0, "")
    table = trials_table(study, SPACE)
    # Where both start the last trial at once, the later number is left unused; an early stop may then make room for one
    # more, under the next.
    unused = [trial for trial in study.get_trials() if trial.state == TrialState.FAIL]
    assert not any(trial.params for trial in unused)
    assert sorted(table["trial"].tolist() + [trial.number for trial in unused]) == list(range(len(study.get_trials())))
    assert table.loc[0, KNOBS].to_dict() == SPACE.default
    assert len({tuple(row) for row in table[KNOBS].to_numpy()}) == len(table), "a point was tried twice"
    assert 0 < len(objective.points) < len(table), "only one of the two has run trials"
    spent = EPOCH * int(table["epochs"].sum())
    assert UPDATES <= spent < UPDATES + TRIAL
    assert not study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))


def test_a_trial_that_runs_elsewhere_counts_in_full_and_is_left_to_its_process(tmp_path: Path) -> None:
    """Of three trials' budget two run in the process that joins while the third one counts aloud."""
    joined = Climbing()

    def objective(trial: Trial, point: Point) -> float:
        if trial.number == 0:
            study = run(tmp_path, joined, updates=3 * TRIAL, join=True)
            assert study.get_trials()[0].state == TrialState.RUNNING
        return Climbing()(trial, point)

    study = run(tmp_path, objective, updates=3 * TRIAL, shared=True)
    assert len(joined.points) == 2
    assert [trial.state for trial in study.get_trials()] == [TrialState.COMPLETE] * 3


def test_a_lost_trial_is_run_again_once_and_the_sleeper_that_wakes_is_not_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process is silent for so long that two others take its trial for lost; then it wakes and goes on."""
    monkeypatch.setattr(presence, "LOST_SECONDS", 0.0)
    monkeypatch.setattr(presence, "COUNT_SECONDS", 1e9)
    helping = Climbing()

    def sleeper(trial: Trial, point: Point) -> float:
        if trial.number == 0:
            run(tmp_path, helping, updates=2 * TRIAL, shared=True)
        trial.report(99.0, 0)
        raise AssertionError("was heard")

    study = run(tmp_path, sleeper, updates=2 * TRIAL, shared=True)
    trials = study.get_trials()
    assert [trial.state.name for trial in trials].count("FAIL") == 1
    assert sorted(places(trials).values()) == [0, 0, 1]
    assert SPACE.default in helping.points
    assert trials_table(study, SPACE)["trial"].tolist() == [0, 1]


def test_where_two_start_the_last_trial_at_once_the_later_number_stays_unused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process has looked at the budget before the third trial was there, and starts a fourth."""
    heights, looks = Heights((50, 60), (50, 60), (10, 10), (), (50, 60)), []
    wants = searching._wants_a_trial

    def looked_before(trials: Sequence[FrozenTrial], budget: Budget) -> bool:
        looks.append(trials)
        return len(looks) == 1 or wants(trials, budget)

    def objective(trial: Trial, point: Point) -> float:
        if trial.number == 2:
            with monkeypatch.context() as other:
                other.setattr(searching, "_wants_a_trial", looked_before)
                run(tmp_path, heights, updates=3 * TRIAL, join=True)
        return heights(trial, point)

    study = run(tmp_path, objective, updates=3 * TRIAL, shared=True)
    assert looks
    assert [trial.state.name for trial in study.get_trials()] == ["COMPLETE", "COMPLETE", "PRUNED", "FAIL", "COMPLETE"]
    table = trials_table(study, SPACE)
    assert table["trial"].tolist() == [0, 1, 2, 4]
    assert 3 * TRIAL <= EPOCH * table["epochs"].sum() < 4 * TRIAL


def test_a_trial_that_ends_elsewhere_between_two_looks_does_not_end_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last foreign trial is stopped early right behind the look at the budget: what it saves buys another."""
    wants, elsewhere = searching._wants_a_trial, []

    def ends_behind_the_look(trials: Sequence[FrozenTrial], budget: Budget) -> bool:
        found = wants(trials, budget)
        if elsewhere and not found:
            other, trial = elsewhere.pop()
            trial.report(1.0, 0)
            other.tell(trial, state=TrialState.PRUNED)
        return found

    def objective(trial: Trial, point: Point) -> float:
        if trial.number == 1:  # another process starts the third
            other = optuna.load_study(study_name="toy", storage=open_storage(f"sqlite:///{tmp_path}/trials"))
            elsewhere.append((other, other.ask()))
        return Climbing()(trial, point)

    monkeypatch.setattr(searching, "_wants_a_trial", ends_behind_the_look)
    monkeypatch.setattr(searching, "POLL_SECONDS", 0.0)
    states = [trial.state for trial in run(tmp_path, objective, updates=3 * TRIAL, shared=True).get_trials()]
    assert states[:3] == [TrialState.COMPLETE] * 2 + [TrialState.PRUNED]
    assert len(states) == 4


def test_only_a_search_that_exists_can_be_joined(tmp_path: Path) -> None:
    objective = Climbing()
    with pytest.raises(InputError, match="the storage holds no search toy; start the tune stage first"):
        run(tmp_path, objective, join=True)
    assert objective.points == []


def test_searches_of_other_names_in_one_storage_do_not_mix(tmp_path: Path, uninterrupted: pd.DataFrame) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/trials")
    budget = Budget(2 * TRIAL, EPOCH, 2, UNSTOPPED)
    search(Heights((1, 1), (2, 2)), SPACE, budget, seed=9, name="other", storage=storage)
    assert trials_table(run(tmp_path, Climbing()), SPACE).equals(uninterrupted)
