"""Chains of labels: what is peculiar to them. (What all structures share: test_structures.py.)"""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import Categorical, Independent, OneHotCategorical, kl_divergence

import sampleprop as sp
from sampleprop.distributions import linear_chain

EXACT = {"rtol": 0, "atol": 1e-12}


def by_hand(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_by_hand() -> None:
    """Two places with the weights [[1, 2], [3, 4]] of the pairs, which sum to 10."""
    unary = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    dist = sp.LinearChain(unary, by_hand(1, 2, 3, 4).reshape(1, 2, 2).log())
    torch.testing.assert_close(dist.log_normalizer(**dist.natural).exp(), by_hand(10).squeeze(), **EXACT)
    torch.testing.assert_close(dist.mean, by_hand(0.3, 0.7, 0.4, 0.6).reshape(2, 2), **EXACT)
    pairs = dist.moments(**dist.natural)["transitions"]
    torch.testing.assert_close(pairs, by_hand(0.1, 0.2, 0.3, 0.4).reshape(1, 2, 2), **EXACT)
    path = by_hand(1, 0, 0, 1).reshape(2, 2)
    (score,) = torch.autograd.grad(dist.log_prob(path), unary)
    torch.testing.assert_close(score, by_hand(0.7, -0.7, -0.4, 0.4).reshape(2, 2), **EXACT)


def test_without_transitions_the_places_are_independent() -> None:
    unary = torch.randn(3, 5, 4, generator=Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    chain = sp.LinearChain(unary, torch.zeros(1, 4, 4, dtype=torch.float64))
    product = Independent(OneHotCategorical(logits=unary), 1)
    points = product.sample((6,))
    torch.testing.assert_close(chain.log_prob(points), product.log_prob(points), **EXACT)
    torch.testing.assert_close(chain.mean, unary.softmax(-1), **EXACT)
    torch.testing.assert_close(chain.entropy(), product.entropy(), **EXACT)
    torch.testing.assert_close(
        *(torch.autograd.grad((m * points[0]).sum(), unary)[0] for m in (chain.mean, unary.softmax(-1))), **EXACT
    )


def test_hidden_markov_model() -> None:
    """With log-probabilities as scores, A is the log-likelihood of what was observed."""
    random = Generator().manual_seed(1)
    start, step = (Categorical(logits=torch.randn(*s, generator=random, dtype=torch.float64)) for s in ((3,), (3, 3)))
    seen = torch.randn(5, 3, generator=random, dtype=torch.float64)  # log p(observation | label)
    unary = seen.clone()
    unary[0] += start.logits
    chain = sp.LinearChain(unary, step.logits.unsqueeze(0))
    filtered = start.probs * seen[0].exp()
    for t in range(1, 5):
        filtered = (filtered @ step.probs) * seen[t].exp()
    torch.testing.assert_close(chain.log_normalizer(**chain.natural), filtered.sum().log(), **EXACT)


@pytest.mark.parametrize("places", [1, 2, 3, 7, 8, 100])
def test_products_and_vectors_agree(places: int) -> None:
    random = Generator().manual_seed(places)
    unary = torch.randn(2, places, 3, generator=random, dtype=torch.float64)
    transitions = torch.randn(2, places - 1, 3, 3, generator=random, dtype=torch.float64)
    transitions[:, :, 0, 1] = -torch.inf
    products = linear_chain._by_products(unary, transitions)
    before, offset = linear_chain._forward(unary, transitions)
    vectors = linear_chain.logsumexp(before[-1], -1) + offset
    torch.testing.assert_close(products, vectors, rtol=1e-13, atol=1e-12)


def test_transposed_transitions_are_another_distribution() -> None:
    transitions = torch.randn(1, 3, 3, generator=Generator().manual_seed(1), dtype=torch.float64)
    zeros = torch.zeros(3, 3, dtype=torch.float64)
    assert kl_divergence(sp.LinearChain(zeros, transitions), sp.LinearChain(zeros, transitions.mT)) > 0.01


def test_float32() -> None:
    random = Generator().manual_seed(2)
    unary, transitions = torch.randn(8, 100, 10, generator=random), torch.randn(8, 99, 10, 10, generator=random)
    chain, exact = sp.LinearChain(unary, transitions), sp.LinearChain(unary.double(), transitions.double())
    torch.testing.assert_close(chain.mean.double(), exact.mean, rtol=0, atol=2e-6)
    points = chain.sample()
    torch.testing.assert_close(chain.log_prob(points).double(), exact.log_prob(points.double()), rtol=0, atol=5e-4)


def test_broadcast_and_shapes() -> None:
    chain = sp.LinearChain(torch.zeros(5, 1, 4, 3), torch.zeros(2, 3, 3, 3))
    assert chain.batch_shape == (5, 2)
    for unary, transitions in (((4, 3), (2, 3, 3)), ((4, 3), (3, 3, 2)), ((4,), (3, 3, 3)), ((4, 3), (3, 3))):
        with pytest.raises(ValueError, match=r"LinearChain needs .*transitions \[\*batch, .*; got"):
            sp.LinearChain(torch.zeros(unary), torch.zeros(transitions))
    with pytest.raises(TypeError, match=r"LinearChain needs transitions as a floating-point tensor.*got torch\.int64"):
        sp.LinearChain(torch.zeros(2, 2), torch.zeros(1, 2, 2, dtype=torch.int64))
