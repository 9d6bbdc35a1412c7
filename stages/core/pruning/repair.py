"""Least-squares repair: what is left of each sublayer learns to say what the whole one said.

Without a gradient step: from the first sublayer to the last, the output matrix of a pruned sublayer is set to the
ridge solution that brings the sum it feeds, its output and the residual beside it, closest to the sum in another model
on some windows: the unpruned one, or what a training has left. What earlier sublayers still get wrong is thereby made
good, too. After Kwon et al. 2022, "A Fast Post-Training Pruning Framework for Transformers", section 4.3, who scale the
kept units; here the whole matrix is free.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.core.data.batches import Batch
from stages.core.models.families import Layer, blocks, layers
from stages.core.qa.inference import evaluating

Call = tuple[tuple[Any, ...], dict[str, Any]]  # arguments of a layer's forward


def repair(
    pruned: PreTrainedModel, original: PreTrainedModel, batches: Sequence[Batch], *, ridge: float, device: torch.device
) -> tuple[float, float]:
    """Repair `pruned` in place; returns the sublayers' mean relative error before and after.

    The error of a sublayer is the squared distance of its sums from the original's, over their spread around the mean,
    over all real tokens. `ridge`, a share of the mean square of what enters the matrix, the constant that its bias is
    multiplied by among it, pulls the solution to the matrix as it was. Both models are walked layer by layer, so that
    no layer is run more than three times and the states of one layer are held at a time.
    """
    before, after = [], []
    with evaluating(pruned), evaluating(original), torch.no_grad():
        moved = [batch.to(device) for batch in batches]
        real = [batch.attention_mask.bool() for batch in moved]
        mine, its = _calls(pruned, moved), _calls(original, moved)
        for place, (layer, whole) in enumerate(zip(layers(pruned), layers(original), strict=True)):
            block, other = blocks(pruned)[place], blocks(original)[place]
            norms = [norm for _, norm in _sublayers(whole)]
            states, its = _run(other, its, norms)
            for number, sublayer in enumerate(_sublayers(layer)):
                wanted = [each[number][mask] for each, mask in zip(states, real, strict=True)]
                first, last = _repair_sublayer(block, sublayer, wanted, mine, real, ridge)
                before.append(first)
                after.append(last)
            mine = _run(block, mine, [])[1]
    return sum(before) / len(before), sum(after) / len(after)


def _repair_sublayer(
    block: nn.Module,
    sublayer: tuple[nn.Linear, nn.LayerNorm],
    wanted: Sequence[Tensor],
    calls: Sequence[Call],
    real: Sequence[Tensor],
    ridge: float,
) -> tuple[float, float]:
    """Solve for one output matrix and its bias, (units + 1, width) together; returns the error before and after.

    `wanted` has for each call of the layer what should enter the sublayer's norm at the tokens `real`, (T, width).
    """
    dense, _ = sublayer
    matrix = torch.cat([dense.weight.T, dense.bias[None]]).double()
    gram = matrix.new_zeros(len(matrix), len(matrix))
    missing = torch.zeros_like(matrix)  # entering units times what their result lacks
    lacking = 0.0
    for call, mask, sums in zip(calls, real, wanted, strict=True):
        ((units, summed),), _ = _run(block, [call], sublayer)
        entering = torch.cat([units[mask], units.new_ones(len(sums), 1)], dim=1)
        lack = sums - summed[mask]
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


def _sublayers(layer: Layer) -> tuple[tuple[nn.Linear, nn.LayerNorm], tuple[nn.Linear, nn.LayerNorm]]:
    """Output matrix and norm of a layer's attention and feed-forward network, in the order they run."""
    return (layer.attention_output, layer.attention_norm), (layer.ffn_out, layer.ffn_norm)


class _ReachedError(Exception):
    """Ends a forward pass that has shown what it was run for."""


def _calls(model: PreTrainedModel, batches: Sequence[Batch]) -> list[Call]:
    """What the first layer is called with for each batch."""
    found: list[Call] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append((args, kwargs))
        raise _ReachedError

    hook = blocks(model)[0].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        for batch in batches:
            with suppress(_ReachedError):
                model(**batch.model_inputs())
    finally:
        hook.remove()
    return found


def _run(
    block: nn.Module, calls: Sequence[Call], modules: Sequence[nn.Module]
) -> tuple[list[list[Tensor]], list[Call]]:
    """Run a layer: for each call the input of each of its `modules`, and the call of the next layer."""
    seen, following = [], []
    for args, kwargs in calls:
        with _entering(modules) as inputs:
            output = block(*args, **kwargs)
        states = output[0] if isinstance(output, tuple) else output
        seen.append(inputs)
        following.append(((states, *args[1:]), kwargs))
    return seen, following


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
