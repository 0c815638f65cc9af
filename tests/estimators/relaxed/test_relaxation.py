"""Relaxed estimators: the distributions of their points, their own loss, and the limit that they claim."""

import math

import pytest
import torch
from scipy import integrate, special, stats
from torch import Tensor
from torch.distributions import Bernoulli, Independent, OneHotCategorical

from sampleprop import Enumerate, expect
from sampleprop.estimators.relaxed.gaussian_relaxed_bernoulli import GaussianRelaxedBernoulli
from sampleprop.estimators.relaxed.gumbel_softmax import GumbelSoftmax
from sampleprop.estimators.relaxed.hard_concrete import HardConcrete
from sampleprop.estimators.relaxed.invertible_gaussian import InvertibleGaussian, _sticks
from sampleprop.estimators.relaxed.logistic_normal_softmax import LogisticNormalSoftmax
from sampleprop.estimators.relaxed.relaxation import probit
from sampleprop.families import OneHots, recognize

# A random test here fails by chance once in a million runs of it.
FALSE_ALARM = 1e-6

FOR_BITS = [GumbelSoftmax, InvertibleGaussian, LogisticNormalSoftmax, HardConcrete, GaussianRelaxedBernoulli]
FOR_ONE_HOTS = [GumbelSoftmax, InvertibleGaussian, LogisticNormalSoftmax]

CLASSES = torch.tensor([0.4, -0.9, 1.3, 0.0, -0.3], dtype=torch.float64)
BITS = torch.tensor([0.4, -0.9, 1.3], dtype=torch.float64)


def bits(logits: Tensor) -> Independent:
    return Independent(Bernoulli(logits=logits), 1)


def one_hot(logits: Tensor) -> OneHotCategorical:
    return OneHotCategorical(logits=logits, validate_args=False)


def wave(x: Tensor) -> Tensor:
    """Coupled, not polynomial, with an offset."""
    return (x * torch.tensor([1.0, -2.0, 3.0], dtype=x.dtype)).sum(-1).sin() + x.prod(-1) + 2


def bumps(x: Tensor) -> Tensor:
    weights = torch.tensor([0.3, -1.2, 0.7, 2.0, -0.4], dtype=x.dtype)
    return (x * weights).sum(-1).square().cos() + (x * x.roll(1, -1) * weights).sum(-1)


def draws(estimator, dist, count):
    """One point for each of `count` batch elements."""
    torch.manual_seed(0)
    return estimator.propose(dist.expand((count,))).points.squeeze(0).detach()


def follows(observed: Tensor, probabilities: Tensor) -> bool:
    expected = probabilities * observed.sum() / probabilities.sum()
    return stats.chisquare(observed.numpy(), expected.numpy()).pvalue > FALSE_ALARM


@pytest.mark.parametrize("temperature", [0.1, 2.0])
@pytest.mark.parametrize(
    "estimator",
    [
        lambda temperature: GumbelSoftmax(temperature=temperature),
        lambda temperature: InvertibleGaussian(temperature=temperature),
        lambda temperature: HardConcrete(temperature=temperature),
        lambda temperature: HardConcrete(temperature=temperature, gamma=-0.3, zeta=1.05),
        lambda temperature: GaussianRelaxedBernoulli(temperature=temperature),
    ],
    ids=["Gumbel", "invertible", "hard concrete", "uneven limits", "gates"],
)
def test_a_rounded_bit_follows_p(estimator, temperature):
    dist = Bernoulli(logits=torch.tensor(0.8, dtype=torch.float64))
    ones = (draws(estimator(temperature), dist, 20_000) > 0.5).sum()
    assert follows(torch.stack((ones, 20_000 - ones)), torch.stack((dist.probs, 1 - dist.probs)))


@pytest.mark.parametrize("temperature", [0.1, 2.0])
def test_the_largest_class_of_gumbel_softmax_follows_p(temperature):
    points = draws(GumbelSoftmax(temperature=temperature), OneHotCategorical(logits=CLASSES), 20_000)
    assert follows(points.argmax(-1).bincount(minlength=5), CLASSES.softmax(-1))


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_first_stick_above_half_follows_p(temperature):
    points = draws(InvertibleGaussian(temperature=temperature), OneHotCategorical(logits=CLASSES), 20_000)
    left = 1 - (points.cumsum(-1) - points)  # before each class
    taken = points / left > 0.5
    taken[:, -1] = True
    assert follows(taken.int().argmax(-1).bincount(minlength=5), CLASSES.softmax(-1))


