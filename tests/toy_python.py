"""A `python` that has torch and transformers imported already: `python -m stages.X` is a fork of it.

The tests that run DVC start stages a hundred times, and at toy size a stage is all import. So the toy repository has a
`python` of its own. For a stage it asks a server, which has imported packages but nothing of this project, to fork;
the fork takes over folder, environment, arguments and streams, and runs the module as found in that folder. For
anything else it is the real interpreter.
"""

import array
import contextlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PRELOADED = ("torch._dynamo", "pandas", "matplotlib.pyplot", "optuna")
FAMILIES = ("Bert", "DistilBert", "Roberta", "Electra", "MPNet")

# Without site-packages it starts in milliseconds. The answer is the exit code; none means that the fork was killed.
CLIENT = """#!{python} -IS
import array, json, os, socket, sys
asked = sys.argv[1:]
if asked[:1] != ["-m"] or not asked[1:2] or not asked[1].startswith("stages."):
    os.execv("{python}", ["{python}", *asked])
server = socket.socket(socket.AF_UNIX)
server.connect("{address}")
told = json.dumps({{"arguments": asked[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}).encode()
server.sendmsg([len(told).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
server.sendall(told)
sys.exit(int(server.recv(16) or b"137"))
"""


@contextmanager
def serving(address: Path, log: Path) -> Iterator[None]:
    """Inside, a server listens at `address` for the clients that `install` makes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", __file__, str(address)]
    with (
        log.open("wb") as err,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, env=environment) as server,
    ):
        try:
            assert server.stdout is not None and server.stdout.readline() == b"ready\n", log.read_text()
            yield
        finally:
            server.terminate()


def install(environment: Path, address: Path) -> None:
    """Make a folder like that of the virtual environment that runs this, but for its `python`."""
    (environment / "bin").mkdir(parents=True)
    for each in Path(sys.prefix).iterdir():
        if each.name != "bin":
            (environment / each.name).symlink_to(each)
    for each in Path(sys.prefix, "bin").iterdir():
        if each.name != "python":
            (environment / "bin" / each.name).symlink_to(each)
    client = environment / "bin/python"
    client.write_text(CLIENT.format(python=sys.executable, address=address), encoding="utf-8")
    client.chmod(0o755)


def _serve(address: str) -> None:
    import importlib

    for name in PRELOADED:
        importlib.import_module(name)
    import transformers

    for name in ("AutoTokenizer", "AutoConfig", *(f"{family}ForQuestionAnswering" for family in FAMILIES)):
        getattr(transformers, name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    print("ready", flush=True)
    while True:
        client, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            code = 1
            try:
                code = _run(client)
            finally:
                with contextlib.suppress(OSError, ValueError):
                    sys.stdout.flush()
                    sys.stderr.flush()
                client.sendall(str(code).encode())
                os._exit(code)
        client.close()


def _run(client: socket.socket) -> int:
    """Become what the client asked for, run it, and return its exit code."""
    size, handed, _, _ = client.recvmsg(8, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    streams = array.array("i", handed[0][2])
    wanted, told = int.from_bytes(size, "big"), b""
    while len(told) < wanted:
        if not (part := client.recv(wanted - len(told))):
            return 1  # the client is gone
        told += part
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    asked = json.loads(told)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    module, *arguments = asked["arguments"]
    sys.argv, sys.path[:0] = [module, *arguments], [asked["folder"]]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    _serve(sys.argv[1])
