"""What is a path from the costs to x, and what is none: operations that no derivative passes, and graphs of any depth.

The right values are exact: closed forms, or sums over all states.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import (
    AffineTransform,
    Bernoulli,
    ComposeTransform,
    Distribution,
    ExpTransform,
    Independent,
    Normal,
    TanhTransform,
    TransformedDistribution,
)

import sampleprop as sp

F = Callable[[Tensor], Tensor]


def cells(x: Tensor) -> Tensor:
    """Points between the cells of a grid, for `grid_sample`: [k, 6] -> [k, 1, 3, 2]."""
    return x.reshape(-1, 1, 3, 2)


def sampled(x: Tensor) -> Tensor:
    """The nearest of 16 pixels, at three points."""
    image = torch.arange(16.0).reshape(1, 1, 4, 4).expand(len(x), 1, 4, 4)
    return torch.nn.functional.grid_sample(image, cells(x), mode="nearest", align_corners=False).sum((1, 2, 3))


STEPS: dict[str, F] = {
    "round": lambda x: x.round().square().sum(-1),
    "round ": lambda x: x.round(decimals=1).square().sum(-1),
    "floor": lambda x: x.floor().square().sum(-1),
    "ceil": lambda x: x.ceil().square().sum(-1),
    "trunc": lambda x: x.trunc().square().sum(-1),
    "sign": lambda x: x.sign().sum(-1),
    "sgn": lambda x: x.sgn().sum(-1),
    "angle": lambda x: x.angle().sum(-1),
    "heaviside": lambda x: torch.heaviside(x, torch.ones(())).sum(-1),
    "copysign": lambda x: torch.copysign(torch.ones(()), x).sum(-1),
    "floor_divide": lambda x: (x // 1).square().sum(-1),
    "div": lambda x: x.div(0.7, rounding_mode="floor").square().sum(-1),
    "gt_": lambda x: x.clone().gt_(0.3).sum(-1),
    "fake quantization": lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127).square().sum(-1),
    "grid_sample": sampled,
    "bernoulli": lambda x: x.sigmoid().bernoulli().sum(-1),
    "poisson": lambda x: torch.poisson(x.exp()).sum(-1),
    "normal": lambda x: torch.normal(x, 1.0).square().sum(-1),
    "igamma": lambda x: torch.igamma(x.exp(), torch.ones(())).sum(-1),
}


def _normal() -> tuple[Tensor, Distribution]:
    mean = torch.linspace(-0.6, 0.9, 6).requires_grad_()
    return mean, Independent(Normal(mean, 1.0), 1)


def _bits() -> tuple[Tensor, Distribution]:
    logits = torch.tensor([0.4, -0.9, 1.3], requires_grad=True)
    return logits, Independent(Bernoulli(logits=logits), 1)


def _gradient(f: Callable[[Tensor], Any], phi: Tensor, dist: Distribution, *arguments: Any, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    value = sp.expect(f, dist, *arguments)
    (gradient,) = torch.autograd.grad(value.sum(), phi)
    return gradient


CONTINUOUS = (
    sp.Pathwise(),
    sp.ImportanceWeighted(2),
    sp.StickingTheLanding(),
    sp.DoublyReparameterized(2),
)
RELAXED = (
    sp.StraightThrough(),
    sp.ReinMax(),
    sp.GumbelSoftmax(),
    sp.StraightThroughGumbel(),
    sp.GumbelRao(),
    sp.GappedStraightThrough(),
    sp.DecoupledGumbelSoftmax(),
    sp.HardConcrete(),
    sp.GaussianRelaxedBernoulli(),
    sp.InvertibleGaussian(),
    sp.LogisticNormalSoftmax(),
    sp.REBAR(),
    sp.RELAX(),
    sp.MuProp(),
    sp.DoubleCV(),
    sp.RODEO(),
)


@pytest.mark.parametrize("estimator", CONTINUOUS, ids=str)
@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_no_path(estimator: sp.Estimator[Any, Any], name: str) -> None:
    """Refused with the operation's name, before any gradient is wrong or torch's own backward pass fails."""
    _phi, dist = _normal()
    with pytest.raises(RuntimeError, match=rf"^{estimator.name} needs a cost .* passes {name.strip()}.*, whose"):
        sp.expect(STEPS[name], dist, estimator)


@pytest.mark.parametrize("estimator", CONTINUOUS, ids=str)
@pytest.mark.parametrize("name", STEPS)
def test_nor_is_it_beside_another_path(estimator: sp.Estimator[Any, Any], name: str) -> None:
    _phi, dist = _normal()
    with pytest.raises(RuntimeError, match=rf"^{estimator.name} needs a cost .* passes {name.strip()}.*, whose"):
        sp.expect(lambda x: STEPS[name](x) * x.sum(-1), dist, estimator)


@pytest.mark.parametrize("estimator", RELAXED, ids=str)
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a path"])
def test_of_relaxed_points_neither(estimator: sp.Estimator[Any, Any], beside: bool) -> None:
    phi, dist = _bits()
    if estimator.refusal(dist) is not None:
        phi = torch.tensor([0.4, -0.9, 1.3], requires_grad=True)
        dist = torch.distributions.OneHotCategorical(logits=phi)

    def f(x: Tensor) -> Tensor:
        return (x.round().sum(-1) - 1.2).square() + (x.sum(-1) if beside else 0.0)

    with pytest.raises(RuntimeError, match=rf"^{estimator.name} needs a cost .* passes round, whose"):
        sp.expect(f, dist, estimator)


@pytest.mark.parametrize("estimator", [sp.REBAR(), sp.MuProp(), sp.DoubleCV(), sp.RODEO(), sp.RELAX()], ids=str)
def test_nor_where_f_is_given_to_combine(estimator: sp.Estimator[Any, Any]) -> None:
    _phi, dist = _bits()
    draw = estimator.propose(dist)

    def f(x: Tensor) -> Tensor:
        return (x.round().sum(-1) - 1.2).square()

    with pytest.raises(RuntimeError, match=rf"^{estimator.name} needs a cost .* passes round, whose"):
        estimator.combine(dist, draw, f(draw.points), relaxed_f=f)


@pytest.mark.parametrize(("estimator", "made"), [(sp.RELAX, _bits), (sp.LAX, _normal)], ids=["RELAX", "LAX"])
def test_a_critic_with_a_step_is_refused(estimator: Any, made: Callable[[], tuple[Tensor, Distribution]]) -> None:
    """Its values and its derivative do not belong together, so its mean would not be zero."""
    phi, dist = made()
    with pytest.raises(RuntimeError, match=r"needs a critic that is differentiable in x; got one .* passes round"):
        sp.expect(lambda x: x.sum(-1), dist, estimator(critic=lambda s: s.round().sum(-1)))
    assert _gradient(lambda x: x.sum(-1), phi, dist, estimator(critic=lambda s: s.sum(-1) * 0 + 1.0)).isfinite().all()


def test_the_bound_of_given_log_weights_neither() -> None:
    _phi, dist = _normal()
    z = dist.rsample((4,))
    with pytest.raises(RuntimeError, match="got a path that passes round, whose derivative is zero everywhere"):
        sp.importance_weighted_bound(z.round().sum(-1) + z.sum(-1), points=z)


@pytest.mark.parametrize("name", STEPS)
def test_the_default_falls_back_to_the_score_function(name: str) -> None:
    """The same numbers as those of the score function with the noise that follows one pathwise draw."""
    for f in (STEPS[name], lambda x: STEPS[name](x) * x.sum(-1)):
        phi, dist = _normal()
        found, expected = Generator().manual_seed(3), Generator().manual_seed(3)
        tried = sp.Pathwise().propose(dist, generator=expected).points
        torch.manual_seed(5)
        by_default = sp.expect(f, dist, generator=found)
        torch.manual_seed(5)
        f(tried)  # an f with noise of its own has drawn it once
        by_score = sp.expect(f, dist, sp.ScoreFunction(), generator=expected)
        assert torch.equal(*(torch.autograd.grad(value, phi)[0] for value in (by_default, by_score)))


def test_the_default_has_the_exact_gradient() -> None:
    """The first entry of the list of faults: Normal(0, 1) and a rounded probability; |z| < 5 (6e-7)."""
    edge = torch.tensor(0.5, dtype=torch.float64)
    high, low = -(torch.tensor(0.2).log()), -(torch.tensor(0.8).log())
    exact = (high - low) * Normal(0.0, 1.0).log_prob(edge).exp()  # of P(z > 1/2), by the mean
    mean = torch.zeros(100_000, dtype=torch.float64, requires_grad=True)

    def f(z: Tensor) -> Tensor:
        return -Bernoulli(z.round().clamp(0.2, 0.8)).log_prob(torch.zeros_like(z))

    gradient = _gradient(f, mean, Normal(mean, 1.0))
    assert abs(gradient.mean() - exact) < 5 * gradient.std() / len(mean) ** 0.5


def test_the_default_takes_f_in_numpy() -> None:
    """E[x²] by the mean: 2 μ; |z| < 5 (6e-7)."""
    mean = torch.full((100_000,), 0.7, dtype=torch.float64, requires_grad=True)
    gradient = _gradient(lambda x: x.numpy() ** 2, mean, Normal(mean, 1.0))
    assert abs(gradient.mean() - 1.4) < 5 * gradient.std() / len(mean) ** 0.5


def test_the_default_still_raises_what_f_raises() -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("a mistake of the user")

    with pytest.raises(RuntimeError, match="a mistake of the user"):
        sp.expect(broken, Normal(torch.zeros((), requires_grad=True), 1.0))


def test_a_step_that_does_not_lie_on_the_path_is_no_matter() -> None:
    """Of θ, of noise, of a detached x; and a derivative of x that no step touches stays what it was."""
    phi, dist = _normal()
    theta = torch.tensor(1.3, requires_grad=True)

    def plain(x: Tensor) -> Tensor:
        return x.square().sum(-1)

    def f(x: Tensor) -> Tensor:
        return plain(x) + theta.round() + torch.rand(()).round() + x.detach().round().sum(-1)

    assert torch.equal(_gradient(f, phi, dist, sp.Pathwise()), _gradient(plain, phi, dist, sp.Pathwise()))
    assert torch.equal(_gradient(f, phi, dist), _gradient(plain, phi, dist))


def test_operations_that_are_steps_by_a_setting_only() -> None:
    phi, dist = _normal()
    for f in (
        lambda x: x.div(0.7, rounding_mode=None).sum(-1),
        lambda x: torch.nn.functional.grid_sample(
            torch.ones(len(x), 1, 4, 4), cells(x), mode="bilinear", align_corners=False
        ).sum((1, 2, 3)),
        lambda x: torch.cdist(x[:, None], torch.ones(1, 6)).sum((1, 2)),
        lambda x: torch.fft.fft(x).sgn().real.sum(-1),
        lambda x: torch.fft.fft(x).angle().sum(-1),
        lambda x: torch.copysign(x, torch.ones(())).sum(-1),
    ):
        assert _gradient(f, phi, dist, sp.Pathwise()).isfinite().all()
    with pytest.raises(RuntimeError, match=r"passes cdist\(p=0\), whose"):
        sp.expect(lambda x: torch.cdist(x[:, None], torch.ones(1, 6), p=0).sum((1, 2)), dist, sp.Pathwise())


def test_the_gradient_of_relu_is_a_step() -> None:
    """A gradient penalty: f is made of a derivative by x."""
    phi, dist = _normal()
    weight = torch.linspace(-1, 1, 6)

    def penalty(x: Tensor, activation: F) -> Tensor:
        (slope,) = torch.autograd.grad((activation(x) * weight).sum(), x, create_graph=True)
        return (slope - 0.3).square().sum(-1)

    with pytest.raises(RuntimeError, match="passes the gradient of relu, whose derivative is zero everywhere"):
        sp.expect(lambda x: penalty(x, torch.relu), dist, sp.Pathwise())
    assert _gradient(lambda x: penalty(x, torch.tanh), phi, dist, sp.Pathwise()).isfinite().all()


class Rounded(torch.autograd.Function):
    """Rounds, and says that its derivative is 1; what it calls itself is its own affair."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.name = "RoundBackward0"
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


