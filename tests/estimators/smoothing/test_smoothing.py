"""EvolutionStrategies and SPSA: against what they claim to be, the gradient of a smoothed L, by quadrature.

Random tests have fixed seeds. A z-test fails at 5 standard errors, by chance once in 1.7 million; with at most 150
comparisons in this file that is a false alarm once in 11,000 seeds. Everything else is exact.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy
import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Gamma,
    Independent,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    Poisson,
    SigmoidTransform,
    TransformedDistribution,
    Uniform,
    constraints,
)

import sampleprop as sp
from sampleprop.estimators.smoothing.evolution_strategies import EvolutionStrategies
from sampleprop.estimators.smoothing.spsa import SPSA

Z = 5.0
ROWS = 100_000
BOTH = (EvolutionStrategies, SPSA)
over_both = pytest.mark.parametrize("kind", BOTH, ids=lambda kind: kind.__name__)


def make(kind: type, samples: int, step: float) -> sp.Estimator:
    return kind(samples, sigma=step) if kind is EvolutionStrategies else kind(samples, step=step)


class Slower(Distribution):
    """The later of two events at the same rate: a simulator, with neither density nor derivative."""

    arg_constraints = {"rate": constraints.positive}  # noqa: RUF012  as torch wants it

    def __init__(self, rate: Tensor, validate_args: bool | None = None) -> None:
        assert (rate > 0).all()
        self.rate = rate
        super().__init__(rate.shape, validate_args=False)

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        times = torch.empty(2, *sample_shape, *self.rate.shape, dtype=self.rate.dtype).exponential_() / self.rate
        return times.amax(0)


@dataclass(frozen=True)
class Problem:
    """An L of which everything is known.

    Attributes:
        phi: the parameters as the distribution takes them.
        dist: from φ, [rows, parameters].
        f: the cost, [k, rows].
        mean: E[f] in closed form, from φ.
        bounded: the coordinates of φ that are positive, and moved by their logarithm.
    """

    phi: Tensor
    dist: Callable[[Tensor], Distribution]
    f: Callable[[Tensor], Tensor]
    mean: Callable[[Tensor], Tensor]
    bounded: Tensor

    def exact(self, kind: type, step: float) -> Tensor:
        """The mean of the estimator's gradient, by Gauss-Hermite quadrature or over all signs; ∇L for a step of 0."""
        phi = self.phi.clone().requires_grad_()
        u = torch.where(self.bounded, phi.log(), phi)
        directions, weights = _directions(kind, len(phi))
        moves = step * directions

        def at(moved: Tensor) -> Tensor:
            return self.mean(torch.where(self.bounded, moved.exp(), moved))

        if step == 0:
            return torch.autograd.grad(at(u), phi)[0]
        slopes = (at(u + moves) - at(u - moves)).detach() / (2 * step)
        by_u = (weights * slopes) @ directions
        return torch.autograd.grad(u, phi, by_u)[0]


def _directions(kind: type, size: int) -> tuple[Tensor, Tensor]:
    """Every direction, [directions, size], and its probability."""
    if kind is SPSA:
        signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=size)), dtype=torch.float64)
        return signs, torch.full((2**size,), 0.5**size, dtype=torch.float64)
    nodes, weights = (torch.from_numpy(x) for x in numpy.polynomial.hermite_e.hermegauss(14))
    grid = torch.cartesian_prod(*[nodes] * size).reshape(-1, size)
    return grid, torch.cartesian_prod(*[weights / weights.sum()] * size).reshape(-1, size).prod(-1)


def by_states(states: Tensor, log_prob: Callable[[Tensor], Tensor], f: Callable[[Tensor], Tensor]) -> Callable:
    """From logits [..., n] to E[f] by summing over the states."""
    return lambda logits: (log_prob(logits).exp() * f(states)).sum(-1)


