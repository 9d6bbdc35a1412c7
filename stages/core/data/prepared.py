"""What the prepare stage wrote, read back."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.core.data.examples import Example, read_squad
from stages.core.data.windows import Windows, load_windows


@dataclass(frozen=True)
class Questions:
    """Questions and their windows."""

    examples: Sequence[Example]
    windows: Windows


def load_split(folder: Path, name: str) -> Questions:
    """Return the questions and windows of one split, name train, dev or test; raises InputError if it is missing."""
    return Questions(read_squad(folder / f"{name}.json"), load_windows(folder / f"{name}.safetensors"))
