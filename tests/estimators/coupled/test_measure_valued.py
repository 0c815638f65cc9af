"""MeasureValued: against closed forms, against the other estimators, and its exact variances.

Random tests have fixed seeds. A z-test fails at 5 standard errors, by chance once in 1.7 million; with at most 200
comparisons in this file that is a false alarm once in 8,500 seeds. A measured variance may be off by 2 %, which is at
least 5 of its standard errors (for each of 12 comparisons). Everything else is exact.
"""

import io
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    Distribution,
    Exponential,
    Gamma,
    Geometric,
    Independent,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    OneHotCategorical,
    Poisson,
)
from torch.func import grad, vmap

import sampleprop as sp
from sampleprop.estimators.coupled.measure_valued import Draw, MeasureValued

Z = 5.0
ROWS = 100_000
SLOPES = torch.tensor([0.7, -0.4, 1.1], dtype=torch.float64)


def independent(base: Distribution, ndim: int = 1) -> Independent:
    return Independent(base, ndim, validate_args=False)


@dataclass(frozen=True)
class Problem:
    """Three coordinates, an f that is no sum over them, and E[f] in closed form, from φ [..., parameters, 3]."""

    phi: Tensor
    dist: Callable[[Tensor], Distribution]
    f: Callable[[Tensor], Tensor]
    mean: Callable[[Tensor], Tensor]


def wave(x: Tensor) -> Tensor:
    return 2 + (x * SLOPES.to(x.dtype)).sum(-1).cos()


def steps(x: Tensor) -> Tensor:
    return 1 + (x > 0.4).to(x.dtype).prod(-1)


def decay(x: Tensor) -> Tensor:
    return 1 - (-(x * SLOPES.to(x.dtype).abs()).sum(-1)).exp()


def normal(phi: Tensor) -> Distribution:
    return independent(Normal(*phi.unbind(-2), validate_args=False))


def multivariate_normal(phi: Tensor) -> Distribution:
    loc, scale = phi.unbind(-2)
    return MultivariateNormal(loc, scale_tril=torch.diag_embed(scale), validate_args=False)


def by_covariance(phi: Tensor) -> Distribution:
    loc, scale = phi.unbind(-2)
    return MultivariateNormal(loc, covariance_matrix=torch.diag_embed(scale.square()), validate_args=False)


def wave_mean(phi: Tensor) -> Tensor:
    loc, scale = phi.unbind(-2)
    return 2 + (loc * SLOPES).sum(-1).cos() * (-(scale * SLOPES).square().sum(-1) / 2).exp()


def steps_mean(phi: Tensor) -> Tensor:
    loc, scale = phi.unbind(-2)
    return 1 + torch.special.ndtr((loc - 0.4) / scale).prod(-1)


SHAPE = torch.tensor([0.6, 1.5, 4.0], dtype=torch.float64)
LOC_SCALE = torch.tensor([[0.6, -0.5, 1.2], [0.8, 1.5, 0.4]], dtype=torch.float64)
RATE = torch.tensor([[0.5, 2.0, 1.3]], dtype=torch.float64)
PROBLEMS = {
    "normal, smooth": Problem(LOC_SCALE, normal, wave, wave_mean),
    "normal, jumps": Problem(LOC_SCALE, normal, steps, steps_mean),
    "gamma": Problem(
        RATE,
        lambda phi: independent(
            Gamma(SHAPE.to(phi.dtype).expand_as(phi[..., 0, :]), phi[..., 0, :], validate_args=False)
        ),
        decay,
        lambda phi: 1 - (phi[..., 0, :] / (phi[..., 0, :] + SLOPES.abs())).pow(SHAPE).prod(-1),
    ),
    "exponential": Problem(
        RATE,
        lambda phi: independent(Exponential(phi[..., 0, :], validate_args=False)),
        decay,
        lambda phi: 1 - (phi[..., 0, :] / (phi[..., 0, :] + SLOPES.abs())).prod(-1),
    ),
    "poisson": Problem(
        RATE,
        lambda phi: independent(Poisson(phi[..., 0, :], validate_args=False)),
        decay,
        lambda phi: 1 - (phi[..., 0, :] * torch.expm1(-SLOPES.abs())).sum(-1).exp(),
    ),
}
PROBS = torch.tensor([[0.3, 0.8, 0.5]], dtype=torch.float64)
TRIALS = torch.tensor([1.0, 4.0, 7.0], dtype=torch.float64)


