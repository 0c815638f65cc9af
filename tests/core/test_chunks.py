"""`expect(..., chunk=)`: the same numbers, from f on a few points at a time, in memory that their number does not
move."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Independent, Normal, TanhTransform, TransformedDistribution

import sampleprop as sp


def run(estimator: sp.Estimator[Any, Any], chunk: int | None, dropout: bool = False) -> tuple[list[Tensor], list[int]]:
    """Value and gradients, and how many points f got each time."""
    torch.manual_seed(0)
    phi = torch.tensor([[0.3, -0.5, 0.8], [0.1, 0.9, -0.4]], dtype=torch.float64, requires_grad=True)
    theta = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    sizes: list[int] = []

    def f(x: Tensor) -> Tensor:
        sizes.append(len(x))
        y = (x * theta).sin()
        return (torch.nn.functional.dropout(y, 0.3) if dropout else y).sum(-1).square() + phi.sum(-1)

    continuous = isinstance(estimator, sp.Pathwise | sp.StickingTheLanding)
    q = Independent(Normal(phi, 1.0) if continuous else Bernoulli(logits=phi), 1)
    value = sp.expect(f, q, estimator, generator=Generator().manual_seed(1), chunk=chunk)
    return [value.detach(), *torch.autograd.grad(value.sum(), (phi, theta))], sizes


@pytest.mark.parametrize(
    "estimator",
    [sp.ScoreFunction(7), sp.Pathwise(7), sp.REBAR(4), sp.LocalExpectation(), sp.DisARM(8), sp.MuProp(5)],
    ids=str,
)
def test_the_same_numbers_from_few_points_at_a_time(estimator):
    whole, _ = run(estimator, None)
    pieces, sizes = run(estimator, 3)
    assert max(sizes) == 3
    for one, other in zip(whole, pieces, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_the_backward_pass_meets_the_same_random_numbers():
    """θ's derivative of a cost that is linear in a dropout mask is not that of another mask."""
    estimator = sp.ScoreFunction(6)
    (value, by_phi, by_theta), _ = run(estimator, 2, dropout=True)
    again, _ = run(estimator, 2, dropout=True)
    for one, other in zip((value, by_phi, by_theta), again, strict=True):
        assert torch.equal(one, other)
    torch.manual_seed(0)
    theta = torch.tensor([1.0], requires_grad=True)
    cost = sp.expect(
        lambda x: torch.nn.functional.dropout(theta * torch.ones_like(x), 0.5).sum(-1),
        Independent(Bernoulli(logits=torch.zeros(1)), 1),
        sp.ScoreFunction(16),
        chunk=4,
    )
    assert torch.autograd.grad(cost, theta)[0] == cost  # the cost is θ times the masks' mean, and θ is 1


def test_a_cost_from_numpy():
    value = sp.expect(
        lambda x: x.numpy().sum(-1), Independent(Bernoulli(logits=torch.zeros(2, 3)), 1), sp.ScoreFunction(5), chunk=2
    )
    assert value.shape == (2,)


def test_a_chunk_is_a_whole_number():
    with pytest.raises(ValueError, match=r"expect needs a whole number of points to a chunk, at least 1; got .*=0"):
        run(sp.ScoreFunction(2), 0)


MILLION = """
import resource, torch, sampleprop as sp
from torch.distributions import Bernoulli, Independent
import torch._dynamo  # which the first checkpoint imports
torch.set_num_threads(1)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
net = torch.nn.Sequential(torch.nn.Linear(4, 200), torch.nn.ReLU(), torch.nn.Linear(200, 1))
q = Independent(Bernoulli(logits=torch.zeros(4, requires_grad=True)), 1)
before = peak()
sp.expect(lambda x: net(x).squeeze(-1), q, sp.ScoreFunction(1_000_000), chunk=10_000).backward()
print(peak() - before)
"""


@pytest.mark.slow
def test_a_million_evaluations_in_bounded_memory():
    """f keeps 1.6 GB for its backward pass when called on all points; a few copies of the points, 16 MB each, are
    left."""
    # Without this, the C library keeps freed blocks of this size for itself and does not use them again.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**22), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", MILLION], env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 400


def test_a_parameter_that_changes_before_the_backward_pass_is_noticed() -> None:
    w = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    q = Independent(Normal(torch.zeros(3, requires_grad=True), 1.0), 1)
    value = sp.expect(lambda x: (x @ w).square(), q, sp.ScoreFunction(8), chunk=3)
    with torch.no_grad():
        w.mul_(1.01)
    with pytest.raises(RuntimeError, match="needs an f that gives the same costs when the backward pass evaluates it"):
        value.backward()


def test_an_f_with_a_state_is_noticed() -> None:
    calls = 0

    def f(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return (x * theta).sum(-1) * calls

    theta = torch.ones(3, requires_grad=True)
    q = Independent(Bernoulli(logits=torch.zeros(3, requires_grad=True)), 1)
    value = sp.expect(f, q, sp.ScoreFunction(8), chunk=3)
    with pytest.raises(RuntimeError, match="or f has a state"):
        value.backward()


def test_a_transform_with_a_cache_is_recomputed_as_it_was() -> None:
    loc = torch.zeros(3, requires_grad=True)
    q = TransformedDistribution(Normal(loc, 1.0), [TanhTransform(cache_size=1)])
    values = []
    for chunk in (None, 3):
        value = sp.expect(
            lambda x: x - q.log_prob(x), q, sp.Pathwise(8), generator=Generator().manual_seed(0), chunk=chunk
        )
        values.append((value.detach(), *torch.autograd.grad(value.sum(), loc)))
    torch.testing.assert_close(*values)