def test_logistic_normal_is_only_close_to_p():
    # P(x > 1/2) = Φ(η / 1.702), which is 0.0095 from σ(η) at most; the largest of five classes is not drawn by p.
    eta = torch.linspace(-8, 8, 10_001, dtype=torch.float64)
    assert 0.0094 < (torch.special.ndtr(eta / 1.702) - eta.sigmoid()).abs().max() < 0.0095
    dist = Bernoulli(logits=torch.tensor(-0.97, dtype=torch.float64))
    ones = (draws(LogisticNormalSoftmax(), dist, 200_000) > 0.5).sum()
    observed = torch.stack((ones, 200_000 - ones))
    p = torch.special.ndtr(dist.logits / 1.702)
    assert follows(observed, torch.stack((p, 1 - p)))
    assert not follows(observed, torch.stack((dist.probs, 1 - dist.probs)))
    points = draws(LogisticNormalSoftmax(), OneHotCategorical(logits=CLASSES), 200_000)
    assert not follows(points.argmax(-1).bincount(minlength=5), CLASSES.softmax(-1))


def test_gates_are_closed_and_open_as_often_as_stated():
    logits = torch.tensor(-0.6, dtype=torch.float64)
    p = logits.sigmoid()
    concrete = draws(HardConcrete(temperature=0.8), Bernoulli(logits=logits), 20_000)
    gaussian = draws(GaussianRelaxedBernoulli(temperature=1.5), Bernoulli(logits=logits), 20_000)
    positive = (
        (logits - 0.8 * math.log(0.1 / 1.1)).sigmoid(),
        torch.special.ndtr(torch.special.ndtri(p) + 1.5 / 2),
    )
    for points, probability in zip((concrete, gaussian), positive, strict=True):
        above = (points > 0).sum()
        assert follows(torch.stack((above, 20_000 - above)), torch.stack((probability, 1 - probability)))
        assert probability > p
        assert bool(((points >= 0) & (points <= 1)).all())
        assert bool((points == 1).any())


@pytest.mark.parametrize(
    ("estimator", "tested"),
    [
        (GumbelSoftmax(temperature=0.5), lambda z: stats.kstest(z - 0.8, "logistic")),
        (InvertibleGaussian(temperature=0.5), lambda z: stats.kstest(z - stats.norm.ppf(special.expit(0.8)), "norm")),
        (LogisticNormalSoftmax(temperature=0.5), lambda z: stats.kstest((z - 0.8) / 1.702, "norm")),
    ],
    ids=["Gumbel", "invertible", "logistic-normal"],
)
def test_distribution_of_the_scores(estimator, tested):
    points = draws(estimator, Bernoulli(logits=torch.tensor(0.8, dtype=torch.float64)), 20_000)
    assert tested((points.logit() * 0.5).numpy()).pvalue > FALSE_ALARM


def test_gumbel_softmax_differentiates_the_relaxed_loss():
    # One bit. By quadrature, with the derivative on the density of z and not on f: an independent formula.
    eta, temperature, count = 0.7, 0.5, 100_000

    def integrand(z):
        p = special.expit(z - eta)
        return math.exp(2 * special.expit(z / temperature)) * p * (1 - p) * (2 * p - 1)

    truth, error = integrate.quad(integrand, -40, 40, epsabs=1e-12, limit=200)
    assert error < 1e-9
    torch.manual_seed(1)
    logits = torch.full((count,), eta, dtype=torch.float64, requires_grad=True)
    estimator = GumbelSoftmax(temperature=temperature)
    expect(lambda x: (2 * x).exp(), Bernoulli(logits=logits), estimator).sum().backward()
    z = (logits.grad.mean() - truth) / (logits.grad.std() / count**0.5)
    assert abs(z.item()) < stats.norm.isf(FALSE_ALARM / 2)


def bias(estimator, dist, f, logits, count=40_000):
    """The relative bias of the gradient, and its standard error."""
    parameter = logits.clone().requires_grad_()
    truth = torch.autograd.grad(expect(f, dist(parameter), Enumerate()), parameter)[0]
    torch.manual_seed(2)
    rows = logits.expand(count, -1).clone().requires_grad_()
    expect(f, dist(rows), estimator).sum().backward()
    error = (rows.grad.var(0).sum() / count).sqrt()
    return ((rows.grad.mean(0) - truth).norm() / truth.norm()).item(), (error / truth.norm()).item()


