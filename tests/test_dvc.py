"""DVC on the toy repository, for real: the README's commands, what reruns, what is refused, what a review reads.

One file, so that one process runs the pipeline once for all of it. Stages are forks of a process that has imported what
takes longest (see `toy_python`): `make repro` takes a quarter of the time so.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from stages.core.report.variants import VARIANTS
from tests.toy_python import install, serving
from tests.toy_repository import ROOT, Ran, Repository

pytestmark = pytest.mark.slow

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.strip()
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]
# What a reader types once to get a clone and a shell in it; the toy repository is that clone already.
SETTING_UP = {"git clone <this repository> distilqa", "cd distilqa", "source .venv/bin/activate"}


@pytest.fixture(scope="module")
def said(toy_repository: Repository) -> Iterator[dict[str, Ran]]:
    """What every command of the README printed, in its order; each has ended well."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder, "python"), Path(folder, "log")):
        toy_repository.shell("rm .venv")
        install(toy_repository.folder / ".venv", Path(folder, "python"))
        for command in COMMANDS:
            if command not in SETTING_UP:
                found[command] = toy_repository.shell(command)
                if command == "make repro":  # a clone of the project has these files from the start
                    toy_repository.shell("git add -A && git commit -qm run")
        # An entry on its way from one list to the other is shown in neither: what counts are those that have ended.
        queued = command_with("--queue").count(",") + 1
        toy_repository.shell(f"until [ $(dvc queue status | grep -cE 'Success|Failed') = {queued} ]; do sleep 1; done")
        yield found


@pytest.fixture(scope="module")
def repository(toy_repository: Repository, said: dict[str, Ran]) -> Repository:
    """The toy repository with its pipeline run and committed, whatever the README has tried on it."""
    assert said
    return toy_repository


@pytest.fixture(autouse=True)
def back_to_the_commit(repository: Repository) -> None:
    """Each test starts from the committed run."""
    repository.shell("git restore --staged --worktree . && dvc checkout -q")


def command_with(part: str) -> str:
    """The one command of the README that has `part`."""
    (found,) = [command for command in COMMANDS if part in command]
    return found


def test_every_command_of_the_readme_runs(said: dict[str, Ran]) -> None:
    assert set(COMMANDS) == {*SETTING_UP, *said}
    assert {"make repro", "make test"} <= set(said)


def test_a_changed_temperature_reruns_distil_and_what_follows(repository: Repository, said: dict[str, Ran]) -> None:
    ran = repository.ran_stages(said[command_with("-S distil.temperature=4")].out)
    assert ran[:2] == ["distil", "tune"]
    assert not {"prepare", "teacher", "cache_teacher", "baseline", "evaluate@teacher", "evaluate@baseline"} & set(ran)
    assert {"evaluate@distilled", "report"} <= set(ran)


def test_reviews_read_well(repository: Repository, said: dict[str, Ran]) -> None:
    parameters = [line for line in said[command_with("dvc params diff")].out.splitlines() if line.startswith("|")]
    assert len(parameters) == 3 and "distil.temperature" in parameters[2], "a header, a rule, the one that changed"
    differences = said[command_with("dvc metrics diff")].out
    # Timed anew, each variant: one of them can come out as it was, to the last digit, and is left out then.
    assert re.search(r"^\| metrics/latency.json +\| \w+\.latency_ms_p50 +\|", differences, flags=re.MULTILINE), (
        differences
    )
    assert "metrics/baseline.json" not in differences, "what did not run did not change"
    assert (repository.folder / "dvc_plots/index.html").exists()
    assert "failed" not in said[command_with("dvc plots diff")].out.lower()


def test_a_small_float_is_a_float_and_changes_one_line(repository: Repository) -> None:
    apply_overrides(repository.folder / "params.yaml", ["finetune.learning_rate=3e-5"])
    assert "3e-05" in repository.shell("dvc params diff --md").out
    assert "1 insertion(+), 1 deletion(-)" in repository.shell("git diff HEAD --stat params.yaml").out


