"""Which of the running trials still have a process: the living count aloud, into the storage they share.

Who listens needs no common clock: a trial whose count has stood still for long enough by the listener's own clock has
lost its process. It works on every storage; Optuna's own heartbeat is for databases only.
"""

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial

COUNT = "count"  # user attribute of a running trial
COUNT_SECONDS = 10.0
LOST_SECONDS = 120.0  # of silence


@contextmanager
def counting(trial: Trial) -> Iterator[None]:
    """Count aloud for a trial, from a thread, until the block ends."""
    done = threading.Event()
    thread = threading.Thread(target=_count, args=(trial, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class Listener:
    """Tells lost trials from living ones by listening for a while."""

    def __init__(self) -> None:
        self._heard: dict[int, tuple[int, float]] = {}  # by trial number: its count, and when it was new

    def lost(self, running: Sequence[FrozenTrial]) -> list[int]:
        """Return the numbers of those running trials that have been silent for LOST_SECONDS since first heard of."""
        now = time.monotonic()
        for trial in running:
            count = trial.user_attrs.get(COUNT, 0)
            if self._heard.get(trial.number, (-1, now))[0] != count:
                self._heard[trial.number] = (count, now)
        return [trial.number for trial in running if now - self._heard[trial.number][1] > LOST_SECONDS]


def _count(trial: Trial, done: threading.Event) -> None:
    for count in itertools.count(1):
        try:
            trial.set_user_attr(COUNT, count)
        except UpdateFinishedTrialError:
            return  # another process has taken this one for lost
        except (StorageInternalError, OSError):
            pass  # the next count may get through
        if done.wait(COUNT_SECONDS):
            return
