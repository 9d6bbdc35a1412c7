"""Recorded passes: training with them is training without them, to the bit where the widths are the same."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from stages.core.data.batches import Batch, Heard
from stages.core.data.carry import best_windows
from stages.core.models.families import move
from stages.core.models.kernels import set_training_kernel
from stages.core.runtime import Runtime, seed_everything
from stages.core.training import fit as fit_module
from stages.core.training import graphs
from stages.core.training.fit import TrainingSet, fit
from stages.core.training.graphs import FEWEST, Graph, pays
from stages.core.training.losses import DistillationLoss, IntermediateLoss, LabelLoss, Loss, LossTerms
from tests.toy_models import FAMILY_NAMES, toy_emptied_model, toy_inputs, toy_pruned_model, toy_qa_model
from tests.toy_questions import toy_questions
from tests.toy_training import CPU, fit_params, weights_of

WIDTHS = 4
OTHER = {"bert": "roberta", "mpnet": "bert"}  # a family that reads other tokens
WITH_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="records on a CUDA device, and there is none")


class StandIn:
    """Does by itself, each time, what a CUDA graph does: the same work on the same memory."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.replays, self.parameters = 0, parameters

    def record(self, work: Callable[[], LossTerms]) -> LossTerms:
        """Find the places of the results, and leave gradients and what is drawn at random as if nothing was done."""
        self.work = work
        before = [None if each.grad is None else each.grad.clone() for each in self.parameters]
        with torch.random.fork_rng(devices=[]):
            self.terms = work()
        for each, gradient in zip(self.parameters, before, strict=True):
            assert (each.grad is None) == (gradient is None), "a gradient came where none was"
            if each.grad is not None and gradient is not None:
                each.grad.copy_(gradient)
        return self.terms

    def replay(self) -> None:
        self.replays += 1
        for name, term in self.work().items():
            self.terms[name].copy_(term)


def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[StandIn]:
    """Let `fit` record with stand-ins; returns the list that they are put into."""
    made: list[StandIn] = []
    plain = fit_module._gradients
    parameters: list[nn.Parameter] = []

    def gradients(model: nn.Module, loss: Loss, runtime: Runtime) -> graphs.Pass:
        modules = [each for each in (model, loss) if isinstance(each, nn.Module)]
        parameters[:] = [each for module in modules for each in module.parameters()]
        return plain(model, loss, runtime)

    def new_graph() -> Graph:
        made.append(StandIn(parameters))
        return made[-1]

    monkeypatch.setattr(fit_module, "_gradients", gradients)
    monkeypatch.setattr(graphs, "cuda_graphs", lambda: new_graph)
    monkeypatch.setattr(fit_module, "pays", lambda device, updates: True)
    monkeypatch.setattr(fit_module, "WIDTHS", WIDTHS)
    return made


def lesson(kind: str, family: str, device: torch.device) -> tuple[PreTrainedModel, Loss]:
    """A model and what it learns by: labels, answers, or hidden states and relations of a teacher on `device`.

    The teacher of "across" reads other tokens.
    """
    seed_everything(3)
    if kind == "teacher":
        return toy_qa_model(family, 1), LabelLoss()
    student, answers = toy_qa_model(family, 2, layers=1, width=16), DistillationLoss(2.0, 0.5)
    if kind == "baseline":
        return student, answers
    pairs, teacher = [(0, 0), (1, 3)], move(toy_qa_model(OTHER[family] if kind == "across" else family, 1), device)
    set_training_kernel(teacher, device)  # as `distil` does: transformers' own copies its mask from the host
    return student, IntermediateLoss(answers, student, teacher, pairs, 1.0, relation_weight=1.0, relation_heads=2)


