"""What the library adds to torch's own distributions, and when it refuses to rebuild one.

The z-tests compare at 4.9 standard errors, a false-alarm rate of 1e-6 for each number.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, ContinuousBernoulli, Independent, Normal, OneHotCategorical

import sampleprop as sp
from sampleprop import families, noise


@pytest.mark.parametrize("logit", [0.0, 1e-3, -0.0199, 0.0201, -0.3, 2.0, -8.0, 30.0, -200.0])
def test_continuous_bernoulli_is_right_near_the_uniform_and_far_from_it(logit):
    rows = torch.full((200_000,), logit, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    value = sp.expect(torch.square, ContinuousBernoulli(logits=rows), sp.Pathwise())
    (found,) = torch.autograd.grad(value.sum(), rows)
    leaf = torch.tensor(logit, dtype=torch.float64, requires_grad=True)
    grid = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    weights = (leaf * (grid - float(logit > 0))).exp()
    exact = torch.trapezoid(weights * grid.square(), grid) / torch.trapezoid(weights, grid)
    (slope,) = torch.autograd.grad(exact, leaf)
    for sample, mean in ((value.detach(), exact.detach()), (found, slope)):
        assert abs(sample.mean() - mean) < 4.9 * sample.std() / len(rows) ** 0.5 + 1e-9


def test_continuous_bernoulli_has_no_step_where_the_series_begins():
    u = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    samples = []
    for logit in (-0.02 - 1e-12, -0.02 + 1e-12):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(noise, "uniform", lambda *_: u)
            samples.append(
                families.recognize(ContinuousBernoulli(logits=torch.full((999,), logit, dtype=torch.float64))).rsample(
                    1
                )
            )
    assert torch.allclose(samples[0], samples[1], rtol=0, atol=1e-10)


class Shifted(Normal):
    """A subclass with state of its own."""

    def __init__(self, loc, scale, shift=0.0, validate_args=None):
        self.shift = shift
        super().__init__(loc + shift, scale, validate_args=validate_args)


class Noisy(Normal):
    def __init__(self, noise, validate_args=None):
        super().__init__(noise, noise, validate_args=validate_args)


@pytest.mark.parametrize(
    ("dist", "message"),
    [
        (Shifted(torch.zeros(2), 1.0, shift=0.3), "would have shift=0.0, not 0.3"),
        (Noisy(torch.ones(2)), "does not take loc"),
    ],
)
def test_a_subclass_that_would_lose_its_state_is_refused(dist, message):
    with pytest.raises(TypeError, match=message):
        families.with_parameters(dist, families.recognize(dist).parameters)


@pytest.mark.parametrize("dist", [Normal(torch.zeros(2), 1.0), Independent(Bernoulli(torch.full((2,), 0.3)), 1)])
def test_parameters_that_were_read_as_another_kind_do_not_hinder(dist):
    base, _ = families.unwrap(dist)
    assert base.variance.shape == (2,)
    assert base.entropy().shape == (2,)  # computes and keeps the logits of a Bernoulli
    made = families.with_parameters(dist, families.recognize(dist).parameters)
    assert made.batch_shape == dist.batch_shape


def test_a_self_critical_baseline_needs_a_mode():
    mixture = sp.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=torch.zeros(2)), Normal(torch.zeros(2), 1.0)
    )
    with pytest.raises(TypeError, match="SelfCritical needs a distribution that knows its mode; got MixtureSameFamily"):
        sp.expect(torch.square, mixture, sp.ScoreFunction(1, baseline=sp.SelfCritical()))


def test_a_critic_is_not_differentiated_through_angles_that_jump():
    with pytest.raises(TypeError, match=r"LAX needs samples that move without a jump.*VonMises.*Use Pathwise"):
        sp.expect(torch.sin, sp.distributions.VonMises(torch.zeros(2), torch.ones(2)), sp.LAX())


def test_measure_valued_takes_our_gamma_as_it_takes_torchs():
    """E[tanh x] by the rate, by the two estimators; a false alarm once in a million runs."""
    rate = torch.full((100_000,), 1.3, dtype=torch.float64, requires_grad=True)
    q = sp.distributions.Gamma(torch.full_like(rate, 0.4).detach(), rate)
    found = []
    for estimator in (sp.MeasureValued(), sp.Pathwise()):
        torch.manual_seed(0)
        (gradient,) = torch.autograd.grad(sp.expect(torch.tanh, q, estimator).sum(), rate)
        found.append(gradient)
    error = sum(g.var() / len(g) for g in found) ** 0.5
    assert (found[0].mean() - found[1].mean()).abs() < 4.9 * error
    assert found[1].mean().abs() > 40 * error


@pytest.mark.parametrize(
    "dist",
    [
        torch.distributions.RelaxedBernoulli(torch.tensor(0.1), logits=torch.full((500,), 0.3)),
        torch.distributions.RelaxedOneHotCategorical(torch.tensor(0.02), logits=torch.zeros(100, 5)),
        torch.distributions.Beta(torch.full((500,), 0.02), torch.full((500,), 0.02)),
        torch.distributions.Kumaraswamy(torch.full((500,), 0.05), torch.full((500,), 0.05)),
        torch.distributions.Gamma(torch.full((500,), 0.01), torch.ones(500)),
        torch.distributions.Dirichlet(torch.full((100, 5), 0.01)),
    ],
    ids=lambda dist: type(dist).__name__,
)
def test_samples_that_torch_rounds_to_the_edge_have_no_score(dist):
    """Their log-probability is finite and wrong: the score function's mean would miss what they stand for."""
    torch.manual_seed(0)

    def f(x):
        return x.reshape(*x.shape[: 1 + len(dist.batch_shape)], -1).square().sum(-1)

    with pytest.raises(ValueError, match=f"The score of {type(dist).__name__} needs samples.* rounded to it"):
        sp.expect(f, dist, sp.ScoreFunction())


