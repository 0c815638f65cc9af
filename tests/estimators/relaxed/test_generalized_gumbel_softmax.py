"""What is peculiar to the generalized Gumbel-softmax: relaxed counts against sums over the support."""

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Binomial, Poisson

import sampleprop as sp
from estimators.counts import LAWS, Z, grid
from sampleprop import families
from sampleprop.estimators.relaxed.generalized_gumbel_softmax import GeneralizedGumbelSoftmax, outcomes_of


def smooth(x: Tensor) -> Tensor:
    return (0.3 * x[..., 0] + 0.2 * x[..., 1]).tanh()


@pytest.mark.parametrize("name", ["poisson", "binomial by probs", "geometric by probs", "negative binomial by logits"])
def test_relaxed_counts_tend_to_the_exact_gradient(name: str) -> None:
    """At τ = 1 the bias is seen; at τ = 0.1 at least nine tenths of it are gone, up to five standard errors."""
    law = LAWS[name]
    leaf, points = law.phi.clone().requires_grad_(), grid(law)
    value = (families.recognize(law.dist(leaf)).log_prob(points).exp() * smooth(points)).sum()
    (expected,) = torch.autograd.grad(value, leaf)
    gaps, errors = [], []
    for temperature in (1.0, 0.1):
        estimator = GeneralizedGumbelSoftmax(2, outcomes=min(law.outcomes, 40), temperature=temperature)
        phi = law.phi.expand(10_000, 2).clone().requires_grad_()
        sp.expect(smooth, law.dist(phi), estimator, generator=Generator().manual_seed(1)).sum().backward()
        gaps.append((phi.grad.mean(0) - expected).norm().item())
        errors.append((phi.grad.std(0) / len(phi) ** 0.5).norm().item())
    assert gaps[0] > Z * errors[0]
    assert gaps[1] < gaps[0] / 10 + Z * errors[1]


def test_relaxed_counts_stay_among_the_possible_ones() -> None:
    """More outcomes than a binomial variable has, and a number of trials that differs along the batch."""
    trials, logits = torch.tensor([2, 5]), torch.tensor([0.3, -20.0]).requires_grad_()
    dist = Binomial(trials, logits=logits)
    estimator = GeneralizedGumbelSoftmax(2000, outcomes=9)
    draw = estimator.propose(dist)
    assert (draw.points >= 0).all()
    assert (draw.points <= trials * (1 + 1e-6)).all()
    value = estimator.combine(dist, draw, draw.points.square())
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert gradient.isfinite().all()
    assert gradient[0] > 0


def test_outcomes_above_the_last_go_to_it() -> None:
    logits, beyond = outcomes_of(sp.families.recognize(Poisson(torch.tensor(50.0))), 8)
    assert float(beyond) > 0.999
    noise = sp.noise.gumbel((100, 8), torch.zeros(()))
    points = GeneralizedGumbelSoftmax(100, outcomes=8, temperature=0.1).points_from(logits, noise)
    torch.testing.assert_close(points, torch.full((100,), 7.0))


def test_relaxed_counts_refuse_what_they_cannot() -> None:
    with pytest.raises(ValueError, match="needs a whole number of outcomes, at least 2; got outcomes=1"):
        GeneralizedGumbelSoftmax(outcomes=1)
    with pytest.raises(TypeError, match=r"got Bernoulli\. Use GumbelSoftmax for bits and classes"):
        sp.expect(lambda x: x, Bernoulli(logits=torch.zeros(3)), GeneralizedGumbelSoftmax())
