"""Gamma, Beta and Dirichlet: derivatives against moved quantiles, and laws, moments and refusals down to 1e-4."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
import torch.distributions as td
from scipy import special, stats

import sampleprop as sp
from sampleprop.distributions.beta import Beta
from sampleprop.distributions.dirichlet import Dirichlet
from sampleprop.distributions.gamma import Gamma
from sampleprop.distributions.log_gamma import derivative
from sampleprop.distributions.mixture_same_family import MixtureSameFamily

# A random test here fails by chance less than once in a million runs of it: 5.5 standard errors, p-values of 1e-6.
FALSE_ALARM = 1e-6
LARGEST_Z = 5.5
COUNT = 20_000
CONCENTRATIONS = [1e-4, 1e-3, 0.01, 0.1, 0.5, 1.0, 3.0, 30.0, 100.0]
small = pytest.mark.parametrize("a", [1e-4, 1e-3, 0.1])
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def log_masses(a, y):
    """log F and log(1 - F) of y = log X, without torch; the first for y below log(a + 5), the second up to 6."""
    below = np.minimum(y, math.log(a + 5))
    lower = a * below - np.exp(below) - special.gammaln(a + 1) + np.log(special.hyp1f1(1, a + 1, np.exp(below)))
    upper = np.log(special.gammaincc(a, np.exp(y.clip(0, 6))))
    return lower, np.where(y < 0, np.log(-np.expm1(np.minimum(lower, -1e-300))), upper)


def log_density(a, y):
    return a * y - np.exp(y) - special.gammaln(a)


def is_mean(x, expected):
    """Whether the mean over the first dimension is what is expected, by a z-test."""
    x = x.detach().double()
    return bool(((x.mean(0) - expected).abs() <= LARGEST_Z * x.std(0) / x.shape[0] ** 0.5).all())


def leaf(a, *shape, dtype=torch.float64):
    return torch.full(shape, a, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("a", CONCENTRATIONS)
def test_the_derivative_is_that_of_the_quantile(a):
    """∂ log x / ∂a against the root of F(y') = u at moved concentrations, in the tail that u is in."""
    p = leaf(a, 300)
    points = Gamma(p, 1.0).rsample_log()
    (gradient,) = torch.autograd.grad(points.sum(), p)
    y = points.detach().numpy()
    low, high = log_masses(a, y)
    side = low < high

    def quantile(b):
        z = y.copy()
        for _ in range(6):
            masses = log_masses(b, z)
            log_mass, goal = np.where(side, *masses), np.where(side, low, high)
            z = z - (log_mass - goal) * np.where(side, 1, -1) * np.exp(log_mass - log_density(b, z))
        return z

    inside = (low > math.log(1e-3)) & (high > math.log(1e-3))
    h = 1e-3 * a
    expected = (8 * (quantile(a + h) - quantile(a - h)) - quantile(a + 2 * h) + quantile(a - 2 * h)) / (12 * h)
    assert inside.sum() > 250
    np.testing.assert_allclose(gradient.numpy()[inside], expected[inside], rtol=1e-6)


@pytest.mark.parametrize("a", CONCENTRATIONS)
def test_the_derivative_far_in_the_tails(a):
    """Positive, its limit on the left, and without a jump where the series meets the quadrature."""

    def by_a(*y):
        return derivative(torch.full((len(y),), a, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)).numpy()

    assert (by_a(*np.linspace(-1 / a - 40, 8, 500)) > 0).all()
    far = -1e6 / a
    np.testing.assert_allclose(by_a(far), (special.digamma(a + 1) - far) / a, rtol=1e-12)
    np.testing.assert_allclose(by_a(-1e-12), by_a(1e-12), rtol=1e-7)


@pytest.mark.parametrize("a", CONCENTRATIONS)
def test_samples_follow_the_law(a):
    y = Gamma(torch.tensor(a, dtype=torch.float64), 1.0).rsample_log((COUNT,))
    low, high = log_masses(a, y.numpy())
    u = np.where(y < 0, np.exp(low), -np.expm1(high))
    assert stats.kstest(u, "uniform").pvalue > FALSE_ALARM


@small
@each_dtype
def test_moments_of_gamma(a, dtype):
    dist = Gamma(leaf(a, dtype=dtype), torch.tensor(2.0, dtype=dtype))
    x = dist.rsample((COUNT,))
    assert x.dtype == dtype
    assert is_mean(x, a / 2)
    # Where a is small, most of E x² comes from few large x. At 1e-4 they are too few for the z-test, whose normal
    # approximation needs many.
    assert is_mean(x.tanh(), tanh_of_gamma(a))
    y = dist.rsample_log((COUNT,))
    psi, psi1 = float(special.digamma(a)), float(special.polygamma(1, a))
    assert is_mean(y + math.log(2), psi)
    assert is_mean((y + math.log(2) - psi).square(), psi1)
    (slopes,) = torch.autograd.grad(y.sum(), [dist.concentration])
    assert float(slopes) / COUNT == pytest.approx(psi1, rel=LARGEST_Z / COUNT**0.5 * 2)


def tanh_of_gamma(a):
    """E tanh x for Gamma(a, 2), by the trapezoid rule in log x."""
    y = np.arange(-700 / max(a, 0.05), 5, 0.02)
    density = np.exp(a * (y + math.log(2)) - 2 * np.exp(y) - special.gammaln(a))
    return float((density * np.tanh(np.exp(y))).sum() * 0.02)


@small
@each_dtype
def test_moments_of_beta(a, dtype):
    one, zero = leaf(a, dtype=dtype), leaf(2 * a, dtype=dtype)
    dist = Beta(one, zero)
    x = dist.rsample((COUNT,))
    assert x.dtype == dtype
    assert is_mean(x, 1 / 3)
    assert is_mean((x - 1 / 3).square(), float(dist.variance.detach()))
    logit = dist.rsample_logit((COUNT,))
    assert is_mean(logit, float(special.digamma(a) - special.digamma(2 * a)))
    log_x = torch.nn.functional.logsigmoid(logit)
    assert is_mean(log_x, float(special.digamma(a) - special.digamma(3 * a)))
    by_one, by_zero = torch.autograd.grad(logit.sum(), (one, zero))
    tolerance = LARGEST_Z / COUNT**0.5 * 2
    assert float(by_one) / COUNT == pytest.approx(float(special.polygamma(1, a)), rel=tolerance)
    assert float(by_zero) / COUNT == pytest.approx(-float(special.polygamma(1, 2 * a)), rel=tolerance)


@small
@each_dtype
def test_moments_of_dirichlet(a, dtype):
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=dtype)
    rows = (a * weights).expand(COUNT, 3).clone().requires_grad_()
    dist = Dirichlet(rows)
    x = dist.rsample()
    assert x.dtype == dtype
    assert bool(((x.sum(-1) - 1).abs() < 1e-6).all())
    assert is_mean(x, weights.double() / 6)
    assert is_mean((x - weights / 6).square(), td.Dirichlet(a * weights.double()).variance)
    y = dist.rsample_log()
    total, each = special.digamma(6 * a), special.digamma(a * weights.double().numpy())
    assert is_mean(y, torch.from_numpy(each - total))
    (gradient,) = torch.autograd.grad(y[:, 0].sum(), rows)
    derivative = float(special.polygamma(1, a)) - float(special.polygamma(1, 6 * a))
    assert is_mean(gradient[:, 0], derivative)
    assert is_mean(gradient[:, 1], -float(special.polygamma(1, 6 * a)))


