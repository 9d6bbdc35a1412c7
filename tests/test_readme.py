"""What the READMEs say of files and figures; that the commands of the first one run is shown in test_dvc.py."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd
import pytest

from stages.core.report.variants import VARIANTS
from tests.toy_repository import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PROFILES = sorted(path.parent.name for path in ROOT.glob("profiles/*/README.md"))

Triple = tuple[float, float, float]  # a figure and the bounds of its interval

# A figure with its interval, as tables and sentences have them.
WITH_INTERVAL = re.compile(
    r"([+-]?\d+(?:\.\d+)?)(?:\s+F1|\s+EM|\s+points|\s*%)?\s+\[([+-]?\d+(?:\.\d+)?),\s+([+-]?\d+(?:\.\d+)?)\]"
)
# Figures of runs of which nothing else was kept, or of a record that an older commit holds; their READMEs say so.
NOT_KEPT = {
    "squadshifts-cpu": {(-2.7, -3.4, -1.9)},
    "squadshifts-gpu-minilm": {
        (-10.4, -11.1, -9.8),
        (0.2, -1.4, 1.7),
        (85.9, 85.2, 86.5),
        (-1.5, -1.9, -1.1),
        (87.1, 86.5, 87.7),
        (-0.3, -0.7, 0.0),
        (86.2, 85.6, 86.9),
        (-1.2, -1.6, -0.7),
    },
}


@pytest.mark.parametrize("folder", [Path(), *(Path("profiles") / name for name in PROFILES)], ids=str)
def test_files_that_a_readme_links_to_exist(folder: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / folder / "README.md").read_text(encoding="utf-8"))
    missing = [link for link in links if not link.startswith("http") and not (ROOT / folder / link).exists()]
    assert not missing


@pytest.mark.parametrize("name", ["", *PROFILES])
def test_figures_with_intervals_are_those_of_the_profiles_files(name: str) -> None:
    """Each figure of a README is, rounded as it stands there, one of a metrics file or table of a profile.

    Of its own profile or of one that the README links to; of the first README, which has a table of its own, what
    stands behind that.
    """
    folder = ROOT / "profiles" / name if name else ROOT
    text = (folder / "README.md").read_text(encoding="utf-8").split("<!-- end of results -->")[-1]
    linked = {other for other in PROFILES if re.search(rf"[(/]{other}/", text)} | ({name} - {""})
    known = [triple for other in linked for triple in triples_of(ROOT / "profiles" / other)]
    shown = {match.groups() for match in WITH_INTERVAL.finditer(text)}
    assert shown
    strange = {texts for texts in shown if not any(reads_as(texts, triple) for triple in known)}
    assert {tuple(float(each) for each in texts) for texts in strange} == NOT_KEPT.get(name, set())


def reads_as(texts: tuple[str, ...], triple: Triple) -> bool:
    """Whether a figure and its bounds, rounded, are the texts; what has no sign may be told of the other way round."""
    decimals = len(texts[0].partition(".")[2])
    room = 0.5 * 10**-decimals + 1e-3  # the files themselves are rounded to two or three decimals
    first, low, high = triple
    ways = [triple] if texts[0][0] in "+-" else [triple, (-first, -high, -low)]
    return any(all(abs(float(text) - value) <= room for text, value in zip(texts, way, strict=True)) for way in ways)


def test_figures_are_found_across_the_end_of_a_line() -> None:
    found = WITH_INTERVAL.findall(
        "keeps 97.4 %\n[96.8, 97.9] of it, gains +1.2\n  F1 [0.3,\n2.0] and 3 [2, 4]; [1, 2] alone"
    )
    assert found == [("97.4", "96.8", "97.9"), ("+1.2", "0.3", "2.0"), ("3", "2", "4")]


@pytest.mark.parametrize(
    ("texts", "is_so"),
    [
        (("+1.2", "0.3", "2.0"), True),
        (("1.2", "0.3", "2.0"), True),
        (("-1.2", "-2.0", "-0.3"), False),
        (("1.3", "0.3", "2.0"), False),
        (("1.2", "0.3", "2.1"), False),
        (("1.23", "0.34", "1.99"), True),
    ],
)
def test_a_figure_is_read_to_its_last_digit_and_with_its_sign(texts: tuple[str, ...], is_so: bool) -> None:
    assert reads_as(texts, (1.234, 0.341, 1.987)) == is_so


def triples_of(folder: Path) -> Iterator[Triple]:
    """Yield every figure of a folder's metrics and tables that has bounds beside it."""
    for path in folder.rglob("*.json"):
        yield from _bounded(json.loads(path.read_text(encoding="utf-8")))
    for path in folder.rglob("*.csv"):
        for row in pd.read_csv(path).to_dict("records"):
            yield from _bounded({str(key): value for key, value in row.items()})