def test_queued_experiments_run_one_after_another(repository: Repository) -> None:
    status = repository.shell("dvc queue status").out
    assert status.count("Success") == 2 and "Failed" not in status, status
    shown = json.loads(repository.shell("dvc exp show --json --all-commits").out)
    experiments = {
        experiment["name"]: experiment["revs"][0]["data"]["params"]["params.yaml"]["data"]
        for commit in shown
        for experiment in commit["experiments"] or []
    }
    queued = {name: values for name, values in experiments.items() if name and name.startswith("rate")}
    assert {values["finetune"]["learning_rate"] for values in queued.values()} == {1e-4, 5e-4}
    assert {values["distil"]["temperature"] for values in queued.values()} == {2.0}, "the experiment before is gone"
    trained = {"finetune", "prune_teacher", "prune_curve"}  # all that take the settings of finetune
    judged = {f"evaluate@{variant}" for variant in ("finetuned", "int8", "teacher_pruned")}
    table = repository.shell(command_with("dvc exp show")).out
    assert all(name in table for name in queued) and "0.0001" in table and "0.0005" in table
    for name in queued:
        ran = repository.ran_stages(repository.shell(f"dvc queue logs {name}").out)
        assert set(ran) == {*trained, "export", *judged, "benchmark", "report"}


def test_a_second_repro_runs_nothing(repository: Repository) -> None:
    printed = repository.shell("dvc repro").out
    assert repository.ran_stages(printed) == []
    assert "up to date" in printed


def test_the_run_makes_all_variants_and_a_report(repository: Repository) -> None:
    names = {path.stem for path in (repository.folder / "metrics/quality").glob("*.json")}
    assert names == set(VARIANTS)
    assert "| finetuned |" in (repository.folder / "metrics/report.md").read_text()


def test_git_has_nothing_to_add_but_what_is_meant_for_it(repository: Repository) -> None:
    tracked = repository.shell("git ls-files").out.split()
    assert not [name for name in tracked if name.startswith(("models/", "cache/", "predictions/", "scratch/"))]
    assert "metrics/quality/tuned.json" in tracked
    assert "dvc.lock" in tracked


def test_a_deleted_output_comes_back_from_the_cache(repository: Repository) -> None:
    weights = repository.folder / "models/tuned/model.safetensors"
    before = weights.read_bytes()
    repository.shell("rm -r models/tuned metrics/tune.json")
    printed = repository.shell("dvc repro").out
    assert weights.read_bytes() == before
    assert repository.ran_stages(printed) == []


def test_the_same_run_again_gives_the_same_bytes(repository: Repository) -> None:
    """All stages up to tune are run again, without the run cache; git must see no change."""
    repository.shell("dvc repro --force tune")
    assert repository.shell("git status --porcelain metrics plots dvc.lock").out == ""


def test_an_unknown_key_is_refused(repository: Repository) -> None:
    ended = repository.shell("dvc exp run -S distil.temperatur=4", check=False)
    assert ended.code != 0
    assert "temperatur" in ended.err + ended.out


def test_a_value_of_another_type_ends_in_one_line(repository: Repository) -> None:
    ended = repository.shell("dvc exp run -S distil.temperature=hot", check=False)
    assert ended.code != 0
    lines = [line for line in (ended.out + ended.err).splitlines() if line.startswith("error:")]
    assert lines == ["error: params.yaml: distil.temperature: 'hot' is a str, wanted float"]
    assert "Traceback" not in ended.out + ended.err


def test_parameters_are_checked_before_torch_is_imported(repository: Repository) -> None:
    repository.shell("sed -i 's/  temperature: 2.0/  temperature: hot/' params.yaml")
    stage = "sys.argv[1:] = '--data d --teacher t --cache c --out o --metrics m --history h --scratch s'.split()"
    program = (
        f"import sys, runpy; {stage}\n"
        "try:\n    runpy.run_module('stages.distil', run_name='__main__')\n"
        "except SystemExit as end:\n    print(end.code, 'torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=repository.folder, capture_output=True, text=True)
    assert ended.stdout == "2 False\n", ended.stderr


def test_plots_show_draws_every_declared_plot(repository: Repository) -> None:
    drawn = json.loads(repository.shell("dvc plots show --json").out)
    assert not drawn.get("errors")


def test_the_committed_lock_is_that_of_the_committed_code() -> None:
    """In the project itself: nothing changed since the recorded default run but what DVC can restore."""
    dvc = Path(sys.executable).parent / "dvc"
    plan = subprocess.run([dvc, "repro", "--allow-missing", "--dry"], cwd=ROOT, capture_output=True, text=True)
    assert plan.returncode == 0, plan.stderr
    assert "Running stage" not in plan.stdout, plan.stdout