LAWS = {
    "gamma": (lambda p: Gamma(p[..., 0], 1 + p[..., 1]), lambda p: td.Gamma(p[..., 0], 1 + p[..., 1])),
    "beta": (lambda p: Beta(p[..., 0], p[..., 1]), lambda p: td.Beta(p[..., 0], p[..., 1])),
    "dirichlet": (Dirichlet, td.Dirichlet),
}
each_law = pytest.mark.parametrize(("ours", "torchs"), LAWS.values(), ids=LAWS.keys())


def total(x, dist):
    """A linear function of the coordinates of the event: [..., *batch, *event] -> [..., *batch]."""
    return x @ torch.tensor([1.0, -2.0, 0.5], dtype=x.dtype) if dist.event_shape else x


@each_law
@pytest.mark.parametrize("a", [0.05, 0.5, 3.0])
def test_pathwise_gradients_of_expectations(a, ours, torchs):
    """E[x + x²] by the closed forms of its mean and variance, in torch's own code."""
    start = torch.tensor([a, 1.3 * a, 0.7 * a], dtype=torch.float64, requires_grad=True)
    known = torchs(start)
    (expected,) = torch.autograd.grad(total(known.mean + known.mean.square() + known.variance, known), start)
    rows = start.detach().expand(COUNT, 3).clone().requires_grad_()
    dist = ours(rows)
    sp.expect(lambda x: total(x + x.square(), dist), dist, sp.Pathwise()).sum().backward()
    used = expected != 0
    assert is_mean(rows.grad[:, used], expected[used])
    assert not bool(rows.grad[:, ~used].any())


