"""The one page to read: metrics/report.md."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from stages.core.qa.chance import ChanceFloor
from stages.core.report import tables
from stages.core.report.comparisons import PLANNED, Difference
from stages.core.report.inputs import Latency, Quality

SPEED = (
    "Forward passes only, each right behind an untimed one of the same model on the same input, in the environment"
    " named at the end of this page: no tokenizing, no search for the span."
    " `pruned` and `finetuned` are one network with other weights, and likewise the four students: how far their times"
    " lie apart is what the measurement cannot tell."
)
DATA = (
    "`length` is in tokens a window; `oracle_f1` is what the gold spans that the windows hold whole would score, cut to"
    " `decode.max_answer_length` tokens, and"
    " `labels_decoded_percent` how many of these spans turn back into the gold answer."
)

# Of fewer clusters a bootstrap's interval holds the truth clearly less often than it says.
FEW_PARAGRAPHS = 20


@dataclass(frozen=True)
class Findings:
    """All that the page tells."""

    quality: Mapping[str, Quality]
    latency: Mapping[str, Latency]
    differences: Mapping[tuple[str, str], Difference]
    chance: ChanceFloor
    samples: pd.DataFrame  # as plots/samples.csv; may be empty
    curve: pd.DataFrame  # as plots/prune_curve.csv
    gains: pd.DataFrame  # as plots/prune_curve_differences.csv
    environment: Mapping[str, object]  # as metrics/environment.yaml
    data: Mapping[str, object]  # metrics/data.json
    questions: int
    paragraphs: int
    resamples: int


def write_page(found: Findings, charts: Mapping[str, str], *sections_between: str) -> str:
    """Return the page as Markdown; `charts` maps a caption to the path of its picture, seen from the page.

    `sections_between`, Markdown each, come before the sample predictions.
    """
    sections = [
        f"# Results\n\n{_introduction(found)}\n",
        tables.results_table(
            found.quality,
            found.latency,
            found.differences,
            found.chance,
            on_cpu=found.environment.get("device") == "cpu",
        ),
        "## Planned comparisons\n",
        f"{_planned_sentence(found.data)}\n",
        tables.planned_table(found.differences),
        "## Charts\n",
        *(f"![{caption}]({path})\n" for caption, path in charts.items()),
        "## Pruning\n",
        f"{_curve_sentence(found.curve)}\n",
        tables.curve_table(found.curve),
        "F1 of Fisher scores in rounds with repair, less that of the other criterion, paired by question:\n",
        tables.gains_table(found.gains),
        "## Speed\n",
        f"{SPEED}\n",
        tables.speed_table(found.latency),
        *sections_between,
        *_sample_section(found.samples),
        "## Data\n",
        f"{DATA}\n",
        tables.flat_table(found.data),
        "## Environment\n",
        "Where the models were timed, and what training takes there. It is the last stage but one: what came before may"
        " have run elsewhere.\n",
        tables.flat_table(found.environment),
    ]
    return "\n".join(sections)


def _introduction(found: Findings) -> str:
    few = (
        f" So few paragraphs make them too narrow: {FEW_PARAGRAPHS} or more are wanted."
        if found.paragraphs < FEW_PARAGRAPHS
        else ""
    )
    return (
        f"Scores on {found.questions:,} test questions about {found.paragraphs:,} paragraphs, in percent, by the"
        " official SQuAD v1.1 definition. Brackets hold 95 % bootstrap intervals"
        f" (paragraphs resampled whole, for differences {found.resamples:,} times). They tell how far a score would"
        f" move with other test questions, not with another training seed.{few} Differences are paired: both models"
        " answer the same questions."
        " MACs are the multiply-accumulates of one forward pass at the test set's mean length; latency is that of one"
        " question at a time. Parameters and MACs of int8 are those of the network that it holds in eight bits; its"
        " size is that of the file that ONNX Runtime runs, its latency that of the CPU."
    )


def _planned_sentence(data: Mapping[str, object]) -> str:
    unlabelled = (
        " `hard_label` sees labelled windows alone, for as many updates as `baseline`; the other students learn from"
        " the inputs without labels too, so what these give is in their differences from it."
        if "unlabelled" in data
        else ""
    )
    return (
        f"First minus second, paired by question; the same {len(PLANNED)} comparisons for every run. An interval that"
        " leaves out zero says that the difference would stand on other test questions, one interval taken by itself:"
        " they are not corrected for their number. All models come from one run; what another seed or processor"
        f" would change is not in the intervals, and can be as large as the smaller differences here.{unlabelled}"
    )


def _curve_sentence(curve: pd.DataFrame) -> str:
    sentence = (
        "Dev F1 of the tuned student pruned to a share of its MACs, without any training in between: by magnitude and"
        " by Fisher scores all at once, and by Fisher scores in the rounds of `prune`, with its least-squares repair"
        " after each (`prune.rounds`, `prune.repair_windows`)"
    )
    if any(str(name).endswith("_recovered") for name in curve.columns):
        sentence += "; recovered: after a short training under the teacher, the same for every point"
    return f"{sentence}."


def _sample_section(samples: pd.DataFrame) -> list[str]:
    if samples.empty:
        return []
    return [
        "## Sample predictions\n",
        f"{len(samples)} test questions, drawn by seed, not picked. A slash stands between gold answers that differ.\n",
        tables.samples_table(samples),
    ]
