"""Control variates that learn at a site, because the rest of the program is run again.

The z-tests compare at 4.9 standard errors, a false-alarm rate of 1e-6 for each number, below 1e-3 for this file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Independent, Normal, OneHotCategorical, Poisson

import sampleprop as sp
from programs.models import LIMIT, bits, normals, z
from sampleprop.estimators.relaxed import conditional
from sampleprop.estimators.relaxed import rebar as rebar_module
from sampleprop.estimators.relaxed import relax as relax_module
from sampleprop.programs import forced, rest
from sampleprop.surrogate import learning_surrogate

ROWS = 30_000
PHI = torch.tensor([[0.3, -0.5], [-0.2, 0.6], [0.7, -0.4]], dtype=torch.float64)
THETA = torch.tensor([0.7, -0.4], dtype=torch.float64)


def three_levels(estimators: list[Any], make: Callable[[Tensor], Any] = bits, context: bool = False) -> Any:
    """Each level depends on the one before and on all parameters."""

    @sp.program
    def model(phi: Tensor, theta: Tensor) -> Tensor:
        x = torch.zeros_like(phi[..., 0, :])
        for i, estimator in enumerate(estimators):
            logits = phi[..., i, :] + 1.2 * x - 0.9 * x.flip(-1) * theta
            given = phi[..., i, :1].detach() if context else None
            if given is not None:
                given = given.expand(*logits.shape[:-1], 1)
            x = sp.sample(make(logits), estimator, context=given)
            sp.charge((x * theta).sum(-1) * 0.3 + 0.2 * x.prod(-1))
        return (x.sum(-1) - 0.7 + theta.sum(-1)).square() * (1 + x[..., 0])

    return model


def one_hots(logits: Tensor) -> Any:
    return OneHotCategorical(logits=torch.cat((logits, logits.sum(-1, keepdim=True) * 0.3), -1), validate_args=False)


def estimates(model: Any, rows: int = ROWS) -> list[Tensor]:
    leaves = [x.expand(rows, *x.shape).clone().requires_grad_() for x in (PHI, THETA)]
    return list(torch.autograd.grad(model(*leaves).sum(), leaves, materialize_grads=True))


def right(model: Any) -> tuple[Tensor, ...]:
    leaves = [x.clone().requires_grad_() for x in (PHI, THETA)]
    return forced.exact(model, leaves, {}, leaves).gradients


def largest(model: Any, reference: Any, rows: int = ROWS) -> float:
    return max(z(a, b) for a, b in zip(estimates(model, rows), right(reference), strict=True))


def rebar(samples: int | None = None, **options: Any) -> sp.REBAR:
    return sp.REBAR(samples, temperature=0.4, eta=0.8, **options)


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(1, 1), nn.Flatten(0)).double()


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layer = nn.Linear(3, 1).double()

    def forward(self, points: Tensor, context: Tensor) -> Tensor:
        both = torch.cat((points, context.expand(*points.shape[:-1], 1)), -1)
        return self.layer(both.tanh()).squeeze(-1)


SCORE, BASELINE = sp.ScoreFunction(None), sp.LearnedBaseline(network())
CASES: dict[str, list[Any]] = {
    "plain": [rebar(), rebar(), rebar()],
    "coupled": [rebar(coupled=True), rebar(coupled=True), rebar(coupled=True)],
    "mean field": [rebar(mean_field=True), rebar(mean_field=True, coupled=True), SCORE],
    "before score functions": [rebar(), SCORE, SCORE],
    "between": [SCORE, rebar(), sp.DisARM()],
    "with dimensions": [rebar(2), rebar(3), sp.Enumerate()],
    "before local expectations": [rebar(2), sp.LocalExpectation(), rebar()],
    "tangents": [sp.MuProp(None), sp.RODEO(), sp.DoubleCV()],
    "tangents, permuted": [sp.DoubleCV(), sp.MuProp(2), sp.RODEO()],
    "critics": [sp.RELAX(None), sp.RELAX(2, coupled=True), sp.RELAX(None, use_f=False)],
    "self-critical": [rebar(), sp.ScoreFunction(2, baseline=sp.SelfCritical()), SCORE],
    "shared": [rebar()] * 3,
}


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_of_three_levels_is_right(case):
    torch.manual_seed(0)
    assert largest(three_levels(CASES[case]), three_levels([None] * 3)) < LIMIT


@pytest.mark.parametrize("particles", [2, 4])
def test_particles_are_right(particles):
    torch.manual_seed(0)
    model = three_levels([rebar(), SCORE, rebar(coupled=True)]).using(particles=particles)
    assert largest(model, three_levels([None] * 3), ROWS // particles) < LIMIT
    joint = three_levels([rebar(particles), rebar(), SCORE]).using(particles=particles)
    assert largest(joint, three_levels([None] * 3), ROWS // particles) < LIMIT


def test_baselines_and_critics_with_context_are_right():
    torch.manual_seed(0)
    learned = [rebar(baseline=BASELINE), sp.RELAX(None, critic=Critic()), sp.ScoreFunction(None, baseline=BASELINE)]
    assert largest(three_levels(learned, context=True), three_levels([None] * 3)) < LIMIT


def test_one_hots_are_right():
    torch.manual_seed(0)

    def reference_and(estimators: list[Any]) -> Any:
        @sp.program
        def model(phi: Tensor, theta: Tensor) -> Tensor:
            a = sp.sample(one_hots(phi[..., 0, :]), estimators[0])
            b = sp.sample(one_hots(phi[..., 1, :] + a[..., :2] * theta), estimators[1])
            return (a * b).sum(-1) * 2 + (b[..., 0] - a[..., 2] + theta.sum(-1)).square()

        return model

    for pair in ([rebar(), rebar(coupled=True)], [rebar(), SCORE], [sp.MuProp(None), sp.RELAX(None)]):
        assert largest(reference_and(pair), reference_and([None, None])) < LIMIT


def test_the_programs_own_noise_is_right():
    """Dropout between the sites is the same in each run; its mean is known by forced replay of two more bits."""

    def noisy(estimators: list[Any], drop: Callable[[Tensor], Tensor]) -> Any:
        @sp.program
        def model(phi: Tensor, theta: Tensor) -> Tensor:
            a = sp.sample(bits(phi[..., 0, :]), estimators[0])
            b = sp.sample(bits(phi[..., 1, :] + drop(a * 2 - 0.5) * theta), estimators[1])
            return (drop(b + 0.3) * theta).sum(-1).square() + (a * b).sum(-1)

        return model

    def counted(x: Tensor) -> Tensor:
        return 2 * x * sp.sample(bits(torch.zeros_like(x)))

    torch.manual_seed(0)
    model = noisy([rebar(), rebar()], lambda x: nn.functional.dropout(x, 0.5))
    assert largest(model, noisy([None, None], counted), 4 * ROWS) < LIMIT


def test_normal_variables_in_any_place_are_right():
    """Against the score function, two samples."""

    def model(estimator: Any) -> Any:
        @sp.program
        def mixed(phi: Tensor, theta: Tensor) -> Tensor:
            u = sp.sample(Normal(phi[..., 0, 0], 0.8))
            a = sp.sample(bits(phi[..., 1, :] + u.unsqueeze(-1)), estimator)
            v = sp.sample(Normal(a.sum(-1) * theta[..., 0] + u, 0.6), sp.Pathwise())
            b = sp.sample(bits(phi[..., 2, :] * v.unsqueeze(-1)), estimator)
            return (b.sum(-1) - v).square() + a[..., 0] * b[..., 1]

        return mixed

    torch.manual_seed(0)
    found, plain = (estimates(model(e), 2 * ROWS) for e in (rebar(), SCORE))
    for one, other in zip(found, plain, strict=True):
        error = ((one.var(0) + other.var(0)) / (2 * ROWS)).sqrt() + 1e-9
        assert ((one.mean(0) - other.mean(0)).abs() / error).max() < LIMIT


@pytest.mark.parametrize("particles", [1, 2])
def test_a_learned_function_of_normal_variables_is_right(particles):
    """LAX before, between and after discrete variables; against the score function, two samples."""
    lax = sp.LAX(None).double()
    with torch.no_grad():
        for parameter in lax.parameters():
            parameter.fill_(0.2)

    def model(learned: Any, estimator: Any) -> Any:
        @sp.program
        def mixed(phi: Tensor, theta: Tensor) -> Tensor:
            u = sp.sample(normals(phi[..., 0, :]), learned)
            a = sp.sample(bits(phi[..., 1, :] + u), estimator)
            v = sp.sample(normals(a * theta + u), learned)
            b = sp.sample(bits(phi[..., 2, :] * v), SCORE)
            return (b - v).square().sum(-1) + (u[..., 0] > 0.5) * b[..., 1]

        return mixed.using(particles=particles)

    torch.manual_seed(0)
    found, plain = (estimates(m, 2 * ROWS) for m in (model(lax, sp.MuProp(None)), model(SCORE, SCORE)))
    for one, other in zip(found, plain, strict=True):
        error = ((one.var(0) + other.var(0)) / (2 * ROWS)).sqrt() + 1e-9
        assert ((one.mean(0) - other.mean(0)).abs() / error).max() < LIMIT
    value = model(lax, rebar())(*(x.expand(9, *x.shape).clone().requires_grad_() for x in (PHI, THETA)))
    learned = torch.autograd.grad(value.sum(), list(lax.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in learned)


def test_successive_calls_of_one_generator_are_right():
    model = three_levels([rebar(), SCORE, rebar(coupled=True)])
    generator = torch.Generator().manual_seed(0)
    expected = right(three_levels([None] * 3))
    found = []
    for _ in range(200):  # of ten rows each
        leaves = [x.expand(10, *x.shape).clone().requires_grad_() for x in (PHI, THETA)]
        found.append(torch.autograd.grad(model.using(generator=generator)(*leaves).sum(), leaves))
    for samples, reference in zip(zip(*found, strict=True), expected, strict=True):
        assert z(torch.cat(samples), reference) < LIMIT


def test_theta_gets_the_gradient_of_true_samples_alone():
    """η = 0 and a plain score function, from the same noise, give θ the same gradient."""

    def gradient(*estimators: Any) -> Tensor:
        @sp.program
        def model(theta: Tensor) -> Tensor:
            phi = PHI.clone().requires_grad_()
            a = sp.sample(bits(phi[0].expand(50, 2)), estimators[0])
            b = sp.sample(bits(phi[1] + a), estimators[1])
            return (a * theta).sum(-1).square() + (b * theta).sum(-1)

        torch.manual_seed(0)
        theta = THETA.clone().requires_grad_()
        return torch.autograd.grad(model(theta).sum(), theta)[0]

    other = gradient(sp.REBAR(None, eta=0.0), sp.REBAR(None, eta=5.0, temperature=2.0))
    torch.testing.assert_close(gradient(rebar(), rebar()), other, rtol=1e-12, atol=1e-12)


# Mistakes that were made once, or nearly. Each must be seen.


def hard_later(self: Any, index: int, variables: Any) -> Tensor:
    """Later variables hard, by the noise that they had: a function that jumps."""
    value = RELAXED_VALUE(self, index, variables)
    return value if index <= self.rest.index else (value > 0.5).to(value.dtype) + 0 * value


def as_drawn(self: Any, index: int, variables: Any) -> Tensor:
    """Later variables as they were drawn: the control variate then depends on the sample."""
    if index <= self.rest.index:
        return RELAXED_VALUE(self, index, variables)
    later = self.rest.trace.later[index]
    return later.draw.points.squeeze(0) + 0 * variables.logits


def of_relaxed_logits(self: Any, index: int, variables: Any) -> Tensor:
    """The noise taken as z minus the logits of the relaxed run."""
    if index > self.rest.index:
        later = self.rest.trace.later[index]
        later.noise = later.draw.z - conditional.finite(variables.logits.detach())
    return RELAXED_VALUE(self, index, variables)


def own_noise(self: Any, index: int, variables: Any) -> Tensor:
    """Later variables by the noise of the variable itself."""
    if index > self.rest.index:
        own = self.rest.trace.later[self.rest.index]
        self.rest.trace.later[index].noise = own.draw.z - conditional.finite(own.variables.logits.detach())
    return RELAXED_VALUE(self, index, variables)


RELAXED_VALUE = rest._Relaxed._value


@pytest.mark.parametrize("mutant", [hard_later, as_drawn, of_relaxed_logits, own_noise])
def test_a_wrong_rest_is_seen(mutant, monkeypatch):
    monkeypatch.setattr(rest._Relaxed, "_value", mutant)
    torch.manual_seed(0)
    assert largest(three_levels([rebar(), rebar(), rebar()]), three_levels([None] * 3), 2 * ROWS) > LIMIT


@pytest.mark.parametrize("estimator", [rebar(), rebar(coupled=True), sp.RELAX(None), sp.RODEO()], ids=str)
def test_what_a_program_detaches_stays_in_the_derivative_along_the_variable(estimator):
    """In log q, say, where the derivative by its logits has mean zero at true samples, but not at relaxed ones."""
    model = detached(estimator)
    torch.manual_seed(0)
    assert largest(model, detached(None)) < LIMIT


def test_a_derivative_that_stops_where_the_program_detaches_is_seen(monkeypatch):
    monkeypatch.setattr(rest._Again, "_follows", lambda self, x: False)
    torch.manual_seed(0)
    assert largest(detached(rebar()), detached(None)) > LIMIT


def detached(estimator: Any) -> Any:
    """The logits of the second level, and a part of the cost, are detached in the cost."""

    @sp.program
    def model(phi: Tensor, theta: Tensor) -> Tensor:
        a = sp.sample(bits(phi[..., 0, :]), estimator)
        logits = phi[..., 1, :] + 2 * a
        b = sp.sample(bits(logits), estimator)
        known = torch.nn.functional.logsigmoid(logits.detach() * (2 * b - 1)).sum(-1)
        return known + 3 * (a * theta).sum(-1).detach() * b[..., 0] + (a - b).square().sum(-1)

    return model


def test_a_site_without_a_stream_of_its_own_is_seen(monkeypatch):
    """The program's own noise gets, in the second run, the numbers that the site had in the first."""

    @sp.program
    def model(phi: Tensor, theta: Tensor) -> Tensor:
        a = sp.sample(bits(phi[..., 0, :]), rebar())
        d = torch.rand_like(a)
        return ((2 * a - 1) * (d - 0.5) * 12).sum(-1) + a.sum(-1)

    torch.manual_seed(0)
    p = PHI[0].sigmoid()
    assert z(estimates(model, 4 * ROWS)[0][:, 0], p * (1 - p)) < LIMIT
    monkeypatch.setattr(rest.Trace, "stream", lambda self, index: None)
    assert z(estimates(model, 4 * ROWS)[0][:, 0], p * (1 - p)) > LIMIT


