"""Which differences the report tests: each variant with the one beside it, and the questions asked of every run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stages.core.qa.scoring import Scores
from stages.core.qa.significance import Interval, paired_difference, paired_share
from stages.core.report.variants import VARIANTS

# The same for every run, whatever came out: first minus second, and what the difference answers. All but
# `distilled - hard_label`, which joined them after two recorded runs, were written down before any result was seen.
# What `distil` answers was worded anew later, for its settings may differ in more than alignment.
PLANNED = {
    ("baseline", "hard_label"): "Do the teacher's logits help beyond labels?",
    (
        "distilled",
        "baseline",
    ): "What does `distil`, its settings and alignment inside, add to `baseline`?",
    ("distilled", "hard_label"): "What do the teacher's logits and `distil` buy together?",
    ("tuned", "distilled"): "Does the tuned recipe beat the distilled one?",
    ("tuned", "baseline"): "What do `distil` and tuning buy together beyond logits?",
    ("finetuned", "pruned"): "How much does recovery bring back?",
    ("finetuned", "tuned"): "What does pruning cost in the end?",
    ("int8", "finetuned"): "What do eight bits cost?",
    ("teacher_pruned", "finetuned"): "At equal MACs, is the teacher better pruned directly?",
}

# What each variant is set beside in the table of results: the row above, but for the teacher pruned another way.
BESIDE = {**dict(zip(VARIANTS[1:], VARIANTS[:-1], strict=True)), "teacher_pruned": "finetuned"}
# Of whom each variant keeps a share.
TEACHER = VARIANTS[0]


@dataclass(frozen=True)
class Difference:
    """First minus second on the same questions, in points of percent, and the share that the first keeps."""

    exact_match: Interval
    f1: Interval
    f1_kept: Interval | None  # the first's F1 in percent of the second's; None where that is 0


def compare_all(
    scores: Mapping[str, Scores], clusters: Sequence[str], *, resamples: int, seed: int
) -> dict[tuple[str, str], Difference]:
    """Return every tested difference by (first, second); `clusters` (Q,) names each question's paragraph."""
    pairs = dict.fromkeys([*BESIDE.items(), *PLANNED, *((variant, TEACHER) for variant in VARIANTS[1:])])
    return {pair: compare(scores[pair[0]], scores[pair[1]], clusters, resamples, seed) for pair in pairs}


def compare(first: Scores, second: Scores, clusters: Sequence[str], resamples: int, seed: int) -> Difference:
    """Return first minus second; `clusters` (Q,) names each question's paragraph."""
    return Difference(
        exact_match=paired_difference(first.exact_match, second.exact_match, clusters, resamples=resamples, seed=seed),
        f1=paired_difference(first.f1, second.f1, clusters, resamples=resamples, seed=seed),
        f1_kept=paired_share(first.f1, second.f1, clusters, resamples=resamples, seed=seed),
    )
