"""The distributions that torch lacks: derivatives of samples against moved quantiles, laws, expectations, edges,
refusals."""

import copy
import math
import pickle
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.distributions as td
from scipy import special, stats
from torch import Tensor

import sampleprop as sp
from robustness.subject import unchecked
from sampleprop import families
from sampleprop.distributions.angle import Angle
from sampleprop.distributions.beta import Beta
from sampleprop.distributions.dirichlet import Dirichlet
from sampleprop.distributions.gamma import Gamma
from sampleprop.distributions.generalized_extreme_value import GeneralizedExtremeValue
from sampleprop.distributions.implicit import ImplicitReparameterization
from sampleprop.distributions.mixture_same_family import MixtureSameFamily
from sampleprop.distributions.truncated_normal import TruncatedNormal
from sampleprop.distributions.von_mises import VonMises
from sampleprop.distributions.von_mises_fisher import VonMisesFisher

# A random test here fails by chance less than once in a million runs of it: 5.5 standard errors, p-values of 1e-6.
FALSE_ALARM = 1e-6
LARGEST_Z = 5.5
inf = math.inf


class Case(NamedTuple):
    """A distribution on the line as torch builds it from [..., parameters], and its density without torch."""

    build: Callable[[Tensor], td.Distribution]
    density: Callable[..., np.ndarray]  # of (z, *parameters)
    parameters: tuple[float, ...]
    low: Callable[..., float]  # where the mass begins, as a function of the parameters
    high: Callable[..., float]


def truncated(p):
    return TruncatedNormal(p[..., 0], p[..., 1], p[..., 2], p[..., 3])


def truncated_density(z, loc, scale, low, high):
    a, b = (low - loc) / scale, (high - loc) / scale
    mass = special.ndtr(-a) - special.ndtr(-b) if a > 0 else special.ndtr(b) - special.ndtr(a)
    return stats.norm.pdf(z, loc, scale) / mass


def extreme(p):
    return GeneralizedExtremeValue(p[..., 0], p[..., 1], p[..., 2])


def extreme_density(z, loc, scale, shape):
    return stats.genextreme.pdf(z, -shape, loc, scale)


def von_mises_density(z, loc, concentration):
    return np.exp(concentration * (np.cos(z - loc) - 1)) / (2 * math.pi * special.ive(0, concentration))


def mixture(p):
    return MixtureSameFamily(td.Categorical(logits=p[..., :3]), td.Normal(p[..., 3:6], p[..., 6:9].exp()))


def mixture_density(z, *p):
    terms = zip(special.softmax(p[:3]), p[3:6], np.exp(p[6:9]), strict=True)
    return sum(weight * stats.norm.pdf(z, loc, scale) for weight, loc, scale in terms)