# What learns.


def squares(model: Any, seed: int = 3) -> list[Tensor]:
    """For each site the square of its gradient by the logits, from the same noise."""
    found: list[Tensor] = []

    def noted(name: str, value: Tensor, parameter: Tensor, gradient: Tensor, learned: Any) -> Tensor:
        found.append(gradient.square().sum())
        return learning_surrogate(name, value, parameter, gradient, learned)

    torch.manual_seed(seed)
    leaves = [x.expand(5, *x.shape).clone().requires_grad_() for x in (PHI, THETA)]
    with pytest.MonkeyPatch.context() as patch:
        for module in (rebar_module, relax_module):
            patch.setattr(module, "learning_surrogate", noted)
        model(*leaves)
    return found


def trained(model: Any, modules: list[nn.Module], seed: int = 3) -> dict[nn.Parameter, Tensor]:
    torch.manual_seed(seed)
    leaves = [x.expand(5, *x.shape).clone().requires_grad_() for x in (PHI, THETA)]
    parameters = list(dict.fromkeys(p for module in modules for p in module.parameters() if p.requires_grad))
    gradients = torch.autograd.grad(model(*leaves).sum(), parameters, materialize_grads=True)
    return dict(zip(parameters, gradients, strict=True))


@pytest.mark.parametrize(
    "make",
    [
        lambda: [rebar(), rebar(), rebar()],
        lambda: [rebar(coupled=True, mean_field=True), rebar(2), SCORE],
        lambda: [SCORE, rebar(), rebar(coupled=True)],
        lambda: [rebar(baseline=sp.LearnedBaseline(network())), SCORE, rebar(baseline=sp.LearnedBaseline(network()))],
        lambda: [rebar()] * 3,
        lambda: [sp.RELAX(None, critic=Critic()), SCORE, sp.RELAX(None, coupled=True, critic=Critic())],
    ],
    ids=["plain", "mean field", "between", "baselines", "shared", "critics"],
)
def test_what_learns_gets_the_derivative_of_the_squared_gradient(make):
    """Of Σ‖g_i‖² over the sites, by finite differences from the same noise."""
    estimators = [e.double() for e in make()]
    model = three_levels(estimators, context=True)
    found = trained(model, estimators)
    assert len(found) >= 2
    step = 1e-5
    for parameter, gradient in found.items():
        flat, expected = parameter.detach().view(-1), torch.zeros_like(gradient).view(-1)
        for i in range(len(flat)):
            sides = []
            for sign in (1, -1):
                flat[i] += sign * step
                sides.append(torch.stack(squares(model)).sum())
                flat[i] -= sign * step
            expected[i] = (sides[0] - sides[1]) / (2 * step)
        torch.testing.assert_close(gradient.view(-1), expected, rtol=1e-6, atol=1e-6)
        assert expected.abs().max() > 1e-3


