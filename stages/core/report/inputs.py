"""What the report is made of, read and checked before anything is computed."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from stages.core.data.examples import Example
from stages.core.errors import InputError
from stages.core.params import read_yaml
from stages.core.qa.scoring import Scores, score
from stages.core.report.variants import VARIANTS

# Quality files are rounded; more than this apart, in percent, they and the predictions are of different runs.
_TOLERANCE = 0.01

_HISTORY_COLUMNS = ("step", "epoch", "learning_rate", "loss")


@dataclass(frozen=True)
class Quality:
    """metrics/quality/<variant>.json: scores in percent with 95 % intervals, and what the model costs."""

    exact_match: float
    exact_match_low: float
    exact_match_high: float
    f1: float
    f1_low: float
    f1_high: float
    parameters: float
    macs: float
    size_mb: float
    questions: float


@dataclass(frozen=True)
class Latency:
    """One variant of metrics/latency.json."""

    latency_ms_p50: float
    latency_ms_p95: float
    questions_per_second: float


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file; raises InputError where there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run the stage that writes it") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); run the stage that writes it again") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds a {type(values).__name__}, not a mapping; run the stage that writes it again")
    return values


def read_quality(folder: Path) -> dict[str, Quality]:
    """Return the quality of every variant; raises InputError if one is missing."""
    paths = {variant: folder / f"{variant}.json" for variant in VARIANTS}
    return {variant: Quality(**_numbers(Quality, read_json(path), f"{path}")) for variant, path in paths.items()}


def read_latency(path: Path) -> dict[str, Latency]:
    """Return the speed of every variant; raises InputError if one is missing."""
    values = read_json(path)
    for variant in VARIANTS:
        if not isinstance(values.get(variant), dict):
            raise InputError(f"{path}: no variant '{variant}'; run the benchmark stage")
    return {variant: Latency(**_numbers(Latency, values[variant], f"{path}: {variant}")) for variant in VARIANTS}


def read_predictions(path: Path, examples: Sequence[Example]) -> dict[str, str]:
    """Return a model's predictions, id to text; raises InputError unless they are one text for each question."""
    predictions = read_json(path)
    if set(predictions) != {each.id for each in examples}:
        raise InputError(f"{path}: not the answers to these {len(examples)} questions; evaluate the model on them")
    for key, text in predictions.items():
        if not isinstance(text, str):
            raise InputError(f"{path}: the answer to question {key!r} is {text!r}, wanted text; '' is no answer")
    return predictions


def score_all(
    examples: Sequence[Example], predictions: Mapping[str, Mapping[str, str]], quality: Mapping[str, Quality]
) -> dict[str, Scores]:
    """Return the per-question scores of every variant; raises InputError if they are not those of its quality file."""
    scores = {variant: score(examples, texts) for variant, texts in predictions.items()}
    for variant, found in scores.items():
        told = (quality[variant].exact_match, quality[variant].f1)
        means = (found.mean_exact_match, found.mean_f1)
        if quality[variant].questions != len(examples) or not _close(told, means):
            raise InputError(
                f"{variant}: its quality file says EM {told[0]}, F1 {told[1]}"
                f" on {quality[variant].questions:.0f} questions, its predictions score {means[0]:.4f}, {means[1]:.4f}"
                f" on {len(examples)}; run evaluate again"
            )
    return scores


def read_histories(folder: Path) -> dict[str, pd.DataFrame]:
    """Return the training histories of a folder by file name: variants first, in their order, then the others."""
    order = {name: number for number, name in enumerate(VARIANTS)}
    paths = sorted(folder.glob("*.csv"), key=lambda path: (order.get(path.stem, len(order)), path.stem))
    if not paths:
        raise InputError(f"{folder}: holds no training history (*.csv); run the training stages")
    histories = {path.stem: _read_history(path) for path in paths}
    for name, history in histories.items():
        missing = [column for column in _HISTORY_COLUMNS if column not in history.columns]
        if missing:
            raise InputError(f"{folder / name}.csv: no column '{missing[0]}'; run the stage that writes it again")
    return histories


def read_curve(path: Path) -> pd.DataFrame:
    """Return plots/prune_curve.csv; raises InputError where it is missing or has no share of MACs."""
    try:
        curve = pd.read_csv(path)
    except (FileNotFoundError, ValueError):
        raise InputError(f"{path}: no table of points; run the prune_curve stage") from None
    if "macs_kept" not in curve or curve.empty:
        raise InputError(f"{path}: no column 'macs_kept' with values; run the prune_curve stage again")
    return curve


def read_gains(path: Path) -> pd.DataFrame:
    """Return plots/prune_curve_differences.csv; raises InputError where it is missing or lacks a column."""
    try:
        gains = pd.read_csv(path)
    except (FileNotFoundError, ValueError):
        raise InputError(f"{path}: no table of differences; run the prune_curve stage") from None
    for column in ("macs_kept", "recovered", "over", "f1", "f1_low", "f1_high"):
        if column not in gains:
            raise InputError(f"{path}: no column '{column}'; run the prune_curve stage again")
    return gains


def read_environment(path: Path) -> dict[str, Any]:
    """Return metrics/environment.yaml; raises InputError where it is missing or no mapping."""
    values = read_yaml(path) if path.exists() else None
    if not isinstance(values, dict) or "device" not in values:
        raise InputError(f"{path}: does not say on what device models were timed; run the benchmark stage")
    return values


def _read_history(path: Path) -> pd.DataFrame:
    """Return a history, without rows where nothing was trained, as with a ready checkpoint. Raises InputError."""
    try:
        history = pd.read_csv(path)
        return history if len(history) else history.astype("float64")
    except ValueError as error:
        raise InputError(f"{path}: no whole table ({error}); run the stage that writes it again") from None


def _numbers(schema: type, values: Mapping[str, Any], place: str) -> dict[str, float]:
    """Return the fields of `schema` out of `values`; each must be a finite number."""
    found = {field.name: values.get(field.name) for field in fields(schema)}
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"{place}: {name} is {value!r}, wanted a number; run the stage that writes it again")
    return {name: float(value) for name, value in found.items() if value is not None}


def _close(first: Sequence[float], second: Sequence[float]) -> bool:
    return all(abs(one - other) <= _TOLERANCE for one, other in zip(first, second, strict=True))
