"""A small imitation of the Hugging Face Hub over HTTP: repositories of one commit each, for an untouched client."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class HubStandIn:
    """Repositories at `COMMIT`, models as `owner/name`, data sets as `datasets/owner/name`, and what was asked."""

    repositories: Mapping[str, Mapping[str, bytes]]
    address: str = ""
    sent: set[str] = field(default_factory=set)  # names of the files whose bytes went out

    def environment(self, cache: Path) -> dict[str, str]:
        """The environment of a client that knows only this hub, has no proxy, and starts from an empty cache."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and not k.lower().endswith("_proxy")}
        patience = dict.fromkeys(("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"), "300")  # seconds
        return clean | patience | {"HF_ENDPOINT": self.address, "HF_HOME": str(cache)}


class _Handler(BaseHTTPRequestHandler):
    hub: HubStandIn

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        for name, files in self.hub.repositories.items():
            api = f"/api/{name if name.startswith('datasets/') else f'models/{name}'}"
            if path.startswith(f"{api}/"):
                return self.describe(name, files, path.removeprefix(f"{api}/"))
            if path.startswith(f"/{name}/resolve/"):
                return self.send_file(files, path.removeprefix(f"/{name}/resolve/"))
        return self.refuse("RepoNotFound")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def describe(self, name: str, files: Mapping[str, bytes], rest: str) -> None:
        question, _, revision = rest.partition("/")
        commit, _, folder = revision.partition("/")
        entries = _entries(files)
        if commit != COMMIT:
            self.refuse("RevisionNotFound")
        elif question == "revision":
            siblings = [{"rfilename": file} for file in files]
            self.answer_json({"id": name.removeprefix("datasets/"), "sha": COMMIT, "siblings": siblings})
        elif question == "tree" and (not folder or folder in entries):
            deep = "recursive=true" in urlsplit(self.path).query.lower()
            inside = [path for path in entries if Path(folder) in (Path(path).parents if deep else [Path(path).parent])]
            self.answer_json([entries[path] for path in inside])
        elif question == "paths-info":
            self.answer_json([entries[path] for path in self.form() if path in entries])
        else:
            self.refuse("EntryNotFound")

    def send_file(self, files: Mapping[str, bytes], rest: str) -> None:
        commit, _, file = rest.partition("/")
        if commit != COMMIT:
            self.refuse("RevisionNotFound")
        elif file not in files:
            self.refuse("EntryNotFound")
        else:
            if self.command == "GET":
                self.hub.sent.add(file)
            self.answer(files[file], {"ETag": f'"{_sha1(files[file])}"', "X-Repo-Commit": COMMIT})

    def form(self) -> list[str]:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if self.headers.get("Content-Type", "").startswith("application/json"):
            return list(json.loads(body)["paths"])
        return parse_qs(body)["paths"]

    def refuse(self, code: str) -> None:
        self.answer(b"", {"X-Error-Code": code, "X-Repo-Commit": COMMIT}, status=404)

    def answer_json(self, document: Any) -> None:
        self.answer(json.dumps(document).encode(), {"Content-Type": "application/json"})

    def answer(self, data: bytes, headers: Mapping[str, str], status: int = 200) -> None:
        self.send_response(status)
        for header, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def _entries(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """What the hub lists of each folder and file."""
    folders = {parent.as_posix() for file in files for parent in Path(file).parents} - {"."}
    listed: dict[str, dict[str, Any]] = {path: {"type": "directory", "path": path, "size": 0} for path in folders}
    for file, data in files.items():
        listed[file] = {"type": "file", "path": file, "size": len(data)}
    return {path: {**listed[path], "oid": _sha1(path.encode())} for path in sorted(listed)}


@contextmanager
def serve(repositories: Mapping[str, Mapping[str, bytes]]) -> Iterator[HubStandIn]:
    """Run a stand-in with these repositories on a free port of this machine."""
    hub = HubStandIn(repositories)
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        hub.address = f"http://127.0.0.1:{server.server_port}"
        yield hub
        server.shutdown()