def test_a_function_of_the_users_own_is_a_path() -> None:
    phi, dist = _normal()
    gradient = _gradient(lambda x: Rounded.apply(x).sum(-1), phi, dist, sp.Pathwise())
    assert torch.equal(gradient, torch.ones(6))


# It stays alive: the operations of one that is gone make the first compilation of torch 2.6 fail.
LIBRARY = torch.library.Library("sampleprop_tests", "FRAGMENT")
LIBRARY.define("step(Tensor x) -> Tensor")
LIBRARY.impl("step", lambda x: (x > 0).to(x.dtype), "CPU")


def test_an_operation_of_another_library_without_a_derivative_is_none() -> None:
    phi, dist = _normal()

    def f(x: Tensor) -> Tensor:
        return torch.ops.sampleprop_tests.step(x).sum(-1)  # type: ignore[no-any-return]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="passes an operation of another library, whose derivative torch"):
            sp.expect(f, dist, sp.Pathwise())
        assert _gradient(f, phi, dist).isfinite().all()


def test_an_operation_of_the_users_own_library_is_a_path_once_it_has_a_derivative() -> None:
    """E of the indicator by the mean: the density at 0, here 0.3989 · 1 for each; |z| < 5 (6e-7)."""

    @torch.library.custom_op("sampleprop_tests::positive", mutates_args=())
    def positive(x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)

    mean = torch.zeros(20_000, requires_grad=True)
    with pytest.raises(
        RuntimeError, match=r"^Pathwise needs .* passes sampleprop_tests::positive, whose derivative torch"
    ):
        sp.expect(positive, Normal(mean, 1.0), sp.Pathwise())
    found = _gradient(positive, mean, Normal(mean, 1.0))
    assert abs(found.mean() - (2 * torch.pi) ** -0.5) < 5 * found.std() / len(mean) ** 0.5
    positive.register_autograd(lambda ctx, gradient: 3 * gradient)
    assert torch.equal(_gradient(positive, mean, Normal(mean, 1.0), sp.Pathwise()), torch.full((20_000,), 3.0))


