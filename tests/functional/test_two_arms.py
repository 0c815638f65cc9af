"""Arm A pays 10 with probability 0.3, arm B always 1: where the mean update points, by enumeration."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sampleprop as sp

REWARD = torch.tensor([10.0, 0.0, 1.0], dtype=torch.float64)  # A that pays, A that does not, B


def update(p: float, draws: int, advantage: Callable[[Tensor], Tensor]) -> float:
    """The mean of Σ advantage ∇log π by the logit of A, over all groups; the exact gradient is 2 p (1 - p)."""
    probs = torch.tensor([0.3 * p, 0.7 * p, 1 - p], dtype=torch.float64)
    index = torch.combinations(torch.arange(3), draws, with_replacement=True)  # in any order the update is the same
    counts = torch.stack([(index == i).sum(1) for i in range(3)], 1).double()
    orders = (torch.lgamma(torch.tensor(draws + 1.0).double()) - torch.lgamma(counts + 1).sum(1)).exp()
    weights = torch.stack([advantage(row) for row in REWARD[index]])
    score = (index < 2).double() - p
    return float((orders * probs[index].prod(1)) @ (weights * score).mean(1))


def leave_one_out(reward: Tensor) -> Tensor:
    return reward - sp.leave_one_out(reward, dim=0)


def std(reward: Tensor) -> Tensor:
    return (reward - reward.mean()) / (reward.std() + 1e-4)


@pytest.mark.parametrize("p", [0.05, 0.25, 0.5, 0.75, 0.95])
@pytest.mark.parametrize("draws", [2, 4])
def test_leave_one_out_goes_to_the_better_arm_and_the_standard_deviation_to_the_worse(p: float, draws: int) -> None:
    assert update(p, draws, leave_one_out) == pytest.approx(2 * p * (1 - p), abs=1e-12)
    assert update(p, draws, std) < 0


@pytest.mark.parametrize(("draws", "low", "high"), [(8, 0.45, 0.5), (16, 0.15, 0.2)])
def test_with_more_draws_the_start_decides(draws: int, low: float, high: float) -> None:
    """Below `low` the mean update goes to the worse arm, above `high` to the better one."""
    assert update(low, draws, std) < 0 < update(high, draws, std)
