"""What `recognize` makes of distributions that are not quite the ordinary ones, and the sums of scores."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.distributions as td
from torch import Generator, Tensor
from torch.distributions import Distribution

import sampleprop as sp
from sampleprop import families

LOGITS = torch.tensor([[0.3, -1.0, 0.5], [2.0, 0.1, -0.4]])


def first(dist: Any, sample_shape: torch.Size) -> Tensor:
    """The first outcome, always."""
    return torch.zeros(sample_shape + dist.batch_shape)


class FirstClass(td.Categorical):
    def sample(self, sample_shape: Any = ()) -> Tensor:
        return first(self, torch.Size(sample_shape)).long()


class FirstOneHot(td.OneHotCategorical):
    def sample(self, sample_shape: Any = ()) -> Tensor:
        return torch.nn.functional.one_hot(first(self, torch.Size(sample_shape)).long(), 3).float()


class FirstBit(td.Bernoulli):
    def sample(self, sample_shape: Any = ()) -> Tensor:
        return first(self, torch.Size(sample_shape))


class Mean(td.Normal):
    """With a `sample` of its own beside the inherited `rsample`."""

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.loc.detach().expand(*sample_shape, *self.batch_shape)


@pytest.mark.parametrize("kind", [FirstClass, FirstOneHot, FirstBit], ids=lambda kind: kind.__name__)
def test_a_discrete_subclass_with_a_sample_of_its_own_is_not_of_the_family(kind: type[Distribution]) -> None:
    dist = kind(logits=LOGITS)  # type: ignore[call-arg]
    variables = families.recognize(dist)
    assert isinstance(variables, families.Other)
    assert variables.is_discrete
    assert torch.equal(variables.sample(7), dist.sample(torch.Size((7,))))
    assert "got First" in str(sp.Enumerate().refusal(dist))


def test_a_continuous_subclass_with_a_sample_of_its_own_keeps_it() -> None:
    mean = torch.tensor([1.0, 2.0])
    assert torch.equal(families.recognize(Mean(mean, 1.0)).sample(3), mean.expand(3, 2))


def test_a_subclass_without_a_sample_of_its_own_is_of_the_family() -> None:
    class Named(td.Bernoulli):
        pass

    assert isinstance(families.recognize(Named(logits=LOGITS)), families.Bernoullis)


def test_a_transformed_discrete_variable_is_sampled_and_discrete() -> None:
    dist = td.TransformedDistribution(td.Bernoulli(logits=LOGITS), [td.AffineTransform(1.0, 2.0)], validate_args=False)
    variables = families.recognize(dist)
    assert variables.is_discrete
    points = variables.sample(50, Generator().manual_seed(0))
    assert set(points.unique().tolist()) == {1.0, 3.0}


SIGNS = td.TransformedDistribution(td.Bernoulli(logits=LOGITS), [td.AffineTransform(-1.0, 2.0)], validate_args=False)


@pytest.mark.parametrize(
    ("component", "discrete"),
    [(td.Bernoulli(logits=LOGITS), True), (SIGNS, True), (td.Normal(LOGITS, 1.0), False)],
    ids=["bits", "signs, whose support does not tell", "normal"],
)
def test_a_mixture_is_discrete_as_its_components_are(component: Distribution, discrete: bool) -> None:
    mixture = td.MixtureSameFamily(td.Categorical(logits=LOGITS), component, validate_args=False)
    assert families.recognize(mixture).is_discrete == discrete


class Tagged(td.Normal):
    """Its tag is set after it was made, so that a distribution made anew would not have it."""

    tag: str


def test_state_that_was_added_later_is_not_lost_in_silence() -> None:
    dist = Tagged(torch.zeros(2), 1.0)
    dist.tag = "mine"
    with pytest.raises(TypeError, match="it would lack tag"):
        families.with_parameters(dist, families.recognize(dist).parameters)


EXP = td.ExpTransform()


@pytest.mark.parametrize(
    ("dist", "order"),
    [
        (td.Normal(torch.zeros(2), 1.0), math.inf),
        (td.Gamma(torch.ones(2), 1.0), 1),
        (td.TransformedDistribution(td.Normal(torch.zeros(2), 1.0), [EXP]), math.inf),
        (td.TransformedDistribution(td.Gamma(torch.ones(2), 1.0), [EXP]), 1),
        (td.Independent(td.TransformedDistribution(td.Beta(torch.ones(2), 1.0), [EXP]), 1), 1),
    ],
    ids=["normal", "gamma", "transformed normal", "transformed gamma", "transformed beta"],
)
def test_the_order_of_a_path_is_that_of_the_innermost_sample(dist: Distribution, order: float) -> None:
    assert sp.Pathwise().order(dist) == order


def test_an_edge_that_moves_inside_of_another_transform_is_found() -> None:
    shift = torch.tensor(0.5, requires_grad=True)
    inner = td.TransformedDistribution(td.HalfNormal(torch.tensor(1.0)), [td.AffineTransform(shift, 1.0)])
    assert families.recognize(td.TransformedDistribution(inner, [EXP])).moving_support
    still = td.TransformedDistribution(td.HalfNormal(shift.exp()), [td.AffineTransform(0.5, 1.0)])
    assert not families.recognize(td.TransformedDistribution(still, [EXP])).moving_support


@pytest.mark.parametrize("p", [1e-30, 1e-10, 0.3])
def test_the_logit_of_a_probability_is_not_clamped(p: float) -> None:
    probs = torch.tensor([p], requires_grad=True)
    (logits,) = families.recognize(td.Bernoulli(probs=probs)).parameters.values()
    torch.testing.assert_close(logits, torch.tensor([math.log(p) - math.log1p(-p)]))
    (gradient,) = torch.autograd.grad(logits.sum(), probs)
    torch.testing.assert_close(gradient, torch.tensor([1 / (p * (1 - p))]))


def test_half_precision_logits_are_normalized_in_single_precision() -> None:
    (logits,) = families.recognize(td.Categorical(logits=LOGITS.bfloat16())).parameters.values()
    torch.testing.assert_close(logits.logsumexp(-1), torch.zeros(2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [td.Bernoulli, td.OneHotCategorical, td.Categorical])
@pytest.mark.parametrize("k", [2, 40])  # a matrix product from 16 samples and 20,000 numbers on
def test_gradients_for_logits_lead_to_the_gradient_of_the_log_prob_of_torch(kind: type[Distribution], k: int) -> None:
    leaf = torch.randn(200, 3, generator=Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    dist = td.Independent(kind(logits=leaf.expand(4, 200, 3)), 1)  # type: ignore[call-arg]
    variables = families.recognize(dist)
    assert isinstance(variables, families.Discrete)
    points = variables.sample(k, Generator().manual_seed(1))
    weights = torch.randn(k, *dist.batch_shape, generator=Generator().manual_seed(2), dtype=torch.float64)
    log_prob = dist.log_prob(points)

    def through(gradient: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(variables.logits, leaf, gradient, retain_graph=True)[0]

    def expected(weights: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad((weights * log_prob[: len(weights)]).sum(), leaf, retain_graph=True)[0]

    for each in (weights, weights[:1]):
        torch.testing.assert_close(through(variables.gradient_for_logits(points[: len(each)], each)), expected(each))
    centered = weights - weights.mean(0)
    torch.testing.assert_close(through(variables.weighted_points(points, centered)), expected(centered))


@pytest.mark.parametrize(
    "make",
    [
        lambda a, b: td.Independent(td.Normal(a, b.exp()), 1),
        lambda a, b: td.Gamma(a.exp(), b.exp()),
        lambda a, b: td.Bernoulli(logits=a + 0 * b),
    ],
    ids=["normal", "gamma", "bernoulli"],
)
def test_scores_are_the_derivatives_of_the_log_probability(make: Any) -> None:
    a, b = (LOGITS.double() + shift for shift in (0.0, 0.1))
    points = make(a, b).sample(torch.Size((3,)))
    named = families.recognize(make(a, b)).parameters
    for i, point in enumerate(points):
        leaves = {name: parameter.clone().requires_grad_() for name, parameter in named.items()}
        log_prob = families.recognize(families.with_parameters(make(a, b), leaves)).log_prob(point.unsqueeze(0))
        expected = torch.autograd.grad(log_prob.sum(), list(leaves.values()))
        for found, one in zip(families.recognize(make(a, b)).scores(points), expected, strict=True):
            torch.testing.assert_close(found[i], one)


@pytest.mark.parametrize("kind", [td.OneHotCategorical, td.Categorical])
def test_the_largest_uniform_number_draws_a_class(kind: type[Distribution], monkeypatch: pytest.MonkeyPatch) -> None:
    """The distribution function may end below 1 by rounding, and the number be above it."""
    logits = torch.randn(500, 200, generator=Generator().manual_seed(0))
    largest = 1 - 2.0**-24
    assert (logits.softmax(-1).cumsum(-1)[:, -1] < largest).any()
    monkeypatch.setattr(families.discrete.noise, "uniform", lambda shape, like, generator: torch.full(shape, largest))
    points = families.recognize(kind(logits=logits)).sample(1)  # type: ignore[call-arg]
    if kind is td.Categorical:
        assert points.max() < 200
    else:
        assert (points.sum(-1) == 1).all()


def test_scores_of_some_parameters_hold_the_others():
    """A mixture, or a distribution with several needed arguments, is rebuilt with all of its parameters."""
    loc = torch.randn(3, 2, requires_grad=True)
    mixture = td.MixtureSameFamily(td.Categorical(logits=torch.randn(3, 2)), td.Normal(loc, torch.ones(3, 2)))
    for dist in (mixture, td.StudentT(torch.full((3,), 4.0), loc[:, 0], torch.ones(3))):
        variables = families.recognize(dist)
        points = torch.randn(5, 3)
        every = dict(zip(variables.parameters, variables.scores(points), strict=True))
        assert len(every) == 3
        for name, expected in every.items():
            (found,) = variables.scores(points, (name,))
            torch.testing.assert_close(found, expected)
