"""Pruning in rounds: score, remove, repair, recover a little, and score again what is left.

Scores hold for the network they were measured on. After a tenth of it is gone the others weigh differently, and
measuring again matters more than the criterion (Kurtic et al. 2022, "The Optimal BERT Surgeon", on recomputation).
"""

from collections.abc import Callable

from transformers import PreTrainedModel

from stages.core.pruning.budget import Scores, check_budget, choose_masks, cost_of
from stages.core.pruning.costs import Costs
from stages.core.pruning.surgery import remove


def prune_in_rounds(
    model: PreTrainedModel,
    costs: Costs,
    score: Callable[[PreTrainedModel], Scores],
    *,
    kept: float,
    rounds: int,
    minimum_neurons: int,
    repair: Callable[[PreTrainedModel, PreTrainedModel], object],
    recover: Callable[[PreTrainedModel, int], bool],
) -> PreTrainedModel:
    """A new model that costs at most the share `kept` of what `model` costs, a like part of the rest gone each round.

    `repair(pruned, aim)` follows each removal, and `recover(pruned, round)`, rounds from 1, each but the last, whose
    result is the caller's to recover; it returns whether it has trained anything. What is left is brought closer to
    `model` itself, for a repair towards the round before would keep what that one got wrong; but once a recovery has
    trained what lies around the repaired matrices, closer to what it left, for the sums of `model` would undo it.
    `model` stays as it is. Raises InputError where the budget cannot be met, before anything is scored.
    """
    whole, current, aim = cost_of(model, costs), model, model
    check_budget(costs, kept * whole)
    for number in range(1, rounds + 1):
        share = 1 - (1 - kept) * number / rounds
        masks = choose_masks(score(current), costs, budget=share * whole, minimum_neurons=minimum_neurons)
        current = remove(current, *masks)
        repair(current, aim)
        if number < rounds and recover(current, number):
            aim = current
    return current
