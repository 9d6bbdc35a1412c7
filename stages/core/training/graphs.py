"""Forward and backward passes recorded as CUDA graphs, for a GPU that would wait for the processor.

A large GPU is through with a small model's kernels before the processor has started the next ones. A CUDA graph starts
all kernels of a pass at once. It is bound to the memory and the sizes it was recorded with: so batches are padded to a
few widths, there is a graph for each, and gradients stay where they are from one update to the next.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from stages.core.data.batches import Batch
from stages.core.training.losses import LossTerms

WIDTHS = 32  # tokens by which the widths of batches step: few graphs, little padding
# Updates from which on it pays, roughly: a student of six layers saved 34 ms an update on one H200, and there are ten
# recordings to make.
FEWEST = 150

Pass = Callable[[Batch], LossTerms]


def pays(device: torch.device, updates: int) -> bool:
    """Whether a training of so many updates is quicker recorded than not."""
    return device.type == "cuda" and updates >= FEWEST


class Graph(Protocol):
    """What is recorded once and run again and again."""

    def record(self, work: Callable[[], LossTerms]) -> LossTerms:
        """Record what `work` does, without doing it, and return where its results will be."""

    def replay(self) -> None:
        """Do it, without waiting for its end."""


class CudaGraph:
    """A graph of torch's on the current GPU; those with one `pool` share the memory of what they compute on the way."""

    def __init__(self, pool: Any) -> None:
        """Make one that holds nothing yet."""
        self._graph, self._pool = torch.cuda.CUDAGraph(), pool

    def record(self, work: Callable[[], LossTerms]) -> LossTerms:
        """See `Graph`; raises RuntimeError where `work` waits for the GPU or copies from memory that is not pinned."""
        with torch.cuda.graph(self._graph, pool=self._pool):
            terms = work()
        return terms

    def replay(self) -> None:
        """See `Graph`."""
        self._graph.replay()


def cuda_graphs() -> Callable[[], Graph]:
    """Return what makes graphs that share their memory: of such graphs one may run at a time."""
    pool = torch.cuda.graph_pool_handle()
    return lambda: CudaGraph(pool)


@dataclass(frozen=True)
class _Recording:
    graph: Graph
    batch: Batch  # whose memory the graph reads
    terms: LossTerms  # whose memory the graph writes


class RecordedPass:
    """A pass that is recorded when a width comes for the second time, and replayed from then on.

    The first time shows torch what it needs (workspaces, the choice of kernels), which must not happen while it
    records. `work` adds a batch's gradients to those that are there, by the same kernels for all batches of one size,
    and parameters and gradients have to stay where they are in memory.
    """

    def __init__(self, work: Pass, windows: int, device: torch.device) -> None:
        """Record nothing yet, and never batches of fewer than `windows`: of them an epoch has only its last."""
        self._work, self._windows, self._device = work, windows, device
        self._new_graph = cuda_graphs()
        self._recordings: dict[torch.Size, _Recording | None] = {}

    def __call__(self, batch: Batch) -> LossTerms:
        """Add the batch's gradients and return the parts of its loss, on the device, without waiting for it."""
        size = batch.input_ids.shape
        if size not in self._recordings or size[0] < self._windows:
            self._recordings[size] = None
            return self._work(batch)
        recording = self._recordings[size]
        if recording is None:
            recording = self._recordings[size] = self._record(batch)
        _write(batch, recording.batch)
        recording.graph.replay()
        # The graphs' shared memory is written by the next replay.
        return {name: term.clone() for name, term in recording.terms.items()}

    def _record(self, batch: Batch) -> _Recording:
        graph, read = self._new_graph(), batch.to(self._device)
        return _Recording(graph, read, graph.record(lambda: self._work(read)))


def _write(batch: Batch, into: Batch) -> None:
    """Write a batch into the memory of another of its size."""
    for field in fields(Batch):
        target: Tensor | None = getattr(into, field.name)
        if target is not None:
            source: Tensor = getattr(batch, field.name)
            target.copy_(source.pin_memory() if target.is_cuda and not source.is_cuda else source, non_blocking=True)