@pytest.mark.parametrize(
    ("cls", "high", "dist", "f", "logits"),
    [
        (GumbelSoftmax, 2.0, bits, wave, BITS),
        (InvertibleGaussian, 1.0, bits, wave, BITS),
        (HardConcrete, 2.0, bits, wave, BITS),
        (GaussianRelaxedBernoulli, 4.0, bits, wave, BITS),
        (GumbelSoftmax, 2.0, one_hot, bumps, CLASSES),
        (InvertibleGaussian, 0.7, one_hot, bumps, CLASSES),
    ],
)
def test_the_bias_vanishes_with_the_temperature(cls, high, dist, f, logits):
    # At the high temperature the bias is there, at a tenth of it less than half is left: both beyond five standard
    # errors, which happens by chance less than once in a million runs.
    before, error_before = bias(cls(temperature=high), dist, f, logits)
    after, error_after = bias(cls(temperature=high / 10), dist, f, logits)
    assert before > 5 * error_before
    assert before / 2 - after > 5 * error_after


@pytest.mark.parametrize("cls", FOR_BITS)
def test_derivative_of_the_points_for_bits(cls):
    logits = torch.tensor([0.4, -2.0, 0.0, 5.0], dtype=torch.float64, requires_grad=True)

    def points(logits):
        return cls(3).propose(bits(logits), generator=torch.Generator().manual_seed(5)).points

    assert torch.autograd.gradcheck(points, (logits,))


@pytest.mark.parametrize("cls", FOR_ONE_HOTS)
def test_derivative_of_the_points_for_one_hots(cls):
    logits = CLASSES.repeat(2, 1).requires_grad_()
    masks = torch.tensor([[0, 0, 0, 0, 0], [0, -math.inf, 0, -math.inf, 0]], dtype=torch.float64)

    def points(logits):
        dist = OneHotCategorical(logits=logits + masks, validate_args=False)
        return cls(3).propose(dist, generator=torch.Generator().manual_seed(5)).points

    assert torch.autograd.gradcheck(points, (logits,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("cls", FOR_ONE_HOTS)
def test_masked_and_saturated_classes(cls, dtype):
    torch.manual_seed(3)
    inf = math.inf
    rows = torch.tensor(
        [[0, -inf, 1, -inf], [-inf, 0, -inf, -inf], [-inf, -inf, -inf, 3], [1e4, -1e4, 0, 20], [-inf, 2, 1, -inf]],
        dtype=dtype,
    )
    logits = rows.expand(200, 5, 4).clone().requires_grad_()
    q = OneHotCategorical(logits=logits, validate_args=False)
    points = cls().propose(q).points
    assert points.dtype == dtype
    assert bool(points.isfinite().all())
    assert bool((points[0][logits.isinf()] == 0).all())
    expect(lambda x: (x - 0.3).square().sum(-1).exp(), q, cls()).sum().backward()
    assert bool(logits.grad.isfinite().all())
    assert bool((logits.grad[logits.isinf()] == 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("cls", FOR_BITS)
def test_saturated_bits(cls, dtype):
    torch.manual_seed(4)
    row = torch.tensor([1e4, -1e4, math.inf, -math.inf, 20, -20, 0], dtype=dtype)
    logits = row.expand(200, 7).clone().requires_grad_()
    q = Independent(Bernoulli(logits=logits, validate_args=False), 1)
    points = cls().propose(q).points
    assert points.dtype == dtype
    assert (points[..., :4] - torch.tensor([1, 0, 1, 0], dtype=dtype)).abs().max() < 1e-30
    expect(lambda x: (x - 0.3).square().sum(-1), q, cls()).sum().backward()
    assert bool(logits.grad.isfinite().all())
    assert logits.grad[:, :4].abs().max() < 1e-30


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-6)])
def test_probit(dtype, tolerance):
    size = torch.tensor([1e-3, 0.1, 1, 5, 20, 36, 100, 1e3, 1e4], dtype=torch.float64)
    logits = torch.cat((-size, torch.zeros(1, dtype=torch.float64), size)).to(dtype).requires_grad_()
    quantile = probit(logits)
    tail = torch.nn.functional.logsigmoid(-logits.detach().double().abs())
    truth = -special.ndtri_exp(tail.numpy()) * logits.detach().double().sign().numpy()
    torch.testing.assert_close(quantile.detach().double(), torch.as_tensor(truth), rtol=tolerance, atol=tolerance)
    # dz/dη = σ(η) σ(-η) / φ(z), in logarithms.
    slope = torch.autograd.grad(quantile.sum(), logits)[0].double()
    log_density = torch.as_tensor(stats.norm.logpdf(truth))
    full = torch.nn.functional.logsigmoid(logits.detach().double().abs())
    torch.testing.assert_close(slope, (tail + full - log_density).exp(), rtol=10 * tolerance, atol=0)


def test_one_class_is_certain():
    q = OneHotCategorical(logits=torch.zeros(3, 1, requires_grad=True))
    for cls in FOR_ONE_HOTS:
        assert bool((cls(2).propose(q).points == 1).all())


@pytest.mark.parametrize("cls", FOR_BITS)
def test_second_derivatives_are_refused(cls):
    logits = BITS.clone().requires_grad_()
    loss = expect(lambda x: x.square().sum(-1).exp(), bits(logits.tanh()), cls(2))
    gradient = torch.autograd.grad(loss, logits, create_graph=True)[0]
    with pytest.raises(RuntimeError, match=f"{cls.__name__} estimates first derivatives only"):
        gradient.sum().backward()


@pytest.mark.parametrize("cls", [HardConcrete, GaussianRelaxedBernoulli])
def test_gates_are_for_bits(cls):
    with pytest.raises(TypeError, match=f"{cls.__name__} needs Bernoulli; got OneHotCategorical"):
        expect(lambda x: x.sum(-1), OneHotCategorical(logits=CLASSES), cls())


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("cls", FOR_BITS)
def test_temperature_out_of_range(cls, temperature):
    with pytest.raises(ValueError, match=f"{cls.__name__} needs temperature above 0"):
        cls(temperature=temperature)


@pytest.mark.parametrize("limits", [{"gamma": 0.0}, {"zeta": 1.0}, {"gamma": -math.inf}, {"zeta": math.nan}])
def test_limits_out_of_range(limits):
    with pytest.raises(ValueError, match=r"HardConcrete needs limits around \[0, 1\]"):
        HardConcrete(**limits)


@pytest.mark.parametrize("spread", [10.0, 55.0, 65.0, 300.0, math.inf])
def test_broken_sticks_are_right_however_far_the_logits_lie_apart(spread: float) -> None:
    """Also where the later classes together underflow beside the earlier ones."""
    logits = torch.tensor([[0.0, -spread, -spread - 1, -spread - 3], [0.5, 1.0, -0.5, 0.2]])
    leaf = logits.requires_grad_()
    variables = recognize(one_hot(leaf))
    assert isinstance(variables, OneHots)
    found = _sticks(variables)[1]
    right = variables.logits.detach().double().clamp_min(-1e18)
    expected = right[..., :-1] - right.flip(-1).logcumsumexp(-1).flip(-1)[..., 1:]
    size = right.clamp_min(-1e3).abs().max().item()  # they are differences of such numbers
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6 + 1e-7 * size)
    InvertibleGaussian().propose(one_hot(leaf)).points.square().sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("rare", [0.0, 70.0])  # the first class, by so much
