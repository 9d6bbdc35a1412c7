"""Training settings of toy size, and what a training left behind, for comparison."""

from typing import Any

import torch
from torch import nn

from stages.core.runtime import Runtime
from stages.core.training.settings import FitParams

CPU = Runtime(torch.device("cpu"), "fp32")


def fit_params(**changes: Any) -> FitParams:
    settings: dict[str, Any] = {
        "seed": 1,
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "warmup_ratio": 0.2,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "dropout": 0.0,
        "freeze_embeddings": False,
        "log_steps": 2,
        "checkpoint_steps": 2,
    }
    return FitParams(**{**settings, **changes})


def weights_of(*modules: nn.Module) -> dict[str, bytes]:
    """Every tensor's bytes by name: equal only if the modules are equal to the last bit."""
    return {
        f"{number}.{name}": tensor.detach().numpy().tobytes()
        for number, module in enumerate(modules)
        for name, tensor in module.state_dict().items()
    }
