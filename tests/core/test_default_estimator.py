"""The estimator that `expect` chooses when it is given none."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import Categorical

import sampleprop as sp
from kinds import BITS, GAMMA, NORMAL, POISSON, Kind, gradients

BATCH = 5


def test_default_enumerates_a_tiny_support() -> None:
    phi = BITS.phi(BATCH)
    found = sp.expect(lambda x: x.sum(-1).square(), BITS.dist(phi))
    expected = sp.expect(lambda x: x.sum(-1).square(), BITS.dist(phi), sp.Enumerate())
    assert torch.equal(*(gradients(value, phi)[0] for value in (found, expected)))


def test_default_is_pathwise_where_f_is_differentiable() -> None:
    phi = NORMAL.phi(BATCH)
    torch.manual_seed(1)
    found = sp.expect(lambda x: x.sum(-1).square(), NORMAL.dist(phi))
    torch.manual_seed(1)
    expected = sp.expect(lambda x: x.sum(-1).square(), NORMAL.dist(phi), sp.Pathwise())
    assert torch.equal(*(gradients(value, phi)[0] for value in (found, expected)))


@pytest.mark.parametrize("kind", [NORMAL, GAMMA, POISSON], ids=str)
def test_default_is_a_score_function_where_f_is_not(kind: Kind) -> None:
    """f leaves the graph; the gradient still has the right mean, |z| < 5.3 (2e-7 for each of at most 12
    coordinates)."""
    phi = kind.phi(1).detach().expand(20_000, *kind.shape).clone().requires_grad_()
    value = sp.expect(lambda x: x.detach().sum(-1).tanh(), kind.dist(phi))
    (gradient,) = gradients(value, phi)
    generator = Generator().manual_seed(0)
    reference = sp.expect(lambda x: x.detach().sum(-1).tanh(), kind.dist(phi), sp.ScoreFunction(4), generator=generator)
    (other,) = gradients(reference, phi)
    z = (gradient - other).mean(0) / ((gradient.var(0) + other.var(0)) / len(phi)).sqrt()
    assert z.abs().max() < 5.3


@pytest.mark.parametrize(("classes", "evaluations"), [(16, 16), (17, 2)])
def test_default_enumerates_up_to_sixteen_states(classes: int, evaluations: int) -> None:
    seen = []

    def f(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x.double()

    sp.expect(f, Categorical(logits=torch.zeros(classes)))
    assert seen == [evaluations]