def generating(kind: type, p: Tensor) -> Tensor:
    """E[exp(-aX)] of three counts, with a the size of the slopes."""
    t = (-SLOPES.abs()).exp()
    if kind is Binomial:
        return (1 - p + p * t).pow(TRIALS).prod(-1)
    return (p / (1 - (1 - p) * t)).prod(-1) if kind is Geometric else ((1 - p) / (1 - p * t)).pow(TRIALS).prod(-1)


def count(kind: type, spelling: str) -> Problem:
    """Three counts with these probabilities of success, which φ gives as they are or as logits."""
    trials = {} if kind is Geometric else {"total_count": TRIALS}
    by_logits = spelling == "logits"
    probs = PROBS / 3 if kind is NegativeBinomial else PROBS  # of large counts f sees nothing
    return Problem(
        probs.logit() if by_logits else probs,
        lambda phi: independent(
            kind(
                **{key: n.to(phi.dtype).expand_as(phi[..., 0, :]) for key, n in trials.items()},
                **{spelling: phi[..., 0, :]},
                validate_args=False,
            )
        ),
        decay,
        lambda phi: 1 - generating(kind, phi[..., 0, :].sigmoid() if by_logits else phi[..., 0, :]),
    )


PROBLEMS |= {
    "multivariate normal": Problem(LOC_SCALE, multivariate_normal, wave, wave_mean),
    "multivariate normal by covariance": Problem(LOC_SCALE, by_covariance, wave, wave_mean),
    **{
        f"{kind.__name__} by {spelling}": count(kind, spelling)
        for kind in (Binomial, Geometric, NegativeBinomial)
        for spelling in ("probs", "logits")
    },
}
over_problems = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


def gradients(estimator: sp.Estimator, phi: Tensor, dist: Callable, f: Callable, seed: int, rows: int = ROWS) -> Tensor:
    """One gradient for each of `rows` independent replicates: [rows, *phi]."""
    leaf = phi.expand(rows, *phi.shape).clone().requires_grad_()
    sp.expect(f, dist(leaf), estimator, generator=Generator().manual_seed(seed)).sum().backward()
    return leaf.grad


def error(samples: Tensor) -> Tensor:
    return samples.std(0) / samples.shape[0] ** 0.5


# --- unbiased -----------------------------------------------------------------------------------------------------


@over_problems
def test_mean_is_the_derivative_of_the_closed_form(problem: Problem) -> None:
    found = gradients(MeasureValued(2), problem.phi, problem.dist, problem.f, seed=1)
    leaf = problem.phi.clone().requires_grad_()
    (exact,) = torch.autograd.grad(problem.mean(leaf), leaf)
    z = (found.mean(0) - exact) / error(found)
    assert z.abs().max() < Z
    along = (found * exact).flatten(1).sum(-1)
    power = (0.05 * exact.square().sum() / error(along)).item()
    assert power > Z + 3  # a gradient that is 5 % too small would be seen with a probability of 99.9 %


@over_problems
def test_probes_of_the_other_sign_are_caught(problem: Problem) -> None:
    """The test above can fail: with every change of f reversed, the gradient is reversed."""
    leaf = problem.phi.expand(2000, *problem.phi.shape).clone().requires_grad_()
    dist = problem.dist(leaf)
    draw = MeasureValued().propose(dist, generator=Generator().manual_seed(0))
    costs, probe_costs = problem.f(draw.points), problem.f(draw.probes)
    MeasureValued().combine(dist, draw, -costs, probe_costs=-probe_costs).sum().backward()
    exact_leaf = problem.phi.clone().requires_grad_()
    (exact,) = torch.autograd.grad(problem.mean(exact_leaf), exact_leaf)
    z = (leaf.grad.mean(0) - exact) / error(leaf.grad)
    assert z.abs().max() > 2 * Z


FUNCTIONS = {
    "square": torch.square,
    "bump": lambda x: (-x.square()).exp(),
    "cosine": torch.cos,
}


@pytest.mark.parametrize("f", FUNCTIONS.values(), ids=FUNCTIONS)
def test_agrees_with_score_function_and_pathwise(f: Callable[[Tensor], Tensor]) -> None:
    phi = torch.tensor([0.7, 0.9], dtype=torch.float64)

    def dist(phi: Tensor) -> Distribution:
        return Normal(*phi.unbind(-1))

    all_three = [
        gradients(estimator, phi, dist, f, seed, rows=200_000)
        for seed, estimator in enumerate((sp.ScoreFunction(1), sp.Pathwise(), MeasureValued()))
    ]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        one, other = all_three[one], all_three[other]
        z = (one.mean(0) - other.mean(0)) / (error(one).square() + error(other).square()).sqrt()
        assert z.abs().max() < Z