def _bounded(values: Mapping[str, object]) -> Iterator[Triple]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _bounded(value)
        elif f"{key}_low" in values and f"{key}_high" in values:
            figure, low, high = (float(str(each)) for each in (value, values[f"{key}_low"], values[f"{key}_high"]))
            yield figure, low, high


@pytest.mark.record
def test_the_table_of_results_is_that_of_the_report() -> None:
    shown = README.split("<!-- results of the default run: rows of metrics/report.md -->")[1]
    shown = shown.split("<!-- end of results -->")[0].strip()
    report = (ROOT / "metrics/report.md").read_text(encoding="utf-8")
    reported = {untimed(line) for line in report.splitlines() if line.startswith("|")}
    rows = [line for line in shown.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(VARIANTS) + 1
    assert {untimed(line) for line in rows} <= reported


@pytest.mark.record
def test_sentences_on_the_default_run_have_its_figures() -> None:
    """What the first README tells of the run in words; another record wants other words."""
    told = " ".join(README.split())
    data = json.loads((ROOT / "metrics/data.json").read_text(encoding="utf-8"))
    search = json.loads((ROOT / "metrics/tune.json").read_text(encoding="utf-8"))["search"]
    gain = pd.read_csv(ROOT / "plots/differences.csv").set_index("comparison")["f1_low"]
    words = ["none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]

    def spelt(count: int) -> str:
        return words[count] if count < len(words) else str(count)

    sentences = [
        f"Trained on {data['train']['questions']:,} questions",
        f"on {data['unlabelled']['cloze']:,} cloze questions made of the training paragraphs",
        f"tested on {data['test']['questions']} questions of other articles",
        f"The search stopped {spelt(search['trials_pruned'])} of its {spelt(search['trials'])} trials early.",
        f"in full it has {search['best_full_f1']:.1f} F1 on dev, the default {search['default_full_f1']:.1f}.",
        f"`tuned` is the mean of these {spelt(search['averaged'])} students. It has {search['tuned_f1']:.1f},",
    ]
    assert [each for each in sentences if each not in told] == []
    assert "`distilled` over `hard_label` does." in told
    assert gain["distilled - hard_label"] > 0.1
    assert "`tuned` over `baseline` and `finetuned` over `pruned` do by a hair" in told
    assert all(0 < gain[each] < 0.1 for each in ("tuned - baseline", "finetuned - pruned"))
    assert "`baseline` over `hard_label` does not" in told
    assert gain["baseline - hard_label"] <= 0


def untimed(row: str) -> str:
    """A row of the table of results without its two last cells, which show timings and differ from run to run."""
    return "|".join(row.split("|")[:-3])


def test_the_table_of_stages_names_them_all() -> None:
    named = re.findall(r"^\| `(\w+)` \|", README, flags=re.MULTILINE)
    scripts = {path.stem for path in Path(ROOT / "stages").glob("*.py")} - {"__init__"}
    assert set(named) == scripts
