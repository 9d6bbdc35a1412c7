"""The settings of pruning, torch-free so that they are checked before anything heavy loads."""

from dataclasses import dataclass

from stages.core.params import require
from stages.core.training.settings import FitParams

BUDGETS = ("macs_kept", "parameters_kept", "latency_kept")


@dataclass(frozen=True)
class PruneParams(FitParams):
    """The `prune` section; the settings of a training run are those of the short recovery between rounds."""

    macs_kept: float  # share of the whole model's encoder MACs that may remain; of these three one is above 0
    parameters_kept: float  # share of its parameters outside the embeddings
    latency_kept: float  # share of its layers' measured time for one window
    rounds: int  # of scoring, removing and recovering
    fisher_windows: int  # training windows that scores are measured on
    repair_windows: int  # training windows of the least-squares repair; 0 leaves it out
    ridge: float  # pull of the repair to the matrix as it was, a share of the mean square of what enters it
    recovery_windows: int  # training windows seen in each epoch between two rounds; 0 leaves recovery out
    hidden_weight: float  # in recovery, of the alignment with the whole model's hidden states; 0 switches it off
    minimum_neurons: int  # feed-forward neurons that stay in a layer, at least, where any stay

    def check(self) -> None:
        """Vouch for ranges."""
        super().check()
        for key in BUDGETS:
            require(0 <= getattr(self, key) <= 1, key, getattr(self, key), "0 (not the budget) to 1")
        given = [key for key in BUDGETS if getattr(self, key) > 0]
        require(len(given) == 1, ", ".join(BUDGETS), given, "exactly one of them above 0")
        for key in ("rounds", "fisher_windows", "minimum_neurons"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
        for key in ("repair_windows", "recovery_windows", "hidden_weight"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "0 or more")
        require(self.ridge > 0, "ridge", self.ridge, "above 0")

    @property
    def kept(self) -> float:
        """The share of the budget, whichever of the three it is."""
        return self.macs_kept or self.parameters_kept or self.latency_kept
