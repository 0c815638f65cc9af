"""Bounds of several samples: means over all K-tuples of samples, so that only the noise ratios are left to chance.

The mean of an estimate is a sum over every tuple of states (discrete z) or of nodes of a quadrature (continuous z): the
probability of the tuple times what `combine` returns. It must be the bound itself, differentiated in another way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Gamma, Independent, Normal, Uniform

import sampleprop as sp
from sampleprop import families
from sampleprop.estimators.multisample import doubly_reparameterized, importance_weighted, reweighted_wake_sleep, vimco
from sampleprop.estimators.multisample.bound import importance_weighted_bound
from sampleprop.estimators.multisample.doubly_reparameterized import DoublyReparameterized
from sampleprop.estimators.multisample.importance_weighted import ImportanceWeighted
from sampleprop.estimators.multisample.reweighted_wake_sleep import ReweightedWakeSleep
from sampleprop.estimators.multisample.vimco import VIMCO
from sampleprop.estimators.pathwise import sticking_the_landing
from sampleprop.estimators.pathwise.sticking_the_landing import StickingTheLanding
from sampleprop.families import Variables

ModelF = Callable[[Tensor, Tensor, Tensor], Tensor]
Gradients = tuple[Tensor, Tensor, Tensor]  # the value, and the gradients with respect to φ and θ


def tuples(points: Tensor, masses: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Every k-tuple of the points, [k, tuples, *event], and its mass, [tuples]."""
    index = torch.cartesian_prod(*[torch.arange(len(points))] * k).reshape(-1, k).T  # [k, tuples]
    return points[index], masses[index].prod(0)


def means(
    estimator: sp.Estimator[Any, Any],
    dist: Callable[[Tensor], Distribution],
    draw: Callable[[Distribution, Tensor], Any],
    f: ModelF,
    phi: Tensor,
    theta: Tensor,
    noise: Tensor,
    masses: Tensor,
) -> Gradients:
    """The mean of value and gradients over all tuples of noise."""
    noise, masses = tuples(noise, masses, estimator.draws)
    phi, theta = phi.clone().requires_grad_(), theta.clone().requires_grad_()
    rows = phi.expand(masses.shape[0], *phi.shape)
    q = dist(rows)
    drawn = draw(q, noise)
    value = masses @ estimator.combine(
        q, drawn, f(drawn.points, rows, theta), relaxed_f=lambda points: f(points, rows, theta)
    )
    return value.detach(), *torch.autograd.grad(value, (phi, theta))


def exact(
    q: Callable[[Tensor], Distribution], f: ModelF, phi: Tensor, theta: Tensor, points: Tensor, masses: Tensor, k: int
) -> Gradients:
    """The bound as a sum over all k-tuples of fixed points, differentiated by autograd."""
    phi, theta = phi.clone().requires_grad_(), theta.clone().requires_grad_()
    z, mass = tuples(points, masses, k)
    rows = phi.expand(mass.shape[0], *phi.shape)
    log_q = q(rows).log_prob(z)  # [k, tuples]
    log_weights = f(z, rows, theta) - log_q
    value = ((log_q.sum(0).exp() * mass) * (log_weights.logsumexp(0) - math.log(k))).sum()
    return value.detach(), *torch.autograd.grad(value, (phi, theta))


def close(found: Gradients, expected: Gradients, tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


# --- two bits, by all tuples of states ----------------------------------------------------------------------------

BITS_PHI = torch.tensor([0.7, -0.9], dtype=torch.float64)
BITS_THETA = torch.tensor([0.5, 1.2, -0.8], dtype=torch.float64)
STATES = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 2)
ONES = torch.ones(4, dtype=torch.float64)
ROUNDING = 1e-12


def bits(phi: Tensor) -> Distribution:
    return Independent(Bernoulli(logits=phi), 1)


