"""Cluster bootstrap against a plain loop, and against data whose spread is known."""

import numpy as np
import pytest

from stages.core.errors import InputError
from stages.core.qa import significance
from stages.core.qa.significance import Interval, bootstrap_interval, paired_difference, paired_share


def clustered(seed: int, clusters: int, spread: float) -> tuple[np.ndarray, list[str]]:
    """Return values about 50 with a share of noise common to a cluster, 1 to 6 values each."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, 7, clusters)
    common = np.repeat(generator.normal(0, spread, clusters), sizes)
    names = [f"paragraph {number}" for number in np.repeat(np.arange(clusters), sizes)]
    return 50 + common + generator.normal(0, 1, len(names)), names


def plain_bootstrap(values: np.ndarray, names: list[str], resamples: int, seed: int) -> Interval:
    """Draw clusters one at a time, put their values in a list, take the mean of the list."""
    generator = np.random.default_rng(seed)
    groups = [[v for v, n in zip(values, names, strict=True) if n == name] for name in sorted(set(names))]
    means = []
    for _ in range(resamples):
        drawn = [value for _ in groups for value in groups[generator.integers(len(groups))]]
        means.append(sum(drawn) / len(drawn))
    return Interval(float(np.mean(values)), *(float(q) for q in np.quantile(means, [0.025, 0.975])))


def test_agrees_with_a_plain_loop() -> None:
    values, names = clustered(seed=3, clusters=40, spread=5.0)
    fast = bootstrap_interval(values, names, resamples=4000, seed=1)
    slow = plain_bootstrap(values, names, resamples=1500, seed=2)
    width = slow.high - slow.low
    assert fast.mean == slow.mean
    assert abs(fast.low - slow.low) < 0.1 * width
    assert abs(fast.high - slow.high) < 0.1 * width


def test_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        values, names = clustered(seed, clusters=60, spread=3.0)
        found = bootstrap_interval(values, names, resamples=300, seed=seed)
        covered += found.low <= 50 <= found.high
    assert 176 <= covered <= 199  # 88 % to 99.5 %: five standard errors below, and not simply wide


def test_questions_of_one_paragraph_are_not_independent() -> None:
    values, names = clustered(seed=5, clusters=200, spread=5.0)
    by_paragraph = bootstrap_interval(values, names, resamples=1000, seed=0)
    by_question = bootstrap_interval(values, [str(n) for n in range(len(values))], resamples=1000, seed=0)
    assert by_paragraph.high - by_paragraph.low > 1.5 * (by_question.high - by_question.low)


def test_questions_of_the_only_paragraph_are_drawn_themselves() -> None:
    values = np.array([100.0, -100.0, 0.0, 0.0, 10.0])
    found = bootstrap_interval(values, ["p"] * 5, resamples=500, seed=0)
    assert found == bootstrap_interval(values, list("abcde"), resamples=500, seed=0)
    assert found.low < 0 < 2.0 == found.mean < found.high


def test_pairing_takes_out_what_both_share() -> None:
    hard, names = clustered(seed=7, clusters=100, spread=20.0)
    gain = 2 + np.random.default_rng(8).normal(0, 1, len(hard))
    paired = paired_difference(hard + gain, hard, names, resamples=1000, seed=0)
    alone = bootstrap_interval(hard, names, resamples=1000, seed=0)
    assert paired.mean == pytest.approx(gain.mean())
    assert 1.5 < paired.low < 2 < paired.high < 2.5
    assert paired.high - paired.low < 0.1 * (alone.high - alone.low)


def test_difference_to_itself_is_exactly_nothing() -> None:
    values, names = clustered(seed=9, clusters=10, spread=1.0)
    assert paired_difference(values, values, names, resamples=50, seed=0) == Interval(0.0, 0.0, 0.0)


def test_a_share_agrees_with_a_plain_loop() -> None:
    """Both sums over the same drawn clusters, put in lists and divided: not the mean of the questions' own shares."""
    second, names = clustered(seed=15, clusters=40, spread=5.0)
    first = 0.9 * second + np.random.default_rng(16).normal(0, 3, len(second))
    found = paired_share(first, second, names, resamples=4000, seed=1)
    assert found is not None
    generator = np.random.default_rng(2)
    groups = [[n for n, name in enumerate(names) if name == each] for each in sorted(set(names))]
    shares = []
    for _ in range(1500):
        drawn = [n for _ in groups for n in groups[generator.integers(len(groups))]]
        shares.append(100 * sum(first[n] for n in drawn) / sum(second[n] for n in drawn))
    low, high = np.quantile(shares, [0.025, 0.975])
    assert found.mean == pytest.approx(100 * first.sum() / second.sum())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_all_of_itself_is_kept_and_of_nothing_no_share() -> None:
    values, names = clustered(seed=9, clusters=10, spread=1.0)
    assert paired_share(values, values, names, resamples=50, seed=0) == Interval(100.0, 100.0, 100.0)
    assert paired_share(values, np.zeros_like(values), names, resamples=50, seed=0) is None


def test_resamples_without_anything_to_keep_are_left_out() -> None:
    one, names = np.array([50.0, 0.0, 0.0]), ["a", "b", "c"]
    found = paired_share(one / 2, one, names, resamples=50, seed=0)
    assert found == Interval(50.0, 50.0, 50.0)
    seed = next(s for s in range(100) if not np.random.default_rng(s).multinomial(3, np.full(3, 1 / 3))[0])
    with pytest.raises(InputError, match="all 1 resamples score nothing"):
        paired_share(one / 2, one, names, resamples=1, seed=seed)


def test_seed_decides_and_chunks_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    values, names = clustered(seed=11, clusters=30, spread=1.0)
    first = bootstrap_interval(values, names, resamples=200, seed=4)
    monkeypatch.setattr(significance, "_WEIGHTS_AT_A_TIME", 30 * 7)
    again = bootstrap_interval(values, names, resamples=200, seed=4)
    assert (again.low, again.high) == pytest.approx((first.low, first.high), abs=1e-9)
    assert bootstrap_interval(values, names, resamples=200, seed=5) != first


def test_a_lower_level_is_narrower() -> None:
    values, names = clustered(seed=13, clusters=50, spread=1.0)
    wide = bootstrap_interval(values, names, resamples=1000, seed=0)
    narrow = bootstrap_interval(values, names, resamples=1000, seed=0, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize(
    ("values", "names", "resamples", "level"),
    [
        ([], [], 10, 0.95),
        ([1.0, 2.0], ["a"], 10, 0.95),
        ([1.0, float("nan")], ["a", "b"], 10, 0.95),
        ([1.0], ["a"], 0, 0.95),
        ([1.0], ["a"], 10, 1.0),
    ],
)
def test_refuses_what_has_no_interval(values: list[float], names: list[str], resamples: int, level: float) -> None:
    with pytest.raises(InputError, match="bootstrap"):
        bootstrap_interval(np.array(values), names, resamples=resamples, seed=0, level=level)


def test_refuses_to_pair_unequal_lengths() -> None:
    for paired in (paired_difference, paired_share):
        with pytest.raises(InputError, match="3 scores against 2"):
            paired(np.zeros(3), np.zeros(2), ["a", "b", "c"], resamples=10, seed=0)
