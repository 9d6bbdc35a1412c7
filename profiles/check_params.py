"""Every section of params.yaml read as the stages will read it, before hours are spent on the stages before them.

A stage refuses a bad value before it computes anything, but the last stage may come hours after the first. This also
looks for the models that are named, and compares the layers that are asked for with those that they have. What only
computing shows, a budget that cannot be met or a storage out of reach, is left to the stages.

    python -m profiles.check_params
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.benchmark import BenchmarkParams
from stages.cache_teacher import CacheTeacherParams
from stages.core.data.settings import WindowsParams
from stages.core.errors import InputError, clean_exit
from stages.core.models.source import EncoderParams, resolve_model
from stages.core.params import load_params, read_yaml
from stages.core.pruning.settings import PruneParams
from stages.core.qa.decoding import DecodeParams
from stages.core.runtime import RuntimeParams
from stages.core.training.settings import BaselineParams, DistilParams, FinetuneParams, StudentParams
from stages.core.training.space import space_around
from stages.evaluate import EvaluateParams
from stages.export import ExportParams
from stages.prepare import DataParams, UnlabelledParams
from stages.prune_curve import PruneCurveParams
from stages.prune_teacher import PruneTeacherParams
from stages.report import ReportParams
from stages.student_init import StudentInitParams
from stages.teacher import TeacherParams
from stages.tune import TuneParams

SECTIONS: Mapping[str, type[Any]] = {
    "runtime": RuntimeParams,
    "encoder": EncoderParams,
    "data": DataParams,
    "unlabelled": UnlabelledParams,
    "windows": WindowsParams,
    "decode": DecodeParams,
    "teacher": TeacherParams,
    "cache_teacher": CacheTeacherParams,
    "student": StudentParams,
    "baseline": BaselineParams,
    "student_init": StudentInitParams,
    "distil": DistilParams,
    "tune": TuneParams,
    "prune": PruneParams,
    "prune_curve": PruneCurveParams,
    "finetune": FinetuneParams,
    "prune_teacher": PruneTeacherParams,
    "export": ExportParams,
    "evaluate": EvaluateParams,
    "benchmark": BenchmarkParams,
    "report": ReportParams,
}
DEPTH, WIDTH = ("num_hidden_layers", "n_layers"), ("hidden_size", "dim")  # the second is DistilBERT's name


def faults(path: Path, *, models: bool = True) -> Iterator[str]:
    """Yield a line for each section that its stage would refuse; with `models`, what `faults_of_models` yields too."""
    params: dict[str, Any] = {}
    for section in read_sections(path):
        if section not in SECTIONS:
            yield f"{path}: {section}: no such section; known: {', '.join(SECTIONS)}"
    for section, schema in SECTIONS.items():
        try:
            params[section] = load_params(section, schema, path)
        except InputError as error:
            yield str(error)
    if {"distil", "tune"} <= set(params):
        try:
            space_around(params["distil"], params["tune"].space)
        except InputError as error:
            yield str(error).replace("params.yaml", str(path), 1)
    if models:
        try:
            yield from faults_of_models(params, path)
        except InputError as error:  # a config.json that cannot be read; what was found until then stands
            yield str(error)


def read_sections(path: Path) -> list[str]:
    """Return the names of a parameter file's sections; raises InputError where it has none."""
    document = read_yaml(path)
    if not isinstance(document, dict):
        raise InputError(f"{path}: no sections here; see the shipped params.yaml")
    return [str(name) for name in document]


def faults_of_models(params: Mapping[str, Any], path: Path) -> Iterator[str]:
    """Yield a line for each model that is not there, and for each key that asks for layers that a model does not have.

    Only sections in `params` are looked at. A config that leaves a number to its class is left to the stages; one that
    is not JSON raises InputError.
    """
    named, found = [], dict[str, Path]()
    if "encoder" in params:
        named.append(("teacher", params["encoder"].model, params["encoder"].sha256))
    if "cache_teacher" in params:
        named += [(f"other {number}", spec, "") for number, spec in enumerate(params["cache_teacher"].others)]
    if "student" in params and params["student"].encoder:
        named.append(("origin", params["student"].encoder, params["student"].sha256))
    for role, spec, sha256 in named:
        try:
            found[role] = resolve_model(spec, sha256)
        except InputError as error:
            yield str(error)
    if "student" not in params or "teacher" not in found:
        return
    if not params["student"].encoder:
        found["origin"] = found["teacher"]
    if "origin" in found:
        cuts = {"student.layers": params["student"].layers}
        if "student_init" in params:
            cuts |= {f"student_init.candidates.{key}": cut for key, cut in params["student_init"].candidates.items()}
        yield from faults_of_cuts(cuts, path, found["origin"])
        if {"distil", "tune"} <= set(params):
            yield from faults_of_states(params, path, found["teacher"], found["origin"])


def faults_of_cuts(cuts: Mapping[str, Sequence[int]], path: Path, origin: Path) -> Iterator[str]:
    """Yield a line for each key whose layers are beyond those of the model that is cut, `origin`."""
    if (depth := figure(origin, DEPTH)) is not None:
        for key, cut in cuts.items():
            if max(cut) >= depth:
                yield f"{path}: {key} is {list(cut)}, wanted numbers from 0 to {depth - 1}: {origin} has {depth} layers"


def faults_of_states(params: Mapping[str, Any], path: Path, teacher: Path, origin: Path) -> Iterator[str]:
    """Yield a line for each side of `distil` that aligns states which the model does not have.

    Likewise for heads of relations that do not divide the models' widths.
    """
    layers, distil = params["student"].layers, params["distil"]
    if distil.needs_teacher(*params["tune"].space):
        for whose, states, depth in (
            ("student", distil.student_layers, len(layers)),
            ("teacher", distil.teacher_layers, figure(teacher, DEPTH)),
        ):
            if depth is not None and not 0 <= min(states) <= max(states) <= depth:
                wanted = f"numbers from 0, its embeddings, to {depth}, its last"
                yield f"{path}: distil.{whose}_layers is {list(states)}, wanted {wanted}"
    if distil.relation_weight or "relation_weight" in params["tune"].space:
        for folder in dict.fromkeys([origin, teacher]):
            if (width := figure(folder, WIDTH)) and width % distil.relation_heads:
                heads = distil.relation_heads
                yield f"{path}: distil.relation_heads is {heads}, wanted a divisor of {width}, the width of {folder}"


def figure(folder: Path, names: tuple[str, ...]) -> int | None:
    """Return the whole number that a model's config.json has under one of these names, None where it has none."""
    try:
        fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{folder / 'config.json'}: not valid JSON ({error})") from error
    found = [fields[name] for name in names if isinstance(fields, dict) and type(fields.get(name)) is int]
    return found[0] if found else None


def main() -> None:
    """Take the file from the command line; tell of all that is wrong with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")
    parser.add_argument("--without-models", action="store_true", help="look at the sections alone")
    options = parser.parse_args()
    if found := list(faults(options.params, models=not options.without_models)):
        raise InputError("\n".join(found))
    print(f"{options.params}: nothing wrong in its {len(SECTIONS)} sections")


if __name__ == "__main__":
    with clean_exit():
        main()
