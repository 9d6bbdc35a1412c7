"""Least-squares repair: what is left of each sublayer learns to say what the whole one said.

Without a gradient step: from the first sublayer to the last, the output matrix of a pruned sublayer is set to the
ridge solution that brings the sum it feeds, its output and the residual beside it, closest to the sum in the unpruned
model on some windows. What earlier sublayers still get wrong is thereby made good, too. After Kwon et al. 2022, "A Fast
Post-Training Pruning Framework for Transformers", section 4.3, who scale the kept units; here the whole matrix is free.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.core.data.batches import Batch
from stages.core.models.families import layers
from stages.core.qa.inference import evaluating


def repair(
    pruned: PreTrainedModel, original: PreTrainedModel, batches: Sequence[Batch], *, ridge: float, device: torch.device
) -> tuple[float, float]:
    """Repair `pruned` in place; returns the sublayers' mean relative error before and after.

    The error of a sublayer is the squared distance of its sums from the original's, over their spread around the mean,
    over all real tokens. `ridge`, a share of the mean square of the units' activations, pulls the solution to the
    matrix as it was.
    """
    before, after = [], []
    with evaluating(pruned), evaluating(original), torch.no_grad():
        moved = [batch.to(device) for batch in batches]
        wanted = _sums(original, moved)
        for place, sums in enumerate(wanted):
            first, last = _repair_sublayer(pruned, place, sums, moved, ridge)
            before.append(first)
            after.append(last)
    return sum(before) / len(before), sum(after) / len(after)


def _repair_sublayer(
    model: PreTrainedModel, place: int, wanted: Sequence[Tensor], batches: Sequence[Batch], ridge: float
) -> tuple[float, float]:
    """Solve for one output matrix and its bias, (units + 1, width) together; returns the error before and after."""
    dense, _ = _sublayers(model)[place]
    matrix = torch.cat([dense.weight.T, dense.bias[None]]).double()
    gram = matrix.new_zeros(len(matrix), len(matrix))
    missing = torch.zeros_like(matrix)  # entering units times what their result lacks
    lacking = 0.0
    for batch, sums in zip(batches, wanted, strict=True):
        units, summed = _run(model, place, batch)
        lack = sums - summed
        entering = torch.cat([units, units.new_ones(len(units), 1)], dim=1)
        gram += (entering.T @ entering).double()
        missing += (entering.T @ lack).double()
        lacking += float(lack.double().square().sum())
    change = _ridge_solution(gram, missing, ridge)
    gained = float((2 * change * missing).sum() - (change * (gram @ change)).sum())
    dense.weight.copy_((matrix + change)[:-1].T)
    dense.bias.copy_((matrix + change)[-1])
    spread = _spread(wanted)
    return lacking / spread, max(lacking - gained, 0.0) / spread


def _ridge_solution(gram: Tensor, target: Tensor, ridge: float) -> Tensor:
    """Solve (gram + ridge * mean of its diagonal) x = target."""
    damping = ridge * gram.diagonal().mean().clamp_min(1e-12)
    solution: Tensor = torch.linalg.solve(gram + damping * torch.eye(len(gram)).to(gram), target)
    return solution


def _spread(wanted: Sequence[Tensor]) -> float:
    """Squared distance of all rows (T, width) from their mean."""
    rows = torch.cat(list(wanted)).double()
    return max(float((rows - rows.mean(dim=0)).square().sum()), 1e-12)


def _sublayers(model: PreTrainedModel) -> list[tuple[nn.Linear, nn.LayerNorm]]:
    """Output matrix and norm of attention and feed-forward network of each layer, in the order they run."""
    pairs = [
        ((layer.attention_output, layer.attention_norm), (layer.ffn_out, layer.ffn_norm)) for layer in layers(model)
    ]
    return [sublayer for pair in pairs for sublayer in pair]


def _sums(model: PreTrainedModel, batches: Sequence[Batch]) -> list[list[Tensor]]:
    """For each sublayer and each batch what enters its norm at real tokens, (T, width)."""
    count = len(_sublayers(model))
    found: list[list[Tensor]] = [[] for _ in range(count)]
    for batch in batches:
        real = batch.attention_mask.bool()
        with _entering([norm for _, norm in _sublayers(model)]) as inputs:
            model(**batch.model_inputs())
        for sums, states in zip(found, inputs, strict=True):
            sums.append(states[real])
    return found


def _run(model: PreTrainedModel, place: int, batch: Batch) -> tuple[Tensor, Tensor]:
    """What enters a sublayer's output matrix, (T, units), and what enters its norm, (T, width), at real tokens."""
    real = batch.attention_mask.bool()
    with _entering(_sublayers(model)[place]) as inputs:
        model(**batch.model_inputs())
    return inputs[0][real], inputs[1][real]


@contextmanager
def _entering(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Inside, a forward pass leaves the input of each module in the list, in the order they run."""
    found: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        found.append(inputs[0])

    hooks = [module.register_forward_pre_hook(keep) for module in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