def squashed(loc: Tensor, cache_size: int) -> Distribution:
    half = AffineTransform(0.0, 0.5, cache_size=cache_size)
    return TransformedDistribution(Normal(loc, 1.0), [half, TanhTransform(cache_size=cache_size)])


@pytest.mark.parametrize("estimator", [None, sp.Pathwise(), sp.StickingTheLanding(), sp.ImportanceWeighted(2)], ids=str)
def test_a_path_through_the_cache_of_a_transform(estimator: sp.Estimator[Any, Any] | None) -> None:
    """log_prob finds what its sample was made from, and its path leads around the sample: the same gradient."""
    found = []
    for cache_size in (0, 1):
        loc = torch.linspace(-0.5, 0.5, 5, dtype=torch.float64).requires_grad_()
        dist = squashed(loc, cache_size)
        found.append(_gradient(dist.log_prob, loc, dist, *([] if estimator is None else [estimator])))
    torch.testing.assert_close(*found)


def composed(loc: Tensor, cache_size: int) -> Distribution:
    both = ComposeTransform([AffineTransform(0.0, 0.5), TanhTransform()], cache_size=cache_size)
    return TransformedDistribution(Normal(loc, 1.0), [both])


def joint(loc: Tensor, cache_size: int) -> Distribution:
    return Independent(squashed(loc, cache_size), 1)


