"""DVC on the toy repository, for real: what reruns, what is refused, what a review reads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stages.core.report.variants import VARIANTS
from tests.toy_repository import ROOT, Repository

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def repository(toy_repository: Repository) -> Repository:
    """The toy repository with its pipeline run and committed, whatever was tried on it before."""
    toy_repository.shell("git checkout -q -f main && dvc repro -q && git add -A && git commit -qm run --allow-empty")
    return toy_repository


@pytest.fixture(autouse=True)
def back_to_the_commit(repository: Repository) -> None:
    """Each test starts from the committed run."""
    repository.shell("git restore --staged --worktree . && dvc checkout -q")


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


def test_a_changed_temperature_reruns_distil_and_what_follows(repository: Repository) -> None:
    printed = repository.shell("dvc exp run -S distil.temperature=4").out
    ran = repository.ran_stages(printed)
    assert ran[:2] == ["distil", "tune"]
    assert not {"prepare", "teacher", "cache_teacher", "baseline", "evaluate@teacher", "evaluate@baseline"} & set(ran)
    assert {"evaluate@distilled", "report"} <= set(ran)
    changed = repository.shell("git diff HEAD --stat params.yaml").out
    assert "1 insertion(+), 1 deletion(-)" in changed


def test_a_small_float_is_a_float_and_reviews_read_well(repository: Repository) -> None:
    printed = repository.shell("dvc exp run -n small-rate -S finetune.learning_rate=3e-5").out
    trained = {"finetune", "prune_teacher", "prune_curve"}  # all that take the settings of finetune
    judged = {f"evaluate@{variant}" for variant in ("finetuned", "int8", "teacher_pruned")}
    assert set(repository.ran_stages(printed)) == {*trained, "export", *judged, "benchmark", "report"}
    assert "3e-05" in repository.shell("dvc params diff --md").out
    differences = repository.shell("dvc metrics diff --md --no-path").out
    assert "finetuned.latency_ms_p50" in differences
    assert "baseline.dev.f1" not in differences, "what did not run did not change"
    drawn = repository.shell("dvc plots diff").out
    assert (repository.folder / "dvc_plots/index.html").exists()
    assert "failed" not in drawn.lower()
    table = repository.shell("dvc exp show --md --drop '.*' --keep 'Experiment|finetune.learning_rate'").out
    assert "small-rate" in table and "3e-05" in table


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


def test_queued_experiments_run_one_after_another(repository: Repository) -> None:
    repository.shell("dvc exp run --queue -n queued -S 'finetune.learning_rate=1e-4,5e-4'")
    repository.shell("dvc queue start && while dvc queue status | grep -qE 'Queued|Running'; do sleep 1; done")
    status = repository.shell("dvc queue status").out
    assert status.count("Success") >= 2 and "Failed" not in status, status
    shown = json.loads(repository.shell("dvc exp show --json").out)
    rates = {
        experiment["revs"][0]["data"]["params"]["params.yaml"]["data"]["finetune"]["learning_rate"]
        for experiment in shown[1]["experiments"] or []
        if (experiment["name"] or "").startswith("queued")
    }
    assert {1e-4, 5e-4} <= rates


def test_plots_show_draws_every_declared_plot(repository: Repository) -> None:
    drawn = json.loads(repository.shell("dvc plots show --json").out)
    assert not drawn.get("errors")


def test_the_committed_lock_is_that_of_the_committed_code() -> None:
    """In the project itself: nothing changed since the recorded default run but what DVC can restore."""
    dvc = Path(sys.executable).parent / "dvc"
    plan = subprocess.run([dvc, "repro", "--allow-missing", "--dry"], cwd=ROOT, capture_output=True, text=True)
    assert "Running stage" not in plan.stdout, plan.stdout
