"""Dev F1 against the MACs that are kept, by several criteria, before and after recovery."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedModel

from stages.core.pruning.costs import mac_costs
from stages.core.pruning.importance import magnitude_scores
from stages.core.pruning.procedure import mean_length, prune
from stages.core.pruning.rounds import prune_in_rounds
from stages.core.pruning.settings import PruneParams
from stages.core.qa.scoring import Scores
from stages.core.qa.significance import paired_difference
from stages.core.runtime import Runtime, seed_everything
from stages.core.training.fit import TrainingSet
from stages.core.training.losses import DistillationLoss
from stages.core.training.recovery import recover
from stages.core.training.settings import FinetuneParams

# Plain weights, all at once; Fisher scores, all at once; Fisher scores in the rounds of `prune`, with its least-squares
# repair. None of them trains.
CRITERIA = ("magnitude", "fisher", "fisher_repaired")
RECOVERED = "_recovered"


@dataclass(frozen=True)
class Curve:
    """What all points of a curve have in common."""

    model: PreTrainedModel  # the whole one
    training: TrainingSet
    answers: DistillationLoss
    prune: PruneParams
    finetune: FinetuneParams  # of the recovery, but for its length
    recovery_updates: int  # 0 leaves recovery out
    runtime: Runtime
    judge: Callable[[PreTrainedModel], Scores]  # on dev
    scratch: Path
    its_own_teacher: bool = False  # see `prune`

    def draw(self, shares: Sequence[float]) -> dict[float, dict[str, Scores]]:
        """The dev scores at each share of MACs, rising: of each criterion, and `<criterion>_recovered` where asked."""
        return {share: self._at(share) for share in sorted(shares)}

    def _at(self, share: float) -> dict[str, Scores]:
        found = {}
        for criterion in CRITERIA:
            pruned = self.pruned(criterion, share)
            found[criterion] = self.judge(pruned)
            if self.recovery_updates:
                self._recover(pruned, f"{criterion} {share}")
                found[f"{criterion}{RECOVERED}"] = self.judge(pruned)
        return found

    def pruned(self, criterion: str, share: float) -> PreTrainedModel:
        """The model pruned to `share` of its MACs by one of CRITERIA, without any training."""
        if criterion == "magnitude":
            return self._by_magnitude(share)
        once: dict[str, Any] = {"rounds": 1, "repair_windows": 0} if criterion == "fisher" else {}
        params = replace(self.prune, macs_kept=share, parameters_kept=0.0, latency_kept=0.0, recovery_windows=0, **once)
        return prune(
            self.model,
            self.training,
            self.answers,
            params,
            self.runtime,
            scratch=self.scratch,
            its_own_teacher=self.its_own_teacher,
        )[0]

    def _by_magnitude(self, share: float) -> PreTrainedModel:
        def leave(*_: object) -> bool:
            return False

        return prune_in_rounds(
            self.model,
            mac_costs(self.model, mean_length(self.training)),
            magnitude_scores,
            kept=share,
            rounds=1,
            minimum_neurons=self.prune.minimum_neurons,
            repair=leave,
            recover=leave,
        )

    def _recover(self, pruned: PreTrainedModel, name: str) -> None:
        seed_everything(self.finetune.seed)  # each point draws the same, whatever was drawn before it
        recover(
            pruned,
            self.model,
            self.answers,
            self.training,
            self.finetune,
            self.runtime,
            hidden_weight=self.finetune.hidden_weight,
            scratch=self.scratch,
            name=name,
            updates=self.recovery_updates,
        )


def points(found: Mapping[float, Mapping[str, Scores]]) -> pd.DataFrame:
    """Return a row per share: macs_kept, then the mean F1 of everything that was judged there, in percent."""
    rows = [
        {"macs_kept": share, **{name: each.mean_f1 for name, each in scores.items()}} for share, scores in found.items()
    ]
    return pd.DataFrame(rows).round(4)


def differences(
    found: Mapping[float, Mapping[str, Scores]], clusters: Sequence[str], *, resamples: int, seed: int
) -> pd.DataFrame:
    """Return by how much the last of CRITERIA is above each other one, before and, where it was judged, after recovery.

    A row has macs_kept, recovered (yes or no), over (the other criterion), and f1 with its paired 95 % interval, f1_low
    and f1_high, in points of percent. `clusters` (Q,) names each question's paragraph.
    """
    rows = []
    for share, scores in found.items():
        for suffix in ("", RECOVERED):
            for other in CRITERIA[:-1] if f"{CRITERIA[-1]}{suffix}" in scores else ():
                pair = scores[f"{CRITERIA[-1]}{suffix}"].f1, scores[f"{other}{suffix}"].f1
                gain = paired_difference(*pair, clusters, resamples=resamples, seed=seed)
                told = {"macs_kept": share, "recovered": "yes" if suffix else "no", "over": other}
                rows.append({**told, "f1": gain.mean, "f1_low": gain.low, "f1_high": gain.high})
    return pd.DataFrame(rows).round(4)