def layered(loc: Tensor, cache_size: int) -> Distribution:
    inner = TransformedDistribution(Normal(loc, 1.0), AffineTransform(0.0, 0.5, cache_size=cache_size))
    return TransformedDistribution(Independent(inner, 1), TanhTransform(cache_size=cache_size))


@pytest.mark.parametrize("estimator", [None, sp.CoupledReplay(2)], ids=str)
@pytest.mark.parametrize("made", [squashed, composed, joint, layered])
def test_a_path_through_the_cache_in_a_program(
    made: Callable[[Tensor, int], Distribution], estimator: sp.CoupledReplay | None
) -> None:
    """Also where a further draw takes the place of this one in the cache, and in place of `expect`."""
    found = []
    for cache_size in (0, 1):
        loc = torch.linspace(-0.5, 0.5, 5, dtype=torch.float64).requires_grad_()
        dist = made(loc, cache_size)

        @sp.program
        def twice(dist: Distribution = dist) -> Tensor:
            sp.charge(dist.log_prob(sp.sample(dist)))
            return dist.log_prob(sp.sample(dist, sp.Pathwise()))

        run = twice if estimator is None else twice.using(estimator)
        torch.manual_seed(0)
        found += torch.autograd.grad(run().sum(), loc)
    torch.testing.assert_close(*found)
    loc = torch.zeros(5, requires_grad=True)
    dist = made(loc, 1)
    torch.testing.assert_close(*(_gradient(f, loc, dist) for f in (dist.log_prob, made(loc, 0).log_prob)))


