"""A model spec of the hub, fetched over HTTP from a local stand-in by an untouched client."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.core.errors import InputError
from stages.core.models.source import resolve_model
from tests.hub_stand_in import COMMIT, HubStandIn, serve

FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "vocab.txt": b"the",
    "pytorch_model.bin": b"pickle",
    "modeling_custom.py": b"raise SystemExit",
}


class UnlikeError(Exception):
    """An error that none of Python's own kinds is a parent of, as those of httpx are."""


RESOLVE = "from stages.core.models.source import resolve_model as r; import sys; print(r(*sys.argv[1:]))"


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    with serve({"owner/name": FILES}) as running:
        yield running


def resolve(hub: HubStandIn, cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RESOLVE, *arguments]
    return subprocess.run(command, env=hub.environment(cache), capture_output=True, text=True, check=False)


def test_pinned_commit_is_fetched_without_code_or_pickles(hub: HubStandIn, tmp_path: Path) -> None:
    done = resolve(hub, tmp_path, f"owner/name@{COMMIT}", hashlib.sha256(b"weights").hexdigest())
    folder = Path(done.stdout.strip())
    assert folder.is_dir(), done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "vocab.txt"]
    assert hub.sent == {"config.json", "model.safetensors", "vocab.txt"}


@pytest.mark.parametrize(
    "error", [ConnectionResetError("reset by peer"), RuntimeError("of hf_xet\nmore"), UnlikeError()]
)
def test_a_download_that_breaks_off_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks_off(*arguments: object, **options: object) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", breaks_off)
    with pytest.raises(InputError) as caught:
        resolve_model(f"owner/name@{COMMIT}")
    told = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    assert str(caught.value) == f"model 'owner/name@{COMMIT}': not downloaded from the hub ({told})"


def test_unknown_commit_and_wrong_hash_are_refused(hub: HubStandIn, tmp_path: Path) -> None:
    unknown = resolve(hub, tmp_path, f"owner/name@{'0' * 40}").stderr.splitlines()[-1]
    assert "InputError" in unknown
    assert "not downloaded from the hub" in unknown
    wrong = resolve(hub, tmp_path, f"owner/name@{COMMIT}", "0" * 64).stderr.splitlines()[-1]
    assert "sha256 of model.safetensors is" in wrong