def bits_f(z: Tensor, phi: Tensor, theta: Tensor) -> Tensor:
    """A log-joint of two bits, neither additive nor normalized."""
    return theta[0] + 2 * (z * theta[1:]).sum(-1).sin() - z.prod(-1)


def bits_f_of_phi(z: Tensor, phi: Tensor, theta: Tensor) -> Tensor:
    """One that shares φ with q."""
    return bits_f(z, phi, theta) + 0.4 * phi.square().sum(-1) * z[..., 0] + phi[..., 1]


def bits_means(estimator: VIMCO | ReweightedWakeSleep, f: ModelF) -> Gradients:
    probs = bits(BITS_PHI).log_prob(STATES).exp()
    module = vimco if isinstance(estimator, VIMCO) else reweighted_wake_sleep
    return means(estimator, bits, lambda q, z: module.Draw(z), f, BITS_PHI, BITS_THETA, STATES, probs)


@pytest.mark.parametrize("f", [bits_f, bits_f_of_phi])
@pytest.mark.parametrize("k", [2, 3, 4])
def test_vimco_is_the_bound_exactly(k: int, f: ModelF) -> None:
    close(bits_means(VIMCO(k), f), exact(bits, f, BITS_PHI, BITS_THETA, STATES, ONES, k), ROUNDING)


@pytest.mark.parametrize("f", [bits_f, bits_f_of_phi])
@pytest.mark.parametrize("k", [2, 3])
def test_reweighted_wake_sleep_is_the_bound_but_for_phi(k: int, f: ModelF) -> None:
    value, phi, theta = bits_means(ReweightedWakeSleep(k), f)
    expected_value, expected_phi, expected_theta = exact(bits, f, BITS_PHI, BITS_THETA, STATES, ONES, k)
    torch.testing.assert_close(value, expected_value, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(theta, expected_theta, rtol=0, atol=ROUNDING)
    assert (phi - expected_phi).norm() > 1e-3


def test_reweighted_wake_sleep_lowers_the_forward_divergence() -> None:
    """The mean of φ's gradient tends to that of -KL(p ‖ q), with a bias of order 1/K."""
    posterior = bits_f(STATES, BITS_PHI, BITS_THETA).softmax(0)
    phi = BITS_PHI.clone().requires_grad_()
    (limit,) = torch.autograd.grad(posterior @ bits(phi).log_prob(STATES), phi)
    bias = {k: (bits_means(ReweightedWakeSleep(k), bits_f)[1] - limit).norm() for k in (2, 4, 8)}
    assert bias[8] < 0.2 * limit.norm()
    assert 0.4 < bias[8] / bias[4] < 0.6
    assert bias[4] < bias[2]


def test_reweighted_wake_sleep_gives_phi_the_weighted_score() -> None:
    k = 3
    probs = bits(BITS_PHI).log_prob(STATES).exp()
    z, mass = tuples(STATES, probs, k)
    weights = (bits_f(z, BITS_PHI, BITS_THETA) - bits(BITS_PHI).log_prob(z)).softmax(0)
    scores = z - BITS_PHI.sigmoid()
    expected = torch.einsum("t,kt,kti->i", mass, weights, scores)
    torch.testing.assert_close(bits_means(ReweightedWakeSleep(k), bits_f)[1], expected, rtol=0, atol=ROUNDING)


def test_vimco_at_the_posterior() -> None:
    """All weights are equal, each baseline is the bound, and the mean gradient is zero."""

    def joint(z: Tensor, phi: Tensor, theta: Tensor) -> Tensor:
        return bits(BITS_PHI).log_prob(z) + theta.sum()

    value, phi, theta = bits_means(VIMCO(3), joint)
    torch.testing.assert_close(value, BITS_THETA.sum(), rtol=0, atol=ROUNDING)
    torch.testing.assert_close(phi, torch.zeros(2, dtype=torch.float64), rtol=0, atol=ROUNDING)
    torch.testing.assert_close(theta, torch.ones(3, dtype=torch.float64), rtol=0, atol=ROUNDING)


def test_vimco_baselines_survive_a_dominating_weight() -> None:
    """One weight is e^60 times the others: subtracting it from the sum of the weights would leave nothing."""
    log_weights = torch.tensor([60.0, 0.1, -0.2, 0.4])
    found = vimco._without_each(log_weights)
    numbers = log_weights.double()
    for i in range(4):
        replaced = numbers.clone()
        replaced[i] = (numbers.sum() - numbers[i]) / 3
        torch.testing.assert_close(found[i].double(), replaced.logsumexp(0) - math.log(4), rtol=1e-6, atol=1e-6)


def _without_itself(log_weights: Tensor) -> Tensor:
    return vimco._without_each(log_weights)


def _with_itself(log_weights: Tensor) -> Tensor:
    """The baseline's mean taken over all samples, its own among them."""
    k = log_weights.shape[0]
    own = torch.eye(k, dtype=torch.bool).unsqueeze(-1)
    return importance_weighted_bound(torch.where(own, log_weights.mean(0), log_weights), 1)


# The baseline, and the weight of the score of -log q.
VIMCO_MUTANTS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "right": (_without_itself, -1.0),
    "without the score of -log q": (_without_itself, 0.0),
    "with its sign flipped": (_without_itself, 1.0),
    "own sample in the baseline": (_with_itself, -1.0),
}


