"""What all tests share: one thread, and the folder of real data where there is one."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.toy_graphs import write_forms
from tests.toy_models import FAMILY_NAMES
from tests.toy_repository import Repository, build


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow files first: what takes longest must not be begun last, when the other processes have nothing left."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Toy tensors are slower on many threads than on one."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread_again() -> Iterator[None]:
    """A test that has started what sets threads leaves the next one what it had: sums of other threads round apart."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder that DISTILQA_DATA names; tests that ask for it are skipped without it."""
    folder = os.environ.get("DISTILQA_DATA")
    if not folder:
        pytest.skip("DISTILQA_DATA is not set: no real data to test on")
    return Path(folder)


@pytest.fixture(scope="session")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each family the folder of a toy model in its forms: of torch, ONNX, and ONNX in eight bits."""
    return {family: write_forms(tmp_path_factory.mktemp(family), family) for family in FAMILY_NAMES}


@pytest.fixture(scope="session")
def toy_repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The project at toy size in a git repository of its own, shared by the tests that run DVC for real."""
    return build(tmp_path_factory.mktemp("toy") / "distilqa")
