"""Trials with a process are told from trials without one, by what they count aloud."""

import time
from typing import Any, cast

import pytest
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial

from stages.core.training import presence
from stages.core.training.presence import Listener, counting


class Counted:
    """Stands in for a trial: keeps what is counted, or fails as a storage does."""

    def __init__(self, *faults: Exception) -> None:
        self.number, self.faults = 3, list(faults)
        self.user_attrs: dict[str, int] = {}

    def set_user_attr(self, key: str, value: int) -> None:
        if self.faults:
            raise self.faults.pop(0)
        self.user_attrs[key] = value


def wait_until(count: int, trial: Counted) -> None:
    ends = time.monotonic() + 30
    while trial.user_attrs.get(presence.COUNT, 0) < count and time.monotonic() < ends:
        time.sleep(0.01)
    assert trial.user_attrs.get(presence.COUNT, 0) >= count


def test_a_trial_counts_until_its_block_ends_whatever_the_storage_does_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(presence, "COUNT_SECONDS", 0.01)
    trial = Counted(StorageInternalError("locked"), OSError("away"))
    with pytest.raises(KeyError), counting(cast(Any, trial)):
        wait_until(5, trial)
        raise KeyError
    counted = dict(trial.user_attrs)
    time.sleep(0.05)
    assert trial.user_attrs == counted


def test_a_trial_that_was_taken_over_counts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "COUNT_SECONDS", 0.01)
    trial = Counted(UpdateFinishedTrialError())
    with counting(cast(Any, trial)):
        time.sleep(0.05)
    assert trial.user_attrs == {}


def test_who_is_silent_for_long_enough_by_the_listeners_clock_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    listener = Listener()

    def lost(**counts: int) -> list[int]:
        trials = [Counted() for _ in counts]
        for trial, (name, count) in zip(trials, counts.items(), strict=True):
            trial.number, trial.user_attrs = int(name[1:]), {presence.COUNT: count} if count else {}
        return listener.lost(cast(list[FrozenTrial], trials))

    assert lost(t0=7, t1=1) == [], "a first look tells nothing"
    clock[0] += presence.LOST_SECONDS
    assert lost(t0=7, t1=2, t2=0) == [], "not yet silent for longer"
    clock[0] += 1
    assert lost(t0=7, t1=2, t2=0) == [0]
    clock[0] += presence.LOST_SECONDS
    assert lost(t1=3, t2=0) == [2], "one that never counted is lost as well"
