"""Read one section of a parameter file into a frozen dataclass that vouches for its keys and types.

DVC writes `3e-05` where a user typed `-S x=3e-5`; YAML 1.1, which PyYAML speaks, takes that for a string. The loader
here reads floats as YAML 1.2 does, so that a file means the same before and after DVC has rewritten it.
"""

import dataclasses
import math
import re
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

from stages.core.errors import InputError

T = TypeVar("T")

SEEDS = 2**32  # how many there are that the generators of Python, numpy, torch and Optuna all take


class _Yaml12Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2's core schema, and no key twice in a mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping; raises yaml.YAMLError where a key stands twice."""
        keys = [self.construct_object(key) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands here twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Yaml12Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Yaml12Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)
_Yaml12Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


def read_yaml(path: Path) -> Any:
    """Parse one YAML file; raises InputError where it is missing, not UTF-8 or not YAML."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Yaml12Loader)
    except FileNotFoundError:
        raise InputError(f"{path}: no such parameter file; run from the repository root") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None


def load_params(section: str, schema: type[T], path: Path = Path("params.yaml")) -> T:
    """Return `path`'s section as an instance of the dataclass `schema`.

    A `schema` with a `check()` method is asked to vouch for ranges; a `seed` has the same range in all of them. Raises
    InputError, naming file, key and value, for a missing section and for unknown, missing and mistyped keys.
    """
    document = read_yaml(path)
    if not isinstance(document, dict) or not isinstance(document.get(section), dict):
        raise InputError(f"{path}: section '{section}' is missing or not a mapping; see the shipped params.yaml")
    return _build(schema, document[section], f"{path}: {section}")


def require(condition: bool, key: str, value: object, wanted: str) -> None:
    """Raise an InputError for `key` when `condition` does not hold; for use in `check()`."""
    if not condition:
        raise InputError(f"{key} is {value!r}, wanted {wanted}")


def _build(schema: type[T], values: dict[str, Any], where: str) -> T:
    hints = typing.get_type_hints(schema)
    names = [field.name for field in dataclasses.fields(schema)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise InputError(f"{where}.{key}: unknown key (value {values[key]!r}); known: {', '.join(names)}")
    for name in names:
        if name not in values:
            raise InputError(f"{where}.{name}: missing; add it, as in the shipped params.yaml")
    record = schema(**{name: _convert(values[name], hints[name], f"{where}.{name}") for name in names})
    if "seed" in names and not 0 <= (seed := record.seed) < SEEDS:  # type: ignore[attr-defined]
        raise InputError(f"{where}.seed is {seed}, wanted 0 up to, not including, 2**32, as every generator takes them")
    check = getattr(record, "check", None)
    if check is not None:
        try:
            check()
        except InputError as error:
            raise InputError(f"{where}.{error}") from None
    return record


def _convert(value: Any, wanted: Any, where: str) -> Any:
    """Return `value` as type `wanted`; whole numbers pass as floats, nothing else is bent.

    A mapping becomes a dict of `wanted`'s item type, in the file's order, or a dataclass, as a section does.
    """
    if typing.get_origin(wanted) is tuple and isinstance(value, list):
        item = typing.get_args(wanted)[0]
        return tuple(_convert(each, item, f"{where}[{number}]") for number, each in enumerate(value))
    if typing.get_origin(wanted) is dict and isinstance(value, dict):
        item = typing.get_args(wanted)[1]
        for key in value:
            if not isinstance(key, str):
                raise InputError(f"{where}: key {key!r} is a {type(key).__name__}, wanted text; put it in quotes")
        return {key: _convert(each, item, f"{where}.{key}") for key, each in value.items()}
    if dataclasses.is_dataclass(wanted) and isinstance(wanted, type) and isinstance(value, dict):
        return _build(wanted, value, where)
    if isinstance(wanted, types.UnionType):
        if value is None and type(None) in typing.get_args(wanted):
            return None
        (wanted,) = (each for each in typing.get_args(wanted) if each is not type(None))
    if wanted is float and type(value) is int:
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where} is {value}, wanted a finite number")
    if isinstance(wanted, type) and type(value) is wanted:
        return value
    named = {tuple: "list", dict: "mapping"}.get(typing.get_origin(wanted) or wanted)
    name = "mapping" if dataclasses.is_dataclass(wanted) else named or getattr(wanted, "__name__", str(wanted))
    raise InputError(f"{where}: {value!r} is a {type(value).__name__}, wanted {name}")
