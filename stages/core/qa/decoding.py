"""The settings of the span search, torch-free so that they are checked before anything heavy loads."""

from dataclasses import dataclass

from stages.core.params import require


@dataclass(frozen=True)
class DecodeParams:
    """The `decode` section."""

    n_best: int  # spans kept a window before windows are merged
    max_answer_length: int  # tokens in an answer at most

    def check(self) -> None:
        """Vouch for ranges."""
        require(self.n_best >= 1, "n_best", self.n_best, "1 or more")
        require(self.max_answer_length >= 1, "max_answer_length", self.max_answer_length, "1 or more")
