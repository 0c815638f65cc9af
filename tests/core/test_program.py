"""Programs of several random variables, against exact nested enumeration.

The z-tests compare at 4.9 standard errors, a false-alarm rate of 1e-6 for each number, below 1e-3 for this file.
"""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal

import sampleprop as sp

WEIGHT = torch.tensor([[0.8, -0.5], [0.3, 1.1]], dtype=torch.float64)
LEAVES = tuple(torch.tensor(x, dtype=torch.float64) for x in ((0.3, -0.5), (-0.2, 0.6), (0.7, -0.4)))
LIMIT = 4.9
ROWS = 20_000


def bits(logits: Tensor) -> Distribution:
    return Independent(Bernoulli(logits=logits, validate_args=False), 1, validate_args=False)


def two_levels(first: sp.Estimator, second: sp.Estimator) -> sp.program:
    @sp.program
    def model(phi1, phi2, theta):
        a = yield bits(phi1), first
        yield 0.3 * a.sum(-1)
        b = yield bits(phi2 + a @ WEIGHT), second
        return ((a * theta).sum(-1) - b.sum(-1)).square() + b.prod(-1) * a[..., 0] + 1

    return model


def gradients(model, rows: int, leaves=LEAVES) -> tuple[Tensor, list[Tensor]]:
    copies = [leaf.expand(rows, -1).clone().requires_grad_() for leaf in leaves]
    value = model(*copies)
    return value.detach(), list(torch.autograd.grad(value.sum(), copies))


def z(samples: Tensor, exact: Tensor) -> float:
    error = samples.std(0) / samples.shape[0] ** 0.5
    return float(((samples.mean(0) - exact) / (error + 1e-12)).abs().max())


EXACT_VALUE, EXACT = gradients(two_levels(sp.Enumerate(), sp.Enumerate()), 1)
UNBIASED = [sp.ScoreFunction(2), sp.DisARM(), sp.REBAR(), sp.RELAX(), sp.LocalExpectation()]


@pytest.mark.parametrize("second", [sp.Enumerate(), *UNBIASED], ids=str)
@pytest.mark.parametrize("first", UNBIASED, ids=str)
def test_two_levels_are_right_for_every_pair_of_estimators(first, second):
    torch.manual_seed(0)
    value, found = gradients(two_levels(first, second), ROWS)
    assert z(value, EXACT_VALUE[0]) < LIMIT
    for sample, exact in zip(found, EXACT, strict=True):
        assert z(sample, exact[0]) < LIMIT


@pytest.mark.parametrize("second", UNBIASED, ids=str)
def test_an_enumerated_first_level_keeps_the_second_right(second):
    torch.manual_seed(0)
    _, found = gradients(two_levels(sp.Enumerate(), second), ROWS)
    for sample, exact in zip(found[1:], EXACT[1:], strict=True):
        assert z(sample, exact[0]) < LIMIT


def test_straight_through_is_biased_and_the_test_sees_it():
    torch.manual_seed(0)
    _, found = gradients(two_levels(sp.StraightThrough(), sp.Enumerate()), ROWS)
    assert z(found[0], EXACT[0][0]) > 2 * LIMIT


def test_one_draw_without_a_dimension_is_right_too():
    torch.manual_seed(0)
    _, found = gradients(two_levels(sp.ScoreFunction(None), sp.ScoreFunction(None)), 5 * ROWS)
    for sample, exact in zip(found, EXACT, strict=True):
        assert z(sample, exact[0]) < LIMIT


def test_a_cost_before_a_variable_is_not_charged_to_it():
    """With the cost before it made huge, the variable's gradient stays what it was, number for number."""

    def gradient(before: float) -> Tensor:
        @sp.program
        def model(phi):
            a = yield bits(phi), sp.ScoreFunction(2)
            yield before * a.new_ones(2)
            b = yield bits(phi.detach() + a), sp.ScoreFunction(2)
            return (b.sum(-1) - a.sum(-1).detach()).square() * 0 + b.sum(-1)

        torch.manual_seed(0)
        phi = LEAVES[0].clone().requires_grad_()
        model(phi).backward()
        return phi.grad

    assert torch.allclose(gradient(0.0), gradient(1e6), atol=1e-9)


def test_the_second_derivative_of_two_score_function_levels_is_right():
    def hessian(model, rows: int) -> Tensor:
        phi = LEAVES[0].expand(rows, -1).clone().requires_grad_()
        other = [leaf.expand(rows, -1) for leaf in LEAVES[1:]]
        (slope,) = torch.autograd.grad(model(phi, phi + other[0], other[1]).sum(), phi, create_graph=True)
        columns = [torch.autograd.grad(slope[:, i].sum(), phi, retain_graph=True)[0] for i in range(2)]
        return torch.stack(columns, -1)

    torch.manual_seed(0)
    exact = hessian(two_levels(sp.Enumerate(), sp.Enumerate()), 1)[0]
    assert z(hessian(two_levels(sp.ScoreFunction(2), sp.ScoreFunction(3)), 10 * ROWS), exact) < LIMIT


