"""A section of a parameter file becomes a record of the right types, or one line that says what is wrong and where."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from stages.core.errors import InputError
from stages.core.params import load_params, read_yaml, require


@dataclass(frozen=True)
class Knobs:
    seed: int
    rate: float
    device: str
    fast: bool
    layers: tuple[int, ...]
    bounds: tuple[float, ...]
    limit: int | None

    def check(self) -> None:
        require(self.rate > 0, "rate", self.rate, "above 0")


SOUND = {
    "seed": "13",
    "rate": "0.5",
    "device": "auto",
    "fast": "true",
    "layers": "[1, 3]",
    "bounds": "[1, 2.5]",
    "limit": "null",
}


def write(folder: Path, **scalars: str) -> Path:
    """A parameter file whose section `knobs` is sound but for `scalars`, written as they stand."""
    path = folder / "params.yaml"
    lines = [f"  {key}: {scalar}" for key, scalar in {**SOUND, **scalars}.items()]
    path.write_text("\n".join(["knobs:", *lines, ""]), encoding="utf-8")
    return path


def refusal(path: Path, section: str = "knobs") -> str:
    """The message `load_params` refuses `path` with, checked to be one line."""
    with pytest.raises(InputError) as caught:
        load_params(section, Knobs, path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_sound_section_becomes_a_record(tmp_path: Path) -> None:
    assert load_params("knobs", Knobs, write(tmp_path)) == Knobs(13, 0.5, "auto", True, (1, 3), (1.0, 2.5), None)


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("3e-05", 3e-5),
        ("3e-5", 3e-5),
        ("3E5", 3e5),
        ("1e+3", 1e3),
        ("2.0e-4", 2e-4),
        ("2.e-4", 2e-4),
        (".5", 0.5),
        ("+1.5", 1.5),
        ("4", 4.0),
    ],
)
def test_float_is_read_as_in_yaml_1_2(scalar: str, value: float, tmp_path: Path) -> None:
    rate = load_params("knobs", Knobs, write(tmp_path, rate=scalar)).rate
    assert type(rate) is float
    assert rate == value


@pytest.mark.parametrize("scalar", ["3e-5", "4", "0.25", "1e-7"])
def test_float_set_through_dvc_reads_the_same(scalar: str, tmp_path: Path) -> None:
    path = write(tmp_path)
    apply_overrides(path, [f"knobs.rate={scalar}"])
    assert load_params("knobs", Knobs, path).rate == float(scalar)


def test_dvc_writes_the_float_that_yaml_1_1_takes_for_a_string(tmp_path: Path) -> None:
    path = write(tmp_path)
    apply_overrides(path, ["knobs.rate=3e-5"])
    assert "rate: 3e-05" in path.read_text()


@pytest.mark.parametrize("scalar", ["yes", "no", "on", "off", "12:30:45", "2024-01-31", "1_000", "0x1f", "e5", "1e"])
def test_what_only_yaml_1_1_converts_stays_text(scalar: str, tmp_path: Path) -> None:
    assert load_params("knobs", Knobs, write(tmp_path, device=scalar)).device == scalar


@pytest.mark.parametrize("seed", ["-1", "4294967296"])
def test_a_seed_that_some_generator_does_not_take_is_refused(seed: str, tmp_path: Path) -> None:
    assert f"knobs.seed is {seed}, wanted 0 up to, not including, 2**32" in refusal(write(tmp_path, seed=seed))
    assert load_params("knobs", Knobs, write(tmp_path, seed="4294967295")).seed == 2**32 - 1


def test_number_with_a_leading_zero_is_decimal(tmp_path: Path) -> None:
    assert load_params("knobs", Knobs, write(tmp_path, seed="013")).seed == 13


@pytest.mark.parametrize(
    ("key", "scalar", "wanted"),
    [
        ("seed", "true", "knobs.seed: True is a bool, wanted int"),
        ("seed", "3.0", "knobs.seed: 3.0 is a float, wanted int"),
        ("seed", "", "knobs.seed: None is a NoneType, wanted int"),
        ("seed", "[1]", "knobs.seed: [1] is a list, wanted int"),
        ("rate", "hot", "knobs.rate: 'hot' is a str, wanted float"),
        ("rate", "'0.5'", "knobs.rate: '0.5' is a str, wanted float"),
        ("rate", "false", "knobs.rate: False is a bool, wanted float"),
        ("rate", ".nan", "knobs.rate: '.nan' is a str, wanted float"),
        ("device", "1", "knobs.device: 1 is a int, wanted str"),
        ("fast", "1", "knobs.fast: 1 is a int, wanted bool"),
        ("fast", "yes", "knobs.fast: 'yes' is a str, wanted bool"),
        ("layers", "1", "knobs.layers: 1 is a int, wanted list"),
        ("layers", "{a: 1}", "knobs.layers: {'a': 1} is a dict, wanted list"),
        ("layers", "[1, true]", "knobs.layers[1]: True is a bool, wanted int"),
        ("bounds", "[low, 2.0]", "knobs.bounds[0]: 'low' is a str, wanted float"),
        ("limit", "many", "knobs.limit: 'many' is a str, wanted int"),
        ("limit", "true", "knobs.limit: True is a bool, wanted int"),
    ],
)
def test_mistyped_value_is_named_with_file_and_key(key: str, scalar: str, wanted: str, tmp_path: Path) -> None:
    path = write(tmp_path, **{key: scalar})
    assert refusal(path) == f"{path}: {wanted}"


def test_optional_value_may_be_given(tmp_path: Path) -> None:
    assert load_params("knobs", Knobs, write(tmp_path, limit="5")).limit == 5


def test_unknown_key_is_named_with_its_value_and_the_known_ones(tmp_path: Path) -> None:
    path = write(tmp_path, temperatur="4")
    known = ", ".join(SOUND)
    assert refusal(path) == f"{path}: knobs.temperatur: unknown key (value 4); known: {known}"


def test_missing_key_is_named(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text().replace("  rate: 0.5\n", ""))
    assert refusal(path).startswith(f"{path}: knobs.rate: missing")


def test_check_speaks_with_file_section_and_key(tmp_path: Path) -> None:
    path = write(tmp_path, rate="-1e-3")
    assert refusal(path) == f"{path}: knobs.rate is -0.001, wanted above 0"


@pytest.mark.parametrize("text", ["", "other: 1\n", "knobs:\n", "knobs: 3\n", "- knobs\n", "knobs:\n- seed\n"])
def test_missing_section_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    assert refusal(path).startswith(f"{path}: section 'knobs' is missing or not a mapping")


def test_missing_file_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "params.yaml").startswith(f"{tmp_path}/params.yaml: no such parameter file")


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = nested(tmp_path, "knobs:\n  seed: 1\n  seed: 2\n")
    with pytest.raises(InputError, match="key 'seed' stands here twice"):
        load_params("knobs", Named, path)


@pytest.mark.parametrize("data", [b"knobs: [1\nseed: 2\n", b"knobs:\n\tseed: 2\n", b"knobs: \xff\n"])
def test_file_that_is_not_yaml_is_told_in_one_line(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(data)
    assert refusal(path).startswith(f"{path}: not readable as YAML: ")


def test_file_may_say_utf8(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("city: Kraków\n", encoding="utf-8")
    assert read_yaml(tmp_path / "params.yaml") == {"city": "Kraków"}


@dataclass(frozen=True)
class Bounds:
    low: float
    high: float

    def check(self) -> None:
        require(self.low < self.high, "low", self.low, f"below {self.high}")


@dataclass(frozen=True)
class Named:
    space: dict[str, Bounds]


NESTED = """knobs:
  space:
    temperature:
      low: 1.0
      high: 8.0
    alpha:
      low: 0
      high: 1.0
