"""REBAR and RELAX: identities, learning, and extreme logits; with Gumbel-Rao and LAX where a claim holds for all.

Random tests compare at |z| < 4.5, as `problems.py` explains.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal

import sampleprop as sp
from estimators.relaxed.problems import (
    BITS,
    CLASSES,
    PROBLEMS,
    THETA,
    THRESHOLD,
    bits,
    both,
    cost,
    estimates,
    exact,
    f,
    gradient,
    largest_z,
    normal,
    one_hots,
    variance,
)
from sampleprop.estimators.relaxed.gumbel_rao import GumbelRao
from sampleprop.estimators.relaxed.lax import LAX
from sampleprop.estimators.relaxed.rebar import REBAR
from sampleprop.estimators.relaxed.relax import RELAX
from sampleprop.estimators.score import score_function
from variants import tilted


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


def _square(x: Tensor) -> Tensor:
    return x.square().sum(-1)


WITH_TEMPERATURE = {
    "REBAR": lambda: REBAR(2),
    "REBAR, coupled": lambda: REBAR(2, coupled=True),
    "RELAX": lambda: RELAX(2),
    "RELAX, a function": lambda: RELAX(2, critic=_square),
}


@pytest.mark.parametrize("case", WITH_TEMPERATURE)
@pytest.mark.parametrize("part", ["value", "derivative"])
def test_an_f_that_uses_the_temperature_that_learns_is_refused(case: str, part: str) -> None:
    estimator = WITH_TEMPERATURE[case]().double()
    phi = BITS.expand(5, 3).clone().requires_grad_()
    draw = estimator.propose(bits(phi))

    def using(temperature: Callable[[], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: f(x) + temperature() * (1.0 if part == "value" else x.square().sum(-1))

    def combined(relaxed_f: Callable[[Tensor], Tensor]) -> Tensor:
        return estimator.combine(bits(phi), draw, f(draw.points), relaxed_f=relaxed_f).sum()

    with pytest.raises(RuntimeError, match="temperature that learns needs an f that does not use it"):
        combined(using(lambda: estimator.temperature))
    combined(using(lambda: estimator.temperature.detach())).backward()
    estimator.log_temperature.requires_grad_(False)
    combined(using(lambda: estimator.temperature)).backward()
    estimator.log_temperature.requires_grad_(True)
    estimator.eval()
    combined(using(lambda: estimator.temperature)).backward()
    assert phi.grad.isfinite().all()


def test_a_critic_with_parameters_may_use_the_temperature() -> None:
    class Tempered(torch.nn.Module):
        def forward(self, points: Tensor) -> Tensor:
            return relax.temperature * f(points) + relax.temperature.square()

    relax = RELAX(2, use_f=False).double()
    relax.quadratic, relax.critic = None, Tempered()
    torch.manual_seed(0)
    phi = BITS.expand(5, 3)
    draw = relax.propose(bits(phi))
    wanted = []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            relax.log_temperature += step
        wanted.append(loss_of(relax.eval(), bits, phi, draw, torch.ones(5)))
        with torch.no_grad():
            relax.log_temperature -= step
    gradient(relax.train(), bits, phi, draw)
    torch.testing.assert_close(relax.log_temperature.grad, (wanted[0] - wanted[1]) / 2e-5, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", WITH_TEMPERATURE)
def test_a_second_derivative_that_is_not_finite_is_refused(case: str) -> None:
    """x^1.5 has the derivative 0 at 0, but not a second one; at small temperatures points are exactly 0 in float32."""
    estimator = WITH_TEMPERATURE[case]()
    estimator.log_temperature.data.fill_(math.log(0.005))
    phi = torch.zeros(50, 3, requires_grad=True)

    def cusp(x: Tensor) -> Tensor:
        return x.pow(1.5).sum(-1)

    torch.manual_seed(0)
    draw = estimator.propose(bits(phi))
    with pytest.raises(ValueError, match=r"needs finite second derivatives .* at batch index \[\d+\]"):
        estimator.combine(bits(phi), draw, cusp(draw.points), relaxed_f=cusp)
    with pytest.raises(ValueError, match="needs a finite derivative of f"):
        sp.expect(cusp, bits(phi), estimator)
    estimator.log_temperature.requires_grad_(False)
    sp.expect(cusp, bits(phi), estimator).sum().backward()
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
        for temperature in (0.0, -1.0, math.nan, math.inf):
            with pytest.raises(ValueError, match=f"{make.__name__} needs temperature above 0; got"):
                make(temperature=temperature)
        for argument in ({"eta": torch.inf}, {"samples": 0}):
            with pytest.raises(ValueError, match=f"{make.__name__} needs"):
                make(**argument)


@pytest.mark.parametrize("estimator", [REBAR(), RELAX()], ids=str)
def test_combine_asks_for_f_at_relaxed_points(estimator: sp.Estimator) -> None:
    draw = estimator.propose(bits(BITS))
    with pytest.raises(ValueError, match="needs f itself"):
        estimator.combine(bits(BITS), draw, draw.points.sum(-1))


@pytest.mark.parametrize("estimator", [sp.REBAR(256), sp.RELAX(256)])
def test_a_large_common_cost_takes_few_digits(estimator) -> None:
    found = []
    for offset in (0.0, 2.0**20):
        logits = torch.linspace(-1, 1, 3).requires_grad_()
        q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
        value = sp.expect(
            lambda x, offset=offset: (8 * x).sum(-1) + offset,
            q,
            estimator.eval(),
            generator=torch.Generator().manual_seed(0),
        )
        found.append(torch.autograd.grad(value.sum(), logits)[0])
    # What remains is the product of the offset and the average score, whose rounding is a few 2⁻²⁴ of it.
    torch.testing.assert_close(found[1] - found[0], torch.zeros(3), rtol=0, atol=0.5)