@pytest.mark.parametrize("mutant", VIMCO_MUTANTS)
def test_mutants_of_vimco_are_rejected(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    baseline, score = VIMCO_MUTANTS[mutant]
    through = vimco.add_scores

    def changed(
        name: str, value: Tensor, variables: Variables, points: Tensor, log_q: Tensor, coefficients: Tensor
    ) -> Tensor:
        z, _ = tuples(STATES, ONES, 3)
        log_weights = bits_f(z, BITS_PHI, BITS_THETA) - log_q.detach()
        changed_coefficients = value.detach() - baseline(log_weights) + score * log_weights.softmax(0)
        return through(name, value, variables, points, log_q, changed_coefficients)

    monkeypatch.setattr(vimco, "add_scores", changed)
    expected = exact(bits, bits_f, BITS_PHI, BITS_THETA, STATES, ONES, 3)[1]
    error = (bits_means(VIMCO(3), bits_f)[1] - expected).norm() / expected.norm()
    assert (error < ROUNDING) == (mutant == "right")
    assert error < ROUNDING or error > 0.01


# --- a linear-Gaussian model, by quadrature ------------------------------------------------------------------------

NORMAL_PHI = torch.tensor([0.1, -0.3], dtype=torch.float64)  # mean and log scale
NORMAL_THETA = torch.tensor([1.1, 0.2], dtype=torch.float64)
OBSERVED, DEVIATION = 0.9, 0.8
STEP = 0.05
NODES = torch.arange(-8.0, 8.0 + STEP / 2, STEP, dtype=torch.float64)
STANDARD = Normal(torch.zeros((), dtype=torch.float64), 1.0)
NORMAL_MASSES = STANDARD.log_prob(NODES).exp() * STEP
QUADRATURE = 1e-7  # a pair of nodes a step apart sees the crease of log-sum-exp in the tails


def normal(phi: Tensor) -> Distribution:
    return Normal(phi[..., 0], phi[..., 1].exp())


def gaussian(z: Tensor, phi: Tensor, theta: Tensor) -> Tensor:
    """log p(x, z): z is standard normal, x normal around a line in z."""
    return STANDARD.log_prob(z) + Normal(theta[0] * z + theta[1], DEVIATION).log_prob(
        torch.tensor(OBSERVED, dtype=torch.float64)
    )


def gaussian_of_phi(z: Tensor, phi: Tensor, theta: Tensor) -> Tensor:
    """One that shares φ with q."""
    return gaussian(z, phi, theta) + 0.3 * phi[..., 0].tanh() * z + 0.2 * phi[..., 1]


def posterior(theta: Tensor) -> Tensor:
    """φ for which q is the posterior: of precision 1 + θ₀² / s², around what x says."""
    precision = 1 + theta[0].square() / DEVIATION**2
    mean = theta[0] * (OBSERVED - theta[1]) / DEVIATION**2 / precision
    return torch.stack([mean, -precision.log() / 2])


def evidence(theta: Tensor) -> Tensor:
    """log p(x) in closed form."""
    scale = (theta[0].square() + DEVIATION**2).sqrt()
    return Normal(theta[1], scale).log_prob(torch.tensor(OBSERVED, dtype=torch.float64))


def reparameterized(module: Any) -> Callable[[Distribution, Tensor], Any]:
    return lambda q, epsilon: module.Draw(q.loc + q.scale * epsilon)  # type: ignore[attr-defined]


MODULES: dict[type[sp.Estimator[Any, Any]], Any] = {
    ImportanceWeighted: importance_weighted,
    DoublyReparameterized: doubly_reparameterized,
    StickingTheLanding: sticking_the_landing,
}
PATHWISE = [
    ImportanceWeighted(1),
    ImportanceWeighted(2),
    DoublyReparameterized(1),
    DoublyReparameterized(2),
    StickingTheLanding(1),
    StickingTheLanding(2),
]


def normal_means(estimator: sp.Estimator[Any, Any], f: ModelF) -> Gradients:
    draw = reparameterized(MODULES[type(estimator)])
    return means(estimator, normal, draw, f, NORMAL_PHI, NORMAL_THETA, NODES, NORMAL_MASSES)


def normal_exact(f: ModelF, k: int) -> Gradients:
    masses = torch.full_like(NODES, STEP)
    return exact(normal, f, NORMAL_PHI, NORMAL_THETA, NODES, masses, k)


@pytest.mark.parametrize("f", [gaussian, gaussian_of_phi])
@pytest.mark.parametrize("estimator", PATHWISE, ids=str)
def test_pathwise_is_the_bound_exactly(estimator: sp.Estimator[Any, Any], f: ModelF) -> None:
    k = 1 if estimator.objective == "elbo" else estimator.draws
    close(normal_means(estimator, f), normal_exact(f, k), QUADRATURE)


def test_the_bound_of_one_sample_is_the_evidence_less_the_divergence() -> None:
    """The quadrature that all this is judged by, against the closed form."""
    theta = NORMAL_THETA.clone().requires_grad_()
    phi = NORMAL_PHI.clone().requires_grad_()
    divergence = torch.distributions.kl_divergence(normal(phi), normal(posterior(theta)))
    value = evidence(theta) - divergence
    close(normal_exact(gaussian, 1), (value.detach(), *torch.autograd.grad(value, (phi, theta))), 1e-10)


def test_mutants_of_the_doubly_reparameterized_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sticking the landing under the logarithm of a mean: w̃ for w̃²."""
    right = doubly_reparameterized.add_through_samples

    def wrong(name: str, value: Tensor, variables: families.Variables, points: Tensor, *further: Any) -> Tensor:
        q = normal(NORMAL_PHI)
        slopes = -(points.detach() - q.mean) / q.variance
        weights = (gaussian(points.detach(), NORMAL_PHI, NORMAL_THETA) - q.log_prob(points.detach())).softmax(0)
        return right(name, value, variables, points, weights, slopes)

    monkeypatch.setattr(doubly_reparameterized, "add_through_samples", wrong)
    value, phi, theta = normal_means(DoublyReparameterized(2), gaussian)
    expected_value, expected_phi, expected_theta = normal_exact(gaussian, 2)
    torch.testing.assert_close(value, expected_value, rtol=0, atol=QUADRATURE)
    torch.testing.assert_close(theta, expected_theta, rtol=0, atol=QUADRATURE)
    assert (phi - expected_phi).norm() > 0.3 * expected_phi.norm()


def _rows(estimator: sp.Estimator[Any, Any], phi: Tensor, rows: int) -> Tensor:
    """The gradient with respect to φ of each of so many estimates, [rows, 2]."""
    leaves = phi.expand(rows, 2).clone().requires_grad_()
    value = sp.expect(
        lambda z: gaussian(z, leaves, NORMAL_THETA), normal(leaves), estimator, generator=Generator().manual_seed(0)
    )
    return torch.autograd.grad(value.sum(), leaves)[0]


@pytest.mark.parametrize("estimator", [StickingTheLanding(), StickingTheLanding(3), DoublyReparameterized(4)], ids=str)
def test_no_noise_at_the_posterior(estimator: sp.Estimator[Any, Any]) -> None:
    optimum = posterior(NORMAL_THETA)
    assert _rows(estimator, optimum, 100).abs().max() < 1e-12
    assert _rows(ImportanceWeighted(estimator.draws), optimum, 100).var(0).min() > 0.01


@pytest.mark.parametrize("estimator", [StickingTheLanding(), DoublyReparameterized(4)], ids=str)
def test_no_noise_at_the_posterior_in_half_precision(estimator: sp.Estimator[Any, Any]) -> None:
    """The points are rounded: by up to 0.39, where the scale is 1."""
    loc = torch.full((200,), 1.0, dtype=torch.bfloat16, requires_grad=True)
    scale = torch.full((200,), 0.01, dtype=torch.bfloat16, requires_grad=True)
    mean, deviation = loc.detach().float(), scale.detach().float()
    value = sp.expect(
        lambda z: -((z.float() - mean) / deviation).square() / 2,
        Normal(loc, scale),
        estimator,
        generator=Generator().manual_seed(0),
    )
    for gradient in torch.autograd.grad(value.sum(), (loc, scale)):
        assert (gradient * deviation).abs().max() < 1e-4


def test_signal_to_noise_as_samples_are_added() -> None:
    """It falls like 1/√K for the plain gradient, and rises like √K for the doubly reparameterized one.

    From 4 to 64 samples that is a factor of 4. With 20 000 rows a ratio of means to deviations above 0.1 is known to
    within 7 % (one standard error), so a factor of 2 is 10 standard errors away from 4, and 1 as far from it.
    """

    def ratio(estimator: sp.Estimator[Any, Any]) -> float:
        gradients = _rows(estimator, NORMAL_PHI, 20_000)[:, 0]
        return (gradients.mean().abs() / gradients.std()).item()

    plain = [ratio(ImportanceWeighted(k)) for k in (4, 64)]
    doubly = [ratio(DoublyReparameterized(k)) for k in (4, 64)]
    assert plain[1] < plain[0] / 2
    assert doubly[1] > 2 * doubly[0]
    assert doubly[0] > plain[0]


def test_one_sample_doubly_reparameterized_is_sticking_the_landing() -> None:
    found, expected = (_rows(e, NORMAL_PHI, 50) for e in (DoublyReparameterized(1), StickingTheLanding(1)))
    torch.testing.assert_close(found, expected)


def test_implicit_reparameterization() -> None:
    """Gamma: the gradients of all three agree in the mean, |z| < 4.9 (1e-6 for each of 4 comparisons)."""

    def gradients(estimator: sp.Estimator[Any, Any], seed: int) -> Tensor:
        phi = torch.tensor([0.6, 0.2], dtype=torch.float64).expand(40_000, 2).clone().requires_grad_()
        q = Gamma(phi[:, 0].exp(), phi[:, 1].exp())
        generator = Generator().manual_seed(seed)
        value = sp.expect(lambda z: 2 * z.log() - 2.5 * z, q, estimator, generator=generator)
        return torch.autograd.grad(value.sum(), phi)[0]

    for plain, other in (
        (ImportanceWeighted(3), DoublyReparameterized(3)),
        (ImportanceWeighted(1), StickingTheLanding()),
    ):
        one, two = gradients(plain, 1), gradients(other, 2)
        z = (one - two).mean(0) / ((one.var(0) + two.var(0)) / len(one)).sqrt()
        assert z.abs().max() < 4.9


def test_plain_gradient_follows_a_moving_support() -> None:
    """q uniform on (0, b) and log p = -z: L = log b - b / 2. All of log q is needed."""
    b = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    edge = b.expand(1000)
    q = Uniform(torch.zeros(1000, dtype=torch.float64), edge)
    draw = importance_weighted.Draw((edge * u)[None])
    value = ImportanceWeighted(1).combine(q, draw, -draw.points).mean()
    torch.testing.assert_close(value, b.log() - b / 2)
    torch.testing.assert_close(*torch.autograd.grad(value, b), (1 / b - 0.5).detach())


# --- what θ gets, of second order ----------------------------------------------------------------------------------

EVERY: list[tuple[sp.Estimator[Any, Any], Callable[[Tensor], Distribution], Tensor, ModelF]] = [
    (ImportanceWeighted(3), normal, NORMAL_PHI, gaussian),
    (DoublyReparameterized(3), normal, NORMAL_PHI, gaussian),
    (VIMCO(3), bits, BITS_PHI, bits_f),
    (ReweightedWakeSleep(3), bits, BITS_PHI, bits_f),
]


@pytest.mark.parametrize(
    ("estimator", "dist", "phi", "f"), EVERY, ids=lambda v: str(v) if isinstance(v, sp.Estimator) else ""
)
def test_theta_gets_the_derivatives_of_the_log_mean_of_the_weights(
    estimator: sp.Estimator[Any, Any], dist: Callable[[Tensor], Distribution], phi: Tensor, f: ModelF
) -> None:
    """The first and the second: given the samples, the bound is an ordinary function of θ."""
    phi = phi.clone().requires_grad_()
    theta = (BITS_THETA if f is bits_f else NORMAL_THETA).clone().requires_grad_()
    q = dist(phi)
    draw = estimator.propose(q, generator=Generator().manual_seed(0))
    found = estimator.combine(q, draw, f(draw.points, phi, theta))
    z = draw.points.detach()
    expected = importance_weighted_bound(f(z, phi, theta) - q.log_prob(z).detach())
    for _ in range(2):
        (found,), (expected,) = (
            torch.autograd.grad(value.sum(), theta, create_graph=True) for value in (found, expected)
        )
        torch.testing.assert_close(found, expected)


# --- the direct form ----------------------------------------------------------------------------------------------


def test_bound_of_given_log_weights() -> None:
    log_weights = torch.tensor([[0.3, -1.0, 2.0], [0.1, 400.0, -400.0]], dtype=torch.float64)
    expected = log_weights[0].exp().mean().log()
    torch.testing.assert_close(importance_weighted_bound(log_weights, 1)[0], expected)
    torch.testing.assert_close(importance_weighted_bound(log_weights, -1)[1].item(), 400 - math.log(3))
    torch.testing.assert_close(importance_weighted_bound(log_weights.T), importance_weighted_bound(log_weights, 1))
    assert importance_weighted_bound(log_weights.half()[:1]).dtype == torch.float32


def test_bound_of_log_weights_is_the_estimator() -> None:
    phi = NORMAL_PHI.clone().requires_grad_()
    q = normal(phi)
    draw = ImportanceWeighted(5).propose(q)
    costs = gaussian(draw.points, phi, NORMAL_THETA)
    values = ImportanceWeighted(5).combine(q, draw, costs), importance_weighted_bound(costs - q.log_prob(draw.points))
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(value, phi, retain_graph=True)[0] for value in values))


@pytest.mark.parametrize(
    "wrong", [[0.1, 0.2], torch.tensor([1, 2]), torch.tensor([1j])], ids=["list", "int", "complex"]
)
def test_bound_refuses_what_are_no_log_weights(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"importance_weighted_bound needs a tensor of real log-weights; got .* Pass"):
        importance_weighted_bound(wrong)


@pytest.mark.parametrize(("shape", "dim"), [((3,), 1), ((3,), -2), ((), 0), ((0, 3), 0)], ids=str)
def test_bound_refuses_a_missing_dimension(shape: tuple[int, ...], dim: int) -> None:
    with pytest.raises(ValueError, match=r"importance_weighted_bound needs the samples along dim=-?\d, at least one"):
        importance_weighted_bound(torch.zeros(shape), dim)


def test_bound_refuses_samples_that_are_not_reparameterized() -> None:
    """Attached log-weights of drawn samples have a wrong gradient for φ: the score of the samples is missing."""
    phi = NORMAL_PHI.clone().requires_grad_()
    q = normal(phi)
    z = q.rsample((5,))
    fixed = z.detach()
    for points, sampled in ((fixed, fixed), (z, fixed), (fixed, z)):
        log_weights = gaussian(points, phi, NORMAL_THETA) - q.log_prob(points)
        with pytest.raises(RuntimeError, match=r"needs log-weights that autograd can follow to φ .* or use VIMCO"):
            importance_weighted_bound(log_weights, points=sampled)
    log_weights = gaussian(z, phi, NORMAL_THETA) - q.log_prob(z)
    assert torch.equal(importance_weighted_bound(log_weights, points=z), importance_weighted_bound(log_weights))
    with torch.no_grad():
        assert importance_weighted_bound(log_weights.detach(), points=fixed).isfinite()


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [ImportanceWeighted(), DoublyReparameterized(), StickingTheLanding()], ids=str)
def test_discrete_variables_are_refused_where_samples_are_differentiated(estimator: sp.Estimator[Any, Any]) -> None:
    fix = "ScoreFunction, with f less log q" if isinstance(estimator, StickingTheLanding) else "VIMCO"
    with pytest.raises(TypeError, match=rf"{estimator.name} needs a continuous .*; got Categorical, .* Use {fix}"):
        sp.expect(lambda z: z.double(), Categorical(logits=torch.zeros(3)), estimator)


@pytest.mark.parametrize(
    "estimator", [DoublyReparameterized(), StickingTheLanding(), VIMCO(), ReweightedWakeSleep()], ids=str
)
def test_a_moving_support_is_refused(estimator: sp.Estimator[Any, Any]) -> None:
    dist = Uniform(0.0, torch.ones((), requires_grad=True))
    with pytest.raises(
        TypeError, match=rf"{estimator.name} needs a support .*; got Uniform, .* Use ImportanceWeighted"
    ):
        sp.expect(lambda z: -z, dist, estimator)


@pytest.mark.parametrize("estimator", [VIMCO, ReweightedWakeSleep])
def test_one_sample_has_no_others(estimator: type[sp.Estimator[Any, Any]]) -> None:
    with pytest.raises(
        ValueError, match=f"{estimator.__name__} needs a whole number of samples, at least 2; got samples=1"
    ):
        estimator(1)  # type: ignore[call-arg]
    instance = estimator()
    dist = Bernoulli(logits=torch.zeros(()))
    assert instance.for_budget(dist, 1) is None
    assert instance.for_budget(dist, 5).samples == 5  # type: ignore[union-attr]


def test_functional_transforms_need_f_itself() -> None:
    estimator = DoublyReparameterized(2)

    def by_hand(mean: Tensor) -> Tensor:
        q = Normal(mean, 1.0, validate_args=False)
        draw = estimator.propose(q)
        return estimator.combine(q, draw, -draw.points.square())

    with pytest.raises(ValueError, match=r"DoublyReparameterized needs f itself .*; got costs alone. Pass relaxed_f=f"):
        torch.func.grad(by_hand)(torch.zeros(()))
