"""The quick `python` of the toy repository does with a stage what the real one does."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.toy_python import install, serving

STAGE = """
import os, sys
from stages import other
print(__name__, sys.argv[1:], os.getcwd(), os.environ.get("TOLD"), other.__file__, sys.stdin.read())
print("to the other stream", file=sys.stderr)
{end}
"""
ENDS = {
    "well": "",
    "with_a_code": "sys.exit(3)",
    "with_a_word": "sys.exit('a word')",
    "with_a_fault": "raise ValueError('a fault')",
    "killed": "os.kill(os.getpid(), 9)",
}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A project of a few stages, with the quick `python` in its .venv."""
    with tempfile.TemporaryDirectory() as name, serving(Path(name, "python"), Path(name, "log")):
        project = Path(name, "project")
        (project / "stages").mkdir(parents=True)
        for stage, end in {**ENDS, "other": ""}.items():
            text = STAGE.format(end=end) if stage != "other" else ""
            (project / f"stages/{stage}.py").write_text(text, encoding="utf-8")
        install(project / ".venv", Path(name, "python"))
        yield project


def run(python: Path | str, folder: Path, *arguments: str) -> tuple[int, str, str]:
    environment = {**os.environ, "TOLD": "so"}
    done = subprocess.run(
        [python, *arguments], cwd=folder, env=environment, input="typed", capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("stage", ENDS)
def test_a_stage_runs_and_ends_as_with_the_real_one(folder: Path, stage: str) -> None:
    code, out, err = run(folder / ".venv/bin/python", folder, "-m", f"stages.{stage}", "--a", "b c")
    real_code, real_out, real_err = run(sys.executable, folder, "-m", f"stages.{stage}", "--a", "b c")
    if stage == "killed":  # all of which nothing is told but that it has happened
        assert (code, real_code) == (137, -9)
        return
    assert (code, out) == (real_code, real_out)
    assert err.splitlines()[0] == real_err.splitlines()[0]
    assert err.splitlines()[-1] == real_err.splitlines()[-1]


def test_whatever_is_no_stage_goes_to_the_real_one(folder: Path) -> None:
    asked = "import sys; print('torch' in sys.modules, sys.prefix)"
    assert run(folder / ".venv/bin/python", folder, "-c", asked) == (0, f"False {sys.prefix}\n", "")
