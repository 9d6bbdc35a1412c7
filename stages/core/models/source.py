"""Where a model comes from: a folder, an installed Python package, or the Hugging Face Hub at a pinned commit.

Only safetensors are ever read and no code that a model brings along is fetched or run.
"""

import hashlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from stages.core.errors import InputError

WEIGHTS = "model.safetensors"
HUB_FILES = ["*.json", "*.txt", "*.safetensors"]


@dataclass(frozen=True)
class EncoderParams:
    """The `encoder` section: what the teacher starts from, and whose tokenizer cuts the text."""

    model: str  # a model spec, see resolve_model
    sha256: str  # of model.safetensors; empty: not checked


def resolve_model(spec: str, sha256: str = "") -> Path:
    """The folder a model spec means, checked: it holds config.json, model.safetensors and, if given, that `sha256`.

    A spec is `owner/name@commit` on the Hugging Face Hub (all 40 hex digits of the commit), `package:NAME/SUBFOLDER`
    for weights that an installed Python package carries, or the path of a folder. Raises InputError.
    """
    if spec.startswith("package:"):
        folder = _package_folder(spec)
    elif re.fullmatch(r"[\w.-]+(/[\w.-]+)?@[0-9a-f]{40}", spec):
        folder = _hub_folder(spec)
    else:
        folder = Path(spec)
        if not folder.is_dir():
            raise InputError(
                f"model {spec!r}: no such folder; a model on the hub is OWNER/NAME@COMMIT with all 40 hex digits"
            )
    check_folder(folder)
    if sha256 and (found := file_sha256(folder / WEIGHTS)) != sha256.lower():
        raise InputError(
            f"model {spec!r}: sha256 of {WEIGHTS} is {found}, not {sha256}; correct the spec or the sha256"
        )
    return folder


def _package_folder(spec: str) -> Path:
    name, _, subfolder = spec.removeprefix("package:").partition("/")
    # find_spec of a top-level name looks the package up without running any of it.
    found = importlib.util.find_spec(name) if name.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise InputError(
            f"model {spec!r}: the Python package {name!r} is not installed; pip install it or name a folder"
        )
    folder = Path(found.submodule_search_locations[0]) / subfolder
    if not folder.is_dir():
        raise InputError(f"model {spec!r}: the package {name!r} has no folder {subfolder!r}")
    return folder


def _hub_folder(spec: str) -> Path:
    from huggingface_hub import snapshot_download

    name, commit = spec.split("@")
    try:
        return Path(snapshot_download(name, revision=commit, allow_patterns=HUB_FILES))
    except Exception as error:  # the hub's library lets through what those below it raise: httpx, hf_xet
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"model {spec!r}: not downloaded from the hub ({type(error).__name__}: {reason})") from error


def check_config(folder: Path) -> None:
    """Raise InputError unless `folder` holds config.json."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such model folder")
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no config.json here; name the folder of a saved model")


def check_folder(folder: Path) -> None:
    """Raise InputError unless `folder` holds config.json and model.safetensors."""
    check_config(folder)
    if (folder / WEIGHTS).is_file():
        return
    if any(folder.glob("*.bin")):
        raise InputError(f"{folder}: weights are pickled (.bin), which may run code; convert them to {WEIGHTS}")
    if any(folder.glob("*.safetensors")):
        raise InputError(f"{folder}: weights are in several or oddly named files; save them as one {WEIGHTS}")
    raise InputError(f"{folder}: no {WEIGHTS} here")


def file_sha256(path: Path) -> str:
    """64 hex digits of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