def training(folder: Path, family: str = "bert", *, across: bool = False) -> TrainingSet:
    """22 windows of 22 to 36 tokens: with 4 an update, 6 updates an epoch, the last a short one."""
    windows = toy_questions(folder / "tokenizer", 22, seed=1, family=family).windows
    drawn = torch.randn(2, int(windows.row_splits[-1]), generator=torch.Generator().manual_seed(7))
    answers = TrainingSet(windows, (drawn[0], drawn[1]))
    if not across:
        return answers
    its = toy_questions(folder / "other", 22, seed=1, family=OTHER[family]).windows
    return replace(answers, heard=Heard(its, torch.from_numpy(best_windows(its, windows))))


def trained(
    kind: str, folder: Path, *, family: str = "bert", runtime: Runtime = CPU, **changes: float
) -> tuple[dict[str, bytes], list[dict[str, float]]]:
    """Train for four epochs and return all weights and the history."""
    model, loss = lesson(kind, family, runtime.device)
    settings = fit_params(**{"epochs": 4, "dropout": 0.2, **changes})
    data = training(folder, family, across=kind == "across")
    history = fit(model, loss, data, settings, runtime, scratch=folder, name="run")
    modules = [each.cpu() for each in (model, loss) if isinstance(each, nn.Module)]
    assert all(each.grad is None for module in modules for each in module.parameters())
    return weights_of(*modules), history


