"""Files of tensors that say what they hold (safetensors): written whole or not at all, the same bytes each time."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stages.core.errors import InputError


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors and, as JSON, what is to be known `about` them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    # One entry: safetensors writes several in an order of its own, another one each time.
    entry = {"about": json.dumps(about, sort_keys=True)}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, entry)
    partial.replace(path)


def load_tensors(path: Path, stage: str, told: Collection[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what `save_tensors` wrote: the tensors by name, and what is known about them, which is what `told` names.

    Raises InputError, with the advice to run `stage`, for a file that is missing, not whole, or tells other things.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file; run the {stage} stage")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise InputError(f"{path}: not whole ({error}); run the {stage} stage again") from None
    if set(about) != set(told):
        raise InputError(f"{path}: holds something else; run the {stage} stage again")
    return tensors, about
