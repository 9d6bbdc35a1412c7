"""Model soups: the mean of the weights of models that were trained from the same start.

Such a mean is a model too, often a better one than any of them and no slower (Wortsman et al. 2022, "Model soups"). The
best of them on dev is the best partly by luck with its questions. The mean owes them less: so it need not be above the
best on dev, only not clearly below.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from stages.core.qa.scoring import Scores
from stages.core.qa.significance import paired_difference
from stages.core.training.fit import is_finite

RESAMPLES = 2000  # of dev's paragraphs, for whether a mean is clearly worse than the best


@dataclass(frozen=True)
class Soup:
    """What came out of several models."""

    model: PreTrainedModel
    dev: Scores
    averaged: tuple[int, ...]  # places of the models that it is the mean of, the best first; none where it is the best


def soup(
    models: Sequence[PreTrainedModel],
    dev: Sequence[Scores],
    judge: Callable[[PreTrainedModel], Scores],
    paragraphs: Sequence[str],
    *,
    floor: float = 0.0,
    seed: int,
) -> Soup:
    """Return the mean of as many of the models as can be, or the best of them on dev; of equals the first counts as it.

    It is the mean of all, if that is neither clearly worse on dev than the best (the 95 % interval of the paired
    difference, drawn from `seed`, lies below 0) nor has less than `floor` F1 there; else that of all but the last on
    dev, and so on down to two. `judge` scores a model on dev's questions, whose paragraphs (Q,) are `paragraphs`.
    """
    places = ranked(dev)
    best = dev[places[0]]
    for count in range(len(places), 1, -1):
        mean = mean_weights([models[place] for place in places[:count]])
        found = judge(mean)
        clearly = paired_difference(found.f1, best.f1, paragraphs, resamples=RESAMPLES, seed=seed).high < 0
        if is_finite(mean) and not clearly and found.mean_f1 >= floor:
            return Soup(mean, found, tuple(places[:count]))
    return Soup(models[places[0]], best, ())


def ranked(dev: Sequence[Scores]) -> list[int]:
    """Return the places of models from the best F1 on dev, as reports round it, down; of equals the first is first."""
    return sorted(range(len(dev)), key=lambda place: -round(dev[place].mean_f1, 4))


def mean_weights(models: Sequence[PreTrainedModel]) -> PreTrainedModel:
    """Return a new model with the mean of the models' weights; all have the same shapes."""
    states = [model.state_dict() for model in models]
    mean = copy.deepcopy(models[0])
    weights = {
        name: torch.stack([state[name].double() for state in states]).mean(dim=0).to(weight.dtype)
        for name, weight in states[0].items()
        if weight.is_floating_point()
    }
    mean.load_state_dict({**states[0], **weights})
    return mean
