r"""The continuous noise behind a discrete sample, and control variates from its distribution given the sample.

A Bernoulli variable is x = 1[z > 0] with z = logit + logistic noise; a one-hot variable is x = onehot(argmax z) with
z = logits + Gumbel noise. Given x, z is logistic noise cut at 0, or Gumbel noise with its maximum at x. It can be drawn
as z̃ = g(φ, v; x), where v does not depend on φ. The derivative of g needs only where z̃ fell, not v:

.. math::

    \Big(\frac{\partial \tilde z}{\partial \phi}\Big)^{\!\top} y = y - w y, \quad
        w = \mathrm{P}(1 - x) + \mathrm{P}(x)\, e^{-|\tilde z|} \text{ for a Bernoulli variable with the value } x

    \Big(\frac{\partial \tilde z}{\partial \phi}\Big)^{\!\top} y = y - w \odot y + \pi \langle w, y \rangle, \quad
        w = e^{\tilde z - \max \tilde z} \text{ for a one-hot variable with probabilities } \pi

So z and z̃ are plain numbers. Given x they have the same distribution, and one of them may serve as both: the coupled
form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor
from torch.nn import functional

from sampleprop import checks, noise
from sampleprop.costs import Costs, F, Soft, Softening
from sampleprop.estimators.relaxed.relaxation import harden, perturbation, soften, through_soft
from sampleprop.families import Bernoullis, Discrete, OneHots
from sampleprop.surrogate import unsqueeze_to
from sampleprop.tracing import value_and_grad, vjp

Pullback = Callable[[Tensor], Tensor]  # from y to the derivative of ⟨correction, y⟩ with respect to log τ


class WithGradient(Protocol):
    """From points to values, and the gradient with respect to the points; told how they were relaxed."""

    def __call__(self, points: Tensor, softening: Softening | None = None, /) -> tuple[Tensor, Tensor]: ...


INFINITE = 1e10  # stands in for infinite logits: it saturates every temperature below 1e8, and 0 * 1e10 is not NaN


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    z: Tensor  # [k, *batch, *event], the noisy logits that decided the points, detached
    conditional: Tensor | None  # [k, *batch, *event], z̃, drawn anew given the points; None where z serves as z̃
    probes: None = None


def propose(variables: Discrete, samples: int, coupled: bool, generator: Generator | None) -> Draw:
    """Draw z, the x that it decides, and z̃ given x."""
    z = finite(variables.logits.detach()) + perturbation(variables, samples, generator)
    points = harden(variables, z).to(variables.dtype)
    return Draw(points, z, None if coupled else latent(variables, points, generator))


def latent(variables: Discrete, points: Tensor, generator: Generator | None) -> Tensor:
    """Draw the noisy logits given the sample: z > 0 where x = 1, or the largest z where x is.

    Args:
        variables: Bernoulli or one-hot variables.
        points: [..., *batch, *event], x.
        generator: the source of noise.

    Returns:
        [..., *batch, *event], detached, float32 at least.
    """
    logits = finite(variables.logits.detach())
    if isinstance(variables, OneHots):
        log_e = noise.exponential(points.shape, logits, generator).log()
        of_sample = (log_e * points).sum(-1, keepdim=True)
        # lerp takes one or the other, exactly, and is fast.
        return -torch.lerp(torch.logaddexp(log_e - logits, of_sample), of_sample, points.to(log_e.dtype))
    # For x = 1 this is logit + logit(1 - p + p v), in a form where nothing cancels at large logits; for x = 0 mirrored.
    v = noise.uniform(points.shape, logits, generator)
    side = 2 * points.to(v.dtype) - 1
    upper = functional.softplus(torch.addcmul(v.log(), side, logits))
    return side * (upper - v.neg_().log1p_())


def finite(logits: Tensor) -> Tensor:
    """The logits with large numbers for infinite ones, of derivative zero."""
    return logits.clamp(-INFINITE, INFINITE)


def with_gradient(f: F) -> WithGradient:
    """The function that also returns the gradient with respect to the points."""

    def evaluated(points: Tensor, softening: Softening | None = None, /) -> tuple[Tensor, Tensor]:
        function = (lambda x: f(x, softening)) if isinstance(f, Soft) else f
        values, (gradient,) = value_and_grad(function, points)
        return values, gradient

    return evaluated


def squashed(variables: Discrete, z: Tensor, softening: Softening, c: WithGradient) -> tuple[Tensor, Tensor]:
    """The value of c at the relaxed points, sigmoid(z / τ) or softmax(z / τ), and its gradient with respect to z.

    Args:
        variables: Bernoulli or one-hot variables.
        z: [m, *batch, *event].
        softening: log τ, a number or [*batch], and whether the logits enter beside z / τ.
        c: from relaxed points, in the dtype of the points, to [m, *batch] and the gradient with respect to them.
    """
    temperature = softening.temperature(z, variables.event_ndim)
    scores = softening.scores(finite(variables.logits.detach()), z, temperature)
    relaxed = soften(variables, scores)
    values, gradient = c(relaxed.to(variables.dtype), softening)
    return values, through_soft(isinstance(variables, Bernoullis), relaxed, gradient) * temperature.reciprocal()


def correction(variables: Discrete, draw: Draw, c: Callable[[Tensor], tuple[Tensor, Tensor]], costs: Costs) -> Tensor:
    r"""A gradient of mean zero with respect to the logits, for any function c of the noisy logits.

    .. math:: \nabla_\phi c(z) - \nabla_\phi c(\tilde z) - c(\tilde z) \nabla_\phi \log p_\phi(x)

    Added to the score-function estimate of ∇E[f(x)] it cancels much of the noise where c(z) is close to f(x).

    Args:
        variables: Bernoulli or one-hot variables.
        draw: x, z and z̃.
        c: from [m, *batch, *event] to [m, *batch] and the gradient with respect to them; called once.
        costs: of the draw; they say which samples count.

    Returns:
        [*batch, *event], averaged over the samples; attached to what c is attached to, if gradients are enabled.
    """
    points, z, conditional, _ = draw
    values, gradient = c(z if conditional is None else torch.cat([z, conditional]))  # [k or 2k, *batch, ...]
    if conditional is None:
        path = _difference(variables, points, z, gradient)
    else:
        values = values[len(points) :]
        free, gradient = gradient.chunk(2)
        path = free - gradient + _difference(variables, points, conditional, gradient)
    return costs.average(path) - weighted(variables, draw, values, costs)


def relaxed_correction(
    variables: Discrete, draw: Draw, c: WithGradient, softening: Softening, costs: Costs, learn: bool
) -> tuple[Tensor, Pullback | None]:
    """The average correction for c at the relaxed points, and its derivative with respect to log τ.

    No gradient reaches θ or φ: c is called without graph.

    Args:
        variables: Bernoulli or one-hot variables.
        draw: x, z and z̃.
        c: from relaxed points, [m, *batch, *event], to [m, *batch] and the gradient with respect to them.
        softening: log τ, a number, and whether the logits enter beside z / τ.
        costs: of the draw; they say which samples count.
        learn: whether the derivative is wanted; it costs a second derivative of c.

    Returns:
        The correction, [*batch, *event], detached; and, where `learn`, the function from y of that shape to [*batch],
        the derivative of ⟨correction, y⟩ with respect to each row's log τ.

    Raises:
        RuntimeError: where `learn` and c itself uses log τ, and it is not through the softening.
        ValueError: from the function, for a derivative that is not finite.
    """
    own = softening.log_temperature

    def at(rows: Tensor) -> Softening:
        return softening._replace(log_temperature=rows)

    def watched(points: Tensor, softening: Softening | None = None, /) -> tuple[Tensor, Tensor]:
        values, gradient = c(points, softening)
        checks.without_temperature(values, own)
        return values, gradient

    def of_temperature(rows: Tensor) -> Tensor:
        f = watched if learn else c
        return correction(variables, draw, lambda z: squashed(variables, z, at(rows), f), costs)

    def pullback(y: Tensor) -> Tensor:
        with torch.no_grad():
            try:
                derivative = pull(y)[0]
            except (NotImplementedError, RuntimeError) as error:
                error.add_note(
                    "The temperature learns by second derivatives of f, or of the rest of a program; "
                    "log_temperature.requires_grad_(False) keeps it as it is."
                )
                raise
        checks.finite_by_temperature(derivative, y)
        return derivative

    with torch.no_grad():
        rows = own.detach().to(draw.z).expand(variables.batch_shape)
        if not learn:
            return of_temperature(rows), None
        value, pull = vjp(of_temperature, rows)
        return value, pullback


def weighted(variables: Discrete, draw: Draw, weights: Tensor, costs: Costs) -> Tensor:
    """The average of weights [k, *batch] times ∇log p(x): [*batch, *event], attached to the weights only.

    With the costs for weights this is the plain score-function estimate.
    """
    weights = costs.shared(weights.to(variables.logits.dtype))
    if weights.shape[0] == 1:
        return variables.weighted_score(draw.points, weights)
    # The mean is taken apart, because a large common cost would take the digits of the rest.
    center = weights.mean(0)
    apart = variables.weighted_score(draw.points, weights - center)
    expected = weights.shape[0] * variables.fixed_probs.double()
    scores = (variables.one_hot(draw.points).sum(0) - expected).to(apart.dtype)  # Σ_k of the scores
    return apart + unsqueeze_to(center, scores.dim()) * scores


def tuned(
    variables: Discrete, gradient: Tensor, eta: Tensor, log_temperature: Tensor, h: Tensor, pullback: Pullback | None
) -> list[tuple[Tensor, Tensor]]:
    """η and log τ, each with the derivative of ‖gradient‖² with respect to it, [*batch]: for `surrogate`.

    The mean of the gradient depends on neither, so that of ‖gradient‖² is the variance and a constant.

    Args:
        variables: Bernoulli or one-hot variables.
        gradient: [*batch, *event], without graph; η times the correction is a part of it.
        eta: η.
        log_temperature: log τ.
        h: the correction of `relaxed_correction`, and
        pullback: its derivative with respect to log τ; None where that does not learn.
    """
    twice = 2 * gradient
    learned = [(eta, variables.sum(twice * h))]
    if pullback is not None:
        learned.append((log_temperature, pullback(eta.detach().to(h) * twice)))
    return learned


def _difference(variables: Discrete, points: Tensor, z: Tensor, y: Tensor) -> Tensor:
    """(1 - ∂z/∂φ)ᵀ y for z given x: what conditioning takes from y, the gradient with respect to z."""
    if isinstance(variables, OneHots):
        weighted = (z - z.amax(-1, keepdim=True)).exp() * y
        return weighted - variables.fixed_probs * weighted.sum(-1, keepdim=True)
    logits, taken = variables.logits.detach(), variables.one_hot(points)
    other = torch.lerp(logits.sigmoid(), (-logits).sigmoid(), taken)  # P(1 - x); lerp is fast, and exact at 0 and 1
    kept = torch.lerp(z.abs().neg_().exp_(), torch.ones_like(logits), other)  # P(1 - x) + P(x) exp(-|z|)
    return y * kept