def _float64(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def bits_cost(x: Tensor) -> Tensor:
    return 1 + 2 * (x * _float64(0.6, -0.6, 0.5)).sum(-1).sin() + x.prod(-1)


BITS = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=torch.float64)
TABLE = _float64(1.9, -0.6, 0.7)
REAL, POSITIVE = torch.tensor(False), torch.tensor(True)
PROBLEMS = {
    "normal": Problem(
        _float64(0.6, 0.8),
        lambda phi: Normal(*phi.unbind(-1)),
        lambda x: 2 + x.cos(),
        lambda phi: 2 + phi[..., 0].cos() * (-phi[..., 1].square() / 2).exp(),
        torch.tensor([False, True]),
    ),
    "normal, jump": Problem(
        _float64(0.6, 0.8),
        lambda phi: Normal(*phi.unbind(-1)),
        lambda x: (x > 1).to(x.dtype),
        lambda phi: torch.special.ndtr((phi[..., 0] - 1) / phi[..., 1]),
        torch.tensor([False, True]),
    ),
    "bits": Problem(
        _float64(0.4, -0.9, 1.3),
        lambda phi: Independent(Bernoulli(logits=phi), 1),
        bits_cost,
        by_states(
            BITS,
            lambda logits: (torch.where(BITS > 0, 1, -1) * logits.unsqueeze(-2)).sigmoid().log().sum(-1),
            bits_cost,
        ),
        REAL,
    ),
    "integers": Problem(
        _float64(0.5, -0.3, 0.1),
        lambda phi: Categorical(logits=phi),
        lambda x: TABLE[x],
        lambda phi: (phi.softmax(-1) * TABLE).sum(-1),
        REAL,
    ),
    "poisson": Problem(
        _float64(1.6),
        lambda phi: Poisson(phi[..., 0]),
        lambda x: (-0.4 * x).exp(),
        lambda phi: (phi[..., 0] * math.expm1(-0.4)).exp(),
        POSITIVE,
    ),
    "gamma": Problem(
        _float64(1.5, 0.7),
        lambda phi: Gamma(*phi.unbind(-1)),
        lambda x: (-x).exp(),
        lambda phi: (phi[..., 1] / (phi[..., 1] + 1)).pow(phi[..., 0]),
        POSITIVE,
    ),
    "simulator, jump": Problem(
        _float64(1.2),
        lambda phi: Slower(phi[..., 0]),
        lambda x: (x > 1).to(x.dtype),
        lambda phi: 1 - (-(-phi[..., 0]).expm1()).square(),
        POSITIVE,
    ),
}
over_problems = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


def gradients(estimator: sp.Estimator, problem: Problem, rows: int = ROWS) -> Tensor:
    """One gradient for each of `rows` independent replicates: [rows, parameters]."""
    leaf = problem.phi.expand(rows, -1).clone().requires_grad_()
    value = sp.expect(problem.f, problem.dist(leaf), estimator, generator=Generator().manual_seed(1))
    return torch.autograd.grad(value.sum(), leaf)[0]


def largest_z(samples: Tensor, expected: Tensor) -> float:
    return ((samples.mean(0) - expected) / (samples.std(0) / samples.shape[0] ** 0.5)).abs().max().item()


# --- the mean -----------------------------------------------------------------------------------------------------


@over_problems
@over_both
def test_mean_is_the_gradient_of_the_smoothed_expectation(kind: type, problem: Problem) -> None:
    found, exact = gradients(make(kind, 2, 0.5), problem), problem.exact(kind, 0.5)
    assert largest_z(found, exact) < Z
    along = found @ exact
    power = 0.1 * exact.square().sum() / (along.std() / len(along) ** 0.5)
    assert power > Z + 3  # a gradient that is 10 % too small would be seen with a probability of 99.9 %


@over_problems
@over_both
def test_bias_is_of_second_order(kind: type, problem: Problem) -> None:
    """Half the step, a quarter of the bias: with the test above, the claimed limit."""
    exact = problem.exact(kind, 0.0)
    wide, narrow = ((problem.exact(kind, step) - exact).norm() for step in (0.02, 0.01))
    assert wide / exact.norm() < 0.01
    torch.testing.assert_close(wide / narrow, _float64(4.0)[0], rtol=0.01, atol=0)


@over_both
def test_bias_is_seen_and_goes_away(kind: type) -> None:
    problem = PROBLEMS["normal"]
    exact = problem.exact(kind, 0.0)
    assert largest_z(gradients(make(kind, 2, 0.5), problem), exact) > 2 * Z
    assert largest_z(gradients(make(kind, 2, 0.02), problem), exact) < Z