# --- variances of one estimate for f = (x - k)², x normal ---------------------------------------------------------


def variances(estimator: type, a: float, s: float) -> tuple[float, float]:
    """Of the gradients with respect to mean and scale, with a = μ - k and s = σ. With x - k = a + s ε:

    score function: (a + sε)² ε/s and (a + sε)² (ε² - 1)/s, by the moments 1, 3, 15, 105 of ε;
    pathwise: 2 (a + sε) and 2 (a + sε) ε;
    measure-valued: 4 a W / √(2π) with W Rayleigh, whose mean is √(π/2) and mean square 2; and 2 a (M - ε) + 2 s E where
    ε = UM gives E[(M - ε)²] = 3 · 1/3, E is exponential, and the two are uncorrelated.
    """
    if estimator is sp.ScoreFunction:
        return a**4 / s**2 + 14 * a**2 + 15 * s**2, 2 * a**4 / s**2 + 60 * a**2 + 74 * s**2
    if estimator is sp.Pathwise:
        return 4 * s**2, 4 * a**2 + 8 * s**2
    return (16 / math.pi - 4) * a**2, 4 * a**2 + 4 * s**2


@pytest.mark.parametrize(
    ("estimator", "k", "rows"),
    [
        (sp.ScoreFunction, -7.5, 2_800_000),  # near the mean its fourth moment is too large to measure the second
        (sp.ScoreFunction, 8.5, 2_800_000),
        (sp.Pathwise, 0.0, 1_100_000),
        (sp.Pathwise, 3.0, 600_000),
        (MeasureValued, 0.0, 600_000),
        (MeasureValued, 3.0, 600_000),
    ],
)
def test_variances_are_the_closed_forms(estimator: type, k: float, rows: int) -> None:
    mean, scale = 0.5, 0.8
    phi = torch.tensor([mean, scale], dtype=torch.float64)
    found = gradients(
        estimator(1), phi, lambda phi: Normal(*phi.unbind(-1)), lambda x: (x - k).square(), seed=1, rows=rows
    )
    square = (found - found.mean(0)).square()
    expected = torch.tensor(variances(estimator, mean - k, scale), dtype=torch.float64)
    assert (5 * error(square) < 0.02 * expected).all()  # the tolerance is no matter of chance
    torch.testing.assert_close(square.mean(0), expected, rtol=0.02, atol=0)


# --- discrete variables -------------------------------------------------------------------------------------------

LOGITS = torch.tensor([[0.5, -0.3, 0.1], [0.0, -math.inf, -0.4]], dtype=torch.float64)
DISCRETE = {
    "bits": lambda logits: independent(Bernoulli(logits=logits, validate_args=False), 2),
    "one-hots": lambda logits: independent(OneHotCategorical(logits=logits, validate_args=False)),
    "integers": lambda logits: independent(Categorical(logits=logits, validate_args=False)),
}


@pytest.mark.parametrize("kind", DISCRETE)
def test_for_discrete_variables_it_is_the_local_expectation(kind: str) -> None:
    def f(x: Tensor) -> Tensor:
        x = x.double().flatten(2)
        return (x * torch.arange(1, x.shape[-1] + 1)).sum(-1).sin()

    found, expected = (
        gradients(estimator, LOGITS, DISCRETE[kind], f, seed=3, rows=50)
        for estimator in (MeasureValued(2), sp.LocalExpectation(2))
    )
    assert torch.equal(found, expected)
    phi = LOGITS.clone().requires_grad_()
    assert MeasureValued(2).evaluations(DISCRETE[kind](phi)) == sp.LocalExpectation(2).evaluations(DISCRETE[kind](phi))


# --- cost ---------------------------------------------------------------------------------------------------------


def trainable(*numbers: float) -> Tensor:
    return torch.tensor(numbers, requires_grad=True)