"""


def nested(folder: Path, text: str = NESTED) -> Path:
    (folder / "params.yaml").write_text(text)
    return folder / "params.yaml"


def test_mapping_becomes_records_by_name_in_the_files_order(tmp_path: Path) -> None:
    space = load_params("knobs", Named, nested(tmp_path)).space
    assert list(space.items()) == [("temperature", Bounds(1.0, 8.0)), ("alpha", Bounds(0.0, 1.0))]


def test_records_of_a_mapping_can_be_set_and_removed_through_dvc(tmp_path: Path) -> None:
    path = nested(tmp_path)
    apply_overrides(path, ["knobs.space.alpha.high=3e-5", "~knobs.space.temperature"])
    assert load_params("knobs", Named, path).space == {"alpha": Bounds(0.0, 3e-5)}


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("low: 1.0", "low: 9.0", "knobs.space.temperature.low is 9.0, wanted below 8.0"),
        ("low: 1.0", "lower: 1.0", "knobs.space.temperature.lower: unknown key (value 1.0); known: low, high"),
        ("      low: 1.0\n", "", "knobs.space.temperature.low: missing; add it, as in the shipped params.yaml"),
        ("low: 1.0", "low: soft", "knobs.space.temperature.low: 'soft' is a str, wanted float"),
        ("alpha:\n      low: 0\n      high: 1.0", "alpha: 1", "knobs.space.alpha: 1 is a int, wanted mapping"),
        (NESTED, "knobs:\n  space: 1\n", "knobs.space: 1 is a int, wanted mapping"),
        ("alpha:", "7:", "knobs.space: key 7 is a int, wanted text; put it in quotes"),
        ("high: 1.0", "high: 1e999", "knobs.space.alpha.high is inf, wanted a finite number"),
    ],
)
def test_fault_in_a_mapping_is_named_with_its_place(old: str, new: str, wanted: str, tmp_path: Path) -> None:
    path = nested(tmp_path, NESTED.replace(old, new))
    with pytest.raises(InputError) as caught:
        load_params("knobs", Named, path)
    assert str(caught.value) == f"{path}: {wanted}"