@over_both
def test_value_and_theta_have_no_bias(kind: type) -> None:
    problem = PROBLEMS["bits"]
    theta = torch.ones(ROWS, dtype=torch.float64, requires_grad=True)
    dist = problem.dist(problem.phi.expand(ROWS, -1).clone().requires_grad_())
    value = sp.expect(lambda x: theta * problem.f(x), dist, make(kind, 2, 0.5))
    (slope,) = torch.autograd.grad(value.sum(), theta)
    expected = problem.mean(problem.phi)
    assert largest_z(value.detach(), expected) < Z
    torch.testing.assert_close(slope, value.detach())


@over_both
def test_matrix_parameters(kind: type) -> None:
    """Of L = E[(aᵀx)²] = (aᵀμ)² + |Cᵀa|² for μ and for the triangle C, whose diagonal is moved in logarithms."""
    a, step = _float64(1.0, -0.5), 0.3

    def unpack(u: Tensor) -> tuple[Tensor, Tensor]:
        (x, y, p, q), off = (u[..., i] for i in range(4)), u[..., 4]
        triangle = torch.stack((p.exp(), torch.zeros_like(p), off, q.exp()), -1).unflatten(-1, (2, 2))
        return torch.stack((x, y), -1), triangle

    u = _float64(0.7, 0.2, -0.3, 0.4, 0.6)
    directions, weights = _directions(SPSA, 5)
    if kind is EvolutionStrategies:
        nodes, one = (torch.from_numpy(x) for x in numpy.polynomial.hermite_e.hermegauss(7))
        directions = torch.cartesian_prod(*[nodes] * 5)
        weights = torch.cartesian_prod(*[one / one.sum()] * 5).prod(-1)

    def mean(u: Tensor) -> Tensor:
        loc, triangle = unpack(u)
        return (loc @ a).square() + (triangle.mT @ a).square().sum(-1)

    slopes = (mean(u + step * directions) - mean(u - step * directions)) / (2 * step)
    leaf = u.expand(ROWS, -1).clone().requires_grad_()
    loc, triangle = unpack(leaf)
    dist = MultivariateNormal(loc, scale_tril=triangle)
    value = sp.expect(lambda x: (x @ a).square(), dist, make(kind, 2, step), generator=Generator().manual_seed(1)).sum()
    (found,) = torch.autograd.grad(value, leaf)
    # By p = log C_00 it is the same number as by the coordinate in which it is moved.
    assert largest_z(found, (weights * slopes) @ directions) < Z


# --- the noise ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [True, False], ids=["generator", "global state"])
@over_problems
@over_both
def test_both_sides_have_the_same_noise(kind: type, problem: Problem, given: bool) -> None:
    """For a tiny step they are the same point; independent ones never are, for a continuous distribution."""
    generator = Generator().manual_seed(1) if given else None
    draw = make(kind, 3, 1e-9).propose(problem.dist(problem.phi.expand(50, -1)), generator=generator)
    plus, minus = draw.probes.double().chunk(2)
    assert plus.flatten(0, 1).unique(dim=0).shape[0] > 1
    torch.testing.assert_close(plus, minus, rtol=0, atol=1e-6)
    assert not torch.equal(plus, draw.points.double())


def largest(scores: Tensor) -> Tensor:
    return (scores >= scores.amax(-1, keepdim=True)).to(scores.dtype)


@pytest.mark.parametrize("solver", [False, True])
def test_compiled_they_have_it_too(solver: bool) -> None:
    problem = PROBLEMS["normal"]

    def dist(phi: Tensor) -> Distribution:
        if solver:
            return sp.distributions.PerturbAndMAP(phi, largest)
        return Normal(*phi.unbind(-1), validate_args=False)

    def step(phi: Tensor) -> Tensor:
        return sp.expect(lambda x: problem.f(x[..., 0] if solver else x), dist(phi), SPSA(2, step=0.5))

    results = []
    torch._dynamo.reset()
    for function in (step, torch.compile(step, fullgraph=True, backend="eager")):
        torch.manual_seed(1)
        leaf = problem.phi.expand(40, -1).clone().requires_grad_()
        results.append(torch.autograd.grad(function(leaf).sum(), leaf)[0])
    torch.testing.assert_close(*results)
    assert results[0].abs().max() > 0


