"""The report stage on made-up results of a few questions."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from stages import report
from stages.core.data.examples import Answer, Example, read_squad, write_squad
from stages.core.errors import InputError
from stages.core.qa.scoring import score
from stages.core.qa.significance import paired_difference
from stages.core.report.variants import VARIANTS
from stages.report import ReportInputs, ReportParams, run
from tests.test_cuts import toy_cuts
from tests.test_tuning import toy_search

PARAMS = ReportParams(seed=3, resamples=200, samples=4)
SECTIONS = ("Planned comparisons", "Pruning", "Speed", "Student initialisation", "Search", "Sample predictions", "Data")
SECTIONS += ("Environment",)
PICTURES = ["em_f1.png", "loss_curves.png", "prune_curve.png", "quality_vs_size.png"]
PLOTS = sorted(["differences.csv", "quality.csv", "samples.csv", *PICTURES])


def toy_examples() -> list[Example]:
    examples = []
    for number in range(12):
        context = f"The {number}th paragraph holds red apples, green pears and blue plums in a basket."
        for fruit in ("red apples", "green pears", "blue plums"):
            answer = Answer(fruit, context.index(fruit))
            examples.append(Example(f"{number}-{fruit[:3]}", "fruit", context, f"Which {fruit[-6:]}?", (answer,)))
    return examples


def write(path: Path, values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def toy_inputs(root: Path) -> ReportInputs:
    """Write results in which variant number k answers all but every (k + 2)nd question."""
    examples = toy_examples()
    write_squad(root / "test.json", examples)
    for row, variant in enumerate(VARIANTS):
        texts = {e.id: e.answers[0].text if n % (row + 2) else "basket" for n, e in enumerate(examples)}
        scores = score(examples, texts)
        em, f1 = round(scores.mean_exact_match, 2), round(scores.mean_f1, 2)
        quality = {"exact_match": em, "exact_match_low": em - 3, "exact_match_high": em + 3, "f1": f1}
        quality |= {"f1_low": f1 - 3, "f1_high": f1 + 3, "parameters": 10**6, "macs": 10**8, "size_mb": 4.0}
        write(root / "quality" / f"{variant}.json", quality | {"questions": len(examples)})
        write(root / "predictions" / f"{variant}.json", texts)
    timing = {"latency_ms_p50": 12.3, "latency_ms_p95": 45.6, "questions_per_second": 78.9}
    write(root / "latency.json", dict.fromkeys(VARIANTS, timing))
    write(root / "data.json", {"test": {"questions": len(examples)}, "dropped": {"empty_answer": 0}})
    (root / "curve.csv").write_text("macs_kept,magnitude,fisher\n0.25,3.0,31.25\n0.5,20.0,55.0\n", encoding="utf-8")
    gains = "macs_kept,recovered,over,f1,f1_low,f1_high\n0.25,no,magnitude,28.0,25.0,31.0\n"
    (root / "gains.csv").write_text(gains, encoding="utf-8")
    (root / "environment.yaml").write_text("device: cpu\nprocessor: one of ours\n", encoding="utf-8")
    toy_cuts().to_csv(root / "cuts.csv", index=False)
    (root / "loss").mkdir()
    for name in ("teacher", "baseline"):
        history = {"step": [10, 20], "epoch": [0.5, 1.0], "learning_rate": [1e-4, 0.0], "loss": [2.0, 1.0]}
        pd.DataFrame(history).to_csv(root / "loss" / f"{name}.csv", index=False)
    (root / "loss" / "tuned.csv").write_text(
        "step,epoch,learning_rate,loss\n", encoding="utf-8"
    )  # a run that did not train
    toy_search(root)
    return ReportInputs(
        questions=root / "test.json",
        quality=root / "quality",
        predictions=root / "predictions",
        latency=root / "latency.json",
        histories=root / "loss",
        environment=root / "environment.yaml",
        curve=root / "curve.csv",
        gains=root / "gains.csv",
        cuts=root / "cuts.csv",
        data=root / "data.json",
        search=root / "tune.json",
        importance=root / "tune_importance.csv",
    )


@pytest.fixture
def inputs(tmp_path: Path) -> ReportInputs:
    return toy_inputs(tmp_path)


def written(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_into(folder: Path, params: ReportParams, inputs: ReportInputs) -> dict[str, bytes]:
    run(params, inputs, out=folder / "metrics" / "report.md", plots=folder / "plots")
    return written(folder)


def test_writes_exactly_its_files_and_the_same_bytes_twice(tmp_path: Path, inputs: ReportInputs) -> None:
    files = run_into(tmp_path / "first", PARAMS, inputs)
    assert sorted(files) == ["metrics/report.md", *(f"plots/{name}" for name in PLOTS)]
    assert run_into(tmp_path / "second", PARAMS, inputs) == files
    assert run_into(tmp_path / "first", PARAMS, inputs) == files, "a second run over the first one's files"


def test_the_page_tells_all(tmp_path: Path, inputs: ReportInputs) -> None:
    page = run_into(tmp_path / "out", PARAMS, inputs)["metrics/report.md"].decode()
    for heading in ("# Results", *(f"## {name}" for name in SECTIONS)):
        assert f"{heading}\n" in page
    assert "36 test questions about 12 paragraphs" in page
    table = page.split("## Planned")[0]
    assert [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| ")][2:] == [
        *(f"| {variant}" for variant in VARIANTS),
        "| chance (a random span)",
    ]
    assert "![Exact match and F1](../plots/em_f1.png)" in page
    assert "| 25 % | 3.0 | 31.2 |" in page
    assert "| 25 % | +28.0 [+25.0, +31.0] |" in page
    assert "| test.questions | 36 |" in page
    assert "| processor | one of ours |" in page
    assert page.count("| Which ") == 4


def test_the_page_tells_of_few_paragraphs_and_of_inputs_without_labels(tmp_path: Path, inputs: ReportInputs) -> None:
    few = run_into(tmp_path / "few", PARAMS, inputs)["metrics/report.md"].decode()
    examples = [replace(each, context=f"{each.context} {n}") for n, each in enumerate(read_squad(inputs.questions))]
    write_squad(inputs.questions, examples)
    write(inputs.data, {"test": {"questions": len(examples)}, "unlabelled": {"cloze": 30}})
    page = run_into(tmp_path / "more", PARAMS, inputs)["metrics/report.md"].decode()
    assert "36 test questions about 36 paragraphs" in page
    assert ("So few paragraphs" in few, "So few paragraphs" in page) == (True, False)
    assert ("inputs without labels" in few, "inputs without labels" in page) == (False, True)


def test_the_page_tells_of_recovery_where_there_was_one(tmp_path: Path, inputs: ReportInputs) -> None:
    before = run_into(tmp_path / "before", PARAMS, inputs)["metrics/report.md"].decode()
    inputs.curve.write_text("macs_kept,fisher,fisher_recovered\n0.5,55.0,61.5\n", encoding="utf-8")
    after = run_into(tmp_path / "after", PARAMS, inputs)["metrics/report.md"].decode()
    assert ("; recovered: after" in before, "; recovered: after" in after) == (False, True)
    assert "| MACs kept | fisher | fisher recovered |" in after
    assert "| 50 % | 55.0 | 61.5 |" in after


def test_differences_are_those_of_the_predictions(tmp_path: Path, inputs: ReportInputs) -> None:
    run_into(tmp_path / "out", PARAMS, inputs)
    table = pd.read_csv(tmp_path / "out" / "plots" / "differences.csv").set_index("comparison")
    # The teacher misses 18 of 36, hard_label 12, baseline 9.
    assert table.loc["hard_label - teacher", "exact_match"] == pytest.approx(100 * 6 / 36, abs=1e-3)
    assert table.loc["baseline - hard_label", "f1"] == pytest.approx(100 * 3 / 36, abs=1e-3)
    examples = toy_examples()
    first, second = (
        score(examples, json.loads((inputs.predictions / f"{name}.json").read_text(encoding="utf-8"))).f1
        for name in ("baseline", "hard_label")
    )
    paragraphs = [example.context for example in examples]
    expected = paired_difference(first, second, paragraphs, resamples=PARAMS.resamples, seed=PARAMS.seed)
    found = table.loc["baseline - hard_label", ["f1", "f1_low", "f1_high"]].tolist()
    assert found == pytest.approx([expected.mean, expected.low, expected.high], abs=1e-3)


def test_timings_are_in_the_page_alone(tmp_path: Path, inputs: ReportInputs) -> None:
    slow = run_into(tmp_path / "slow", PARAMS, inputs)
    timing = {"latency_ms_p50": 99.0, "latency_ms_p95": 100.0, "questions_per_second": 1.0}
    write(inputs.latency, dict.fromkeys(VARIANTS, timing))
    fast = run_into(tmp_path / "fast", PARAMS, inputs)
    assert [name for name in slow if slow[name] != fast[name]] == ["metrics/report.md"]


def test_no_samples_leaves_a_header_and_no_text_of_the_questions(tmp_path: Path, inputs: ReportInputs) -> None:
    files = run_into(tmp_path / "out", replace(PARAMS, samples=0), inputs)
    assert files["plots/samples.csv"].decode() == f"id,question,gold,{','.join(VARIANTS)}\n"
    assert b"Which" not in files["metrics/report.md"]
    assert b"Sample predictions" not in files["metrics/report.md"]


def break_quality(inputs: ReportInputs) -> None:
    path = inputs.quality / "tuned.json"
    write(path, json.loads(path.read_text(encoding="utf-8")) | {"f1": 1.0})


def break_number(inputs: ReportInputs) -> None:
    path = inputs.quality / "tuned.json"
    write(path, json.loads(path.read_text(encoding="utf-8")) | {"macs": "many"})


def break_text(inputs: ReportInputs) -> None:
    path = inputs.predictions / "pruned.json"
    write(path, dict.fromkeys(json.loads(path.read_text(encoding="utf-8"))))


def break_ids(inputs: ReportInputs) -> None:
    write(inputs.predictions / "pruned.json", {"elsewhere": "text"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda inputs: (inputs.quality / "hard_label.json").unlink(), "quality/hard_label.json: no such file"),
        (lambda inputs: (inputs.predictions / "pruned.json").unlink(), "predictions/pruned.json: no such file"),
        (lambda inputs: inputs.data.write_text("{", encoding="utf-8"), "data.json: not JSON"),
        (lambda inputs: write(inputs.data, [1]), "data.json: holds a list"),
        (lambda inputs: write(inputs.latency, {"teacher": {}}), "latency.json"),
        (lambda inputs: [path.unlink() for path in inputs.histories.iterdir()], "loss: holds no training history"),
        (lambda inputs: (inputs.histories / "baseline.csv").write_text("step\n1\n"), "baseline.csv: no column 'epoch'"),
        (lambda inputs: (inputs.histories / "teacher.csv").write_text("a\n1\n1,2\n"), "teacher.csv: no whole table"),
        (lambda inputs: inputs.importance.write_text("a\n1\n1,2\n"), "tune_importance.csv: no table of knobs"),
        (lambda inputs: inputs.curve.unlink(), "curve.csv: no table of points; run the prune_curve stage"),
        (lambda inputs: inputs.curve.write_text(""), "curve.csv: no table of points; run the prune_curve stage"),
        (lambda inputs: inputs.gains.write_text("a\n1\n1,2\n"), "gains.csv: no table of differences"),
        (lambda inputs: inputs.curve.write_text("f1\n1\n"), "curve.csv: no column 'macs_kept'"),
        (lambda inputs: inputs.cuts.unlink(), "cuts.csv: no table of cuts; run the student_init stage"),
        (lambda inputs: inputs.cuts.write_text("cut\nfirst\n"), "cuts.csv: no column 'layers' with values"),
        (lambda inputs: inputs.search.unlink(), "tune.json: no such file"),
        (break_quality, "tuned: its quality file says EM"),
        (break_number, "tuned.json: macs is 'many'"),
        (break_ids, r"pruned\.json: not the answers to these \d+ questions"),
        (break_text, r"pruned\.json: the answer to question '.*' is None, wanted text"),
    ],
)
def test_refuses_what_does_not_fit_and_writes_nothing(
    tmp_path: Path, inputs: ReportInputs, spoil: object, message: str
) -> None:
    assert callable(spoil)
    spoil(inputs)
    with pytest.raises(InputError, match=message):
        run_into(tmp_path / "out", PARAMS, inputs)
    assert not (tmp_path / "out").exists()


def test_a_write_that_fails_leaves_the_old_report(
    tmp_path: Path, inputs: ReportInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = run_into(tmp_path / "out", PARAMS, inputs)
    write_bytes = Path.write_bytes

    def full_disk(path: Path, content: bytes) -> int:
        if path.name.startswith("samples.csv"):
            raise OSError(28, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(report.Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        run_into(tmp_path / "out", replace(PARAMS, seed=4, samples=2), inputs)
    assert written(tmp_path / "out") == old


@pytest.mark.parametrize(("key", "value"), [("resamples", 0), ("samples", -1)])
def test_parameters_are_checked(key: str, value: int) -> None:
    PARAMS.check()
    with pytest.raises(InputError, match=key):
        replace(PARAMS, **{key: value}).check()
