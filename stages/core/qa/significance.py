"""Bootstrap intervals for means over questions (Efron and Tibshirani 1993, percentile intervals; Koehn 2004, paired).

Questions about one paragraph are not independent: a model that misreads the paragraph misses several. So whole
paragraphs are drawn, not questions, and the mean is a ratio of two sums, since paragraphs hold unequally many. Where
all are about one paragraph, there is nothing else to draw but questions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.core.errors import InputError

FloatArray = npt.NDArray[np.float64]

# Weights are drawn for so many numbers at a time: 16 MB whatever the number of paragraphs and resamples.
_WEIGHTS_AT_A_TIME = 2_000_000


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds of its bootstrap interval, in the unit of the values."""

    mean: float
    low: float
    high: float


def bootstrap_interval(
    values: FloatArray, clusters: Sequence[str], *, resamples: int, seed: int, level: float = 0.95
) -> Interval:
    """Return the mean of values (Q,) with its percentile interval, clusters (Q,) drawn with replacement (see above).

    `level` is the coverage, 0 to 1. Raises InputError if lengths differ, nothing is given or a value is not finite.
    """
    _check(values, clusters, resamples, level)
    return _ratio_interval(values, np.ones_like(values), clusters, resamples, seed, level)


def paired_difference(
    first: FloatArray, second: FloatArray, clusters: Sequence[str], *, resamples: int, seed: int, level: float = 0.95
) -> Interval:
    """Return mean(first) - mean(second) with its interval, both systems scored (Q,) on the same drawn questions.

    Pairing takes out how hard the drawn questions are, which two systems share; the interval is the narrower for it.
    """
    if first.shape != second.shape:
        raise InputError(f"paired difference: {first.size} scores against {second.size}; score the same questions")
    return bootstrap_interval(first - second, clusters, resamples=resamples, seed=seed, level=level)


def paired_share(
    first: FloatArray, second: FloatArray, clusters: Sequence[str], *, resamples: int, seed: int, level: float = 0.95
) -> Interval | None:
    """Return mean(first) in percent of mean(second) with its interval, both scored (Q,) on the same drawn questions.

    None where the second scored nothing, so that there is nothing to keep a share of; resamples in which it scores
    nothing are left out. Raises InputError as paired_difference does, and where no resample is left.
    """
    if first.shape != second.shape:
        raise InputError(f"paired share: {first.size} scores against {second.size}; score the same questions")
    for values in (first, second):
        _check(values, clusters, resamples, level)
    if second.mean() == 0:
        return None
    share = _ratio_interval(first, second, clusters, resamples, seed, level)
    return Interval(100 * share.mean, 100 * share.low, 100 * share.high)


def _ratio_interval(
    above: FloatArray, below: FloatArray, clusters: Sequence[str], resamples: int, seed: int, level: float
) -> Interval:
    """Return sum(above) / sum(below), both (Q,), with the interval of that ratio over drawn clusters."""
    names = _numbered(clusters)
    above_sums, below_sums = np.bincount(names, weights=above), np.bincount(names, weights=below)
    drawn = [(w @ above_sums, w @ below_sums) for w in _cluster_weights(len(above_sums), resamples, seed)]
    numerators, denominators = (np.concatenate(sums) for sums in zip(*drawn, strict=True))
    kept = denominators != 0
    if not kept.any():
        raise InputError(f"bootstrap: all {resamples} resamples score nothing; raise resamples")
    low, high = np.quantile(numerators[kept] / denominators[kept], [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean=float(above.mean() / below.mean()), low=float(low), high=float(high))


def _numbered(clusters: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return each question's cluster, (Q,), by its place among their sorted names; of one cluster, each its own."""
    places = {name: place for place, name in enumerate(sorted(set(clusters)))}
    if len(places) == 1:
        return np.arange(len(clusters))
    return np.array([places[name] for name in clusters])


def _cluster_weights(clusters: int, resamples: int, seed: int) -> Iterator[FloatArray]:
    """Yield (chunk, clusters) counts of how often each cluster is drawn; the draws do not depend on the chunk size."""
    generator = np.random.default_rng(seed)
    chunk = max(1, _WEIGHTS_AT_A_TIME // clusters)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        yield generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=rows).astype(np.float64)


def _check(values: FloatArray, clusters: Sequence[str], resamples: int, level: float) -> None:
    if values.shape != (len(clusters),) or not len(clusters):
        raise InputError(f"bootstrap: {values.size} values for {len(clusters)} cluster names; give one name a value")
    if not np.isfinite(values).all():
        raise InputError(f"bootstrap: value {int(np.argmin(np.isfinite(values)))} is not a finite number")
    if resamples < 1 or not 0 < level < 1:
        raise InputError(f"bootstrap: resamples={resamples}, level={level}; need at least 1 and between 0 and 1")
