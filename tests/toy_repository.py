"""A git repository with this project at toy size, on which DVC and the README's commands run for real."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from tests.toy_models import toy_qa_model, toy_tokenizer

ROOT = Path(__file__).parent.parent
ARTICLES = {"train": 2, "dev": 1, "test": 1}
FIT = {"epochs": 1, "batch_size": 8, "log_steps": 2}
CHANGES = {
    "runtime": {"precision": "fp32", "threads": 1},
    "encoder": {"model": "toy/encoder", "sha256": ""},
    "data": {
        **{split: [f"primer:{split}"] for split in ("train", "dev", "test")},
        **{"train_questions": 16, "dev_questions": 6, "test_questions": 8, "cloze_questions": 8},
    },
    "unlabelled": {"other_offsets": 0, "other_paragraphs": 0, "cloze": 8, "sources": [], "paragraphs": 0},
    "decode": {"max_answer_length": 60},  # the toy tokenizer cuts real words into letters
    "teacher": FIT,
    "cache_teacher": {"others": []},
    "student": {"encoder": "", "sha256": "", "layers": [0, 2, 4]},
    "baseline": FIT,
    "student_init": {"updates": 2, "resamples": 100, "candidates": {"alternate": [0, 2, 4], "first": [0, 1, 2]}},
    "distil": {**FIT, "temperature": 2.0, "student_layers": [1, 2, 3], "teacher_layers": [2, 4, 6]},
    "tune": {"updates": 2, "trial_epochs": 1, "trial_windows": 8, "storage": ""},
    "prune": {**FIT, "fisher_windows": 8, "minimum_neurons": 8, "repair_windows": 8, "recovery_windows": 8},
    "prune_curve": {"macs_kept": [0.5]},
    "finetune": FIT,
    "evaluate": {"resamples": 100},
    "benchmark": {"questions": 2, "warmup": 0, "repeats": 1},
    "report": {"resamples": 100, "samples": 2},
}


@dataclass(frozen=True)
class Ran:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Repository:
    """The toy repository and a shell in it."""

    folder: Path

    def shell(self, command: str, check: bool = True) -> Ran:
        """Run one line as a user would, in the repository's root, with its environment active."""
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "DVC"))},
            "PATH": f"{self.folder / '.venv/bin'}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache"),  # `make test` checks types: of the same files, once
            "PYTEST_ADDOPTS": "--collect-only -q",  # `make test` inside the tests: the command, not all of it again
        }
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=3600
        )
        if check:
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return Ran(done.returncode, done.stdout, done.stderr)

    def ran_stages(self, printed: str) -> list[str]:
        """The stages that DVC says it ran."""
        marker = "Running stage '"
        return [line.split("'")[1] for line in printed.splitlines() if line.startswith(marker)]


def build(folder: Path) -> Repository:
    """Copy the project's tracked files to `folder`, shrink data, model and parameters, commit."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in listed.decode().split("\0"):
        source = ROOT / name
        if name and source.is_file() and not name.startswith(("metrics/", "plots/", "dvc.lock")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)
    _shrink_corpus(folder / "data/primer")
    encoder = folder / "toy/encoder"
    toy_tokenizer(encoder, "bert")
    toy_qa_model("bert", seed=0, layers=6).base_model.save_pretrained(encoder)
    _shrink_parameters(folder / "params.yaml")
    repository = Repository(folder)
    repository.shell("git init -q -b main && git config user.name Toy && git config user.email toy@example.org")
    repository.shell("git add -A && git commit -qm 'The toy pipeline'")
    return repository


def _shrink_corpus(folder: Path) -> None:
    for name, articles in ARTICLES.items():
        path = folder / f"{name}.json"
        document = json.loads(path.read_text(encoding="utf-8"))
        document["data"] = document["data"][:articles]
        path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")


def _shrink_parameters(path: Path) -> None:
    """Change values in place as DVC itself would, comments kept."""
    yaml = YAML()
    document = yaml.load(path)
    for section, values in CHANGES.items():
        document[section].update(values)
    yaml.dump(document, path)
