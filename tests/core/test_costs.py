"""The averages over the samples that count, beside loops over the samples."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from sampleprop.costs import Costs, Group, others

BATCH = 4
MASK = torch.tensor([[1, 0, 1, 0], [1, 1, 0, 0], [1, 1, 0, 1], [1, 1, 1, 1], [1, 0, 1, 0]]) > 0  # [5, batch]


def numbers(k: int) -> Tensor:
    return torch.randn((k, BATCH), generator=Generator().manual_seed(k), dtype=torch.float64)


def masked(k: int) -> tuple[Tensor, Tensor]:
    """Numbers with NaN where they are left out, and which are kept; each column keeps one or more."""
    keep = MASK[-k:]
    return torch.where(keep, numbers(k), torch.nan), keep


def mean_of_others(x: Tensor, keep: Tensor, i: int, j: int) -> Tensor:
    rest = [x[n, j] for n in range(len(x)) if n != i and keep[n, j]]
    return torch.stack(rest).mean() if rest else x.new_zeros(())


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_shares_sum_to_the_average(k: int) -> None:
    x = numbers(k)
    costs = Costs(numbers(k + 1)[:k])
    torch.testing.assert_close(costs.shared(x).sum(0), x.mean(0))
    torch.testing.assert_close(costs.average(x), x.mean(0))


@pytest.mark.parametrize("k", [2, 3, 5])
def test_how_much_a_cost_exceeds_the_others(k: int) -> None:
    x, keep = numbers(k), torch.ones(k, BATCH) > 0
    expected = torch.zeros(k, BATCH, dtype=torch.float64)
    for i, j in keep.nonzero().tolist():
        expected[i, j] = (x[i, j] - mean_of_others(x, keep, i, j)) / k
    found = Costs(x.clone().requires_grad_()).beyond_others()
    assert not found.requires_grad
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_the_mean_of_the_others_that_are_kept(k: int) -> None:
    x, keep = masked(k)
    found = others(x, keep)
    for i, j in keep.nonzero().tolist():
        torch.testing.assert_close(found[i, j], mean_of_others(x, keep, i, j))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_particles_are_among_the_others(k: int) -> None:
    """A batch dimension of particles: [k, particles] are k · particles samples of one batch element."""
    x = numbers(k)
    flat = x.reshape(-1, 1)
    keep = torch.ones_like(flat) > 0
    expected = torch.stack([x_i - mean_of_others(flat, keep, i, 0) for i, x_i in enumerate(flat[:, 0])]) / k
    torch.testing.assert_close(Costs(x, group=Group(dim=-1)).beyond_others(), expected.reshape(k, BATCH))


def test_detached_costs_keep_all_else() -> None:
    x, keep = masked(3)
    given = Costs(x.requires_grad_(), x, torch.square, x, keep, Group(dim=-1))
    costs = given.detach()
    assert not costs.points.requires_grad
    torch.testing.assert_close(costs.points, given.fixed, equal_nan=True)
    for name in ("probe_costs", "relaxed_f", "context", "keep", "group"):
        assert getattr(costs, name) is getattr(given, name)
