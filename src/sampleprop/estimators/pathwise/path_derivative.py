"""The path derivative of log q: its derivative with respect to the sample alone, at fixed parameters φ.

Normal variables, the commonest, are written out: z = μ + σ ε, where ε does not depend on φ.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributions import Normal

from sampleprop import noise, sums
from sampleprop.families import Variables
from sampleprop.families.samplers import noise_of
from sampleprop.surrogate import surrogate, unsqueeze_to
from sampleprop.tracing import gradient_asked, value_and_grad


def log_prob_of_samples(variables: Variables, points: Tensor) -> Tensor:
    """Return log q at its own samples, z = g(φ, ε), [k, *batch], attached to φ in all ways."""
    base = variables.base
    if not (type(base) is Normal and variables.attached):
        return variables.log_prob(points)
    with torch.no_grad():
        epsilon = noise_of(base, points)
    return _log_prob(variables, epsilon, noise.promote(base.scale))


def log_prob_and_gradient(variables: Variables, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return log q at the points, [k, *batch], and its gradient there, [k, *batch, *event]; both without graph."""
    base = variables.base
    with torch.no_grad():
        if type(base) is Normal:
            scale, epsilon = noise.promote(base.scale), noise_of(base, points)
            return _log_prob(variables, epsilon, scale), epsilon / -scale
        log_q, (gradient,) = value_and_grad(variables.log_prob, points.detach())
    return log_q, gradient


def add_gradient(name: str, value: Tensor, variables: Variables, x: Tensor, gradient: Tensor) -> Tensor:
    """Return `value`, [*batch], with `gradient` added to its gradient with respect to x; both [k, *batch, ...]."""
    batch_ndim = len(variables.batch_shape)
    return surrogate(name, value, (x.movedim(0, batch_ndim),), (gradient.movedim(0, batch_ndim),))


def add_through_samples(
    name: str, value: Tensor, variables: Variables, points: Tensor, *terms: tuple[Tensor, Tensor]
) -> Tensor:
    """Return `value`, [*batch], with a gradient with respect to its samples added: Σ w g over the terms.

    Args:
        name: the estimator, for the refusal of a second derivative.
        value: [*batch].
        variables: q_φ.
        points: its samples, [k, *batch, *event], attached to φ.
        terms: pairs of w, [k, *batch], and g, [k, *batch, *event].
    """
    base = variables.base
    # From points of half precision ε is not known well enough: through the costs, they get the ε that was drawn.
    if not (type(base) is Normal and variables.attached and points.dtype.itemsize >= 4):
        gradient = _total(unsqueeze_to(w, g.dim()) * g for w, g in terms)
        return add_gradient(name, value, variables, points, gradient)
    # Summed over the samples at once: ∂z/∂μ is 1 and ∂z/∂σ is ε.
    parameters, gradients = [base.loc], [_total(sums.over_samples(w, g) for w, g in terms)]
    if gradient_asked(base.scale):
        epsilon = noise_of(base, points)
        parameters.append(base.scale)
        gradients.append(_total(sums.over_samples(w, g * epsilon) for w, g in terms))
    return surrogate(name, value, tuple(parameters), tuple(gradients))


def _total(terms: Iterable[Tensor]) -> Tensor:
    return functools.reduce(torch.add, terms)


def _log_prob(variables: Variables, epsilon: Tensor, scale: Tensor) -> Tensor:
    """The log-density of μ + σ ε, [k, *batch]."""
    each = torch.addcmul(-scale.log(), epsilon, epsilon, value=-0.5).sub_(math.log(2 * math.pi) / 2)
    return variables.sum(each)
