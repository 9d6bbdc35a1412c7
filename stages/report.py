"""Quality, predictions, speed and histories of all variants -> tables, charts and one page to read.

Every variant is set beside the one above it on the same questions, so that a gain can be told from noise: paired
bootstrap over paragraphs (Koehn 2004). The score of random spans is printed as the floor. Timings go into the page
alone; the plots repeat to the byte.
"""

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from stages.core.errors import clean_exit
from stages.core.params import load_params, require

CHANCE_DRAWS = 20  # random answers to each question: enough for one decimal from some hundred questions on


@dataclass(frozen=True)
class ReportParams:
    """The `report` section."""

    seed: int  # of the bootstrap, the random spans and the choice of samples
    resamples: int  # bootstrap resamples behind each interval; 1,000 or more to be read
    samples: int  # sample predictions to show side by side; 0 = none

    def check(self) -> None:
        """Vouch for ranges."""
        require(self.resamples >= 1, "resamples", self.resamples, "1 or more")
        require(self.samples >= 0, "samples", self.samples, "0 or more")


@dataclass(frozen=True)
class ReportInputs:
    """What the report reads."""

    questions: Path  # the test questions, SQuAD v1.1 JSON
    quality: Path  # folder of <variant>.json
    predictions: Path  # folder of <variant>.json, id to text
    latency: Path  # of the benchmark stage
    histories: Path  # folder of training histories, *.csv
    environment: Path  # of the benchmark stage
    curve: Path  # of the prune_curve stage
    gains: Path  # of the prune_curve stage
    cuts: Path  # of the student_init stage
    data: Path  # what prepare counted, JSON
    search: Path  # metrics of the tune stage, JSON
    importance: Path  # its table of knobs, CSV


def run(params: ReportParams, inputs: ReportInputs, *, out: Path, plots: Path) -> None:
    """Read and check everything, compare, draw, then write the page `out` and the files in `plots`."""
    from stages.core.data.examples import read_squad, sample
    from stages.core.qa.chance import chance_floor
    from stages.core.report import charts, page, tables
    from stages.core.report import inputs as read
    from stages.core.report.comparisons import compare_all
    from stages.core.report.cuts import cuts_section, read_cuts
    from stages.core.report.tuning import read_search, search_section
    from stages.core.report.variants import VARIANTS

    examples = read_squad(inputs.questions)
    paragraphs = [example.context for example in examples]
    quality, latency = read.read_quality(inputs.quality), read.read_latency(inputs.latency)
    predictions = {name: read.read_predictions(inputs.predictions / f"{name}.json", examples) for name in VARIANTS}
    scores = read.score_all(examples, predictions, quality)
    histories, data = read.read_histories(inputs.histories), read.read_json(inputs.data)
    curve, gains = read.read_curve(inputs.curve), read.read_gains(inputs.gains)
    environment = read.read_environment(inputs.environment)
    cuts = cuts_section(read_cuts(inputs.cuts))
    search = search_section(read_search(inputs.search, inputs.importance))

    differences = compare_all(scores, paragraphs, resamples=params.resamples, seed=params.seed)
    chance = chance_floor(examples, draws=CHANCE_DRAWS, seed=params.seed)
    shown = sample(examples, params.samples, params.seed) if params.samples else []
    samples = tables.samples_frame(shown, predictions)
    found = page.Findings(
        quality,
        latency,
        differences,
        chance,
        samples,
        curve,
        gains,
        environment,
        data,
        len(examples),
        len(set(paragraphs)),
        params.resamples,
    )

    pictures = {
        "Exact match and F1": ("em_f1.png", charts.em_f1_bars(quality, chance)),
        "Quality against size": ("quality_vs_size.png", charts.quality_vs_size(quality)),
        "F1 against MACs kept": ("prune_curve.png", charts.prune_curve(curve)),
        "Training loss": ("loss_curves.png", charts.loss_curves(histories)),
    }
    seen_from_page = Path(os.path.relpath(plots, out.parent))
    links = {caption: (seen_from_page / name).as_posix() for caption, (name, _) in pictures.items()}
    files = {plots / name: png for name, png in pictures.values()}
    files[plots / "quality.csv"] = tables.csv_bytes(tables.quality_frame(quality))
    files[plots / "differences.csv"] = tables.csv_bytes(tables.differences_frame(differences))
    files[plots / "samples.csv"] = tables.csv_bytes(samples)
    files[out] = page.write_page(found, links, cuts, search).encode()
    _write_all(files)


def _write_all(files: Mapping[Path, bytes]) -> None:
    """Write all files or none: only when every one lies complete beside its place are they renamed."""
    partials = {path: path.with_name(path.name + ".partial") for path in files}
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            partials[path].write_bytes(content)
        for path, partial in partials.items():
            partial.replace(path)
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)


def main() -> None:
    """Take paths from the command line and values from params.yaml."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [field.name for field in fields(ReportInputs)]
    for name in (*names, "out", "plots"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    paths = vars(parser.parse_args())
    inputs = ReportInputs(**{name: paths.pop(name) for name in names})
    run(load_params("report", ReportParams), inputs, **paths)


if __name__ == "__main__":
    with clean_exit():
        main()