@pytest.mark.parametrize("k", [1, 3])
def test_the_derivative_of_broken_sticks_is_that_of_autograd(rare: float, k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    leaf = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    leaf[:, 0] -= rare
    leaf.requires_grad_()
    epsilon = torch.randn(k, 2, 4, generator=generator, dtype=torch.float64)
    weights = torch.randn(k, 2, 5, generator=generator, dtype=torch.float64)
    variables = recognize(one_hot(leaf))
    assert isinstance(variables, OneHots)
    estimator = InvertibleGaussian()
    points = estimator.points_from(variables, epsilon)
    p = leaf.softmax(-1)
    beta = p[..., :-1] / p.flip(-1).cumsum(-1).flip(-1)[..., :-1]
    broken = ((torch.special.ndtri(beta) + epsilon) / estimator.temperature.double()).sigmoid()
    taken, left = torch.nn.functional.pad(broken, (0, 1), value=1.0), (1 - broken).cumprod(-1)
    expected = taken * torch.nn.functional.pad(left, (1, 0), value=1.0)
    torch.testing.assert_close(points, expected)
    found, wanted = (torch.autograd.grad((weights * x).sum(), leaf, retain_graph=True)[0] for x in (points, expected))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("spread", [1.0, 10.0, 25.0])
def test_the_derivative_of_the_invertible_gaussian_keeps_its_digits(spread: float) -> None:
    """Also where a stick is all but whole, so that 1 - u would cancel."""
    logits, epsilon = spread * torch.randn(50, 6), torch.randn(1, 50, 5)
    weights, found = torch.randn(6), []
    for dtype in (torch.float32, torch.float64):
        phi = logits.to(dtype).requires_grad_()
        variables = recognize(OneHotCategorical(logits=phi))
        points = InvertibleGaussian().points_from(variables, epsilon.to(dtype))
        found.append(torch.autograd.grad((points * weights.to(dtype)).sum(), phi)[0])
    assert (found[0] - found[1]).abs().max() < 5e-6 * found[1].abs().max()
