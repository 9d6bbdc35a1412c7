"""Students that start from other layers of the teacher, set side by side."""

from collections.abc import Mapping, Sequence

import pandas as pd

from stages.core.qa.scoring import Scores
from stages.core.qa.significance import paired_difference

COLUMNS = ("cut", "layers", "exact_match", "f1", "f1_to_first", "f1_to_first_low", "f1_to_first_high")


def compare_cuts(
    layers: Mapping[str, Sequence[int]],
    scores: Mapping[str, Scores],
    clusters: Sequence[str],
    *,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """Return a row for each cut, in percent; `f1_to_first` is F1 minus the first cut's, paired, with its interval.

    `clusters` (Q,) names each question's paragraph.
    """
    first = next(iter(scores.values()))
    rows: list[tuple[object, ...]] = []
    for name, found in scores.items():
        difference = paired_difference(found.f1, first.f1, clusters, resamples=resamples, seed=seed)
        bounds = (difference.mean, difference.low, difference.high)
        numbers = " ".join(str(layer) for layer in layers[name])
        rows.append((name, numbers, found.mean_exact_match, found.mean_f1, *bounds))
    return pd.DataFrame(rows, columns=list(COLUMNS)).round(4)
