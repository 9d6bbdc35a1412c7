"""Where an unfinished run keeps what it needs to go on: outside every output, named by everything the run depends on.

DVC deletes a stage's outputs before it runs it, so a checkpoint kept there would be lost with them. A folder here is
named by a hash over parameters, input files, library versions, the project's code, and what is computed on: a run goes
on from a checkpoint only if nothing it depends on has changed, the processor and its precision among it. `rm -r
scratch` is always safe.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

import stages.core


@contextmanager
def scratch_folder(root: Path, settings: Sequence[Any], inputs: Sequence[Path]) -> Iterator[Path]:
    """Yield the folder below `root` for a run with these settings (dataclasses) and input files or folders.

    Among the settings is the `Runtime`, and not its parameters, which leave to the machine what it computes with.
    It is removed when the block ends well and kept when it does not.
    """
    folder = root / run_key(settings, inputs)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    shutil.rmtree(folder)


@contextmanager
def passing_folder(root: Path) -> Iterator[Path]:
    """Yield a folder below `root` that nobody else works in; it is removed when the block ends, well or not."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        yield Path(folder)


def run_key(settings: Sequence[Any], inputs: Sequence[Path]) -> str:
    """Return the name of a run with these settings and inputs: another one for anything that it depends on.

    The order of keys counts: a search draws its knobs in the order of its section.
    """
    described = [
        torch.__version__,
        transformers.__version__,
        *([type(each).__name__, asdict(each)] for each in settings),
    ]
    digest = hashlib.sha256(json.dumps(described, default=str).encode())
    code = Path(next(iter(stages.core.__path__))).parent
    for path in [*sorted(code.rglob("*.py")), *(file for each in inputs for file in _files(each))]:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _files(path: Path) -> list[Path]:
    return sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