@over_both
def test_bounds_are_kept_whatever_the_step(kind: type) -> None:
    """`Slower` asserts that its rate is positive; a step of 3 downwards would make it -1.8."""
    found = gradients(make(kind, 2, 3.0), PROBLEMS["simulator, jump"], rows=1000)
    assert found.isfinite().all()
    assert found.abs().max() > 0


@over_both
def test_impossible_classes_stay_impossible_and_get_no_gradient(kind: type) -> None:
    logits = _float64(0.5, -math.inf, 0.1).expand(200, -1).clone().requires_grad_()
    seen = []

    def f(x: Tensor) -> Tensor:
        seen.append(x[..., 1].max())
        return (x * TABLE).sum(-1)

    sp.expect(f, OneHotCategorical(logits=logits), make(kind, 2, 0.5)).sum().backward()
    assert max(seen) == 0
    assert logits.grad[:, 1].abs().max() == 0
    assert logits.grad[:, 0].abs().max() > 0


# --- draws --------------------------------------------------------------------------------------------------------


@over_both
def test_only_trained_parameters_are_moved(kind: type) -> None:
    mean, scale = torch.zeros(4, requires_grad=True), torch.ones(4)
    draw = make(kind, 1, 0.5).propose(Normal(mean, scale))
    assert list(draw.directions) == ["loc"]
    value = sp.expect(torch.square, Normal(mean, scale), make(kind, 1, 0.5))
    assert torch.autograd.grad(value.sum(), mean)[0].abs().min() > 0
    with torch.no_grad():
        assert list(make(kind, 1, 0.5).propose(Normal(mean, scale)).directions) == ["loc", "scale"]
    with pytest.raises(ValueError, match=r"got a draw for \['loc'\], without \['scale'\]. Propose with"):
        make(kind, 1, 0.5).combine(
            Normal(mean, scale.requires_grad_()), draw, draw.points.sin(), probe_costs=draw.probes.sin()
        )


# --- refusals -----------------------------------------------------------------------------------------------------


@over_both
def test_what_cannot_be_moved_is_refused(kind: type) -> None:
    one = torch.ones(2)
    sigmoid = TransformedDistribution(Normal(one, one), SigmoidTransform())
    for dist, reason in (
        (Uniform(-one, one), "needs parameters that can be moved each for itself; got low of Uniform.*Use Pathwise"),
        (sigmoid, "needs a distribution that keeps its parameters.*got TransformedDistribution. Use Pathwise"),
    ):
        with pytest.raises(TypeError, match=f"{kind.__name__} {reason}"):
            sp.expect(lambda x: x, dist, kind())


@over_both
def test_arguments_are_checked(kind: type) -> None:
    with pytest.raises(ValueError, match=r"needs (sigma|step) above 0; got 0\.0"):
        make(kind, 1, 0.0)
    draw = kind().propose(Normal(torch.zeros(3), 1.0))
    with pytest.raises(ValueError, match=r"needs the costs of its probes too; got none\. Pass probe_costs="):
        kind().combine(Normal(torch.zeros(3), 1.0), draw, draw.points)


@pytest.mark.parametrize("kind", [Categorical, OneHotCategorical])
def test_classes_of_both_sides_seldom_differ_and_are_possible(kind):
    """Shared Gumbel noise: of 50 equal classes a step of 0.1 changes 10 %. One uniform number would change 40 %."""
    logits = torch.zeros(20_000, 50, requires_grad=True)
    for step, most in ((0.1, 0.12), (100.0, 1.0)):
        draw = sp.SPSA(step=step).propose(kind(logits=logits), generator=torch.Generator().manual_seed(0))
        probes = draw.probes if kind is Categorical else draw.probes.argmax(-1)
        plus, minus = probes.chunk(2)
        assert (plus != minus).double().mean() <= most
        assert probes.max() < 50
        assert kind is Categorical or (draw.probes.sum(-1) == 1).all()