COSTS = {
    "mean": (lambda: independent(Normal(trainable(0.1, 0.2, 0.3), 1.0)), 1 + 3 * 2),
    "scale": (lambda: independent(Normal(0.0, trainable(1.0, 2.0, 3.0))), 1 + 3),
    "mean and scale": (lambda: independent(Normal(trainable(0.1, 0.2, 0.3), trainable(1.0, 2.0, 3.0))), 1 + 3 * 3),
    "one coordinate": (lambda: Normal(trainable(0.1, 0.2, 0.3), 1.0), 1 + 2),
    "gamma": (lambda: independent(Gamma(2.0, trainable(1.0, 2.0, 3.0))), 1 + 3),
    "exponential": (lambda: independent(Exponential(trainable(1.0, 2.0, 3.0))), 1 + 3),
    "poisson": (lambda: independent(Poisson(trainable(1.0, 2.0, 3.0))), 1 + 3),
    "multivariate": (
        lambda: MultivariateNormal(trainable(0.1, 0.2, 0.3), scale_tril=torch.diag_embed(trainable(1.0, 2.0, 3.0))),
        1 + 3 * 3,
    ),
    "multivariate, mean": (lambda: MultivariateNormal(trainable(0.1, 0.2, 0.3), torch.eye(3)), 1 + 3 * 2),
    "binomial": (lambda: independent(Binomial(4, logits=trainable(1.0, 2.0, 3.0))), 1 + 3 * 2),
    "geometric": (lambda: independent(Geometric(logits=trainable(1.0, 2.0, 3.0))), 1 + 3),
    "nothing trained": (lambda: independent(Normal(torch.zeros(3), 1.0)), 1 + 3 * 3),
}


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("case", COSTS)
def test_evaluates_f_as_often_as_it_says(case: str, samples: int) -> None:
    make, count = COSTS[case]
    dist, estimator, seen = make(), MeasureValued(samples), []

    def f(x: Tensor) -> Tensor:
        seen.append(x.shape[0])
        return x.sum(-1) if dist.event_shape else x

    sp.expect(f, dist, estimator)
    assert estimator.evaluations(dist) == (sum(seen), 0) == (count * samples, 0)


# --- shapes, and what a draw goes through -------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "event_ndim"), [((), 0), ((2,), 0), ((2,), 1), ((2, 3, 4), 1), ((2, 3, 4), 2)])
def test_any_batch_and_event_shape(shape: tuple[int, ...], event_ndim: int) -> None:
    """Of a Poisson variable E[Σ weight x] has the weights as gradient, for every sample."""
    rate = torch.full(shape, 1.5, requires_grad=True)
    weights = torch.arange(1.0, 1.0 + rate.numel()).reshape(shape)
    value = sp.expect(
        lambda x: (weights * x).flatten(x.dim() - event_ndim).sum(-1) if event_ndim else weights * x,
        independent(Poisson(rate), event_ndim),
        MeasureValued(3),
    )
    value.sum().backward()
    assert value.shape == shape[: len(shape) - event_ndim]
    torch.testing.assert_close(rate.grad, weights)


def combined(problem: Problem, phi: Tensor, draw: Draw) -> Tensor:
    leaf = phi.clone().requires_grad_()
    value = MeasureValued(2).combine(
        problem.dist(leaf), draw, problem.f(draw.points), probe_costs=problem.f(draw.probes)
    )
    return torch.autograd.grad(value.sum(), leaf)[0]


@over_problems
def test_draws_can_be_saved_and_made_without_gradients(problem: Problem) -> None:
    phi = problem.phi.expand(5, *problem.phi.shape)

    def propose() -> Draw:
        leaf = phi.clone().requires_grad_()
        return MeasureValued(2).propose(problem.dist(leaf * 1), generator=Generator().manual_seed(1))

    draw = propose()
    with torch.no_grad():
        quiet = propose()
    file = io.BytesIO()
    torch.save(draw, file)
    file.seek(0)
    for other in (quiet, torch.load(file, weights_only=False), pickle.loads(pickle.dumps(draw))):
        assert not other.probes.requires_grad
        assert torch.equal(combined(problem, phi, draw), combined(problem, phi, other))


@over_problems
def test_same_generator_same_result_and_the_global_state_stays(problem: Problem) -> None:
    before = torch.get_rng_state()
    one, other = (gradients(MeasureValued(), problem.phi, problem.dist, problem.f, seed=5, rows=3) for _ in range(2))
    assert torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("problem", [PROBLEMS["normal, smooth"], PROBLEMS["gamma"]], ids=["normal", "gamma"])
def test_compiles(problem: Problem) -> None:
    def step(phi: Tensor) -> Tensor:
        return sp.expect(problem.f, problem.dist(phi), MeasureValued(2))

    results = []
    torch._dynamo.reset()
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(1)
        leaf = problem.phi.expand(4, *problem.phi.shape).clone().requires_grad_()
        results.append(torch.autograd.grad(function(leaf).sum(), leaf)[0])
    torch.testing.assert_close(*results)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's, on its Gamma sampler
