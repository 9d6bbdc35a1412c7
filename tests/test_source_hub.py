"""A model spec of the hub, fetched over HTTP from a local stand-in by an untouched client."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "vocab.txt": b"the",
    "pytorch_model.bin": b"pickle",
    "modeling_custom.py": b"raise SystemExit",
}
RESOLVE = "from stages.core.models.source import resolve_model as r; import sys; print(r(*sys.argv[1:]))"


class HubStandIn(BaseHTTPRequestHandler):
    """Answers what the client asks of the hub for one model at one commit, and notes every file it sends."""

    sent: set[str]

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        name = path.removeprefix(f"/owner/name/resolve/{COMMIT}/")
        if path == f"/api/models/owner/name/tree/{COMMIT}":
            listing = [
                {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for file, data in FILES.items()
            ]
            self.answer(json.dumps(listing).encode(), {"Content-Type": "application/json"})
        elif path == f"/api/models/owner/name/revision/{COMMIT}":
            siblings = [{"rfilename": file} for file in FILES]
            about = {"id": "owner/name", "sha": COMMIT, "siblings": siblings}
            self.answer(json.dumps(about).encode(), {"Content-Type": "application/json"})
        elif name in FILES:
            self.sent.add(name)
            etag = hashlib.sha1(FILES[name]).hexdigest()
            self.answer(FILES[name], {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def answer(self, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for header, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    """The address of a running stand-in."""
    HubStandIn.sent = set()
    with ThreadingHTTPServer(("127.0.0.1", 0), HubStandIn) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def resolve(address: str, cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "HF_ENDPOINT": address,
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-c", RESOLVE, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_pinned_commit_is_fetched_without_code_or_pickles(hub: str, tmp_path: Path) -> None:
    done = resolve(hub, tmp_path, f"owner/name@{COMMIT}", hashlib.sha256(b"weights").hexdigest())
    folder = Path(done.stdout.strip())
    assert folder.is_dir(), done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "vocab.txt"]
    assert HubStandIn.sent == {"config.json", "model.safetensors", "vocab.txt"}


def test_unknown_commit_and_wrong_hash_are_refused(hub: str, tmp_path: Path) -> None:
    unknown = resolve(hub, tmp_path, f"owner/name@{'0' * 40}").stderr.splitlines()[-1]
    assert "InputError" in unknown
    assert "not downloaded from the hub" in unknown
    wrong = resolve(hub, tmp_path, f"owner/name@{COMMIT}", "0" * 64).stderr.splitlines()[-1]
    assert "sha256 of model.safetensors is" in wrong
