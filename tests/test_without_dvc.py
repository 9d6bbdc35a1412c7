"""The pipeline run without DVC: which stages run, in what order, side by side, and what a failure leaves."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from profiles.without_dvc import Stage, read_stages, remove_stale, to_run
from stages.core.errors import InputError

ROOT = Path(__file__).parent.parent

# Each stage of the toy pipeline reads files, notes when it begins and ends, and writes files. Those that together.txt
# names wait for each other before they end, or 600 seconds; those that slow.txt names take half a second.
TOY = """
import sys, time
from pathlib import Path
name, reads, writes = sys.argv[1], sys.argv[2].split(","), sys.argv[3].split(",")
for path in filter(None, reads):
    if Path(path).is_file() and "bad" in Path(path).read_text():
        sys.exit(f"{name}: cannot read {path}")
def note(what):
    with open("notes.txt", "a") as notes:
        notes.write(f"{name} {what}\\n")
note("begins")
if name in Path("slow.txt").read_text().split():
    time.sleep(0.5)
together, ends = Path("together.txt").read_text().split(), time.monotonic() + 600
while name in together and time.monotonic() < ends:
    if all(f"{other} begins" in Path("notes.txt").read_text() for other in together):
        break
    time.sleep(0.05)
for path in writes:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(name)
note("ends")
"""


def entry(name: str, reads: str = "", writes: str = "") -> str:
    """A stage of the toy pipeline in dvc.yaml."""
    deps = "".join(f"\n    - {each}" for each in reads.split(",") if each)
    outs = "".join(f"\n    - {each}:\n        cache: false" for each in writes.split(","))
    return f"  {name}:\n    cmd: python -m toy {name} '{reads}' '{writes}'\n    deps:{deps or ' []'}\n    outs:{outs}\n"


PIPELINE = "stages:\n" + "".join(
    [
        entry("short", "raw.txt", "out/short"),
        entry("first", "raw.txt", "out/first"),
        entry("second", "out/first", "out/second/a"),
        entry("benchmark", "out/first", "out/time"),
        entry("third", "out/second", "out/third"),
    ]
)


def toy_folder(folder: Path) -> Path:
    """A folder with a toy pipeline and what it starts from."""
    (folder / "toy.py").write_text(TOY)
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "raw.txt").write_text("raw")
    (folder / "together.txt").touch()
    (folder / "slow.txt").touch()
    return folder


def run_in(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """What the command does in `folder`, whose notes are those of this run alone."""
    (folder / "notes.txt").write_text("")
    return subprocess.run(
        [sys.executable, "-m", "profiles.without_dvc", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def notes_in(folder: Path) -> list[str]:
    """The notes of the stages, in the order of time."""
    return (folder / "notes.txt").read_text().splitlines()


def names(stages: list[Stage]) -> list[str]:
    """The names of stages."""
    return [each.name for each in stages]


def test_of_the_projects_own_pipeline_each_stage_waits_for_those_whose_outputs_it_reads() -> None:
    stages = {each.name: each for each in read_stages(ROOT / "dvc.yaml")}

    def waits_for(name: str) -> set[str]:
        return {each.name for each in stages.values() if stages[name].needs(each)}

    assert waits_for("prepare") == set()
    assert waits_for("teacher") == {"prepare"}
    assert waits_for("tune") == {"prepare", "teacher", "cache_teacher", "distil"}
    assert waits_for("evaluate@int8") == {"prepare", "export"}
    assert waits_for("evaluate@hard_label") == {"prepare", "baseline"}
    assert waits_for("report") >= {
        "benchmark",
        "prune_curve",
        *(name for name in stages if name.startswith("evaluate@")),
    }
    assert stages["evaluate@tuned"].module == "stages.evaluate"
    assert "models/tuned" in stages["evaluate@tuned"].arguments


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Stage]:
    """The stages of the toy folder, which is the working folder, with all their outputs there."""
    monkeypatch.chdir(toy_folder(tmp_path))
    for path in ("out/short", "out/first", "out/second/a", "out/third", "out/time"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    return read_stages(Path("dvc.yaml"))


def test_what_is_missing_runs_and_all_that_comes_after_it(done: list[Stage]) -> None:
    assert to_run(done, []) == []
    Path("out/second/a").unlink()
    assert names(to_run(done, [])) == ["second", "third"]
    assert names(to_run(done, ["second"])) == ["second"]
    assert names(to_run(done, ["first"])) == []
    Path("out/first").unlink()
    assert names(to_run(done, ["third", "short"])) == ["first", "second", "third"]


def test_a_part_of_an_output_that_another_stage_reads_has_to_be_there_too(done: list[Stage]) -> None:
    """A folder may be one of an older layout."""
    stages = [replace(each, reads=frozenset({"out/short/part"})) if each.name == "third" else each for each in done]
    assert names(to_run(stages, [])) == ["short", "third"]
    Path("out/short").unlink()
    Path("out/short").mkdir()
    Path("out/short/part").touch()
    assert to_run(stages, []) == []


def test_what_a_stage_has_written_and_what_is_made_of_it_is_removed_before_it_runs(done: list[Stage]) -> None:
    """Wanted or not: else a stage that is stopped between two of its outputs would be done, with one of them older."""
    assert remove_stale(done, []) == []
    assert to_run(done, []) == []
    (second,) = [each for each in done if each.name == "second"]
    assert remove_stale(done, [second]) == ["out/second/a", "out/third"]
    assert not Path("out/second/a").exists() and not Path("out/third").exists()
    assert all(Path(f"out/{name}").exists() for name in ("first", "short", "time"))
    assert names(to_run(done, [])) == ["second", "third"], "a later call knows"
    assert remove_stale(done, [second]) == []
    first = [each for each in done if each.name == "first"]
    assert remove_stale(done, first) == ["out/first", "out/time"]
    assert Path("out/short").exists()


def test_a_name_stands_for_all_of_a_matrix() -> None:
    stages = [Stage(name, "m", (), frozenset(), frozenset({f"no/{name}"})) for name in ("a", "e@x", "e@y")]
    assert names(to_run(stages, ["e"])) == ["e@x", "e@y"]
    assert names(to_run(stages, ["e@y"])) == ["e@y"]
    with pytest.raises(InputError, match=r"e@z: no such stage in dvc.yaml; it has a, e@x, e@y"):
        to_run(stages, ["e@z"])


@pytest.mark.parametrize(
    ("stage", "complaint"),
    [
        ("cmd: python -m toy\n    always_changed: true", "odd has 'always_changed', which only DVC knows"),
        ("cmd: echo hello", "the command of odd is not `python -m MODULE`"),
    ],
)
def test_what_only_dvc_can_run_is_refused(stage: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "dvc.yaml"
    path.write_text(f"stages:\n  odd:\n    {stage}\n")
    with pytest.raises(InputError, match=complaint):
        read_stages(path)


def test_stages_run_side_by_side_in_order_and_the_benchmark_alone(tmp_path: Path) -> None:
    folder = toy_folder(tmp_path)
    (folder / "together.txt").write_text("first short")
    (folder / "slow.txt").write_text("second benchmark")  # either could run beside the other, but for what they are
    done = run_in(folder, "--jobs", "2", "--seconds", "seconds.csv")
    assert done.returncode == 0, done.stderr
    notes = notes_in(folder)
    assert set(notes[:2]) == {"first begins", "short begins"}
    assert notes.index("first ends") < notes.index("second begins")
    assert notes.index("second ends") < notes.index("third begins")
    at = notes.index("benchmark begins")
    assert notes[at + 1] == "benchmark ends"
    header, *rows = (folder / "seconds.csv").read_text().splitlines()
    assert header == "stage,seconds"
    assert {row.split(",")[0] for row in rows} == {"short", "first", "second", "third", "benchmark"}
    again = run_in(folder, "--jobs", "2", "--seconds", "seconds.csv")
    assert (again.returncode, again.stdout, notes_in(folder)) == (0, "", [])
    assert (folder / "seconds.csv").read_text().splitlines()[1:] == rows, "nothing ran, so the table stays"


def test_of_those_that_could_begin_that_goes_first_for_which_most_others_wait(tmp_path: Path) -> None:
    folder = toy_folder(tmp_path)
    done = run_in(folder, "short", "third")
    assert done.returncode == 0, done.stderr
    assert notes_in(folder) == [
        f"{name} {what}" for name in ("first", "second", "short", "third") for what in ("begins", "ends")
    ]


def test_a_stage_that_fails_stops_those_after_it_with_one_line(tmp_path: Path) -> None:
    folder = toy_folder(tmp_path)
    (folder / "raw.txt").write_text("bad")
    done = run_in(folder, "third")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    said = "first: failed (first: cannot read raw.txt); all that it printed is in scratch/logs/first.log"
    assert line == f"error: {said}"
    assert notes_in(folder) == []
    assert not (folder / "out").exists()


def test_a_stage_that_is_killed_has_failed(tmp_path: Path) -> None:
    folder = toy_folder(tmp_path)
    (folder / "toy.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    done = run_in(folder, "first")
    assert done.returncode == 2
    assert "error: first: failed (without a word); all that it printed is in scratch/logs/first.log" in done.stderr


def test_jobs_below_one_are_refused(tmp_path: Path) -> None:
    done = run_in(toy_folder(tmp_path), "--jobs", "0")
    assert done.returncode == 2
    assert "argument --jobs: 0, wanted 1 or more" in done.stderr
