"""Device, precision, threads and seeds are chosen once, and said."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch
import transformers
from torch.utils import deterministic as memory

from stages.core.errors import InputError
from stages.core.runtime import Runtime, RuntimeParams, autocast, describe, seed_everything, start

CPU = torch.device("cpu")
HAS_CUDA = torch.cuda.is_available()


@pytest.fixture(autouse=True)
def process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what `start` does to the whole process."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", os.environ.get("CUBLAS_WORKSPACE_CONFIG", ":4096:8"))
    deterministic, fills = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    state, threads = random.getstate(), torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        yield
    random.setstate(state)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    memory.fill_uninitialized_memory = fills


def begin(
    device: str = "cpu", precision: str = "fp32", threads: int = 1, seed: int = 13, graphs: bool = True
) -> Runtime:
    params = RuntimeParams(device, precision, threads, graphs)
    params.check()
    return start(params, seed)


def draws() -> list[float]:
    return [random.random(), *torch.rand(3).tolist(), *torch.randperm(100)[:3].tolist()]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (RuntimeParams("gpu", "fp32", 0, True), "device is 'gpu', wanted auto, cpu or cuda"),
        (RuntimeParams("cpu", "fp16", 0, True), "precision is 'fp16', wanted auto, fp32 or bf16"),
        (RuntimeParams("cpu", "fp32", -1, True), "threads is -1, wanted 0 or more"),
    ],
)
def test_value_out_of_range_is_refused(params: RuntimeParams, message: str) -> None:
    with pytest.raises(InputError) as caught:
        params.check()
    assert str(caught.value) == message


def test_auto_takes_the_cuda_device_where_there_is_one() -> None:
    assert begin("auto").device == torch.device("cuda" if HAS_CUDA else "cpu")


def test_cpu_is_taken_even_beside_a_cuda_device() -> None:
    found = begin("cpu", threads=1)
    assert found == Runtime(CPU, "fp32", found.processor, 1, cuda_graphs=False)
    assert found.processor.endswith(torch.backends.cpu.get_cpu_capability())


@pytest.mark.skipif(HAS_CUDA, reason="this machine has a CUDA device")
def test_absent_cuda_is_refused_in_one_line() -> None:
    with pytest.raises(InputError) as caught:
        begin("cuda")
    assert str(caught.value) == "params.yaml: runtime.device is 'cuda', wanted a machine with a CUDA device, or auto"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_is_what_was_asked_for(precision: str) -> None:
    assert begin(precision=precision).precision == precision


@pytest.mark.parametrize(
    ("supported", "precision"),
    [((), "fp32"), (("_is_avx512_bf16_supported",), "bf16"), (("_is_amx_tile_supported",), "bf16")],
)
def test_auto_precision_of_a_cpu_is_bf16_where_it_multiplies_that(
    monkeypatch: pytest.MonkeyPatch, supported: tuple[str, ...], precision: str
) -> None:
    for flag in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, flag, lambda flag=flag: flag in supported)
    assert begin("cpu", "auto").precision == precision


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_precision_of_a_gpu_is_bf16_from_ampere_on(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: str
) -> None:
    with_a_gpu(monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert begin("cuda", "auto").precision == precision


def with_a_gpu(monkeypatch: pytest.MonkeyPatch, fault: str = "") -> None:
    """Let torch find a GPU, which fails at the first thing it is to compute where `fault` says how."""

    def ones(count: int, *, device: str) -> torch.Tensor:
        assert device == "cuda"
        if fault:
            raise RuntimeError(fault)
        return torch.zeros(count)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a GPU")
    monkeypatch.setattr(torch, "ones", ones)


def test_a_gpu_that_this_torch_has_no_kernels_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_a_gpu(monkeypatch, "CUDA error: no kernel image is available\nCompile with ...")
    why = f"torch {torch.__version__} has no kernels for a GPU"
    assert begin("auto").device == CPU
    assert capsys.readouterr().out == f"params.yaml: runtime.device is auto: the CPU is used, as {why}\n"
    with pytest.raises(InputError) as caught:
        begin("cuda")
    wanted = "cpu, or another build"
    assert str(caught.value) == f"params.yaml: runtime.device is 'cuda', wanted {wanted}: {why}"
    assert begin("cpu").device == CPU
    assert not capsys.readouterr().out


@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_a_gpu_that_fails_for_another_reason_is_not_passed_over(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_a_gpu(monkeypatch, "CUDA out of memory.\nTried to ...")
    with pytest.raises(InputError) as caught:
        begin(asked)
    wanted = "cpu, or a CUDA device that is free and computes"
    assert str(caught.value) == f"params.yaml: runtime.device is '{asked}', wanted {wanted}: CUDA out of memory."
    assert begin("cpu").device == CPU


@pytest.mark.parametrize("graphs", [True, False])
def test_cuda_graphs_are_recorded_on_a_gpu_where_they_are_asked_for(
    graphs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not begin("cpu", graphs=graphs).cuda_graphs
    assert "cuda_graphs" not in describe(begin("cpu", graphs=graphs))
    with_a_gpu(monkeypatch)
    assert begin("cuda", graphs=graphs).cuda_graphs == graphs
    assert describe(begin("cuda", graphs=graphs))["cuda_graphs"] == ("true" if graphs else "false")


@pytest.mark.parametrize(("asked", "used"), [(2, 2), (0, len(os.sched_getaffinity(0)))])
def test_threads_are_the_number_asked_for_or_one_per_core(asked: int, used: int) -> None:
    begin(threads=asked)
    assert torch.get_num_threads() == used


def test_a_system_that_does_not_tell_which_cores_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    for told, used in ((3, 3), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda told=told: told)
        begin(threads=0)
        assert torch.get_num_threads() == used


def test_seed_decides_every_draw() -> None:
    begin(seed=13)
    first = draws()
    begin(seed=13)
    assert draws() == first
    begin(seed=14)
    assert not set(draws()[:4]) & set(first[:4])


def test_kernels_are_deterministic() -> None:
    torch.use_deterministic_algorithms(False)
    seed_everything(13)
    assert torch.are_deterministic_algorithms_enabled()


def test_workspace_of_cublas_is_fixed_unless_the_user_fixed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    seed_everything(13)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    seed_everything(13)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_multiplies_in_the_precision_named(precision: str, dtype: torch.dtype) -> None:
    with autocast(CPU, precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_machine_is_described_in_words() -> None:
    described = describe(Runtime(CPU, "bf16", "a processor", 3))
    assert described["torch"] == torch.__version__
    assert described["transformers"] == transformers.__version__
    assert described["python"] == ".".join(map(str, sys.version_info[:3]))
    assert (described["device"], described["processor"], described["threads"]) == ("cpu", "a processor", "3")
    assert described["training_precision"] == "bf16"


def test_a_package_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "onnxruntime":
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)
    assert describe(Runtime(CPU, "fp32"))["onnxruntime"] == "not installed"


def test_settings_are_known_without_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    program = "from stages.core.runtime import RuntimeParams; RuntimeParams('cpu', 'fp32', 0, True).check()"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