def test_second_derivatives_through_another_estimator_are_refused():
    phi, *others = (leaf.clone().requires_grad_() for leaf in LEAVES)
    value = two_levels(sp.DisARM(), sp.ScoreFunction(2))(phi, *others)
    (slope,) = torch.autograd.grad(value, phi, create_graph=True)
    with pytest.raises(RuntimeError, match="DisARM estimates first derivatives only"):
        torch.autograd.grad(slope.sum(), phi)


def test_a_continuous_variable_passes_its_gradient_through_a_discrete_one():
    """x ~ Normal(μ, 1), b ~ Bernoulli(σ(x)): dE[b]/dμ = E[σ'(x)], by quadrature."""

    @sp.program
    def model(mean):
        x = yield Normal(mean, torch.ones_like(mean)), sp.Pathwise()
        b = yield Bernoulli(logits=x), sp.ScoreFunction(2)
        return b

    torch.manual_seed(0)
    mean = torch.full((ROWS * 4,), 0.4, dtype=torch.float64, requires_grad=True)
    model(mean).sum().backward()
    grid = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    density = Normal(torch.tensor(0.4, dtype=torch.float64), 1.0).log_prob(grid).exp()
    exact = torch.trapezoid(density * grid.sigmoid() * (1 - grid.sigmoid()), grid)
    assert z(mean.grad, exact) < LIMIT


def test_a_chain_of_a_thousand_variables_works():
    @sp.program
    def chain(phi, length):
        x = phi.detach() * 0
        for _ in range(length):
            x = yield Bernoulli(logits=phi + 0.1 * x), sp.ScoreFunction(None)
            yield x

    phi = torch.zeros(3, requires_grad=True)
    assert chain(phi, 1000).shape == (3,)


def test_a_loop_of_random_length_is_right():
    """Toss until tails: E[tosses] = 1 / (1 - p), whose derivative by the logit is p / (1 - p)."""

    @sp.program
    def tosses(logit):
        heads = torch.ones((), dtype=torch.float64)
        while heads:
            yield torch.ones((), dtype=torch.float64)
            heads = yield Bernoulli(logits=logit), sp.ScoreFunction(None)
        return torch.zeros((), dtype=torch.float64)

    torch.manual_seed(0)
    logit = torch.tensor(-0.4, dtype=torch.float64, requires_grad=True)
    values = [tosses(logit) for _ in range(4000)]
    slopes = torch.stack([torch.autograd.grad(value, logit)[0] for value in values])
    odds = logit.detach().exp()
    assert z(torch.stack(values).detach(), 1 + odds) < LIMIT
    assert z(slopes, odds) < LIMIT


def test_sub_programs_methods_and_samples_for_logging():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.phi = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))

        @sp.program
        def part(self, scale):
            b = yield bits(scale * self.phi), sp.ScoreFunction(4)
            yield b.sum(-1)
            return b

        @sp.program
        def whole(self):
            a = yield bits(self.phi), sp.ScoreFunction(2)
            b = yield from self.part.steps(1 + a)
            return b.sum(-1) * a[..., 0]

    model = Model()
    value, drawn = model.whole.sample()
    value.backward()
    assert [tuple(points.shape) for points in drawn] == [(2, 3), (4, 2, 3)]
    assert model.phi.grad.abs().sum() > 0


def test_the_draws_have_the_shape_that_the_program_saw():
    seen = []

    @sp.program
    def model(mean, logits):
        a = yield torch.distributions.Normal(mean, 1.0), sp.Pathwise(None)
        b = yield Bernoulli(logits=logits + a), sp.ScoreFunction(None)
        c = yield Bernoulli(logits=logits + a + b), sp.REBAR(samples=2)
        seen.extend(x.detach() for x in (a, b, c))
        return (a + b + c).square()

    _, drawn = model.sample(torch.zeros(5, requires_grad=True), torch.zeros(5, requires_grad=True))
    assert [tuple(points.shape) for points in drawn] == [(5,), (5,), (2, 5)]
    assert all(torch.equal(d, s[: len(d)]) for d, s in zip(drawn, seen, strict=True))  # c has relaxed points after it


@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_cost_that_is_not_finite_is_named_wherever_it_stands(place):
    """The costs of one shape are looked at together, those of another by themselves."""

    @sp.program
    def model(logits):
        for t in range(7):
            x = yield Bernoulli(logits=logits), sp.ScoreFunction(None if t < 4 else 2)
            logits = logits.expand_as(x)
            yield torch.where(torch.arange(2) == 1, math.inf if t == place else 1.0, x)

    with pytest.raises(ValueError, match=r"A program needs finite costs; f returned inf at .* = \[.*1\]"):
        model(torch.zeros(2, requires_grad=True))


def test_the_same_generator_state_gives_the_same_result():
    model = two_levels(sp.ScoreFunction(2), sp.REBAR())
    first, second = (model.using(torch.Generator().manual_seed(3))(*LEAVES) for _ in range(2))
    assert torch.equal(first, second)