@pytest.mark.parametrize("estimator", [sp.RODEO(), sp.DoubleCV(), sp.MuProp(None, learn=True)], ids=str)
def test_tangents_learn_too(estimator):
    estimator = estimator.double()
    found = trained(three_levels([estimator, SCORE, SCORE]), [estimator])
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert any(gradient.abs().sum() > 0 for gradient in found.values())


def test_in_evaluation_nothing_learns():
    estimator = rebar()
    found = trained(three_levels([estimator.eval(), SCORE, SCORE]), [estimator])
    assert all(float(gradient.abs().sum()) == 0 for gradient in found.values())


def test_training_lowers_the_variance_of_a_two_layer_network():
    """The case of the paper that introduced REBAR: two stochastic layers, each with its own."""
    torch.manual_seed(0)
    first, second = (
        sp.REBAR(None, coupled=True, temperature=2.0, eta=0.1, baseline=sp.LearnedBaseline()) for _ in range(2)
    )
    second.log_temperature = first.log_temperature  # a temperature may be shared
    model = three_levels([first, second, SCORE])
    variances = []
    optimizer = torch.optim.Adam(nn.ModuleList([first, second]).parameters(), 0.02)
    for step in range(150):
        optimizer.zero_grad()
        leaves = [x.expand(200, *x.shape).clone().requires_grad_() for x in (PHI, THETA)]
        model(*leaves).mean().backward()
        optimizer.step()
        variances.append(float(leaves[0].grad[:, :2].var(0).sum()))
        assert first.temperature.isfinite(), step
    assert sum(variances[-30:]) < 0.8 * sum(variances[:30])


