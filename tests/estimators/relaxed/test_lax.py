"""LAX: identities, learning, the distributions that it takes, and its draws.

Random tests compare at |z| < 4.5, as `problems.py` explains.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Gamma, Independent, MultivariateNormal, Normal

import sampleprop as sp
from estimators.relaxed.problems import THRESHOLD, f, gradient, largest_z, normal, variance
from sampleprop.estimators.pathwise.pathwise import Pathwise
from sampleprop.estimators.relaxed.lax import LAX
from sampleprop.estimators.relaxed.lax import Draw as LAXDraw
from variants import tilted


def test_lax_with_f_as_critic_is_pathwise() -> None:
    grads = []
    for estimator in (LAX(3, critic=f), Pathwise(3)):
        phi = torch.linspace(-0.5, 0.5, 20, dtype=torch.float64).reshape(5, 4).requires_grad_()
        sp.expect(f, normal(phi), estimator, generator=torch.Generator().manual_seed(0)).sum().backward()
        grads.append(phi.grad)
    torch.testing.assert_close(*grads)


def jump(x: Tensor) -> Tensor:
    return (x[..., 0] > 0.3).to(x.dtype) * x[..., 1] + 2.0


def jump_rows(estimator: sp.Estimator, rows: int, seed: int) -> Tensor:
    phi = torch.tensor([0.5, -0.2, -0.3, 0.1], dtype=torch.float64).expand(rows, 4).clone().requires_grad_()
    sp.expect(jump, normal(phi), estimator, generator=torch.Generator().manual_seed(seed)).sum().backward()
    return phi.grad


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_lax_learns_and_stays_unbiased_for_an_f_with_a_jump(sign: float) -> None:
    phi = torch.tensor([0.5, -0.2, -0.3, 0.1], dtype=torch.float64, requires_grad=True)
    above = 1 - Normal(phi[0], phi[2].exp()).cdf(torch.tensor(0.3, dtype=torch.float64))
    (wanted,) = torch.autograd.grad(above * phi[1], phi)
    torch.manual_seed(0)
    estimator = LAX()
    before = variance(jump_rows(copy.deepcopy(estimator).eval(), 20_000, 0))
    optimizer = torch.optim.Adam(estimator.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        leaf = phi.detach().expand(64, 4).clone().requires_grad_()
        (sign * sp.expect(jump, normal(leaf), estimator)).mean().backward()
        optimizer.step()
    after = jump_rows(estimator.eval(), 20_000, 1)
    assert variance(after) < 0.3 * before
    assert largest_z(after, wanted) < THRESHOLD


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("event", [(), (3,), (2, 3)])
def test_any_batch_and_event_of_lax(batch: tuple[int, ...], event: tuple[int, ...]) -> None:
    phi = torch.zeros(batch + event, requires_grad=True)
    q = Independent(Normal(phi, 1.0), len(event))
    value = sp.expect(lambda x: (x - 0.3).square().unsqueeze(-1).flatten(1 + len(batch)).sum(-1), q, LAX())
    value.sum().backward()
    assert value.shape == batch
    assert phi.grad.abs().min() > 0


def test_lax_draws_can_be_made_without_gradient() -> None:
    phi = torch.zeros(3, 4, dtype=torch.float64)
    estimator = tilted(LAX(2))
    torch.manual_seed(0)
    with torch.no_grad():
        draw = estimator.propose(normal(phi))
    torch.manual_seed(0)
    other = estimator.propose(normal(phi.clone().requires_grad_()))
    assert not any(x.requires_grad for x in (other.points, *other.derivatives))
    assert torch.equal(gradient(estimator, normal, phi, draw), gradient(estimator, normal, phi, other))


def test_lax_takes_implicit_reparameterizations() -> None:
    phi = torch.tensor([1.7, 1.3], dtype=torch.float64).expand(20_000, 2).clone().requires_grad_()
    q = Independent(Gamma(phi[:, :1], phi[:, 1:]), 1)
    estimator = LAX(critic=lambda x: (x + 1).log().sum(-1)).eval()
    sp.expect(lambda x: x.sum(-1), q, estimator, generator=torch.Generator().manual_seed(0)).sum().backward()
    assert largest_z(phi.grad, torch.tensor([1 / 1.3, -1.7 / 1.3**2], dtype=torch.float64)) < THRESHOLD


@pytest.mark.parametrize(
    ("dist", "reason"),
    [
        (Bernoulli(0.5), "continuous distribution"),
        (MultivariateNormal(torch.zeros(2), torch.eye(2)), "independent given the parameters"),
        (torch.distributions.Uniform(0.0, 1.0), "does not move"),
        (torch.distributions.VonMises(0.0, 1.0), "rsample"),
        (torch.distributions.LogNormal(0.0, 1.0), "own parameters"),
    ],
)
def test_lax_says_why_it_cannot_take_a_distribution(dist, reason: str) -> None:
    with pytest.raises(TypeError, match=reason):
        sp.expect(lambda x: x, dist, LAX())


def test_a_lax_draw_is_a_plain_tuple() -> None:
    draw = LAX(2).propose(normal(torch.zeros(3, 4)))
    assert isinstance(draw, LAXDraw)
    assert [d.shape for d in draw.derivatives] == [(2, 3, 2), (2, 3, 2)]


def test_the_score_is_that_of_the_distribution_that_is_given_to_combine() -> None:
    """Its parameters may have moved since `propose`. With a critic of zero LAX is the plain score function."""
    draw = LAX(64).propose(Normal(torch.zeros(3), torch.ones(3)), generator=torch.Generator().manual_seed(0))
    loc, scale = torch.tensor([0.3, -0.2, 0.1]).requires_grad_(), torch.tensor([1.2, 0.8, 1.5]).requires_grad_()
    costs = draw.points.square() + draw.points
    LAX(64).combine(Normal(loc, scale), draw, costs).sum().backward()
    epsilon = (draw.points - loc.detach()) / scale.detach()
    for found, score in ((loc.grad, epsilon), (scale.grad, epsilon.square() - 1)):
        torch.testing.assert_close(found, (costs * score / scale.detach()).mean(0), rtol=1e-4, atol=1e-5)
