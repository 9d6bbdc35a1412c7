"""The environment of a run without a benchmark: the file is as the report reads it, and says what training used."""

import sys
from pathlib import Path

import pytest
import torch
import yaml

from profiles.environment import main
from stages.core.errors import InputError
from stages.core.report.inputs import read_environment


def write(folder: Path, monkeypatch: pytest.MonkeyPatch, **runtime: object) -> Path:
    """What the command writes in a folder whose params.yaml has this `runtime`."""
    monkeypatch.chdir(folder)
    (folder / "params.yaml").write_text(yaml.safe_dump({"runtime": {"cuda_graphs": True, **runtime}}), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["environment", "--out", "metrics/environment.yaml"])
    main()
    return folder / "metrics" / "environment.yaml"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_says_what_the_stages_compute_with(precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = read_environment(write(tmp_path, monkeypatch, device="cpu", precision=precision, threads=1))
    assert (told["device"], told["training_precision"], told["threads"]) == ("cpu", precision, "1")
    assert told["torch"] == torch.__version__
    assert told["processor"]


def test_a_device_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"runtime\.device is 'cuda', wanted a machine with"):
        write(tmp_path, monkeypatch, device="cuda", precision="auto", threads=1)
    assert not (tmp_path / "metrics").exists()