CASES = {
    "truncated normal": Case(truncated, truncated_density, (0.3, 1.2, -0.8, 1.5), lambda *p: p[2], lambda *p: p[3]),
    "truncated normal, right tail": Case(
        truncated, truncated_density, (0.0, 1.0, 3.0, 4.0), lambda *p: p[2], lambda *p: p[3]
    ),
    "truncated normal, left tail": Case(
        truncated, truncated_density, (0.0, 1.0, -4.0, -3.0), lambda *p: p[2], lambda *p: p[3]
    ),
    "truncated normal, one bound": Case(
        lambda p: TruncatedNormal(p[..., 0], p[..., 1], p[..., 2], inf),
        lambda z, loc, scale, low: truncated_density(z, loc, scale, low, inf),
        (0.3, 1.2, -0.8),
        lambda *p: p[2],
        lambda *p: 10.0,
    ),
    "extreme value, shape -0.3": Case(
        extreme, extreme_density, (0.4, 1.3, -0.3), lambda *p: -10.0, lambda m, s, x: m - s / x
    ),
    "extreme value, shape 0": Case(extreme, extreme_density, (0.4, 1.3, 0.0), lambda *p: -6.0, lambda *p: 50.0),
    "extreme value, shape 0.3": Case(
        extreme, extreme_density, (0.4, 1.3, 0.3), lambda m, s, x: m - s / x, lambda *p: 800.0
    ),
    **{
        f"von Mises, concentration {k}": Case(
            lambda p: VonMises(p[..., 0], p[..., 1]),
            von_mises_density,
            (0.0, k),
            lambda loc, k: loc - math.pi,
            lambda loc, k: loc + math.pi,
        )
        for k in (1e-3, 2.0, 200.0)
    },
    "mixture": Case(
        mixture, mixture_density, (0.2, -0.5, 0.1, -1.0, 0.4, 1.5, -0.3, 0.2, -0.6), lambda *p: -10.0, lambda *p: 10.0
    ),
    **{
        f"gamma, concentration {a:g}": Case(
            lambda p: Gamma(p[..., 0], p[..., 1]),
            lambda z, a, rate: stats.gamma.pdf(z, a, scale=1 / rate),
            (a, 1.5),
            lambda *p: 0.0,
            lambda a, rate: (a + 10 * a**0.5 + 30) / rate,
        )
        for a in (3.0, 30.0)
    },
    "implicit": Case(
        lambda p: ImplicitReparameterization(td.Gumbel(p[..., 0], p[..., 1])),
        lambda z, loc, scale: extreme_density(z, loc, scale, 0.0),
        (0.4, 1.3),
        lambda *p: -6.0,
        lambda *p: 50.0,
    ),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def integral(function, start, end, panels=24):
    """The integral from `start` to each of `end`, by Gauss-Legendre quadrature with 20 nodes in each panel."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    share = ((np.arange(panels)[:, None] + (nodes + 1) / 2) / panels).ravel()
    length = np.atleast_1d(np.asarray(end, dtype=float) - start)[..., None]
    return (function(start + length * share) * np.tile(weights / (2 * panels), panels) * length).sum(-1)


def moved_parameters(parameters, i, step):
    return [x + step * (j == i) for j, x in enumerate(parameters)]


def central(function, parameters):
    """The derivative of function(*parameters) by each parameter, by differences: [..., parameters]."""
    columns = []
    for i, x in enumerate(parameters):
        h = 1e-3 * max(1e-2, abs(x))
        values = [function(*moved_parameters(parameters, i, t * h)) for t in (-2, -1, 1, 2)]
        columns.append((values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h))
    return np.stack(columns, -1)


def rows(case: Case, count: int) -> Tensor:
    """Parameters, one copy for each sample: [count, parameters]."""
    return torch.tensor(case.parameters, dtype=torch.float64).expand(count, -1).clone().requires_grad_()


@each_case
def test_the_derivative_is_that_of_the_quantile(case):
    """∂z/∂φ against the root z' of F(z') = u under moved parameters, found with a density that torch has no part in."""
    p = rows(case, 60)
    points = case.build(p).rsample()
    (gradient,) = torch.autograd.grad(points.sum(), p)
    z = points.detach().numpy()

    def cdf(x, parameters):
        return integral(lambda x: case.density(x, *parameters), case.low(*parameters), x)

    u = cdf(z, case.parameters)

    def quantile(*parameters):
        x = z
        for _ in range(3):
            x = x - (cdf(x, parameters) - u) / case.density(x, *parameters)
        return x

    inside = (u > 1e-3) & (u < 1 - 1e-3)  # where Newton's method may start from z
    expected = central(quantile, case.parameters)[inside]
    assert inside.sum() > 45
    np.testing.assert_allclose(gradient.numpy()[inside], expected, rtol=1e-5, atol=1e-5)


@each_case
def test_samples_follow_the_law(case):
    with torch.no_grad():
        z = case.build(torch.tensor(case.parameters, dtype=torch.float64)).sample((3000,)).numpy()
    u = integral(lambda x: case.density(x, *case.parameters), case.low(*case.parameters), z)
    assert stats.kstest(u, "uniform").pvalue > FALSE_ALARM


@each_case
def test_the_log_probability_and_the_cdf(case):
    p = torch.tensor(case.parameters, dtype=torch.float64)
    dist = case.build(p)
    z = dist.sample((50,))
    np.testing.assert_allclose(dist.log_prob(z).exp(), case.density(z.numpy(), *case.parameters), rtol=1e-9)
    u = integral(lambda x: case.density(x, *case.parameters), case.low(*case.parameters), z.numpy())
    np.testing.assert_allclose(dist.cdf(z), u, rtol=1e-7, atol=1e-9)


@each_case
def test_the_score(case):
    """∂ log p / ∂φ at fixed points, inside supports that move by a step of the differences."""
    p = rows(case, 30)
    z = case.build(p).sample()
    (gradient,) = torch.autograd.grad(case.build(p).log_prob(z).sum(), p)
    low, high = case.low(*case.parameters), case.high(*case.parameters)
    inside = ((z > low + 0.05) & (z < high - 0.05)).numpy()
    expected = central(lambda *parameters: np.log(case.density(z.numpy()[inside], *parameters)), case.parameters)
    np.testing.assert_allclose(gradient.numpy()[inside], expected, rtol=1e-5, atol=1e-5)


@each_case
def test_pathwise_gradients_of_expectations(case):
    """E cos z + sin(2 z) / 2 against quadrature, in one z-test for each parameter; the moving bounds are parameters
    too."""
    p = rows(case, 20_000)
    dist = case.build(p)

    def f(z):
        return z.cos() + (2 * z).sin() / 2

    value = sp.expect(f, dist, sp.Pathwise())
    value.sum().backward()

    def expectation(*parameters):
        def weighted(z):
            return (np.cos(z) + np.sin(2 * z) / 2) * case.density(z, *parameters)

        return integral(weighted, case.low(*parameters), case.high(*parameters), panels=400)[0]

    assert p.grad is not None
    z = (p.grad.mean(0) - torch.from_numpy(central(expectation, case.parameters))) / (
        p.grad.std(0) / 20_000**0.5 + 1e-9
    )
    assert z.abs().max() < LARGEST_Z
    off = (value.detach().mean() - expectation(*case.parameters)) / (value.detach().std() / 20_000**0.5)
    assert off.abs() < LARGEST_Z


@pytest.mark.parametrize("name", ["truncated normal, fixed bounds", "von Mises", "mixture"])
def test_the_score_function_agrees(name):
    builds = {
        "truncated normal, fixed bounds": lambda p: TruncatedNormal(p[..., 0], p[..., 1].exp(), -0.8, 1.5),
        "von Mises": lambda p: VonMises(p[..., 0], p[..., 1].exp()),
        "mixture": lambda p: mixture(torch.cat([p, p * 2, p / 2], -1)),
    }
    gradients = []
    for estimator in (sp.Pathwise(), sp.ScoreFunction(2)):
        p = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64).expand(20_000, 3).clone().requires_grad_()
        sp.expect(torch.cos, builds[name](p), estimator).sum().backward()
        gradients.append(p.grad)
    pathwise, score = gradients
    error = ((pathwise.var(0) + score.var(0)) / 20_000).sqrt()
    assert ((pathwise.mean(0) - score.mean(0)) / (error + 1e-12)).abs().max() < LARGEST_Z


# Several coordinates: the mixture.


def mixture_of_products(p):
    """Three components with two coordinates, from 3 logits, 6 locations and 6 logarithms of scales."""
    loc, scale = p[..., 3:9].unflatten(-1, (3, 2)), p[..., 9:15].exp().unflatten(-1, (3, 2))
    return MixtureSameFamily(td.Categorical(logits=p[..., :3]), td.Independent(td.Normal(loc, scale), 1))


PRODUCT_PARAMETERS = (0.2, -0.5, 0.1, -1.0, 0.6, 0.4, -0.3, 1.5, 0.9, -0.3, 0.2, -0.6, 0.1, 0.0, -0.2)


def conditional_cdfs(z, *p):
    """F(z_1) and F(z_2 | z_1), with the densities: [count] each."""
    weights, loc = special.softmax(p[:3]), np.reshape(p[3:9], (3, 2))
    scale = np.exp(np.reshape(p[9:15], (3, 2)))
    results = []
    for d in range(2):
        density = stats.norm.pdf(z[:, d, None], loc[:, d], scale[:, d])
        results.append(
            ((weights * stats.norm.cdf(z[:, d, None], loc[:, d], scale[:, d])).sum(-1), (weights * density).sum(-1))
        )
        weights = weights * density
        weights = weights / weights.sum(-1, keepdims=True)
    return results


def test_the_derivative_of_a_mixture_of_products():
    p = torch.tensor(PRODUCT_PARAMETERS, dtype=torch.float64).expand(100, -1).clone().requires_grad_()
    points = mixture_of_products(p).rsample()
    z = points.detach().numpy()
    u = [cdf for cdf, _ in conditional_cdfs(z, *PRODUCT_PARAMETERS)]

    def quantile(*parameters):
        x = z.copy()
        for d in (0, 1):
            for _ in range(4):
                cdf, density = conditional_cdfs(x, *parameters)[d]
                x[:, d] -= (cdf - u[d]) / density
        return x

    inside = np.all([(v > 1e-3) & (v < 1 - 1e-3) for v in u], 0)
    expected = central(quantile, PRODUCT_PARAMETERS)  # [count, 2, parameters]
    for d in (0, 1):
        (gradient,) = torch.autograd.grad(points[:, d].sum(), p, retain_graph=True)
        np.testing.assert_allclose(gradient.numpy()[inside], expected[inside, d], rtol=1e-5, atol=1e-5)


def test_expectations_of_a_mixture_with_four_coordinates():
    """E cos(a·x) has a closed form for a mixture of normal products; event shape [2, 2]."""
    torch.manual_seed(1)
    logits, loc, log_scale = (torch.randn(s, dtype=torch.float64) / 2 for s in ((3,), (3, 2, 2), (3, 2, 2)))
    a = torch.tensor([[0.5, -0.8], [0.3, 0.6]], dtype=torch.float64)

    def exact(logits, loc, log_scale):
        each = (a * loc).sum((-2, -1)).cos() * (-(a * log_scale.exp()).square().sum((-2, -1)) / 2).exp()
        return (logits.softmax(-1) * each).sum(-1)

    expected = torch.func.grad(exact, (0, 1, 2))(logits, loc, log_scale)
    count = 10_000
    leaves = [x.expand(count, *x.shape).clone().requires_grad_() for x in (logits, loc, log_scale)]
    components = td.Independent(td.Normal(leaves[1], leaves[2].exp()), 2)
    dist = MixtureSameFamily(td.Categorical(logits=leaves[0]), components)
    sp.expect(lambda x: (a * x).sum((-2, -1)).cos(), dist, sp.Pathwise()).sum().backward()
    for leaf, target in zip(leaves, expected, strict=True):
        z = (leaf.grad.mean(0) - target) / (leaf.grad.std(0) / count**0.5)
        assert z.abs().max() < LARGEST_Z


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rare", [-40.0, -inf])
def test_mixture_weights_near_zero(rare, dtype):
    logits = torch.tensor([0.0, 0.5, rare], dtype=dtype, requires_grad=True)
    loc = torch.tensor([-1.0, 1.0, 1e3], dtype=dtype, requires_grad=True)
    z = MixtureSameFamily(td.Categorical(logits=logits), td.Normal(loc, 1.0)).rsample((500,))
    assert z.abs().max() < 10
    z.sum().backward()
    assert bool(logits.grad.isfinite().all())
    assert bool(loc.grad.isfinite().all())
    assert loc.grad[2].abs() < 1e-6


# The sphere.


@pytest.mark.parametrize("dimension", [2, 3, 4, 10])
@pytest.mark.parametrize("concentration", [0.0, 1e-3, 2.0, 200.0])
def test_the_angle_of_von_mises_fisher(dimension, concentration):
    """Its distribution, its log-normalizer and the derivative of its quantile, against quadrature without torch."""
    power = dimension - 2

    def g(theta, k):
        return np.sin(theta) ** power * np.exp(k * (np.cos(theta) - 1))

    def cdf(theta, k):
        return integral(lambda x: g(x, k), 0.0, theta) / integral(lambda x: g(x, k), 0.0, math.pi)

    kappa = torch.tensor(concentration, dtype=torch.float64)
    angle = Angle(kappa, power)
    u = torch.linspace(0.002, 0.998, 101, dtype=torch.float64)
    theta = angle.quantile(u)
    np.testing.assert_allclose(cdf(theta.numpy(), concentration), u, rtol=1e-9, atol=1e-10)
    part, by_concentration, density = angle.cdf(theta)
    np.testing.assert_allclose(part, u, rtol=1e-11)
    total = integral(lambda x: g(x, concentration), 0.0, math.pi)[0]
    assert float(angle.log_normalizer()) == pytest.approx(math.log(total), rel=1e-10, abs=1e-10)

    def quantile(k):
        x = theta.numpy()
        for _ in range(3):
            x = x - (cdf(x, k) - u.numpy()) / g(x, k) * integral(lambda x: g(x, k), 0.0, math.pi)
        return x

    # The density of the circle and of the sphere extends to negative κ, which differences at 0 need.
    np.testing.assert_allclose(
        -by_concentration / density, central(quantile, (concentration,))[:, 0], rtol=1e-5, atol=1e-7
    )


def sphere_grid(dimension):
    """Points on the circle or the sphere, with weights that sum to its area: [points, dimension], [points]."""
    azimuth = torch.arange(200, dtype=torch.float64) * (2 * math.pi / 200)
    if dimension == 2:
        return torch.stack([azimuth.cos(), azimuth.sin()], -1), torch.full(
            (200,), 2 * math.pi / 200, dtype=torch.float64
        )
    height, weight = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(100))
    radius = (1 - height.square()).sqrt()
    x = radius[:, None] * azimuth.cos()
    points = torch.stack([x, radius[:, None] * azimuth.sin(), height[:, None].expand_as(x)], -1).reshape(-1, 3)
    return points, (weight[:, None] * (2 * math.pi / 200)).expand_as(x).reshape(-1)


@pytest.mark.parametrize("estimator", [sp.Pathwise(), sp.ScoreFunction(2)], ids=["Pathwise", "ScoreFunction"])
@pytest.mark.parametrize("dimension", [2, 3])
def test_expectations_on_the_sphere(dimension, estimator):
    """Direction and concentration, against quadrature over the sphere with `log_prob`, whose integral must be 1."""
    start = torch.tensor([*[0.8, -0.5, 1.1][:dimension], 0.9], dtype=torch.float64)
    scale = torch.tensor([1.0, -2.0, 0.5][:dimension], dtype=torch.float64)

    def build(p):
        return VonMisesFisher(p[..., :-1], p[..., -1].exp())

    def f(x):
        return (scale * x).sum(-1).sin() + x[..., 0] * x[..., 1]

    points, weights = sphere_grid(dimension)
    p = start.clone().requires_grad_()
    density = build(p).log_prob(points).exp()
    assert float((weights * density).sum().detach()) == pytest.approx(1, abs=1e-10)
    (expected,) = torch.autograd.grad((weights * density * f(points)).sum(), p)
    count = 20_000
    p = start.expand(count, -1).clone().requires_grad_()
    sp.expect(f, build(p), estimator).sum().backward()
    z = (p.grad.mean(0) - expected) / (p.grad.std(0) / count**0.5)
    assert z.abs().max() < LARGEST_Z


@pytest.mark.parametrize("dimension", [2, 3, 7])
def test_moments_on_the_sphere(dimension):
    direction = torch.linspace(-1, 2, dimension, dtype=torch.float64)
    dist = VonMisesFisher(direction, 5.0)
    x = dist.sample((40_000,))
    assert (x.norm(dim=-1) - 1).abs().max() < 1e-12
    assert ((x.mean(0) - dist.mean) / (x.std(0) / 200)).abs().max() < LARGEST_Z
    squares = (x - dist.mean).square()
    assert ((squares.mean(0) - dist.variance) / (squares.std(0) / 200)).abs().max() < LARGEST_Z
    surprise = -dist.log_prob(x)
    assert ((surprise.mean() - dist.entropy()) / (surprise.std() / 200)).abs() < LARGEST_Z
    expected = special.ive(dimension / 2, 5.0) / special.ive(dimension / 2 - 1, 5.0)
    assert float(dist.mean.norm()) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("concentration", [0.0, 1e-6, 200.0, 1e6])
def test_extreme_concentrations(concentration, dtype):
    for build in (
        lambda k: VonMises(torch.full((2000,), 3.0, dtype=dtype), k),
        lambda k: VonMisesFisher(torch.ones(2000, 8, dtype=dtype), k),
    ):
        kappa = torch.full((2000,), concentration, dtype=dtype, requires_grad=True)
        dist = build(kappa)
        z = dist.rsample()
        (gradient,) = torch.autograd.grad(z.cos().sum() + z.pow(3).sum(), kappa)
        assert bool(z.isfinite().all())
        assert bool(gradient.isfinite().all())
        (gradient,) = torch.autograd.grad(dist.log_prob(z.detach()).sum(), kappa)
        assert bool(gradient.isfinite().all())


def test_the_derivative_at_concentration_zero():
    """There t is uniform, and dt/dκ = -∫ cos = -sin t."""
    kappa = torch.zeros(100, dtype=torch.float64, requires_grad=True)
    t = VonMises(0.0, kappa).rsample()
    t.sum().backward()
    torch.testing.assert_close(kappa.grad, -t.detach().sin())


def test_circular_moments():
    kappa = torch.tensor([1e-4, 0.5, 3.0, 500.0], dtype=torch.float64)
    dist = VonMises(0.3, kappa)
    ratio = special.ive(1, kappa.numpy()) / special.ive(0, kappa.numpy())
    np.testing.assert_allclose(dist.variance, 1 - ratio, rtol=1e-10)
    expected = np.log(2 * math.pi * special.ive(0, kappa.numpy())) + kappa.numpy() * (1 - ratio)
    np.testing.assert_allclose(dist.entropy(), expected, rtol=1e-10)


def test_a_sample_that_crosses_the_cut_stays_in_range():
    z = VonMises(torch.tensor(3.1), 4.0).sample((1000,))
    assert z.abs().max() <= math.pi + 1e-6
    assert z.min() < -2
    assert z.max() > 2


# Edges of the truncated normal.


@pytest.mark.parametrize(("low", "high"), [(10.0, 11.0), (-11.0, -10.0), (10.0, inf), (-inf, -10.0), (30.0, 31.0)])
def test_tails_of_the_truncated_normal(low, high):
    expected = stats.truncnorm(low, high)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 5e-5)):
        loc = torch.zeros(3000, dtype=dtype, requires_grad=True)
        scale = torch.ones(3000, dtype=dtype, requires_grad=True)
        dist = TruncatedNormal(loc, scale, low, high)
        z = dist.rsample()
        assert bool(((z >= low) & (z <= high)).all())
        assert stats.kstest(z.detach().double().numpy(), expected.cdf).pvalue > FALSE_ALARM
        np.testing.assert_allclose(
            dist.log_prob(z).detach(), expected.logpdf(z.detach().double()), rtol=tolerance, atol=tolerance
        )
        by_loc, by_scale = torch.autograd.grad(z.sum(), (loc, scale))
        # In a far tail z - a is nearly exponential with rate (a - μ) / σ², so both derivatives have a sign.
        outward = 1 if low > 0 else -1
        assert bool((by_loc >= -1e-5).all())
        assert bool((outward * by_scale >= -1e-3).all())
        assert bool(by_scale.isfinite().all())
    np.testing.assert_allclose(float(dist.mean[0].detach()), expected.mean(), rtol=1e-6)


def test_moments_of_the_truncated_normal():
    for low, high in ((-0.8, 1.5), (-inf, 1.5), (0.2, inf), (-inf, inf), (3.0, 4.0)):
        dist = TruncatedNormal(torch.tensor(0.3, dtype=torch.float64), 1.2, low, high)
        expected = stats.truncnorm((low - 0.3) / 1.2, (high - 0.3) / 1.2, 0.3, 1.2)
        assert float(dist.mean) == pytest.approx(expected.mean(), rel=1e-9)
        assert float(dist.variance) == pytest.approx(expected.var(), rel=1e-7)
        start, end = max(low, -12.0), min(high, 12.0)
        entropy = integral(lambda x: -expected.pdf(x) * expected.logpdf(x), start, end)[0]  # noqa: B023  called at once
        assert float(dist.entropy()) == pytest.approx(entropy, rel=1e-9)
        u = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
        np.testing.assert_allclose(dist.icdf(u), expected.ppf(u), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(dist.cdf(dist.icdf(u)), u, rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bounds_close_together_make_it_uniform(dtype):
    low = torch.full((2000,), -1.0, dtype=dtype, requires_grad=True)
    dist = TruncatedNormal(0.3, 1e6, low, 1.0)
    z = dist.rsample()
    assert stats.kstest((z.detach().numpy() + 1) / 2, "uniform").pvalue > FALSE_ALARM
    torch.testing.assert_close(dist.log_prob(z.detach()).detach(), torch.full_like(z, -math.log(2)), rtol=0, atol=1e-6)
    z.sum().backward()
    torch.testing.assert_close(low.grad, (1 - z.detach()) / 2, rtol=0, atol=1e-5)


def test_bounds_without_mass_beyond_change_nothing():
    loc = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    low = torch.tensor(-inf, dtype=torch.float64, requires_grad=True)
    z = TruncatedNormal(loc, 1.0, low, inf).rsample((100,))
    by_loc, by_low = torch.autograd.grad(z.sum(), (loc, low))
    assert float(by_loc) == pytest.approx(100)
    assert float(by_low) == 0


# Edges of the extreme value distribution.


@pytest.mark.parametrize("shape", [-0.6, -0.3, -0.05, 0.0, 1e-9, 0.05, 0.3, 0.45])
def test_moments_of_the_extreme_value_distribution(shape):
    xi = torch.tensor(shape, dtype=torch.float64)
    dist = GeneralizedExtremeValue(0.4, 1.3, xi)
    expected = stats.genextreme(0.0 if abs(shape) < 1e-8 else -shape, 0.4, 1.3)  # scipy cancels at 1e-9
    assert float(dist.mean) == pytest.approx(float(expected.mean()), rel=1e-7)
    assert float(dist.variance) == pytest.approx(float(expected.var()), rel=1e-7)
    assert float(dist.entropy()) == pytest.approx(float(expected.entropy()), rel=1e-6)
    u = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    np.testing.assert_allclose(dist.icdf(u), expected.ppf(u), rtol=1e-7)
    np.testing.assert_allclose(dist.cdf(dist.icdf(u)), u, rtol=1e-10)
    peak = dist.log_prob(dist.mode)
    assert bool((peak > dist.log_prob(dist.mode + torch.tensor([-1e-3, 1e-3]))).all())


def test_the_shape_passes_zero_smoothly():
    """z = μ + σ (y + ξ y²/2 + ξ² y³/6 + ...), so its derivatives by ξ at 0 are y²/2 and y³/3."""
    xi = torch.zeros((), dtype=torch.float64, requires_grad=True)
    u = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    y = -(-u.log()).log()
    for target, direction in zip(y, torch.eye(9, dtype=torch.float64), strict=True):
        z = GeneralizedExtremeValue(0.0, 1.0, xi).icdf(u) @ direction
        (first,) = torch.autograd.grad(z, xi, create_graph=True)
        (second,) = torch.autograd.grad(first, xi)
        torch.testing.assert_close(first.detach(), target**2 / 2)
        torch.testing.assert_close(second, target**3 / 3)


def test_outside_the_support_there_is_no_mass():
    for shape, outside, mass in ((0.5, -2.5, 0.0), (-0.5, 2.5, 1.0)):
        xi = torch.tensor(shape)
        dist = GeneralizedExtremeValue(0.0, 1.0, xi, validate_args=False)
        assert float(dist.log_prob(torch.tensor(outside))) == -inf
        assert float(dist.cdf(torch.tensor(outside))) == mass
        with pytest.raises(ValueError, match="within the support"):
            GeneralizedExtremeValue(0.0, 1.0, xi, validate_args=True).log_prob(torch.tensor(outside))
    dist = TruncatedNormal(torch.tensor(0.0), 1.0, 0.0, 1.0, validate_args=False)
    assert float(dist.log_prob(torch.tensor(2.0))) == -inf
    assert [float(dist.cdf(torch.tensor(x))) for x in (-1.0, 2.0)] == [0.0, 1.0]


# Orders.


@pytest.mark.parametrize("name", ["truncated normal", "truncated normal, right tail", "extreme value, shape 0.3"])
def test_explicit_samples_have_second_derivatives(name):
    case = CASES[name]
    p = torch.tensor(case.parameters, dtype=torch.float64, requires_grad=True)
    u = torch.linspace(0.05, 0.95, 4, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda p: case.build(p).icdf(u), p, atol=1e-4)
    assert case.build(p).smooth


IMPLICIT: dict[str, Callable[[Tensor], td.Distribution]] = {
    "mixture": lambda p: mixture(torch.cat([p, p, p], -1)),
    "von Mises": lambda p: VonMises(p[..., 0], p[..., 1]),
    "von Mises-Fisher": lambda p: VonMisesFisher(p, p[..., 1]),
    "implicit": lambda p: ImplicitReparameterization(td.Laplace(p[..., 0], p[..., 1])),
    "gamma": lambda p: Gamma(p[..., 0], p[..., 1]),
    "beta": lambda p: Beta(p[..., 0], p[..., 1]),
    "dirichlet": lambda p: Dirichlet(p),
}


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("build", IMPLICIT.values(), ids=IMPLICIT.keys())
def test_implicit_samples_refuse_a_second_derivative(build, linear):
    p = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    z = build(p.tanh()).rsample()
    (gradient,) = torch.autograd.grad((z if linear else z.sin()).sum(), p, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(gradient.sum(), p)


def test_log_probabilities_have_second_derivatives():
    p = torch.tensor([0.5, 1.5], dtype=torch.float64, requires_grad=True)
    z = torch.tensor([-0.4, 0.3], dtype=torch.float64)
    x = torch.nn.functional.normalize(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), dim=-1)
    loc = torch.tensor([0.3, 0.1, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda p: VonMises(p[0], p[1]).log_prob(z), p)
    assert torch.autograd.gradgradcheck(lambda p: TruncatedNormal(p[0], p[1], -1.0, 1.0).log_prob(z), p)
    assert torch.autograd.gradgradcheck(lambda loc, p: VonMisesFisher(loc, p[1]).log_prob(x), (loc, p))


# What a distribution has to live with.

EVERY: dict[str, Callable[[Tensor], td.Distribution]] = {
    **IMPLICIT,
    "truncated normal": lambda p: TruncatedNormal(p[..., 0], p[..., 1], -1.0, 2.0),
    "extreme value": lambda p: GeneralizedExtremeValue(p[..., 0], p[..., 1], p[..., 2] / 10),
    "mixture of products": lambda p: MixtureSameFamily(
        td.Categorical(logits=p), td.Independent(td.Normal(torch.stack([p, -p], -1), 1.0), 1)
    ),
}
each_kind = pytest.mark.parametrize("build", EVERY.values(), ids=EVERY.keys())


def parameter(dtype=torch.float64):
    return torch.tensor([0.5, 1.0, 2.0], dtype=dtype).expand(4, 3).clone().requires_grad_()


@each_kind
def test_shapes_and_copies(build):
    dist = build(parameter().detach())
    assert dist.has_rsample
    for d in (dist, pickle.loads(pickle.dumps(copy.deepcopy(dist)))):
        z = d.rsample((5, 2))
        assert z.shape == (5, 2, 4, *dist.event_shape)
        assert d.log_prob(z).shape == (5, 2, 4)
    wide = dist.expand((3, 4))
    assert type(wide) is type(dist)
    assert wide.rsample((2,)).shape == (2, 3, 4, *dist.event_shape)
    torch.testing.assert_close(wide.log_prob(z[0, 0]), dist.log_prob(z[0, 0]).expand(3, 4))
    assert td.Independent(dist, 1).rsample().shape == (4, *dist.event_shape)


@each_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_is_that_of_the_parameters(build, dtype):
    p = parameter(dtype)
    z = build(p).rsample((50,))
    assert z.dtype == dtype
    z.float().sum().backward()
    assert bool(p.grad.isfinite().all())


@each_kind
def test_float32_derivatives_agree_with_float64(build):
    """The same noise cannot be drawn in both; the means of derivatives of many samples can be compared."""
    means, errors = [], []
    for dtype in (torch.float32, torch.float64):
        p = torch.tensor([0.5, 1.0, 2.0], dtype=dtype).expand(5000, 3).clone().requires_grad_()
        build(p).rsample().sin().sum().backward()
        means.append(p.grad.double().mean(0))
        errors.append(p.grad.double().var(0) / 5000)
    assert ((means[0] - means[1]) / (sum(errors) + 1e-12).sqrt()).abs().max() < LARGEST_Z


@each_kind
def test_the_generator_decides(build):
    dist = build(parameter())

    def generator():
        return torch.Generator().manual_seed(7)

    assert bool(
        (families.recognize(dist).rsample(6, generator()) == families.recognize(dist).rsample(6, generator())).all()
    )
    first, second = (dist.draw(torch.Size((6,)), generator()) for _ in range(2))
    assert bool((first == second).all())
    assert not bool((first == dist.draw(torch.Size((6,)))).all())
    with torch.no_grad():
        assert bool((dist.draw(torch.Size((6,)), generator()) == first).all())


def through(build):
    """The sum of pathwise estimates as a function of the parameter."""

    def loss(p):
        dist = build(p)
        event = tuple(range(-len(dist.event_shape), 0))
        return sp.expect(lambda z: z.sin().sum(event) if event else z.sin(), dist, sp.Pathwise(2)).sum()

    return loss


@each_kind
def test_vmap(build):
    p = parameter().detach()
    with unchecked():  # checks of values cannot run under `torch.func`
        gradient = torch.func.vmap(torch.func.grad(through(build)), randomness="different")(p)
    assert gradient.shape == p.shape
    assert bool(gradient.isfinite().all())
    assert not bool((gradient[0] == gradient[1]).all())


@pytest.mark.slow
@each_kind
def test_compile(build):
    p = parameter()
    torch.compiler.reset()  # each kind is a recompilation of the same code, of which few are allowed
    with unchecked():
        torch.compile(through(build), fullgraph=True, backend="aot_eager")(p).backward()
    assert bool(p.grad.isfinite().all())


def test_wrong_use_is_refused():
    normal = td.Normal(torch.zeros(3), 1.0)
    weights = td.Categorical(logits=torch.zeros(3))
    full = td.MultivariateNormal(torch.zeros(3, 2), torch.eye(2))
    with pytest.raises(TypeError, match=r"coordinates are independent.*MultivariateNormal.*ScoreFunction"):
        MixtureSameFamily(weights, full)
    with pytest.raises(TypeError, match=r"needs a distribution with a cdf; got StudentT"):
        MixtureSameFamily(weights, td.StudentT(torch.full((3,), 4.0)))
    with pytest.raises(TypeError, match=r"continuous distribution; got Poisson"):
        MixtureSameFamily(weights, td.Poisson(torch.ones(3)))
    with pytest.raises(ValueError, match=r"one common support.*Uniform"):
        MixtureSameFamily(weights, td.Independent(td.Uniform(torch.zeros(3, 2), torch.ones(3, 2)), 1))
    with pytest.raises(TypeError, match=r"on the line.*Independent goes outside"):
        ImplicitReparameterization(td.Independent(normal, 1))
    with pytest.raises(TypeError, match=r"torch\.distributions object; got Tensor"):
        ImplicitReparameterization(torch.zeros(3))
    with pytest.raises(ValueError, match="low < high"):
        TruncatedNormal(0.0, 1.0, 1.0, 1.0, validate_args=True)
    with pytest.raises(ValueError, match="at least 2 coordinates"):
        VonMisesFisher(torch.ones(1), 1.0)
    with pytest.raises(ValueError, match="length 0"):
        VonMisesFisher(torch.zeros(3), 1.0, validate_args=True)


class Detached(td.Normal):
    """A cdf that forgets its parameters."""

    def cdf(self, value):
        return super().cdf(value).detach()


def test_a_cdf_without_graph_is_refused():
    with pytest.raises(RuntimeError, match=r"differentiable in φ; Detached\.cdf"):
        ImplicitReparameterization(Detached(torch.zeros(3, requires_grad=True), 1.0)).rsample()
    assert ImplicitReparameterization(Detached(torch.zeros(3), 1.0)).rsample().shape == (3,)


def test_the_score_function_refuses_moving_supports():
    xi = torch.tensor(0.2, requires_grad=True)
    with pytest.raises(TypeError, match="support that does not move"):
        sp.expect(torch.sin, GeneralizedExtremeValue(0.0, 1.0, xi), sp.ScoreFunction())
    low = torch.tensor(-1.0, requires_grad=True)
    with pytest.raises(TypeError, match="support that does not move"):
        sp.expect(torch.sin, TruncatedNormal(0.0, 1.0, low, 1.0), sp.ScoreFunction())
    loc = torch.tensor(0.3, requires_grad=True)
    sp.expect(torch.sin, TruncatedNormal(loc, 1.0, -1.0, 1.0), sp.ScoreFunction()).backward()


def test_the_derivative_of_bounds_in_closed_form():
    """dz/da = (1 - u) ϕ(α) / ϕ(ξ), and dz/db = u ϕ(β) / ϕ(ξ)."""
    a = torch.tensor(-0.5, dtype=torch.float64, requires_grad=True)
    b = torch.tensor(1.4, dtype=torch.float64, requires_grad=True)
    for u in torch.linspace(0.05, 0.95, 7, dtype=torch.float64):
        z = TruncatedNormal(0.2, 0.7, a, b).icdf(u)
        by_a, by_b = torch.autograd.grad(z, (a, b))
        phi = [math.exp(-(((float(x) - 0.2) / 0.7) ** 2) / 2) for x in (a.detach(), b.detach(), z.detach())]
        assert float(by_a) == pytest.approx((1 - float(u)) * phi[0] / phi[2], rel=1e-10)
        assert float(by_b) == pytest.approx(float(u) * phi[1] / phi[2], rel=1e-10)