def test_the_origin_of_points_whose_transform_learns_is_none() -> None:
    """What the cache holds is constant here, so no path leads there: the refusal, and no error of torch."""
    shift = torch.zeros(5, requires_grad=True)
    transforms = [ExpTransform(), AffineTransform(shift, 1.0, cache_size=1)]
    dist = TransformedDistribution(Normal(torch.zeros(5), 1.0), transforms)
    with pytest.raises(RuntimeError, match="no path to x"):
        sp.expect(lambda x: dist.log_prob(x) + 0 * shift, dist, sp.Pathwise())


def test_a_step_on_the_path_through_a_cache() -> None:
    dist = squashed(torch.zeros(5, requires_grad=True), 1)
    with pytest.raises(RuntimeError, match="passes round"):
        sp.expect(lambda x: dist.log_prob(x).round(), dist, sp.Pathwise())
    with pytest.raises(RuntimeError, match="no path to x"):
        sp.expect(lambda x: dist.log_prob(x.detach()), dist, sp.Pathwise())
    with pytest.raises(RuntimeError, match="no path to x"):
        sp.expect(lambda x: dist.base_dist.loc.expand(x.shape), dist, sp.Pathwise())


@pytest.mark.parametrize(
    "estimator",
    [e for e in (*CONTINUOUS, *RELAXED) if e.refusal(_bits()[1]) is None or e.refusal(_normal()[1]) is None],
    ids=str,
)
def test_a_step_is_allowed_when_told(estimator: sp.Estimator[Any, Any]) -> None:
    """|x| = x sign(x) has the right derivative although it passes a step: the result is that of |x|."""
    phi, dist = _bits() if estimator.refusal(_bits()[1]) is None else _normal()
    told = type(estimator)(allow_steps=True)
    assert "allow_steps=True" in told.label
    found = _gradient(lambda x: (x * x.sign()).sum(-1).sin(), phi, dist, told)
    assert torch.equal(found, _gradient(lambda x: x.abs().sum(-1).sin(), phi, dist, told))


def test_leave_to_ignore_x_is_none_to_round_it() -> None:
    _phi, dist = _normal()
    with pytest.raises(RuntimeError, match="passes round"):
        sp.expect(STEPS["round"], dist, sp.Pathwise(allow_unused=True))
    with pytest.raises(RuntimeError, match="no path to x"):
        sp.expect(lambda x: x.detach().sum(-1), dist, sp.Pathwise(allow_steps=True))


