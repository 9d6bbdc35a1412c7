"""Dev F1 against the MACs that are kept, by several criteria, before and after recovery."""

from collections.abc import Callable, Sequence
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
from stages.core.runtime import Runtime
from stages.core.training.fit import TrainingSet
from stages.core.training.losses import DistillationLoss
from stages.core.training.recovery import recover
from stages.core.training.settings import FinetuneParams

# Plain weights; Fisher scores, once; Fisher scores in rounds with least-squares repair. None of them trains.
CRITERIA = ("magnitude", "fisher", "fisher_repaired")


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
    judge: Callable[[PreTrainedModel], float]  # dev F1
    scratch: Path

    def draw(self, shares: Sequence[float]) -> pd.DataFrame:
        """A row per share of MACs, rising: macs_kept, each criterion's F1, and `<criterion>_recovered` where asked."""
        return pd.DataFrame([self._row(share) for share in sorted(shares)]).round(4)

    def _row(self, share: float) -> dict[str, float]:
        row = {"macs_kept": share}
        for criterion in CRITERIA:
            pruned = self.pruned(criterion, share)
            row[criterion] = self.judge(pruned)
            if self.recovery_updates:
                self._recover(pruned, f"{criterion} {share}")
                row[f"{criterion}_recovered"] = self.judge(pruned)
        return row

    def pruned(self, criterion: str, share: float) -> PreTrainedModel:
        """The model pruned to `share` of its MACs by one of CRITERIA, without any training."""
        if criterion == "magnitude":
            return self._by_magnitude(share)
        once: dict[str, Any] = {"rounds": 1, "repair_windows": 0} if criterion == "fisher" else {}
        params = replace(self.prune, macs_kept=share, parameters_kept=0.0, latency_kept=0.0, recovery_windows=0, **once)
        return prune(self.model, self.training, self.answers, params, self.runtime, scratch=self.scratch)

    def _by_magnitude(self, share: float) -> PreTrainedModel:
        def leave(*_: object) -> None:
            return None

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
