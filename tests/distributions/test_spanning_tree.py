"""Spanning trees: what is peculiar to them. (What all structures share: test_structures.py.)"""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

import sampleprop as sp

EXACT = {"rtol": 0, "atol": 1e-12}


def test_triangle_is_two_of_three_edges() -> None:
    logits = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).log().requires_grad_()
    tree, subset = sp.SpanningTree(logits), sp.KSubset(logits, 2)
    torch.testing.assert_close(tree.log_normalizer(logits=logits).exp(), torch.tensor(11.0, dtype=torch.float64))
    torch.testing.assert_close(tree.mean, torch.tensor([5.0, 8.0, 9.0], dtype=torch.float64) / 11, **EXACT)
    torch.testing.assert_close(tree.mean, subset.mean, **EXACT)
    support = subset.enumerate_support()
    torch.testing.assert_close(tree.log_prob(support), subset.log_prob(support), **EXACT)


@pytest.mark.parametrize("n", [2, 5, 10])
def test_against_the_determinant_of_the_laplacian(n: int) -> None:
    """The matrix-tree theorem, whichever row and column is left out; Σ μ = n - 1."""
    logits = torch.randn(n * (n - 1) // 2, generator=Generator().manual_seed(n), dtype=torch.float64)
    tree = sp.SpanningTree(logits)
    first, second = torch.triu_indices(n, n, 1)
    weights = torch.zeros(n, n, dtype=torch.float64)
    weights[first, second] = logits.exp()
    weights = weights + weights.mT
    laplacian = weights.sum(-1).diag() - weights
    for removed in (0, n - 1):
        kept = [i for i in range(n) if i != removed]
        wanted = laplacian[kept][:, kept].logdet()
        torch.testing.assert_close(tree.log_normalizer(logits=logits), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(tree.mean.sum(), torch.tensor(n - 1.0, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_order_in_which_nodes_are_removed_changes_nothing() -> None:
    """The theorem's determinant may leave any node out."""
    logits = torch.randn(3, 15, generator=Generator().manual_seed(4), dtype=torch.float64)
    first, second = torch.triu_indices(6, 6, 1)
    weights = torch.zeros(3, 6, 6, dtype=torch.float64)
    weights[:, first, second] = weights[:, second, first] = logits
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    renamed = weights[:, order][:, :, order][:, first, second]
    wanted = sp.SpanningTree(logits).log_normalizer(logits=logits)
    torch.testing.assert_close(sp.SpanningTree(renamed).log_normalizer(logits=renamed), wanted, rtol=0, atol=1e-12)


def test_float32_with_weights_far_apart() -> None:
    logits = 40 * torch.randn(32, 45, generator=Generator().manual_seed(1))
    tree, exact = sp.SpanningTree(logits), sp.SpanningTree(logits.double())
    a, b = tree.log_normalizer(logits=logits), exact.log_normalizer(logits=logits.double())
    torch.testing.assert_close(a.double(), b, rtol=2e-7, atol=0)
    torch.testing.assert_close(tree.mean.double(), exact.mean, rtol=0, atol=1e-5)
    points = tree.sample((20,))
    assert tree.contains(points).all()


@pytest.mark.parametrize("spread", [1.0, 10.0, 1e3, 1e5])
def test_marginals_of_samples(spread: float) -> None:
    """Each edge by a z-test; the false-alarm rate of all 4 · 10 is 1e-4."""
    logits = spread * torch.randn(10, generator=Generator().manual_seed(2), dtype=torch.float64)
    tree = sp.SpanningTree(logits)
    count = 20_000
    found = tree.draw(torch.Size((count,)), Generator().manual_seed(3)).mean(0)
    error = (tree.variance / count).sqrt()
    assert ((found - tree.mean).abs() <= 4.7 * error + 1e-9).all()


def test_mode_is_the_maximum_spanning_tree() -> None:
    logits = torch.randn(50, 10, generator=Generator().manual_seed(4), dtype=torch.float64)
    tree = sp.SpanningTree(logits)
    assert torch.equal(tree.log_prob(tree.mode), tree.log_prob(tree.enumerate_support()).amax(0))


@pytest.mark.parametrize("logits", [torch.zeros(4), torch.zeros(()), torch.zeros(3, 0)])
def test_other_numbers_of_edges_are_refused(logits: Tensor) -> None:
    with pytest.raises(ValueError, match=r"SpanningTree needs n \(n - 1\) / 2 logits"):
        sp.SpanningTree(logits)