def test_a_plate_is_an_inner_expectation_and_a_sum():
    """Five conditionally independent bits given a: E[a Σ b] with b ~ Bernoulli(σ(a))."""

    @sp.program
    def model(phi):
        a = yield Bernoulli(logits=phi), sp.Enumerate()
        items = Bernoulli(logits=a.unsqueeze(-1).expand(*a.shape, 5))
        return a * sp.expect(lambda b: b, items, sp.Enumerate()).sum(-1)

    phi = torch.tensor(0.4, dtype=torch.float64)
    exact = phi.sigmoid() * 5 * torch.tensor(1.0).double().sigmoid()
    assert torch.allclose(model(phi), exact)


def test_what_cannot_work_is_refused():
    @sp.program
    def wrong(kind):
        if kind == "batch":
            yield Bernoulli(logits=torch.zeros(3)), sp.ScoreFunction(2)
            yield Bernoulli(logits=torch.zeros(3)), sp.ScoreFunction(2)
        elif kind == "cost":
            yield Bernoulli(logits=torch.zeros(3)), sp.ScoreFunction(2)
            return torch.zeros(3)
        elif kind == "last":
            yield Bernoulli(logits=torch.zeros(3)), sp.ScoreFunction(2)
        elif kind == "item":
            yield "a string"
        elif kind == "nothing":
            return
        elif kind == "single":
            yield bits(torch.zeros(3)), sp.ScoreFunction(None, baseline=sp.SelfCritical())
        elif kind == "nan":
            x = yield Bernoulli(logits=torch.zeros(3)), sp.ScoreFunction(2)
            return x * torch.nan

    for kind, error, message in (
        ("batch", ValueError, r"needs a distribution of the batch shape \[2, 3\].*expand"),
        ("cost", ValueError, r"needs the batch shape at its place, \[2, 3\]; got \[3\]"),
        ("last", ValueError, "needs a cost that is yielded or returned after its variable"),
        ("item", TypeError, "yields a cost .* or a pair"),
        ("nothing", ValueError, "needs at least one cost"),
        ("single", ValueError, "evaluates f at several points.*samples=None"),
        ("nan", ValueError, "needs finite costs"),
    ):
        with pytest.raises(error, match=message):
            wrong(kind)


def test_a_relaxed_estimator_needs_a_path_from_its_variable_to_the_cost():
    @sp.program
    def model(phi):
        a = yield bits(phi), sp.REBAR()
        return (a.detach() > 0).sum(-1) * phi.sum()

    with pytest.raises(RuntimeError, match="needs a cost that is differentiable in its variable"):
        model(torch.zeros(2, requires_grad=True))


@pytest.mark.parametrize("estimator", [sp.REBAR(), sp.RELAX(), sp.RODEO(), sp.DoubleCV()], ids=str)
def test_the_control_variates_of_a_program_stay_as_they_are(estimator):
    """The tangent has no second derivative to train them by; the mode of the estimator is left as it was."""

    @sp.program
    def model(logits):
        x = yield Independent(Bernoulli(logits=logits), 1), estimator
        return (x.sum(-1) - 0.4).square()

    model(torch.zeros(3, requires_grad=True)).backward()
    assert estimator.training
    assert all(parameter.grad is None for parameter in estimator.parameters())


@pytest.mark.parametrize("estimator", [sp.ScoreFunction(4), sp.DisARM(4), sp.ScoreFunction(None)], ids=str)
def test_costs_in_half_precision_are_averaged_in_single_precision(estimator):
    @sp.program
    def model(logits):
        x = yield Independent(Bernoulli(logits=logits), 1), estimator
        return x.sum(-1) + 256

    logits = torch.zeros(3, dtype=torch.bfloat16, requires_grad=True)
    value = model(logits)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16


@pytest.mark.parametrize("allowed", [True, False])
def test_a_path_in_a_chain_may_end_where_that_is_allowed(allowed):
    """Two pathwise variables in a row, the second of which the cost ignores."""

    @sp.program
    def model(mean):
        x = yield Normal(mean, 1.0), sp.Pathwise(None)
        yield Normal(x, 1.0), sp.Pathwise(None, allow_unused=allowed)
        return x.square()

    mean = torch.zeros((), requires_grad=True)
    if allowed:
        (gradient,) = torch.autograd.grad(model.using(torch.Generator().manual_seed(0))(mean), mean)
        assert gradient != 0
    else:
        with pytest.raises(RuntimeError, match="Pathwise needs a cost that is differentiable in x"):
            model(mean)


def test_a_derivative_that_is_not_finite_is_refused_at_relaxed_points():
    @sp.program
    def model(logits):
        x = yield bits(logits), sp.REBAR()
        return (x.sum(-1) * 0).sqrt()  # √0 has an infinite derivative, and ∞ · 0 is not a number

    with pytest.raises(ValueError, match="REBAR needs a finite derivative of f"):
        model(torch.zeros(2, requires_grad=True))