@pytest.mark.parametrize("changes", [{}, {"freeze_embeddings": True}, {"batch_size": 5}])
@pytest.mark.parametrize("kind", ["teacher", "baseline", "distil", "across"])
def test_the_same_bytes_as_pass_by_pass(
    kind: str, changes: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = stand_in(monkeypatch)
    recorded = trained(kind, tmp_path / "recorded", **changes)
    assert made and all(each.replays for each in made)
    # One after the other, at the same widths.
    monkeypatch.setattr(fit_module, "RecordedPass", lambda gradients, windows, device: gradients)
    assert trained(kind, tmp_path / "plain", **changes) == recorded


def test_wider_batches_change_rounding_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = trained("distil", tmp_path / "plain", dropout=0.0)
    stand_in(monkeypatch)
    recorded = trained("distil", tmp_path / "recorded", dropout=0.0)
    # Some biases have no gradient but rounding, which AdamW makes as large as any.
    for name, weights in plain[0].items():
        if name.endswith("bias"):
            continue
        first, second = (
            torch.frombuffer(bytearray(each), dtype=torch.float32) for each in (weights, recorded[0][name])
        )
        assert torch.allclose(first, second, atol=1e-4), name
    for one, other in zip(plain[1], recorded[1], strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_each_width_is_recorded_once_and_short_batches_never(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, sizes = stand_in(monkeypatch), list[tuple[int, int]]()
    plain = fit_module.RecordedPass.__call__

    def watched(self: graphs.RecordedPass, batch: Batch) -> LossTerms:
        sizes.append(tuple(batch.input_ids.shape))
        return plain(self, batch)

    monkeypatch.setattr(fit_module.RecordedPass, "__call__", watched)
    trained("teacher", tmp_path)
    assert len(sizes) == 24
    assert all(width % WIDTHS == 0 for _, width in sizes)
    assert {windows for windows, _ in sizes} == {4, 2}
    full = [size for size in sizes if size[0] == 4]
    again = {size for size in full if full.count(size) > 1}
    assert len(made) == len(again) < len(full) / 2
    assert sorted(each.replays for each in made) == sorted(full.count(size) - 1 for size in again)


def test_it_goes_on_from_a_checkpoint_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Recorded from 20 updates on: of 24, stopped after 15, fewer are left.
    stand_in(monkeypatch)
    asked: list[int] = []

    def enough(device: torch.device, updates: int) -> bool:
        asked.append(updates)
        return updates >= 20

    monkeypatch.setattr(fit_module, "pays", enough)
    whole = trained("distil", tmp_path / "whole")
    plain, calls = fit_module._step, 0

    def stopping(*arguments: object, **options: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 16:
            raise KeyboardInterrupt
        plain(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(fit_module, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        trained("distil", tmp_path / "cut")
    assert trained("distil", tmp_path / "cut") == whole
    assert calls < 2 * 24
    assert asked == [24, 24, 24]


def test_it_pays_on_a_gpu_for_many_updates_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [pays(cpu, FEWEST), pays(cuda, FEWEST - 1), pays(cuda, FEWEST)] == [False, False, True]
    made = stand_in(monkeypatch)
    trained("teacher", tmp_path, runtime=replace(CPU, cuda_graphs=False))
    assert not made


class Devices(TorchDispatchMode):
    """Notes the devices of all tensors that operations read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        tensors = [each for each in tree_leaves((args, kwargs, found)) if isinstance(each, Tensor)]
        self.seen |= {each.device.type for each in tensors}
        return found


class Lists(TorchFunctionMode):
    """Refuses lists as indices: torch makes a tensor of one on the host, out of sight of `Devices`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__getitem__:
            assert not any(isinstance(each, list) for each in (args[1] if isinstance(args[1], tuple) else args[1:]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("make", [toy_qa_model, toy_pruned_model, toy_emptied_model])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_pass_reads_no_value_and_copies_nothing_from_the_host(
    family: str, make: Callable[[str, int], PreTrainedModel]
) -> None:
    # Either would end a recording. Tensors on "meta" have no values, and those of the host stand out beside them.
    there, inputs = torch.device("meta"), toy_inputs(family)
    student, teacher = make(family, 1), toy_qa_model(family, 2)
    for model in (student, teacher):
        set_training_kernel(model, torch.device("cuda"))
        move(model, there).train()
    windows, tokens = (torch.zeros(inputs["input_ids"].shape[:count], device=there) for count in (1, 2))
    batch = Batch(
        rows=windows.long(),
        input_ids=tokens.long(),
        attention_mask=tokens.long(),
        token_type_ids=tokens.long() if "token_type_ids" in inputs else None,
        context_mask=tokens.bool(),
        start_positions=windows.long(),
        end_positions=windows.long(),
        teacher_start_logits=tokens,
        teacher_end_logits=tokens,
    )
    characters = torch.zeros(*tokens.shape, 2, device=there).int()
    across = replace(
        batch,
        characters=characters,
        teacher_input_ids=batch.input_ids,
        teacher_attention_mask=batch.attention_mask,
        teacher_token_type_ids=batch.token_type_ids,
        teacher_characters=characters,
    )
    answers = DistillationLoss(2.0, 0.5)
    inside = IntermediateLoss(answers, student, teacher, [(1, 1), (3, 3)], 1.0)
    for loss, given in ((LabelLoss(), batch), (inside, batch), (inside, across)):
        with Devices() as devices, Lists():
            loss(student, given)["loss"].backward()  # type: ignore[no-untyped-call]
        assert devices.seen == {"meta"}


@WITH_GPU
@pytest.mark.parametrize("family", ["bert", "mpnet"])
@pytest.mark.parametrize("kind", ["teacher", "baseline", "distil", "across"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_on_a_gpu_cuda_graphs_give_the_bytes_of_pass_by_pass(
    kind: str, family: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, made = Runtime(torch.device("cuda"), precision), list[Graph]()
    plain = graphs.CudaGraph.replay

    def watched(self: graphs.CudaGraph) -> None:
        made.append(self)
        plain(self)

    monkeypatch.setattr(graphs.CudaGraph, "replay", watched)
    monkeypatch.setattr(fit_module, "pays", lambda device, updates: True)
    recorded = trained(kind, tmp_path / "recorded", family=family, runtime=runtime)
    assert len(made) > 10
    monkeypatch.setattr(fit_module, "RecordedPass", lambda gradients, windows, device: gradients)
    assert trained(kind, tmp_path / "plain", family=family, runtime=runtime) == recorded
