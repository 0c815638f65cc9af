"""Matchings: what is peculiar to them. (What all structures share: test_structures.py.)"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Generator
from torch.distributions import Bernoulli

import sampleprop as sp

EXACT = {"rtol": 0, "atol": 1e-12}


def test_by_hand() -> None:
    """The permanent of [[1, 2], [3, 4]] is 1 · 4 + 2 · 3."""
    scores = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64).log()
    dist = sp.Matching(scores)
    torch.testing.assert_close(dist.log_normalizer(scores=scores).exp(), torch.tensor(10.0, dtype=torch.float64))
    torch.testing.assert_close(dist.mean, torch.tensor([[0.4, 0.6], [0.6, 0.4]], dtype=torch.float64), **EXACT)


def test_two_pairs_are_one_bit() -> None:
    scores = torch.randn(5, 2, 2, generator=Generator().manual_seed(0), dtype=torch.float64)
    logits = scores[:, 0, 0] + scores[:, 1, 1] - scores[:, 0, 1] - scores[:, 1, 0]
    bit = Bernoulli(logits=logits)
    straight = sp.Matching(scores).log_prob(torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(straight, bit.log_prob(torch.ones(5, dtype=torch.float64)), **EXACT)
    torch.testing.assert_close(sp.Matching(scores).mean[:, 0, 0], bit.probs, **EXACT)
    torch.testing.assert_close(sp.Matching(scores).entropy(), bit.entropy(), **EXACT)


@pytest.mark.parametrize("n", [3, 7, 14])
def test_marginals_and_mode(n: int) -> None:
    """Rows and columns sum to 1, a constant changes nothing, and the mode is the best assignment."""
    scores = 2 * torch.randn(3, n, n, generator=Generator().manual_seed(n), dtype=torch.float64)
    dist = sp.Matching(scores)
    for dim in (-1, -2):
        torch.testing.assert_close(dist.mean.sum(dim), torch.ones(3, n, dtype=torch.float64), **EXACT)
    torch.testing.assert_close(dist.mean, sp.Matching(scores + 5).mean, **EXACT)
    for matrix, mode in zip(scores.numpy(), dist.mode, strict=True):
        rows, columns = linear_sum_assignment(matrix, maximize=True)
        assert np.array_equal(mode.argmax(-1).numpy(), columns)
        assert np.array_equal(rows, np.arange(n))
    assert dist.contains(dist.sample((4,))).all()


def test_sinkhorn_is_not_the_marginals() -> None:
    scores = 1.5 * torch.randn(5, 5, generator=Generator().manual_seed(0), dtype=torch.float64)
    balanced = scores
    for _ in range(500):
        balanced = balanced.log_softmax(-1).log_softmax(-2)
    assert (balanced.exp() - sp.Matching(scores).mean).abs().max() > 0.05


def test_float32() -> None:
    scores = 3 * torch.randn(4, 12, 12, generator=Generator().manual_seed(1))
    dist, exact = sp.Matching(scores), sp.Matching(scores.double())
    torch.testing.assert_close(dist.mean.double(), exact.mean, rtol=0, atol=2e-6)


def test_too_many_items_are_refused_with_the_two_ways_on() -> None:
    with pytest.raises(ValueError, match=r"Matching needs n of at most 14.*got n=15.*PlackettLuce.*PerturbAndMAP"):
        sp.Matching(torch.zeros(15, 15))
    with pytest.raises(ValueError, match=r"Matching needs scores \[\*batch, n, n\]; got \[2, 3\]"):
        sp.Matching(torch.zeros(2, 3))
