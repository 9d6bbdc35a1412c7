"""The order of the rounds: score what is there, remove a share, repair, recover, but for the last."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from stages.core.errors import InputError
from stages.core.models.families import layers
from stages.core.pruning.budget import Scores, cost_of
from stages.core.pruning.costs import Costs, mac_costs
from stages.core.pruning.importance import magnitude_scores
from stages.core.pruning.rounds import prune_in_rounds
from tests.toy_models import toy_qa_model


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("rounds", [1, 3])
def test_each_round_scores_what_the_last_one_left(rounds: int, trains: bool) -> None:
    model = toy_qa_model("bert", 1)
    costs = mac_costs(model, 20)
    events: list[tuple[str, float]] = []

    def share(current: PreTrainedModel) -> float:
        return cost_of(current, costs) / cost_of(model, costs)

    def score(current: PreTrainedModel) -> Scores:
        events.append(("score", share(current)))
        return magnitude_scores(current)

    left = [model]

    def repair(small: PreTrainedModel, aim: PreTrainedModel) -> None:
        assert aim is left[-1], "the model as it was at first, or what the last recovery left"
        events.append(("repair", share(small)))

    def recover(small: PreTrainedModel, number: int) -> bool:
        events.append((f"recover {number}", share(small)))
        left.extend([small] * trains)
        return trains

    pruned = prune_in_rounds(
        model,
        costs,
        score,
        kept=0.4,
        rounds=rounds,
        minimum_neurons=8,
        repair=repair,
        recover=recover,
    )
    names = [name for name, _ in events]
    expected = [[*("score", "repair"), f"recover {number}"] for number in range(1, rounds + 1)]
    assert names == [name for each in expected for name in each][:-1]
    scored = [value for name, value in events if name == "score"]
    for number, value in enumerate([*scored[1:], share(pruned)], start=1):
        wanted = 1 - 0.6 * number / rounds
        assert wanted - 0.06 < value <= wanted
    repaired = [value for name, value in events if name == "repair"]
    assert repaired == [*scored[1:], share(pruned)]


def test_the_model_stays_as_it_was() -> None:
    model = toy_qa_model("bert", 1)
    before = [weight.clone() for weight in model.parameters()]

    def spoil(small: PreTrainedModel, *_: object) -> bool:
        with torch.no_grad():
            for weight in small.parameters():
                weight.zero_()
        return True

    costs = mac_costs(model, 20)
    prune_in_rounds(model, costs, magnitude_scores, kept=0.5, rounds=2, minimum_neurons=8, repair=spoil, recover=spoil)
    assert all(map(torch.equal, before, model.parameters()))


def test_what_no_round_can_reach_is_refused_before_anything_is_scored() -> None:
    model = toy_qa_model("bert", 1)
    costs = replace(mac_costs(model, 20), fixed=1e6)

    def never(*_: object) -> Any:
        pytest.fail("something was done")

    with pytest.raises(InputError, match="what no pruning removes costs 1e"):
        prune_in_rounds(model, costs, never, kept=0.001, rounds=3, minimum_neurons=8, repair=never, recover=never)


@pytest.mark.parametrize("seed", range(40))
def test_a_budget_of_all_removes_nothing_whatever_the_times_add_up_to(seed: int) -> None:
    model = toy_qa_model("bert", 1)
    generator = torch.Generator().manual_seed(seed)
    times = [torch.rand(units + 1, generator=generator, dtype=torch.float64).cumsum(0) for units in (4, 64)]
    for table in times:
        table[0] = 0.0
    pruned = prune_in_rounds(
        model,
        Costs(*times, fixed=0.0),
        magnitude_scores,
        kept=1.0,
        rounds=1,
        minimum_neurons=8,
        repair=lambda *_: None,
        recover=lambda *_: False,
    )
    assert [(part.heads, part.neurons) for part in layers(pruned)] == [(4, 64)] * 3