def test_check_measures_what_was_allowed() -> None:
    _phi, dist = _normal()
    f = STEPS["round"]
    refused = sp.check(f, dist, sp.Pathwise())
    assert not refused.ok
    assert "passes round" in str(refused)
    allowed = sp.check(f, dist, sp.Pathwise(allow_steps=True))
    assert not allowed.ok
    assert [finding.name for finding in allowed.findings] == ["jump in f", "wrong gradient"]
    right = sp.check(lambda x: (x * x.sign()).sum(-1), dist, sp.Pathwise(allow_steps=True))
    assert right.ok


def test_a_step_between_two_variables_of_a_program() -> None:
    phi = torch.zeros((), requires_grad=True)

    def steps(between: F) -> Any:
        x = sp.sample(Normal(phi, 1.0))
        return sp.sample(Normal(between(x), 1.0)).square()

    with pytest.raises(RuntimeError, match=r"^Pathwise needs a cost .* passes round"):
        sp.program(lambda: steps(torch.round))()
    assert sp.program(lambda: steps(torch.tanh))().requires_grad


DEEP = """
import threading
import time
import torch, sampleprop as sp
from sampleprop import graph
from torch.distributions import Bernoulli, Normal

phi = torch.tensor(0.2, requires_grad=True)
theta = torch.tensor(1.0, requires_grad=True)
kept = []

def chain(x, n=8_000):
    for _ in range(n):
        x = x * 0.9999 + 0.001
    return x

def twice(x):
    x = chain(x)
    return x + chain(x)

def skipping(x):
    for _ in range(8_000):
        x = x + (0.01 * x).sin() * theta
    return x

def kept_half(x):
    x = chain(x)
    kept.append(x)
    return chain(x)

def timed(call):
    start = time.process_time()
    result = call()
    return result, time.process_time() - start

def one_large_graph(f, dist, estimator):
    # in a few times f's time
    value, seconds = timed(lambda: sp.expect(lambda x: f(x).square(), dist, estimator))
    value.sum().backward()
    del value
    kept.clear()
    assert phi.grad.isfinite()
    point = torch.zeros(1, requires_grad=True)
    _, alone = timed(lambda: f(point).square())
    assert seconds < 25 * alone, (seconds, alone)

def many_small_walks(length):
    value = phi
    for _ in range(8_000 // length):
        value = sp.expect(lambda x: chain(x, length), Normal(value, 1.0), sp.Pathwise())
    del value

def two_tensors():
    one, other = phi, phi.exp()
    for _ in range(20_000):
        one = one + 1
    for _ in range(20_000):
        other = other + one
    (found,) = graph.leaves([one, other])
    assert found is phi

def cases():
    for case in (
        lambda: one_large_graph(chain, Normal(phi, 1.0), sp.Pathwise()),
        lambda: one_large_graph(chain, Normal(phi, 1.0), None),
        lambda: one_large_graph(chain, Normal(phi, 1.0), sp.ImportanceWeighted(2)),
        lambda: one_large_graph(chain, Bernoulli(logits=phi), sp.GumbelSoftmax()),
        lambda: one_large_graph(chain, Bernoulli(logits=phi), sp.REBAR()),
        lambda: one_large_graph(twice, Normal(phi, 1.0), sp.Pathwise()),
        lambda: one_large_graph(skipping, Normal(phi, 1.0), sp.Pathwise()),
        lambda: one_large_graph(kept_half, Normal(phi, 1.0), sp.Pathwise()),
        lambda: many_small_walks(4),
        lambda: many_small_walks(50),
        two_tensors,
    ):
        case()
        print("done", flush=True)

threading.stack_size(2**19)
thread = threading.Thread(target=cases)
thread.start()
thread.join()
"""
CASES = 11


@pytest.mark.slow
def test_no_graph_ends_the_process() -> None:
    """With a stack of half a megabyte, which some 3,000 nested deletions fill; a process would end by a signal."""
    done = subprocess.run([sys.executable, "-c", DEEP], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["done"] * CASES, (done.returncode, done.stdout, done.stderr[-2000:])
