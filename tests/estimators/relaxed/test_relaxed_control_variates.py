"""REBAR, RELAX, LAX and Gumbel-Rao: identities, what they learn, and extreme logits.

Random tests compare at |z| < 4.5; with about 80 comparisons one false alarm in 1800 runs of this file is expected, and
the seeds are fixed.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Gamma, Independent, MultivariateNormal, Normal, OneHotCategorical
from torch.func import functional_call

import sampleprop as sp
from sampleprop import families
from sampleprop.estimators.pathwise.pathwise import Pathwise
from sampleprop.estimators.relaxed import conditional, gumbel_rao
from sampleprop.estimators.relaxed.critic import QuadraticCritic
from sampleprop.estimators.relaxed.gumbel_rao import GumbelRao
from sampleprop.estimators.relaxed.lax import LAX
from sampleprop.estimators.relaxed.lax import Draw as LAXDraw
from sampleprop.estimators.relaxed.rebar import REBAR
from sampleprop.estimators.relaxed.relax import RELAX
from sampleprop.estimators.relaxed.relaxation import harden, soften
from sampleprop.estimators.relaxed.straight_through_gumbel import StraightThroughGumbel
from sampleprop.estimators.score import score_function
from variants import tilted

THRESHOLD = 4.5


def bits(logits: Tensor) -> Independent:
    return Independent(Bernoulli(logits=logits), 1)


def one_hots(logits: Tensor) -> Independent:
    return Independent(OneHotCategorical(logits=logits), 1)


def normal(parameters: Tensor) -> Independent:
    return Independent(Normal(parameters[..., :2], parameters[..., 2:].exp()), 1)


def cost(x: Tensor, theta: Tensor) -> Tensor:
    """Neither additive nor of low degree, with an offset."""
    x = x.flatten(2)
    return (x * theta[: x.shape[-1]]).sum(-1).sin() + x[..., 0] * x[..., 1] + 2.0


THETA = torch.tensor([1.0, -2.0, 3.0, 0.5, -1.0, 0.7, 0.2, -0.6], dtype=torch.float64)
BITS = torch.tensor([0.4, -0.9, 1.3], dtype=torch.float64)
CLASSES = torch.tensor([[0.5, -0.3, 0.1, -1.0], [0.0, 0.7, -0.4, 0.2]], dtype=torch.float64)
PROBLEMS = {"bits": (bits, BITS), "one-hots": (one_hots, CLASSES)}
both = pytest.mark.parametrize("problem", PROBLEMS)


def f(x: Tensor) -> Tensor:
    return cost(x, THETA)


def exact(problem: str) -> Tensor:
    dist, logits = PROBLEMS[problem]
    phi = logits.clone().requires_grad_()
    sp.expect(lambda x: cost(x.unsqueeze(1), THETA).squeeze(1), dist(phi), sp.Enumerate()).backward()
    return phi.grad


def estimates(estimator: sp.Estimator, problem: str, rows: int = 20_000, seed: int = 0) -> Tensor:
    """Independent estimates of the gradient by the logits, [rows, *event]."""
    dist, logits = PROBLEMS[problem]
    phi = logits.expand(rows, *logits.shape).clone().requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    sp.expect(f, dist(phi), estimator, generator=generator).sum().backward()
    return phi.grad


def largest_z(estimates: Tensor, mean: Tensor) -> float:
    return ((estimates.mean(0) - mean) / estimates.std(0) * estimates.shape[0] ** 0.5).abs().max().item()


def variance(estimates: Tensor) -> float:
    return estimates.var(0).sum().item()


def gradient(estimator: sp.Estimator, dist, phi: Tensor, draw, f=f) -> Tensor:
    """The gradient of one draw by φ, as `combine` gives it."""
    phi = phi.clone().requires_grad_()
    estimator.combine(dist(phi), draw, f(draw.points), relaxed_f=f).sum().backward()
    return phi.grad


# The correction: a gradient of mean zero


def rebuilt(variables: families.Discrete, points: Tensor, v: Tensor) -> Tensor:
    """z̃ as an attached function of the logits and of uniform noise, by the textbook formulas."""
    logits = variables.logits
    if isinstance(variables, families.Bernoullis):
        p = logits.sigmoid()
        return logits + torch.logit(torch.where(points > 0, 1 - p + p * v, (1 - p) * v))
    total = logits.logsumexp(-1, keepdim=True)
    log_e = (-v.log()).log()
    largest = (log_e * points).sum(-1, keepdim=True)
    return torch.where(points > 0, total - largest, -torch.logaddexp(log_e - logits, largest - total))


def coupling(variables: families.Discrete, points: Tensor, z: Tensor) -> Tensor:
    """The uniform noise for which z̃ is z."""
    logits = variables.logits.detach()
    if isinstance(variables, families.Bernoullis):
        p, u = logits.sigmoid(), (z - logits).sigmoid()
        return torch.where(points > 0, (u - (1 - p)) / p, u / (1 - p))
    largest = z.amax(-1, keepdim=True)
    e = torch.where(points > 0, (-z).exp(), (logits - z).exp() * -torch.expm1(z - largest))
    return (-e).exp()


@both
@pytest.mark.parametrize("coupled", [False, True])
def test_the_correction_is_what_autograd_gives_through_the_noise(problem: str, coupled: bool) -> None:
    dist, logits = PROBLEMS[problem]
    phi = (logits.log_softmax(-1) if problem == "one-hots" else logits).expand(5, *logits.shape).clone()
    phi.requires_grad_()
    variables = families.recognize(dist(phi))
    variables = dataclasses.replace(variables, logits=phi)  # for one-hots: without the projection of the normalization
    generator = torch.Generator().manual_seed(0)
    points, z, _, _ = conditional.propose(variables, 3, True, generator)
    uniform = torch.rand(z.shape, dtype=z.dtype, generator=generator)
    v = coupling(variables, points, z) if coupled else uniform
    conditioned = rebuilt(variables, points, v)
    free = z + (phi - phi.detach())

    def c(z: Tensor) -> Tensor:
        return f(soften(variables, z / math.exp(-0.7)))

    score = variables.log_prob(points) - (phi.logsumexp(-1).sum(-1) if problem == "one-hots" else 0.0)
    wanted = (c(free) - c(conditioned) - c(conditioned).detach() * score).mean(0).sum()
    (wanted,) = torch.autograd.grad(wanted, phi)
    draw = conditional.Draw(points, z, None if coupled else conditioned.detach())
    torch.testing.assert_close(conditional.correction(variables, draw, conditional.with_gradient(c)).mean(0), wanted)

    def by_hand(z: Tensor) -> tuple[Tensor, Tensor]:
        return conditional.squashed(variables, z, torch.tensor(-0.7), conditional.with_gradient(f))

    torch.testing.assert_close(conditional.correction(variables, draw, by_hand).mean(0), wanted)


@both
def test_the_conditional_noise_gives_the_same_sample(problem: str) -> None:
    dist, logits = PROBLEMS[problem]
    variables = families.recognize(dist(3 * logits))
    draw = conditional.propose(variables, 2000, False, torch.Generator().manual_seed(0))
    torch.testing.assert_close(harden(variables, draw.conditional), draw.points)
    assert not torch.equal(draw.z, draw.conditional)


class TenTimes(torch.nn.Module):
    def forward(self, points: Tensor) -> Tensor:
        return 10 * f(points).square()


@both
@pytest.mark.parametrize(
    "estimator",
    [
        REBAR(temperature=0.1, eta=0.3),
        REBAR(eta=10.0),
        REBAR(eta=10.0, coupled=True),
        REBAR(2, temperature=2.0, eta=-1.0),
        RELAX(critic=TenTimes(), use_f=False),
        RELAX(critic=TenTimes(), use_f=False, coupled=True),
    ],
    ids=str,
)
def test_unbiased_at_every_setting(problem: str, estimator: sp.Estimator) -> None:
    assert largest_z(estimates(estimator.eval(), problem), exact(problem)) < THRESHOLD


MUTANTS = {
    "z̃ detached": ("_difference", lambda variables, points, z, y: y),
    "z̃ with the derivative of z": ("_difference", lambda variables, points, z, y: torch.zeros_like(y)),
    "z̃ not given x": (
        "latent",
        lambda variables, points, generator: conditional.propose(variables, len(points), True, generator).z,
    ),
    "z̃ given another temperature": (
        "latent",
        lambda variables, points, generator: 2 * LATENT(variables, points, generator),
    ),
}
LATENT = conditional.latent


@both
@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_test_of_unbiasedness_rejects_mutants(problem: str, mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditional, *MUTANTS[mutant])
    assert largest_z(estimates(REBAR().eval(), problem, rows=60_000), exact(problem)) > 2 * THRESHOLD


# Identities


@both
def test_rebar_without_its_control_variate_is_the_score_function(problem: str) -> None:
    dist, logits = PROBLEMS[problem]
    phi = logits.expand(7, *logits.shape)
    draw = REBAR(2).propose(dist(phi))
    score = sp.ScoreFunction(2, baseline=sp.Constant(0.0))
    plain = gradient(score, dist, phi, score_function.Draw(draw.points))
    torch.testing.assert_close(gradient(REBAR(2, eta=0.0), dist, phi, draw), plain)


@both
@pytest.mark.parametrize("coupled", [False, True])
def test_relax_with_a_zero_critic_is_rebar(problem: str, coupled: bool) -> None:
    dist, logits = PROBLEMS[problem]
    phi = logits.expand(7, *logits.shape)
    rebar, relax = REBAR(coupled=coupled), RELAX(coupled=coupled)
    draw = rebar.propose(dist(phi))
    torch.testing.assert_close(gradient(relax, dist, phi, draw), gradient(rebar, dist, phi, draw))
    torch.testing.assert_close(relax.eta.grad, rebar.eta.grad)
    torch.testing.assert_close(relax.log_temperature.grad, rebar.log_temperature.grad)


@both
def test_relax_with_f_as_critic_is_rebar(problem: str) -> None:
    dist, logits = PROBLEMS[problem]
    phi = logits.expand(7, *logits.shape)
    rebar, relax = REBAR(), RELAX(critic=f, use_f=False)
    draw = rebar.propose(dist(phi))
    torch.testing.assert_close(gradient(relax, dist, phi, draw), gradient(rebar, dist, phi, draw))
    torch.testing.assert_close(relax.log_temperature.grad, rebar.log_temperature.grad)


def test_lax_with_f_as_critic_is_pathwise() -> None:
    grads = []
    for estimator in (LAX(3, critic=f), Pathwise(3)):
        phi = torch.linspace(-0.5, 0.5, 20, dtype=torch.float64).reshape(5, 4).requires_grad_()
        sp.expect(f, normal(phi), estimator, generator=torch.Generator().manual_seed(0)).sum().backward()
        grads.append(phi.grad)
    torch.testing.assert_close(*grads)


def test_one_noise_of_gumbel_rao_is_straight_through_gumbel() -> None:
    single, many, reference = (
        estimates(estimator, "one-hots")
        for estimator in (GumbelRao(noises=1), GumbelRao(noises=10), StraightThroughGumbel())
    )
    for one in (single, many):
        difference = one.mean(0) - reference.mean(0)
        error = ((one.var(0) + reference.var(0)) / one.shape[0]).sqrt()
        assert (difference / error).abs().max() < THRESHOLD
    assert variance(many) < 0.8 * variance(single)


def test_gumbel_rao_through_the_conditional_noise_would_be_another_estimator(monkeypatch: pytest.MonkeyPatch) -> None:
    def attached(variables: families.Discrete, points: Tensor, generator: torch.Generator) -> Tensor:
        v = torch.rand(points.shape, dtype=torch.float64, generator=generator)
        z = rebuilt(variables, points, v)
        return z - (variables.logits - variables.logits.detach())

    reference = estimates(StraightThroughGumbel(), "one-hots")
    monkeypatch.setattr(gumbel_rao, "latent", attached)
    mutant = estimates(GumbelRao(), "one-hots")
    error = ((mutant.var(0) + reference.var(0)) / mutant.shape[0]).sqrt()
    assert ((mutant.mean(0) - reference.mean(0)) / error).abs().max() > 2 * THRESHOLD


@both
def test_gumbel_rao_shows_f_true_samples(problem: str) -> None:
    dist, logits = PROBLEMS[problem]
    phi = logits.float().expand(50, *logits.shape).clone().requires_grad_()
    points = GumbelRao(4, temperature=0.3).propose(dist(phi)).points
    assert torch.equal(points, points.round())
    assert points.requires_grad


# Gradients for θ, and what f is called for


@both
@pytest.mark.parametrize(
    "estimator", [REBAR(3), REBAR(3, coupled=True), RELAX(3), RELAX(3, use_f=False), GumbelRao(3)], ids=str
)
def test_theta_gets_the_gradient_at_true_samples_only(problem: str, estimator: sp.Estimator) -> None:
    dist, logits = PROBLEMS[problem]
    theta = THETA.clone().requires_grad_()
    seen = []

    def recorded(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return cost(x, theta)

    loss = sp.expect(recorded, dist(logits.expand(6, *logits.shape).clone().requires_grad_()), estimator).sum()
    loss.backward()
    (wanted,) = torch.autograd.grad(cost(seen[0], theta).mean(0).sum(), theta)
    assert torch.equal(theta.grad, wanted)
    assert torch.equal(seen[0], seen[0].round())


@both
@pytest.mark.parametrize(
    "estimator", [REBAR(2), REBAR(2, coupled=True), RELAX(2), RELAX(2, use_f=False), GumbelRao(2)], ids=str
)
def test_evaluations_are_counted(problem: str, estimator: sp.Estimator) -> None:
    dist, logits = PROBLEMS[problem]
    seen = []

    def recorded(x: Tensor) -> Tensor:
        seen.append(x.shape[0])
        return f(x)

    q = dist(logits.expand(6, *logits.shape).clone().requires_grad_())
    sp.expect(recorded, q, estimator).sum().backward()
    assert sum(seen) == estimator.evaluations(q)[0]
    assert len(seen) <= 2


@both
def test_coupling_saves_cost_at_about_the_same_variance(problem: str) -> None:
    plain, coupled = (variance(estimates(REBAR(coupled=c).eval(), problem)) for c in (False, True))
    assert 0.8 < coupled / plain < 1.25


# Learning


def loss_of(estimator: sp.Estimator, dist, phi: Tensor, draw, weights: Tensor) -> Tensor:
    """The sum over the rows of |weight| times the squared norm of the gradient."""
    return (gradient(estimator, dist, phi, draw).square().flatten(1).sum(-1) * weights.abs()).sum()


LEARNERS = {
    "REBAR": (bits, BITS, lambda: REBAR(2, eta=0.7)),
    "REBAR, one-hots": (one_hots, CLASSES.log_softmax(-1), lambda: REBAR(2, eta=0.7)),
    "REBAR, coupled": (one_hots, CLASSES.log_softmax(-1), lambda: REBAR(2, coupled=True)),
    "RELAX": (one_hots, CLASSES.log_softmax(-1), lambda: tilted(RELAX(2))),
    "RELAX, coupled": (bits, BITS, lambda: tilted(RELAX(2, coupled=True))),
    "RELAX, critic alone": (bits, BITS, lambda: tilted(RELAX(2, use_f=False))),
    "LAX": (
        lambda phi: Independent(Normal(phi[..., 0], phi[..., 1]), 1),
        torch.tensor([[0.3, 1.2], [-0.4, 0.8]], dtype=torch.float64),
        lambda: tilted(LAX(2)),
    ),
}


@pytest.mark.parametrize("case", LEARNERS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_parameters_get_the_gradient_of_the_variance(case: str, sign: float) -> None:
    dist, logits, make = LEARNERS[case]
    estimator = make().double()
    phi = logits.expand(5, *logits.shape)
    torch.manual_seed(0)
    draw = estimator.propose(dist(phi))
    weights = sign * torch.linspace(0.5, 1.5, 5, dtype=torch.float64)
    leaf = phi.clone().requires_grad_()
    (estimator.combine(dist(leaf), draw, f(draw.points), relaxed_f=f) * weights).sum().backward()
    step = 1e-5
    learned = [parameter for parameter in estimator.parameters() if parameter.requires_grad]
    assert learned
    for parameter in learned:
        for index in range(min(parameter.numel(), 10)):
            losses = []
            for change in (step, -step):
                with torch.no_grad():
                    parameter.view(-1)[index] += change
                losses.append(loss_of(copy.deepcopy(estimator).eval(), dist, phi, draw, weights))
                with torch.no_grad():
                    parameter.view(-1)[index] -= change
            wanted = (losses[0] - losses[1]) / (2 * step)
            torch.testing.assert_close(parameter.grad.view(-1)[index], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(
    ("problem", "make", "gain"),
    [
        ("bits", lambda: REBAR(temperature=0.1, eta=0.2), 0.4),
        ("one-hots", lambda: REBAR(coupled=True, temperature=0.1, eta=0.2), 0.4),
        ("bits", lambda: RELAX(), 0.8),
        ("one-hots", lambda: RELAX(use_f=False), 0.1),
    ],
)
def test_learning_reduces_the_variance(problem: str, make, gain: float, sign: float) -> None:
    torch.manual_seed(0)
    dist, logits = PROBLEMS[problem]
    estimator = make()
    before = variance(estimates(copy.deepcopy(estimator).eval(), problem))
    optimizer = torch.optim.Adam(estimator.parameters(), lr=0.1)
    for _ in range(120):
        optimizer.zero_grad()
        phi = logits.expand(64, *logits.shape).clone().requires_grad_()
        (sign * sp.expect(f, dist(phi), estimator)).mean().backward()
        optimizer.step()
    after = estimates(estimator.eval(), problem)
    assert variance(after) < gain * before
    assert largest_z(after, exact(problem)) < THRESHOLD


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


@pytest.mark.parametrize(
    ("estimator", "dist", "shape"),
    [
        (REBAR().eval(), bits, (3, 3)),
        (REBAR(learn=False), bits, (3, 3)),
        (RELAX().eval(), bits, (3, 3)),
        (RELAX(learn=False), bits, (3, 3)),
        (LAX().eval(), normal, (3, 4)),
    ],
)
def test_nothing_is_learned_in_eval_mode_or_when_told_not_to(estimator: sp.Estimator, dist, shape) -> None:
    phi = torch.zeros(shape, requires_grad=True)
    sp.expect(lambda x: x.square().sum(-1), dist(phi), estimator).sum().backward()
    assert phi.grad is not None
    assert all(parameter.grad is None for parameter in estimator.parameters())


def test_a_frozen_temperature_takes_no_second_derivative_of_f() -> None:
    class Once(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x.square()

        @staticmethod
        def setup_context(ctx, inputs, output) -> None:
            ctx.save_for_backward(inputs[0])

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, grad_output: Tensor) -> Tensor:
            return 2 * ctx.saved_tensors[0] * grad_output

    estimator = REBAR()
    estimator.log_temperature.requires_grad_(False)
    phi = torch.zeros(4, 3, requires_grad=True)
    sp.expect(lambda x: Once.apply(x).sum(-1), bits(phi), estimator).sum().backward()
    assert estimator.eta.grad != 0
    assert phi.grad.isfinite().all()


# Extreme logits


@pytest.mark.parametrize("size", [20.0, 1e4, torch.inf])
@pytest.mark.parametrize(
    "estimator",
    [REBAR(4), REBAR(4, coupled=True), REBAR(4, temperature=0.01), RELAX(4), RELAX(4, use_f=False), GumbelRao(4)],
    ids=str,
)
def test_saturated_bits_give_finite_gradients(estimator: sp.Estimator, size: float) -> None:
    estimator = copy.deepcopy(estimator)
    phi = torch.tensor([size, -size, 0.0, 1.0]).expand(50, 4).clone().requires_grad_()
    weights = torch.tensor([1.0, 2.0, -1.0, 0.5])

    def g(x: Tensor) -> Tensor:
        return (x @ weights).square()

    sp.expect(g, bits(phi), estimator).sum().backward()
    assert phi.grad.isfinite().all()
    assert phi.grad[:, :2].abs().max() < 1e-5
    assert phi.grad[:, 2:].abs().amax(0).min() > 0.1
    assert all(parameter.grad.isfinite().all() for parameter in estimator.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("size", [20.0, 1e4, torch.inf])
@pytest.mark.parametrize(
    "estimator",
    [REBAR(4), REBAR(4, coupled=True), REBAR(4, temperature=0.01), RELAX(4), RELAX(4, use_f=False), GumbelRao(4)],
    ids=str,
)
def test_masked_classes_get_no_gradient_and_are_not_shown_to_f(estimator: sp.Estimator, size: float) -> None:
    estimator = copy.deepcopy(estimator)
    phi = torch.tensor([[0.3, -size, 1.0, 0.0], [-size, 0.5, -0.5, -size]]).expand(50, 2, 4).clone().requires_grad_()
    weights = torch.arange(8.0)

    def g(x: Tensor) -> Tensor:
        x = x.flatten(2)
        return (x * weights / (1 - x[..., 1:2])).sum(-1).square()

    sp.expect(g, one_hots(phi), estimator).sum().backward()
    masked = torch.tensor([[False, True, False, False], [True, False, False, True]]).expand_as(phi)
    assert phi.grad.isfinite().all()
    assert phi.grad[masked].abs().max() < 1e-5
    assert phi.grad[~masked].abs().max() > 0.1
    assert all(parameter.grad.isfinite().all() for parameter in estimator.parameters() if parameter.requires_grad)


def test_small_probabilities_keep_their_precision() -> None:
    """In float32, at a logit of -20, the derivative by z̃ of a drawn 1 is that of float64."""
    results = []
    for dtype in (torch.float32, torch.float64):
        variables = families.recognize(bits(torch.tensor([-20.0, -16.0, -9.0], dtype=dtype)))
        z = torch.tensor([[0.5, 2.0, 0.01]], dtype=dtype)
        draw = conditional.Draw(torch.ones(1, 3, dtype=dtype), z, z.clone())
        y = torch.tensor([1.0, 2.0, 3.0], dtype=dtype)
        # Through a linear c the correction is y - y + (1 - ∂z̃/∂φ) y less the score's part.
        results.append(
            conditional.correction(variables, draw, lambda z, y=y: ((z * y).sum(-1), y.expand_as(z)))
            .squeeze(0)
            .double()
        )
    torch.testing.assert_close(*results, rtol=1e-6, atol=0.0)


# Shapes, state and refusals


@pytest.mark.parametrize("estimator", [REBAR(), REBAR(2, coupled=True), RELAX(), GumbelRao()], ids=str)
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("event", [(), (3,), (2, 3)])
def test_any_batch_and_event(estimator: sp.Estimator, batch: tuple[int, ...], event: tuple[int, ...]) -> None:
    phi = torch.zeros(batch + event, requires_grad=True)
    q = Independent(Bernoulli(logits=phi), len(event))
    value = sp.expect(lambda x: (x - 0.3).square().unsqueeze(-1).flatten(1 + len(batch)).sum(-1), q, estimator)
    value.sum().backward()
    assert value.shape == batch
    assert phi.grad.abs().min() > 0


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("event", [(), (3,), (2, 3)])
def test_any_batch_and_event_of_lax(batch: tuple[int, ...], event: tuple[int, ...]) -> None:
    phi = torch.zeros(batch + event, requires_grad=True)
    q = Independent(Normal(phi, 1.0), len(event))
    value = sp.expect(lambda x: (x - 0.3).square().unsqueeze(-1).flatten(1 + len(batch)).sum(-1), q, LAX())
    value.sum().backward()
    assert value.shape == batch
    assert phi.grad.abs().min() > 0


@pytest.mark.parametrize("estimator", [REBAR(2), RELAX(2, coupled=True), RELAX(2, use_f=False)], ids=str)
def test_left_out_costs_leave_their_samples_out(estimator: sp.Estimator) -> None:
    phi = BITS.expand(4, 3)
    draw = estimator.propose(bits(phi))
    first = type(draw)(*(x if x is None else x[:1] for x in draw))
    keep = torch.tensor([True, False])[:, None].expand(2, 4)
    leaf = phi.clone().requires_grad_()
    estimator.combine(bits(leaf), draw, f(draw.points), relaxed_f=f, keep=keep).sum().backward()
    torch.testing.assert_close(leaf.grad, gradient(estimator, bits, phi, first))


class Contextual(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, points: Tensor, context: Tensor) -> Tensor:
        return self.scale * (points * context).sum(-1)


@pytest.mark.parametrize("make", [lambda c: RELAX(critic=c, use_f=False), lambda c: LAX(critic=c)])
def test_the_critic_sees_the_context_but_does_not_train_it(make) -> None:
    estimator = make(Contextual())
    context = torch.ones(4, 2, dtype=torch.float64, requires_grad=True)
    phi = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)
    q = normal(phi) if isinstance(estimator, LAX) else bits(phi[:, :2])
    sp.expect(lambda x: x.sum(-1), q, estimator, context=context).sum().backward()
    assert context.grad is None
    assert estimator.critic.scale.grad != 0


def test_the_quadratic_critic_is_complete_for_eight_coordinates() -> None:
    critic = QuadraticCritic().double()
    torch.manual_seed(0)
    x = torch.randn(200, 8, dtype=torch.float64)
    q, linear = torch.randn(8, 8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    wanted = 1.5 + x @ linear + ((x @ q) * x).sum(-1)
    names = {name: parameter.detach() for name, parameter in critic.named_parameters()}

    def features(x: Tensor) -> Tensor:
        return torch.cat(
            [
                part.reshape(len(x), -1)
                for part in torch.func.jacrev(lambda p: functional_call(critic, p, (x,)))(names).values()
            ],
            1,
        )

    design = features(x)  # the critic is linear in its coefficients
    solution = torch.linalg.lstsq(design, wanted[:, None], driver="gelsd").solution
    torch.testing.assert_close((design @ solution)[:, 0], wanted)
    assert sum(parameter.numel() for parameter in critic.parameters()) == 81


def test_the_slopes_of_the_quadratic_critic() -> None:
    critic = tilted(RELAX().double()).quadratic
    for size in (1, 5, 8, 11):
        x = torch.randn(3, 2, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size)).requires_grad_()
        values, slopes = critic.value_and_gradient(x)
        wanted = torch.autograd.grad(critic(x).sum(), x)
        torch.testing.assert_close((slopes,), wanted)
        torch.testing.assert_close(values, critic(x))


@pytest.mark.parametrize("estimator", [REBAR(), RELAX(), RELAX(use_f=False)], ids=str)
def test_state_survives_copies_and_the_draw_can_be_saved(estimator: sp.Estimator) -> None:
    with torch.no_grad():
        estimator.log_temperature.fill_(0.3)
        draw = estimator.propose(bits(BITS.expand(3, 3)))
    twin = type(estimator)(use_f=False) if estimator.needs == "black box" else type(estimator)()
    twin.load_state_dict(estimator.state_dict())
    draws = [draw, pickle.loads(pickle.dumps(draw))]
    copies = [twin, pickle.loads(pickle.dumps(estimator))]
    wanted = gradient(estimator, bits, BITS.expand(3, 3), draw)
    for one, points in zip(copies, draws, strict=True):
        assert torch.equal(gradient(one, bits, BITS.expand(3, 3), points), wanted)
    assert twin.temperature.item() == pytest.approx(1.349859)


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


@pytest.mark.parametrize("estimator", [REBAR(), RELAX(), LAX(), GumbelRao()], ids=str)
def test_second_derivatives_are_refused(estimator: sp.Estimator) -> None:
    phi = torch.zeros(2, 4, requires_grad=True)
    dist = normal if isinstance(estimator, LAX) else bits
    value = sp.expect(lambda x: x.square().sum(-1), dist(phi.tanh()), estimator).sum()
    (slope,) = torch.autograd.grad(value, phi, create_graph=True)
    with pytest.raises(RuntimeError, match=f"{estimator.name} estimates first derivatives only"):
        torch.autograd.grad(slope.sum(), phi)


def test_bad_arguments_are_refused() -> None:
    for make in (REBAR, RELAX):
        for argument in ({"temperature": 0.0}, {"eta": torch.inf}, {"samples": 0}):
            with pytest.raises(ValueError, match=f"{make.__name__} needs"):
                make(**argument)
    for argument in ({"temperature": -1.0}, {"noises": 0}, {"noises": 2.0}):
        with pytest.raises(ValueError, match="GumbelRao needs"):
            GumbelRao(**argument)


@pytest.mark.parametrize("estimator", [REBAR(), RELAX()], ids=str)
def test_combine_asks_for_f_at_relaxed_points(estimator: sp.Estimator) -> None:
    draw = estimator.propose(bits(BITS))
    with pytest.raises(ValueError, match="needs f itself"):
        estimator.combine(bits(BITS), draw, draw.points.sum(-1))


@pytest.mark.parametrize("estimator", [RELAX(critic=lambda s: s), LAX(critic=lambda x: x)], ids=["RELAX", "LAX"])
def test_a_critic_of_the_wrong_shape_is_refused(estimator: sp.Estimator) -> None:
    q = normal(torch.zeros(3, 4)) if isinstance(estimator, LAX) else bits(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"needs one number from the critic for each point, shape \[m, \*batch\]"):
        sp.expect(lambda x: x.sum(-1), q, estimator)


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
