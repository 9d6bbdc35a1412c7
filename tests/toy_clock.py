"""A clock that only linear layers move: times that depend on the models and never on the machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook


@contextmanager
def clock_of_products(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> Iterator[None]:
    """In `module`, `time.perf_counter` tells one millisecond for every multiplication of a linear layer."""
    products = 0

    def count(layer: nn.Module, _: Any, output: Any) -> None:
        nonlocal products
        if isinstance(layer, nn.Linear) and isinstance(output, Tensor):
            products += output.numel() * layer.in_features

    with monkeypatch.context() as patched, register_module_forward_hook(count):
        patched.setattr(module, "time", SimpleNamespace(perf_counter=lambda: products / 1000))
        yield