@pytest.mark.parametrize(
    "problem",
    [
        problem for name, problem in PROBLEMS.items() if not name.startswith(("Binomial", "Geometric"))
    ],  # torch cannot draw them there
    ids=[name for name in PROBLEMS if not name.startswith(("Binomial", "Geometric"))],
)
def test_gradients_under_vmap_and_of_vmap(problem: Problem) -> None:
    phi = problem.phi.expand(20_000, *problem.phi.shape)

    def one(phi: Tensor) -> Tensor:
        return sp.expect(problem.f, problem.dist(phi), MeasureValued())

    leaf = problem.phi.clone().requires_grad_()
    (exact,) = torch.autograd.grad(problem.mean(leaf), leaf)
    torch.manual_seed(2)
    for found in (
        vmap(grad(one), randomness="different")(phi),
        grad(lambda phi: vmap(one, randomness="different")(phi).sum())(phi),
    ):
        assert ((found.mean(0) - exact) / error(found)).abs().max() < Z


# --- refusals -----------------------------------------------------------------------------------------------------


def test_gradient_with_respect_to_the_shape_of_gamma_is_refused() -> None:
    def value(shape: Tensor, rate: Tensor) -> Tensor:
        return sp.expect(torch.sin, Gamma(shape, rate, validate_args=False), MeasureValued())

    two = torch.full((4,), 2.0)
    assert value(two, two).shape == (4,)
    for attempt in (
        lambda: value(two.clone().requires_grad_(), two),
        lambda: grad(lambda shape: value(shape, two).sum())(two),
        lambda: grad(lambda shape: vmap(value, randomness="different")(shape, two).sum())(two),
        lambda: vmap(grad(value), randomness="different")(two, two),
    ):
        with pytest.raises(
            TypeError, match="needs a concentration without gradient for Gamma; got one that requires it"
        ):
            attempt()


def test_a_draw_without_the_probes_of_a_trained_parameter_is_refused() -> None:
    mean, scale = torch.zeros(3, requires_grad=True), torch.ones(3)
    draw = MeasureValued().propose(Normal(mean, scale))
    with pytest.raises(ValueError, match=r"got a draw for \['loc'\], without \['scale'\]. Propose with"):
        MeasureValued().combine(
            Normal(mean, scale.requires_grad_()), draw, draw.points.sin(), probe_costs=draw.probes.sin()
        )
    with pytest.raises(ValueError, match="needs the costs of its probes too; got none"):
        MeasureValued().combine(Normal(mean, 1.0), draw, draw.points.sin())


def test_other_distributions_are_refused() -> None:
    for dist, fix in (
        (torch.distributions.Beta(torch.ones(2), torch.ones(2)), "got Beta. Use ScoreFunction"),
        (torch.distributions.Chi2(torch.ones(2)), "got Chi2. Use ScoreFunction"),
    ):
        with pytest.raises(TypeError, match=fix):
            sp.expect(lambda x: x.sum(-1), dist, MeasureValued())


def test_dependent_normal_variables_are_refused() -> None:
    """Also where only the derivative with respect to a matrix element off the diagonal would be missing."""
    loc, scale = torch.zeros(2), torch.ones(2, requires_grad=True)
    for triangle, reason in (
        (torch.tensor([[1.0, 0.0], [0.5, 1.0]]), "a covariance off the diagonal"),
        (torch.eye(2, requires_grad=True), "whose scale_tril may have a gradient off the diagonal"),
        (scale * torch.eye(2), "whose scale_tril may have a gradient off the diagonal"),
    ):
        fix = r"Build it by scale_tril=torch.diag_embed\(scale\).* else use Pathwise or ScoreFunction"
        with pytest.raises(
            TypeError, match=f"needs a MultivariateNormal with a diagonal covariance; got one.*{reason}.*{fix}"
        ):
            sp.expect(lambda x: x.sum(-1), MultivariateNormal(loc, scale_tril=triangle), MeasureValued())


def test_counts_stay_in_their_support() -> None:
    for count, dist in (
        (3.0, Binomial(3, probs=torch.tensor([0.02, 0.98, 0.5]))),
        (math.inf, Geometric(probs=torch.tensor([0.02, 0.98, 0.5]))),
        (math.inf, NegativeBinomial(3, probs=torch.tensor([0.02, 0.98, 0.5]))),
    ):
        probes = MeasureValued(200).propose(dist).probes
        assert probes.min() >= 0
        assert probes.max() <= count
        assert torch.equal(probes, probes.floor())
