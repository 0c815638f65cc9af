"""f: what it may return, and what it may not"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kinds import INTEGERS, NORMAL, ONE_HOTS
from robustness.matrix import RIGHT, Verdict, condition, meaningless, refusal
from robustness.subject import BATCH, F, Subject, gradients, same, theta

UNUSED = "needs a cost that is differentiable in x; got one with no path to x.* Use ScoreFunction"


def _constant(value: object) -> F:
    return lambda x: value


def _event(subject: Subject) -> tuple[int, ...]:
    return tuple(range(-subject.event_ndim, 0))


@condition("f without gradient")
def without_gradient(subject: Subject) -> Verdict:
    r"""If the estimator needs no derivative of $f$, value and gradient for $\phi$ equal those with the
    differentiable $f$ and the same noise. Otherwise the call is refused."""
    if not subject.black_box:
        return refusal(lambda: subject.run(f=lambda x: subject.f(theta())(x.detach())), f"{subject.name} {UNUSED}")
    same(subject.run(f=lambda x: subject.f(theta())(x).detach())[:2], subject.run()[:2])
    return RIGHT


def _across(subject: Subject, f: F) -> Verdict:
    if not subject.black_box:
        return refusal(
            lambda: subject.run(f=lambda x: f(x.to(torch.float32))),
            rf"^{subject.name} needs a cost .* passes round, whose derivative is zero everywhere.* Use ScoreFunction",
        )
    blind = subject.run(f=lambda x: f(x.detach().to(torch.float32)))
    same(subject.run(f=lambda x: f(x.to(torch.float32)))[:2], blind[:2])
    return RIGHT


@condition("a step in f")
def step(subject: Subject) -> Verdict:
    """$f$ rounds its points. As above; the refusal names the operation."""
    return _across(subject, lambda x: subject.f(theta())((1.7 * x).round()))


@condition("a step beside a path")
def step_beside_a_path(subject: Subject) -> Verdict:
    """$f$ is a function of the points times a function of the rounded points. It therefore has a derivative, but a
    wrong one. As above."""
    f = subject.f(theta())
    return _across(subject, lambda x: f(x) * f((1.7 * x).round()))


@condition("f in numpy")
def in_numpy(subject: Subject) -> Verdict:
    """As for $f$ without gradient; $f$ computes squares of the points in numpy."""
    event = _event(subject)

    def inside(x: Tensor) -> Tensor:
        return x.float().square().sum(event) if event else x.float().square()

    def outside(x: Tensor) -> Any:
        squares = x.numpy().astype("float32") ** 2
        return squares.sum(event) if event else squares

    if not subject.black_box:
        return refusal(lambda: subject.run(f=outside), rf"called by {subject.name} .*sp\.ScoreFunction\(\)")
    same(subject.run(f=outside)[:2], subject.run(f=inside)[:2])
    return RIGHT


@condition("f ignoring x")
def ignoring(subject: Subject) -> Verdict:
    r"""The value and the gradient for $\theta$ are exact, and the gradient for $\phi$ has mean 0 (z-test); or the
    call is refused."""
    weights = theta(torch.float64)
    if not subject.black_box:
        return refusal(
            lambda: subject.run(f=lambda x: weights.sum().expand(len(x), BATCH), weights=weights),
            f"{subject.name} {UNUSED}",
        )
    if subject.kind is NORMAL and subject.estimator.objective == "mean":
        found = subject.run(f=lambda x: weights.sum().expand(len(x), BATCH), weights=weights)
        same(found[::2], (weights.detach().sum().expand(BATCH), torch.full((2,), float(BATCH))))
    if subject.kind is not NORMAL and subject.estimator.unbiased:
        subject.agrees_with_exact(
            subject.kind.phi().detach().double(), lambda x, _: torch.full(x.shape[:2], 1.7, dtype=torch.float64)
        )
    return RIGHT


@condition("f that depends on φ")
def depends_on_phi(subject: Subject) -> Verdict:
    r"""The gradient for $\phi$ is the sum of the estimator's gradient and the direct one. It equals the sum of two
    runs with the same noise, in which $f$ and the distribution have separate copies of $\phi$. If the states can be
    enumerated, it also agrees with the exact gradient (z-test)."""
    f, ndim = subject.f(theta()), subject.kind.shape

    def direct(x: Tensor, phi: Tensor) -> Tensor:
        tilt = phi.flatten(phi.dim() - len(ndim)).sum(-1) if ndim else phi
        return f(x) * tilt.sin() + tilt

    phi, apart = subject.kind.phi(BATCH), subject.kind.phi(BATCH)
    joint = subject.run(phi, f=lambda x: direct(x, phi)).by_phi
    value = subject.value(phi, lambda x: direct(x, apart))
    same((joint,), (torch.stack(gradients(value, phi, apart)).sum(0),), rtol=1e-4, atol=1e-5)
    if subject.kind is not NORMAL and subject.estimator.unbiased:
        weights = theta(torch.float64)
        f = subject.f(weights)
        subject.agrees_with_exact(subject.kind.phi().detach().double(), lambda x, phi: direct(x, phi) + f(x))
    return RIGHT


@condition("f writing into its input")
def writing(subject: Subject) -> Verdict:
    """Refused."""

    def f(x: Tensor) -> Tensor:
        costs = subject.f(theta())(x)
        x.detach().zero_()
        return costs

    wanted = f"{subject.name} needs f to leave its input as it is; f wrote into it. Let f work on x.clone()"
    return refusal(lambda: subject.run(f=f), wanted)


def _reshaped(subject: Subject, change: Callable[[Tensor], Any], fix: str) -> Verdict:
    phi, f = subject.kind.phi(67), subject.f(theta())  # a batch of another size than any number of samples
    wanted = rf"{subject.name} needs one cost for each point.*{fix}"
    dist = subject.kind.dist(phi)
    draw = subject.estimator.propose(dist)
    refusal(lambda: subject.estimator.combine(dist, draw, change(f(draw.points))), wanted)
    return refusal(lambda: subject.run(phi, f=lambda x: change(f(x))), wanted)


@condition("costs [k, B, 1]")
def one_dimension_more(subject: Subject) -> Verdict:
    """Refused, by `expect` and by `combine`."""
    return _reshaped(subject, lambda costs: costs.unsqueeze(-1), r"return cost\.squeeze\(-1\)")


@condition("costs [k]")
def without_batch(subject: Subject) -> Verdict:
    """Refused, by `expect` and by `combine`."""
    return _reshaped(subject, lambda costs: costs.mean(1), r"Independent\(q, 1\)\. Or f reduces over the batch")


@condition("a scalar cost")
def scalar(subject: Subject) -> Verdict:
    """Refused, by `expect` and by `combine`."""
    return _reshaped(subject, lambda costs: costs.mean(), r"Independent\(q, 1\)\. Or f reduces over the batch")


@condition("transposed costs")
def transposed(subject: Subject) -> Verdict:
    """Refused, by `expect` and by `combine`."""
    return _reshaped(subject, lambda costs: costs.T.contiguous(), "another order: samples come first, then the batch")


@condition("broadcastable costs")
def broadcastable(subject: Subject) -> Verdict:
    """Costs of shape `[k, 1]` are refused, by `expect` and by `combine`."""
    return _reshaped(subject, lambda costs: costs[:, :1], "nothing is broadcast")


@condition("complex costs")
def complex_costs(subject: Subject) -> Verdict:
    """Refused."""
    wanted = f"{subject.name} needs real costs.*Return the real part"
    return refusal(lambda: subject.run(f=lambda x: subject.f(theta())(x) * 1j), wanted)


@condition("no cost at all")
def nothing(subject: Subject) -> Verdict:
    """$f$ returns a list of tensors, a dict, a string or None. Each is refused; the error names what $f$ returned."""
    wanted = rf"{subject.name} needs the costs as one tensor.*; f returned {{}}.*(Join|Return)"
    verdicts = [
        refusal(partial(subject.run, f=_constant(value)), wanted.format(seen))
        for value, seen in (
            ([torch.ones(BATCH)], r"\[tensor"),
            ({"a": 1.0}, r"\{'a'"),
            ("cost", "'cost'"),
            (None, "None"),
        )
    ]
    return verdicts[-1]


@condition("integer samples")
def integer_samples(subject: Subject) -> Verdict:
    """Samples of a `Categorical`. Value and gradient agree with the sum over the states (z-test). For a biased
    estimator they equal those of one-hot variables with the same noise. Or the call is refused."""
    if subject.structured:
        return meaningless("see the estimator's first row")
    case = Subject(subject.estimator, INTEGERS)
    if not subject.on(INTEGERS):
        return refusal(lambda: case.run(), rf"{case.name} needs .*; got Categorical.* Use ")
    if case.estimator.unbiased:
        case.agrees_with_exact(case.kind.phi().detach().double())
    else:
        weights, hot = theta(), Subject(subject.estimator, ONE_HOTS)
        same(case.run(weights=weights), hot.run(f=lambda x: case.f(weights)(x.argmax(-1)), weights=weights))
    return RIGHT
