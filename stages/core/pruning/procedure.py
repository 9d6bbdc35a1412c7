"""The whole procedure on one model: a budget, Fisher scores on the distillation loss, rounds, repair and recovery."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from stages.core.data.batches import Batch, ordered_batches
from stages.core.models.families import layers
from stages.core.pruning.budget import Scores
from stages.core.pruning.costs import Costs, latency_costs, mac_costs, parameter_costs
from stages.core.pruning.importance import mask_fisher
from stages.core.pruning.repair import repair
from stages.core.pruning.rounds import prune_in_rounds
from stages.core.pruning.settings import PruneParams
from stages.core.runtime import Runtime
from stages.core.training.fit import History, TrainingSet, joined
from stages.core.training.lessons import some
from stages.core.training.losses import DistillationLoss, LabelLoss
from stages.core.training.recovery import recover


def prune(
    model: PreTrainedModel,
    training: TrainingSet,
    answers: DistillationLoss,
    params: PruneParams,
    runtime: Runtime,
    *,
    scratch: Path,
    its_own_teacher: bool = False,
) -> tuple[PreTrainedModel, History]:
    """A smaller model within the budget of `params`, not yet recovered.

    Beside it the loss history of the recoveries between rounds, one after the other. `training` has the teacher's
    logits; windows to score on, to repair on and to recover on are drawn from it by the seed. A model that is
    `its_own_teacher` does not diverge from it before something is gone, and the gradient of that says nothing: its
    first round is scored by gold answers, on labelled windows alone. Raises InputError where the budget cannot be met.
    """
    length, histories = mean_length(training), []

    def score(current: PreTrainedModel) -> Scores:
        by_labels = its_own_teacher and current is model
        loss, seen = (LabelLoss(), training.labelled()) if by_labels else (answers, training)
        return mask_fisher(current, sample_batches(seen, params.fisher_windows, params), loss, runtime.device)

    def mend(pruned: PreTrainedModel, aim: PreTrainedModel) -> None:
        if params.repair_windows:
            batches = sample_batches(training, params.repair_windows, params)
            repair(pruned, aim, batches, ridge=params.ridge, device=runtime.device)

    def train(pruned: PreTrainedModel, number: int) -> bool:
        if not params.recovery_windows:
            return False
        seen = some(training, params.recovery_windows, params.seed + number)
        inside, name = params.hidden_weight, f"round {number}"
        histories.append(
            recover(pruned, model, answers, seen, params, runtime, hidden_weight=inside, scratch=scratch, name=name)
        )
        return True

    pruned = prune_in_rounds(
        model,
        costs_of_budget(model, params, length, runtime.device),
        score,
        kept=params.kept,
        rounds=params.rounds,
        minimum_neurons=params.minimum_neurons,
        repair=mend,
        recover=train,
    )
    return pruned, joined(histories)


def costs_of_budget(model: PreTrainedModel, params: PruneParams, length: int, device: torch.device) -> Costs:
    """What units cost in the budget's own measure."""
    if params.macs_kept:
        return mac_costs(model, length)
    return parameter_costs(model) if params.parameters_kept else latency_costs(model, length=length, device=device)


def sample_batches(training: TrainingSet, windows: int, params: PruneParams) -> list[Batch]:
    """Batches of `windows` training windows drawn by the seed."""
    sample = some(training, windows, params.seed)
    return list(ordered_batches(sample.windows, params.batch_size, sample.teacher_logits))


def mean_length(training: TrainingSet) -> int:
    """Tokens of the mean training window."""
    return round(float(training.windows.lengths.float().mean()))


def units_kept(model: PreTrainedModel, whole: PreTrainedModel) -> dict[str, int]:
    """Heads, neurons and sublayers of a model beside those of the one it was pruned from."""
    parts, all_parts = layers(model), layers(whole)
    return {
        "heads_kept": sum(part.heads for part in parts),
        "heads": sum(part.heads for part in all_parts),
        "neurons_kept": sum(part.neurons for part in parts),
        "neurons": sum(part.neurons for part in all_parts),
        "sublayers_kept": sum((part.heads > 0) + (part.neurons > 0) for part in parts),
        "sublayers": 2 * len(parts),
    }