def test_a_stray_sample_at_the_edge_does_no_harm():
    q = torch.distributions.Beta(torch.ones(1000), torch.ones(1000))
    points = q.sample((1,))
    points[0, 0] = torch.finfo(points.dtype).tiny
    assert families.recognize(q).log_prob(points).isfinite().all()


@pytest.mark.parametrize("kind", [Categorical, OneHotCategorical])
@pytest.mark.parametrize("count", [1, 2, 7, families.discrete.FEW, families.discrete.FEW + 1])
def test_classes_are_drawn_by_their_probabilities_and_masked_ones_never(kind, count):
    """Both ways of drawing; the row's middle classes are masked, and so is the last one."""
    logits = torch.linspace(-1.0, 2.0, count, dtype=torch.float64).repeat(3, 1)
    masked = torch.arange(count) % 3 == 1
    masked[-1] = count > 2
    logits[:, masked] = -torch.inf
    k, dist = 40_000, kind(logits=logits)
    points = families.recognize(dist).sample(k, torch.Generator().manual_seed(count))
    shares = (points if kind is OneHotCategorical else torch.nn.functional.one_hot(points, count)).double().mean(0)
    assert torch.equal(shares.sum(-1), torch.ones(3, dtype=torch.float64))
    assert (shares[:, masked] == 0).all()
    p = logits.softmax(-1)
    assert (
        (shares - p).abs() <= 4.9 * (p * (1 - p) / k).sqrt() + 5 / k
    ).all()  # 5 / k: Poisson's tail, where p is small


@pytest.mark.parametrize("kind", [Categorical, OneHotCategorical])
def test_log_probabilities_of_masked_classes(kind):
    logits = torch.tensor([0.0, -torch.inf, 1.0], dtype=torch.float64, requires_grad=True)
    dist = kind(logits=logits)
    points = torch.arange(3) if kind is Categorical else torch.eye(3, dtype=torch.float64)
    found = families.recognize(dist).log_prob(points)
    torch.testing.assert_close(found, logits.log_softmax(-1))
    (slopes,) = torch.autograd.grad(found[0], logits)
    torch.testing.assert_close(slopes, torch.tensor([1.0, 0.0, 0.0]).double() - logits.detach().softmax(-1))


@pytest.mark.parametrize(
    "dist",
    [
        Bernoulli(logits=torch.linspace(-1, 1, 2000, dtype=torch.float64)),
        Independent(Bernoulli(logits=torch.linspace(-1, 1, 2000, dtype=torch.float64).reshape(10, 200)), 1),
        Categorical(logits=torch.linspace(-1, 1, 6000, dtype=torch.float64).reshape(2000, 3)),
        OneHotCategorical(logits=torch.linspace(-1, 1, 6000, dtype=torch.float64).reshape(2000, 3)),
    ],
    ids=["bits without an event", "bits", "categories", "one-hot"],
)
def test_many_points_are_weighted_as_few_are(dist):
    """Beyond 20,000 numbers the weighted sum is a product of matrices, where there is an event."""
    variables = families.recognize(dist)
    points = variables.sample(16)
    weights = torch.randn(16, *variables.batch_shape, dtype=torch.float64)
    weights -= weights.mean(0)
    scores = variables.score(points)
    scaled = weights.reshape(weights.shape + (1,) * (scores.dim() - weights.dim()))
    torch.testing.assert_close(variables.weighted_points(points, weights), (scaled * scores).sum(0))


@pytest.mark.parametrize("make", [Bernoulli, OneHotCategorical, Categorical])
def test_other_logits_take_no_probabilities_along(make) -> None:
    """What the variables have found for their logits does not go to those that are made from them."""
    variables = families.recognize(make(logits=torch.zeros(3)))
    assert variables.fixed_probs.unique().numel() == 1
    others = replace(variables, logits=torch.tensor([0.0, 1.0, 2.0]).log_softmax(-1))
    assert others.fixed_probs.unique().numel() == 3
