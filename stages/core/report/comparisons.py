"""Which differences the report tests: each variant with the row above it, and the questions planned beforehand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stages.core.qa.scoring import Scores
from stages.core.qa.significance import Interval, paired_difference
from stages.core.report.variants import VARIANTS

# Written down before any result was seen: first minus second, and what the difference answers.
PLANNED = {
    ("baseline", "hard_label"): "Do the teacher's logits help beyond labels?",
    ("distilled", "baseline"): "Does alignment inside (hidden states, relations) help beyond logits?",
    ("distilled", "hard_label"): "What do the teacher's logits and alignment inside buy together?",
    ("tuned", "distilled"): "Does the tuned recipe beat the distilled one?",
    ("tuned", "baseline"): "Does tuning help beyond the default recipe?",
    ("finetuned", "pruned"): "How much does recovery bring back?",
    ("finetuned", "tuned"): "What does pruning cost in the end?",
    ("int8", "finetuned"): "What do eight bits cost?",
    ("teacher_pruned", "finetuned"): "At equal MACs, is the teacher better pruned directly?",
}

ROWS_ABOVE = tuple(zip(VARIANTS[1:], VARIANTS[:-1], strict=True))


@dataclass(frozen=True)
class Difference:
    """First minus second on the same questions, in points of percent."""

    exact_match: Interval
    f1: Interval


def compare_all(
    scores: Mapping[str, Scores], clusters: Sequence[str], *, resamples: int, seed: int
) -> dict[tuple[str, str], Difference]:
    """Return every tested difference by (first, second); `clusters` (Q,) names each question's paragraph."""
    pairs = [*ROWS_ABOVE, *(pair for pair in PLANNED if pair not in ROWS_ABOVE)]
    return {pair: _compare(scores[pair[0]], scores[pair[1]], clusters, resamples, seed) for pair in pairs}


def _compare(first: Scores, second: Scores, clusters: Sequence[str], resamples: int, seed: int) -> Difference:
    return Difference(
        exact_match=paired_difference(first.exact_match, second.exact_match, clusters, resamples=resamples, seed=seed),
        f1=paired_difference(first.f1, second.f1, clusters, resamples=resamples, seed=seed),
    )
