"""Where and how numbers are computed: device, precision, threads, seeds. Chosen once a stage, then passed down."""

import contextlib
import os
import platform
import random
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.params import require

if TYPE_CHECKING:
    import torch


NO_KERNELS = "no kernel image"  # CUDA's own words, of a build without code for a device


@dataclass(frozen=True)
class RuntimeParams:
    """The `runtime` section."""

    device: str  # auto, cpu or cuda
    precision: str  # of training: auto, fp32 or bf16
    threads: int  # CPU threads; 0 = one per core
    cuda_graphs: bool  # whether a long training on a GPU records its passes as CUDA graphs

    def check(self) -> None:
        """Vouch for ranges."""
        require(self.device in ("auto", "cpu", "cuda"), "device", self.device, "auto, cpu or cuda")
        require(self.precision in ("auto", "fp32", "bf16"), "precision", self.precision, "auto, fp32 or bf16")
        require(self.threads >= 0, "threads", self.threads, "0 or more")


@dataclass(frozen=True)
class Runtime:
    """What a stage computes on, decided: all that rounding depends on but the versions of libraries."""

    device: "torch.device"
    precision: str  # fp32 or bf16
    processor: str = ""  # its name, and on a CPU the instructions that torch uses
    threads: int = 1
    cuda_graphs: bool = True


def start(params: RuntimeParams, seed: int) -> Runtime:
    """Seed everything, set the threads, choose device and precision.

    Raises InputError for a CUDA device that is absent, or that this build of torch has no kernels for, where `auto`
    takes the CPU, and says so in the second case; and for one that does not compute for another reason.
    """
    import torch

    device = _device(params.device)
    seed_everything(seed)
    threads = params.threads or _cores()
    torch.set_num_threads(threads)
    precision = params.precision
    if precision == "auto":
        precision = "bf16" if _multiplies_bf16(device) else "fp32"
    return Runtime(device, precision, _processor(device), threads, params.cuda_graphs and device.type == "cuda")


def seed_everything(seed: int) -> None:
    """Seed Python's and torch's global generators and ask torch for deterministic kernels."""
    import torch

    # cuBLAS is deterministic only with a fixed workspace, which it reads from here when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory it has not written, so filling all of it first would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def autocast(device: "torch.device", precision: str) -> AbstractContextManager[object]:
    """Return the context in which a forward pass runs: bf16 autocast, or nothing for fp32."""
    import torch

    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def wait(device: "torch.device") -> None:
    """Let a CUDA device finish what was queued, before the clock is read; a CPU has finished when a call returns."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe(runtime: Runtime) -> dict[str, str]:
    """Return the names of what results depend on: device, processor, threads, precision of training here, versions."""
    packages = ("torch", "transformers", "tokenizers", "numpy", "onnxruntime", "optuna", "datasets", "dvc")
    return {
        "device": runtime.device.type,
        "processor": runtime.processor,
        "threads": str(runtime.threads),
        "training_precision": runtime.precision,
        **({"cuda_graphs": str(runtime.cuda_graphs).lower()} if runtime.device.type == "cuda" else {}),
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
    }


def _device(asked: str) -> "torch.device":
    """What to compute on, by what was asked for: auto, cpu or cuda."""
    import torch

    if asked == "cpu" or (asked == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    where = "params.yaml: runtime.device"
    require(torch.cuda.is_available(), where, asked, "a machine with a CUDA device, or auto")
    try:
        torch.ones(1, device="cuda").sum().item()
    except RuntimeError as error:
        told = str(error).strip().split("\n")[0]
        require(NO_KERNELS in told, where, asked, f"cpu, or a CUDA device that is free and computes: {told}")
        told = f"torch {torch.__version__} has no kernels for {torch.cuda.get_device_name()}"
        require(asked == "auto", where, asked, f"cpu, or another build: {told}")
        print(f"{where} is auto: the CPU is used, as {told}")
        return torch.device("cpu")
    return torch.device("cuda")


def _cores() -> int:
    """How many this process may use, or where the system does not tell that, how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor(device: "torch.device") -> str:
    """The name of a GPU, or that of the CPU with the instructions that torch uses on it."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    told = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", told.read_text(encoding="utf-8"), re.M) if told.exists() else None
    return f"{found[1].strip() if found else platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def _multiplies_bf16(device: "torch.device") -> bool:
    """Whether `device` multiplies bf16 natively; emulation would be slower than float32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    flags = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, flag, bool)() for flag in flags)
