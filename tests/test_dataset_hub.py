"""A data set of the hub, fetched over HTTP from a local stand-in by an untouched client, and prepared."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet

from stages.core.data.prepared import load_questions
from tests.hub_stand_in import COMMIT, HubStandIn, serve
from tests.toy_models import toy_qa_model, toy_tokenizer
from tests.toy_questions import toy_examples

ROOT = Path(__file__).parents[1]
ANSWERS = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])
COLUMNS = pa.schema([*((name, pa.string()) for name in ("id", "title", "context", "question")), ("answers", ANSWERS)])
# As the data set says of itself on the hub.
CARD = """\
---
dataset_info:
  config_name: plain_text
  features:
  - name: id
    dtype: string
  - name: title
    dtype: string
  - name: context
    dtype: string
  - name: question
    dtype: string
  - name: answers
    sequence:
    - name: text
      dtype: string
    - name: answer_start
      dtype: int32
configs:
- config_name: plain_text
  data_files:
  - split: train
    path: plain_text/train-*
  - split: validation
    path: plain_text/validation-*
  default: true
---
# SQuAD
"""
READ = """
import sys
from stages.core.data.examples import check
from stages.core.data.sources import read_source
from stages.core.errors import InputError
for source in sys.argv[1:]:
    try:
        print([fault.kind for fault in check(read_source(source, None))[1]])
    except InputError as error:
        print(error)
"""


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Questions on six articles, in SQuAD's columns."""
    return [
        {
            "id": example.id,
            "title": example.title,
            "context": example.context,
            "question": example.question,
            "answers": {"text": [a.text for a in example.answers], "answer_start": [a.start for a in example.answers]},
        }
        for example in toy_examples(count, seed, articles=6)
    ]


def table(records: list[dict[str, Any]], columns: pa.Schema = COLUMNS) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(records, schema=columns), buffer)
    return buffer.getvalue()


SQUAD = {
    "README.md": CARD.encode(),
    "plain_text/train-00000-of-00001.parquet": table(rows(24, seed=1)),
    "plain_text/validation-00000-of-00001.parquet": table(rows(8, seed=2)),
}
SHORT = pa.schema([field for field in COLUMNS if field.name != "question"])
PLAIN = pa.schema([*(field for field in COLUMNS if field.name != "answers"), ("answers", pa.string())])
UNEVEN = {**rows(2, seed=3)[0], "answers": {"text": ["king", "queen"], "answer_start": [0]}}


@pytest.fixture(scope="module")
def hub() -> Iterator[HubStandIn]:
    repositories = {
        "datasets/rajpurkar/squad": SQUAD,
        "datasets/owner/short": {"train.parquet": table([{"id": "a", "context": "b"}], SHORT)},
        "datasets/owner/plain": {"train.parquet": table([{"id": "a", "answers": "b"}], PLAIN)},
        "datasets/owner/uneven": {"train.parquet": table([UNEVEN])},
        "datasets/owner/code": {"train.parquet": table(rows(1, seed=4)), "code.py": b"print('code was run')"},
    }
    with serve(repositories) as running:
        yield running


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy model's folder."""
    folder = tmp_path_factory.mktemp("encoder")
    toy_tokenizer(folder, "bert")
    toy_qa_model("bert", 1).save_pretrained(folder)
    return folder


def prepare(folder: Path, hub: HubStandIn, encoder: Path, train: str, test: str) -> subprocess.CompletedProcess[str]:
    """Run the stage in `folder` on these sources."""
    params = {
        "data": {
            "seed": 13,
            "train": [train],
            "dev": [],
            "test": [test],
            "dev_fraction": 0.2,
            "train_questions": 0,
            "dev_questions": 0,
            "test_questions": 0,
            "cloze_questions": 0,
            "on_bad_record": "error",
        },
        "windows": {"max_length": 64, "doc_stride": 16},
        "decode": {"n_best": 5, "max_answer_length": 30},
        "encoder": {"model": str(encoder), "sha256": ""},
        "student": {"encoder": "", "sha256": "", "layers": [0]},
        "unlabelled": {"other_offsets": 0, "other_paragraphs": 0, "cloze": 0, "sources": [], "paragraphs": 0},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    command = ["-m", "stages.prepare", "--corpus", "data/primer", "--out", "prepared", "--metrics", "data.json"]
    environment = {**hub.environment(folder / "cache"), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_pinned_data_set_is_prepared(hub: HubStandIn, encoder: Path, tmp_path: Path) -> None:
    source = f"hub:rajpurkar/squad@{COMMIT}"
    done = prepare(tmp_path, hub, encoder, f"{source}:train", f"{source}:validation")
    assert done.returncode == 0, done.stderr
    train, dev, test = (load_questions(tmp_path / "prepared", name) for name in ("train", "dev", "test"))
    assert sorted([*train, *dev], key=str) == sorted(toy_examples(24, seed=1, articles=6), key=str)
    assert list(test) == toy_examples(8, seed=2, articles=6)
    metrics = json.loads((tmp_path / "data.json").read_text())
    assert metrics["train"]["questions"] + metrics["dev"]["questions"] == 24
    assert metrics["test"]["labels_decoded_percent"] == 100
    assert {name for name in hub.sent if name.endswith(".parquet")} >= {name for name in SQUAD if "plain_text" in name}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (f"hub:rajpurkar/squad@{'0' * 40}:validation", f"Revision '{'0' * 40}' doesn't exist"),
        ("hub:rajpurkar/squad:validation", "wanted hub:OWNER/NAME@COMMIT:SPLIT with a commit of 40 hex digits"),
    ],
)
def test_unknown_or_missing_commit_ends_in_one_line(
    source: str, reason: str, hub: HubStandIn, encoder: Path, tmp_path: Path
) -> None:
    done = prepare(tmp_path, hub, encoder, f"hub:rajpurkar/squad@{COMMIT}:train", source)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.startswith("error: ")
    assert source in line
    assert reason in line
    assert sorted(path.name for path in tmp_path.iterdir()) in (["params.yaml"], ["cache", "params.yaml"])


def test_data_set_in_another_shape_is_told_in_one_line(hub: HubStandIn, tmp_path: Path) -> None:
    known = f"hub:rajpurkar/squad@{COMMIT}"
    names = ("short", "plain", "uneven", "code", "absent")
    sources = [f"{known}:test", *(f"hub:owner/{name}@{COMMIT}:train" for name in names)]
    command = [sys.executable, "-c", READ, *sources]
    done = subprocess.run(command, env=hub.environment(tmp_path), capture_output=True, text=True, check=False)
    split, short, plain, uneven, code, absent = done.stdout.splitlines()
    assert split.startswith(f"{known}:test: cannot be loaded (")
    assert 'Unknown split "test"' in split
    assert short == f"{sources[1]}: lacks the column(s) question of SQuAD v1.1"
    assert plain.startswith(f"{sources[2]}: row 0, id 'a': answers are not laid out as in SQuAD v1.1")
    assert uneven == "['malformed']"  # an answer without its place is a fault, not left out in silence
    assert code.startswith(f"{sources[4]}: cannot be loaded (RuntimeError: Dataset scripts are no longer supported")
    assert absent.startswith(f"{sources[5]}: cannot be loaded (DatasetNotFoundError")