def test_modules_that_know_no_sample_dimension_take_relaxed_points():
    torch.manual_seed(0)
    estimator = sp.REBAR(None, coupled=True)
    conv = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Conv2d(2, 1, 2))

    @sp.program
    def loss(x: Tensor) -> Tensor:
        b = sp.sample(Independent(Bernoulli(logits=x), 3), estimator)
        return sp.sample(Independent(Bernoulli(logits=conv(b)), 3), estimator).sum((1, 2, 3))

    x = torch.randn(4, 1, 5, 5, requires_grad=True)
    loss.using(particles=3)(x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert estimator.eta.grad.abs() > 0
    assert estimator.log_temperature.grad.abs() > 0


def test_what_cannot_be_run_again_is_refused():
    def refused(function: Callable[[Tensor], Tensor], message: str, error: type[Exception] = RuntimeError) -> None:
        with pytest.raises(error, match=message):
            sp.program(function)(torch.full((2,), 0.1, requires_grad=True))

    def branch(phi: Tensor) -> Tensor:
        a = sp.sample(Bernoulli(logits=phi), rebar())
        if float(a.detach()[0]) in (0.0, 1.0):
            a = a + sp.sample(Bernoulli(logits=a))
        return a + phi

    def shape(phi: Tensor) -> Tensor:
        a = sp.sample(Bernoulli(logits=phi), rebar())
        true = bool(((a == 0) | (a == 1)).all())
        b = sp.sample(Independent(Bernoulli(logits=a.unsqueeze(-1).expand(2, 3 if true else 4)), 1))
        return b.sum(-1)

    def later(q: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
        def function(phi: Tensor) -> Tensor:
            a = sp.sample(Bernoulli(logits=phi), rebar())
            return a + sp.sample(q(a))

        return function

    refused(branch, "runs the program again at relaxed points; got other variables than before")
    refused(shape, "runs the program again at relaxed points; got other variables than before")
    categorical = later(lambda a: Categorical(logits=torch.stack((a, 1 - a), -1)))
    refused(categorical, "got Categorical, whose values are numbers. Use OneHotCategorical", TypeError)
    refused(later(lambda a: Poisson(a.exp())), "got Poisson, which has no relaxation", TypeError)
    with pytest.raises(TypeError, match=r"needs a LearnedBaseline; got baseline=LeaveOneOut"):
        sp.REBAR(baseline=sp.LeaveOneOut())


def test_a_program_may_write_into_relaxed_values():
    @sp.program
    def model(phi: Tensor) -> Tensor:
        a = sp.sample(bits(phi), rebar())
        a.mul_(2)
        return a.sum(-1)

    value = model(torch.zeros(5, 2, requires_grad=True))
    assert set(value.detach().unique().tolist()) <= {0.0, 2.0, 4.0}


def test_a_temperature_behind_no_second_derivative_says_so():
    from torch.distributions import Gamma

    @sp.program
    def model(phi: Tensor) -> Tensor:
        a = sp.sample(bits(phi), rebar())
        return sp.sample(Gamma(1 + a.sum(-1), torch.ones(5)))

    with pytest.raises((RuntimeError, NotImplementedError)) as caught:
        model(torch.zeros(5, 2, requires_grad=True)).sum().backward()
    assert any("requires_grad_(False) keeps it as it is" in note for note in caught.value.__notes__)


def test_the_baseline_of_expect_learns_on_the_variance():
    """Its derivative is that of the squared gradient, which does not change by it in the mean."""
    torch.manual_seed(0)
    estimator = rebar(baseline=sp.LearnedBaseline()).double()
    logits = torch.zeros(20_000, 2, dtype=torch.float64, requires_grad=True)

    def f(x: Tensor) -> Tensor:
        return (x.sum(-1) - 0.3).square() + 5

    value = sp.expect(f, bits(logits), estimator)
    value.mean().backward()
    assert estimator.baseline.offset.grad.abs() > 1e-3
    exact = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    (reference,) = torch.autograd.grad(sp.expect(f, bits(exact), sp.Enumerate()), exact)
    assert z(logits.grad * len(logits), reference) < LIMIT
    with pytest.raises(ValueError, match="LearnedBaseline needs the context"):
        sp.expect(f, bits(logits), rebar(baseline=sp.LearnedBaseline(network())))
