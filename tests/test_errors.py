"""What a user can put right ends a program in one line a fault; anything else keeps its traceback."""

import subprocess
import sys

import pytest

from stages.core.errors import InputError, clean_exit


def test_each_line_goes_to_standard_error_and_the_status_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, clean_exit():
        raise InputError("a.json: no question\nb.json: no answer")
    assert caught.value.code == 2
    assert capsys.readouterr() == ("", "error: a.json: no question\nerror: b.json: no answer\n")


def test_other_errors_pass_through() -> None:
    with pytest.raises(ZeroDivisionError), clean_exit():
        raise ZeroDivisionError


def test_success_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with clean_exit():
        pass
    assert capsys.readouterr() == ("", "")


def test_program_ends_without_a_traceback() -> None:
    program = "from stages.core.errors import *\nwith clean_exit(): raise InputError('é: ' + chr(0xdc80))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: é: \\udc80\n")