@each_law
def test_the_score_function_agrees(ours, torchs):
    """At concentrations where samples do not underflow; the score is that of `log_prob`, as in torch."""
    gradients = []
    for build, estimator in ((ours, sp.Pathwise()), (ours, sp.ScoreFunction(2)), (torchs, sp.ScoreFunction(2))):
        rows = torch.tensor([1.2, 0.8, 1.5], dtype=torch.float64).expand(COUNT, 3).clone().requires_grad_()
        dist = build(rows)
        sp.expect(lambda x, dist=dist: total(x.cos(), dist), dist, estimator).sum().backward()
        gradients.append(rows.grad)
    assert is_mean(gradients[0] - gradients[1], 0.0)
    assert is_mean(gradients[0] - gradients[2], 0.0)


def test_the_cdf_is_differentiable():
    a = torch.tensor([1e-3, 0.1, 0.5, 1.0, 3.0, 30.0], dtype=torch.float64, requires_grad=True)
    rate = torch.full((6,), 1.7, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([1e-8, 0.02, 0.9, 0.4, 2.0, 15.0], dtype=torch.float64, requires_grad=True)
    u = Gamma(a, rate).cdf(x)
    np.testing.assert_allclose(u.detach(), stats.gamma.cdf(x.detach(), a.detach(), scale=1 / 1.7), rtol=1e-8)
    found = torch.autograd.grad(u.sum(), (a, rate, x))
    h = 1e-4

    def cdf(*p):
        return special.gammainc(p[0], p[1] * p[2])

    at = [p.detach().numpy() for p in (a, rate, x)]
    for i in range(3):
        sides = [cdf(*(p * (1 + t * h * (i == j)) for j, p in enumerate(at))) for t in (-2, -1, 1, 2)]
        expected = (sides[0] - 8 * sides[1] + 8 * sides[2] - sides[3]) / (12 * h * at[i])
        np.testing.assert_allclose(found[i].numpy(), expected, rtol=1e-7)
    assert Gamma(a, rate).cdf(torch.zeros((), dtype=torch.float64)).tolist() == [0.0] * 6


def test_a_mixture_of_gammas():
    """Which torch cannot differentiate: E tanh x against the difference of two quadratures."""
    start = torch.tensor([0.3, -0.2, 0.8, 3.0], dtype=torch.float64)

    def build(p, kind=Gamma):
        weights = td.Categorical(logits=p[..., :2])
        return (td.MixtureSameFamily if kind is td.Gamma else MixtureSameFamily)(weights, kind(p[..., 2:], 1.5))

    y = torch.arange(-60, 5, 0.01, dtype=torch.float64)
    p = start.clone().requires_grad_()
    density = (build(p, td.Gamma).log_prob(y.exp()) + y).exp()
    (expected,) = torch.autograd.grad(0.01 * (density * y.exp().tanh()).sum(), p)
    rows = start.expand(COUNT, -1).clone().requires_grad_()
    sp.expect(torch.tanh, build(rows), sp.Pathwise()).sum().backward()
    assert is_mean(rows.grad, expected)


def test_points_in_logarithms_have_the_same_density():
    y = torch.linspace(-30, 2, 20, dtype=torch.float64)
    gamma, beta = Gamma(torch.tensor(0.3).double(), 1.7), Beta(torch.tensor(0.3).double(), 1.7)
    torch.testing.assert_close(gamma.log_prob_of_log(y), td.Gamma(gamma.concentration, 1.7).log_prob(y.exp()))
    torch.testing.assert_close(
        beta.log_prob_of_logit(y), td.Beta(beta.concentration1, 1.7).log_prob(y.sigmoid()), rtol=1e-6, atol=0
    )
    dirichlet = Dirichlet(torch.tensor([0.3, 1.7, 0.9], dtype=torch.float64))
    log_x = torch.stack([y, y / 2, y.neg()], -1).log_softmax(-1)
    torch.testing.assert_close(
        dirichlet.log_prob_of_log(log_x), td.Dirichlet(dirichlet.concentration).log_prob(log_x.exp())
    )


@each_dtype
def test_what_underflows_is_refused_not_guessed(dtype):
    a = torch.full((2,), 1e-3, dtype=dtype)
    for dist, points in (
        (Gamma(a, a, validate_args=True), torch.tensor([1e-3, 0.0], dtype=dtype)),
        (Beta(a, a, validate_args=True), torch.tensor([0.5, 1.0], dtype=dtype)),
        (Beta(a, 2 * a, validate_args=True), torch.tensor([0.0, 0.5], dtype=dtype)),
        (Dirichlet(a, validate_args=True), torch.tensor([1.0, 0.0], dtype=dtype)),
    ):
        name = type(dist).__name__
        with pytest.raises(ValueError, match=rf"{name}.log_prob needs points inside.*rsample_log.*Pathwise"):
            dist.log_prob(points)
        assert bool(dist.log_prob(points.clamp(0.1, 0.9)).isfinite().all())
    attached = a.clone().requires_grad_().expand(500, 2)
    with pytest.raises(ValueError, match="needs points inside the support"):
        sp.expect(torch.tanh, Gamma(attached, 1.0, validate_args=True), sp.ScoreFunction()).sum()
    # Where the density is finite at the end, it is what torch says.
    assert Gamma(1 + a, 1.0).log_prob(torch.zeros(2, dtype=dtype)).tolist() == [-math.inf] * 2
    assert Beta(1 + a, 1 + a).log_prob(torch.ones(2, dtype=dtype)).tolist() == [-math.inf] * 2


@pytest.mark.parametrize(
    "build", [lambda p: Gamma(p, p), lambda p: Beta(p, 2 * p), Dirichlet], ids=["gamma", "beta", "dirichlet"]
)
def test_nothing_is_lost_near_zero(build):
    """Finite everywhere in float32 where concentrations are 1e-4: points, logarithms and their gradients."""
    for dtype in (torch.float32, torch.float64):
        p = leaf(1e-4, 1000, 3, dtype=dtype)
        dist = build(p)
        log = dist.rsample_logit if isinstance(dist, Beta) else dist.rsample_log
        for points in (dist.rsample(), log()):
            assert bool(points.isfinite().all())
            (gradient,) = torch.autograd.grad(points.sin().sum(), p, retain_graph=True)
            assert bool(gradient.isfinite().all())
        assert bool((log() < -100).any())


def test_everything_else_is_torchs():
    a, b = torch.tensor([0.3, 2.0]), torch.tensor([1.7, 0.4])
    for ours, torchs in ((Gamma(a, b), td.Gamma(a, b)), (Beta(a, b), td.Beta(a, b)), (Dirichlet(a), td.Dirichlet(a))):
        other = type(torchs)(b, a) if isinstance(torchs, td.Gamma | td.Beta) else td.Dirichlet(b)
        torch.testing.assert_close(td.kl_divergence(ours, other), td.kl_divergence(torchs, other))
        torch.testing.assert_close(td.kl_divergence(other, ours), td.kl_divergence(other, torchs))
        for name in ("mean", "mode", "variance"):
            torch.testing.assert_close(getattr(ours, name), getattr(torchs, name))
        torch.testing.assert_close(ours.entropy(), torchs.entropy())
        assert ours.support == torchs.support
        x = torchs.sample()
        torch.testing.assert_close(ours.log_prob(x), torchs.log_prob(x))
        assert repr(ours).startswith(type(ours).__name__ + "(concentration")
        with pytest.raises(ValueError, match="constraint"):
            type(ours)(*(-p for p in (a, b)[: len(ours.arg_constraints)]), validate_args=True)
    trained = Beta(torch.tensor(0.5, requires_grad=True), 1.0)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(Beta(a, b))))
    assert twin.log_prob(torch.tensor(0.5)).shape == (2,)
    assert set(sp.families.recognize(trained).parameters) == {"concentration1", "concentration0"}
    assert Gamma(0.5, 1.0).rsample().shape == Beta(0.5, 1.0).rsample().shape == ()
