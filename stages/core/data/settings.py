"""The settings of the windowing, torch-free so that they are checked before anything heavy loads."""

from dataclasses import dataclass

from stages.core.params import require


@dataclass(frozen=True)
class WindowsParams:
    """The `windows` section."""

    max_length: int  # tokens in a window, question and special tokens included
    doc_stride: int  # tokens that neighbouring windows of one paragraph share

    def check(self) -> None:
        """Vouch for ranges."""
        require(16 <= self.max_length <= 512, "max_length", self.max_length, "16 to 512")
        require(0 <= self.doc_stride < self.max_length // 2, "doc_stride", self.doc_stride, "0 to half of max_length")
