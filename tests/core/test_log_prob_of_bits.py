"""The log-probability of Bernoulli variables, which is written out."""

import pytest
import torch
from torch.distributions import Bernoulli, Independent

from sampleprop import families


@pytest.mark.parametrize("size", [3, 2000])
def test_log_probability_of_bits(size: int) -> None:
    """In float32 it keeps its digits at large logits; the derivative at 0 and the impossible bit are right."""
    logits = torch.tensor([30.0, -30.0, 0.0]).repeat(size // 3 + 1)[:size].requires_grad_()
    points = torch.tensor([1.0, 0.0, 1.0]).repeat(size // 3 + 1)[:size].expand(20, size)
    found = families.recognize(Independent(Bernoulli(logits=logits), 1)).log_prob(points)
    exact = Bernoulli(logits=logits.detach().double()).log_prob(points.double()).sum(-1)
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0.0)
    (score,) = torch.autograd.grad(found[0], logits)
    torch.testing.assert_close(score, points[0] - logits.detach().sigmoid(), rtol=0.0, atol=1e-6)
    certain = families.recognize(Independent(Bernoulli(logits=torch.tensor([torch.inf, -torch.inf])), 1))
    assert certain.log_prob(torch.tensor([[1.0, 0.0], [0.0, 0.0]])).tolist() == [0.0, -torch.inf]
