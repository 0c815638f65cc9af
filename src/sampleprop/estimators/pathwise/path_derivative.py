"""The path derivative of log q: its derivative with respect to the sample alone, at fixed parameters φ.

Normal variables, the commonest, are written out: z = μ + σ ε, where ε does not depend on φ.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sampleprop import noise, sums
from sampleprop.families import Normals, Variables
from sampleprop.surrogate import surrogate, unsqueeze_to
from sampleprop.tracing import gradient_asked, value_and_grad


def log_prob_of_samples(variables: Variables, points: Tensor) -> Tensor:
    """Return log q at its own samples, z = g(φ, ε), [k, *batch], attached to φ in all ways."""
    if isinstance(variables, Normals) and variables.attached:
        return _log_prob(variables, points, noise.promote(variables.base.scale))
    return variables.log_prob(points)


def log_prob_and_gradient(variables: Variables, points: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return log q at its own samples, [k, *batch], and its gradient there, [k, *batch, *event]; both without graph.

    The gradient is None where `add_through_samples` has it written out.
    """
    if isinstance(variables, Normals):
        scale = noise.promote(variables.base.scale.detach())
        gradient = None if _written_out(variables, points) else variables.noise_of(points) / -scale
        return _log_prob(variables, points, scale), gradient
    with torch.no_grad():
        log_q, (gradient,) = value_and_grad(variables.log_prob, points.detach())
    return log_q, gradient


def add_gradient(name: str, value: Tensor, variables: Variables, x: Tensor, gradient: Tensor) -> Tensor:
    """Return `value`, [*batch], with `gradient` added to its gradient with respect to x; both [k, *batch, ...]."""
    batch_ndim = len(variables.batch_shape)
    return surrogate(name, value, (x.movedim(0, batch_ndim),), (gradient.movedim(0, batch_ndim),))


def add_through_samples(
    name: str,
    value: Tensor,
    variables: Variables,
    points: Tensor,
    weights: Tensor | float,
    by_log_q: Tensor | None,
    further: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return `value`, [*batch], with a gradient with respect to its samples added: -Σ_k w_k ∇_z log q(z_k).

    Args:
        name: the estimator, for the refusal of a second derivative.
        value: [*batch].
        variables: q_φ.
        points: its samples, [k, *batch, *event], attached to φ.
        weights: w, [k, *batch], or one number for all.
        by_log_q: the second result of `log_prob_and_gradient`.
        further: w, [k, *batch], and g, [k, *batch, *event], if Σ_k w_k g_k is to be added too.
    """
    if by_log_q is not None:
        gradient = by_log_q * -(weights if isinstance(weights, float) else unsqueeze_to(weights, by_log_q.dim()))
        if further is not None:
            gradient = gradient + unsqueeze_to(further[0], gradient.dim()) * further[1]
        return add_gradient(name, value, variables, points, gradient)
    assert isinstance(variables, Normals)
    # Summed over the samples at once: ∂z/∂μ is 1, ∂z/∂σ is ε, and ∇ log q is -ε / σ.
    base, epsilon = variables.base, variables.noise_of(points)
    scale = base.scale.detach()

    def summed(moved: Tensor | None) -> Tensor:
        """For a parameter with ∂z = `moved`, None for 1."""
        found = _sum(weights, epsilon if moved is None else epsilon * moved) / scale
        if further is None:
            return found
        return found + sums.over_samples(further[0], further[1] if moved is None else further[1] * moved)

    if not gradient_asked(base.scale):
        return surrogate(name, value, (base.loc,), (summed(None),))
    return surrogate(name, value, (base.loc, base.scale), (summed(None), summed(epsilon)))


def _written_out(variables: Normals, points: Tensor) -> bool:
    """Whether ε is known: from points of half precision it is not, and through the costs they get what was drawn."""
    return variables.attached and points.dtype.itemsize >= 4


def _sum(weights: Tensor | float, x: Tensor) -> Tensor:
    """Σ_k w_k x_k."""
    if isinstance(weights, Tensor):
        return sums.over_samples(weights, x)
    return x.squeeze(0) if x.shape[0] == 1 and weights == 1 else x.sum(0) * weights


def _log_prob(variables: Normals, points: Tensor, scale: Tensor) -> Tensor:
    """The log-density of μ + σ ε, [k, *batch]; its graph is that of the scale."""
    epsilon, constant = variables.noise_of(points), -math.log(2 * math.pi) / 2 - scale.log()
    return variables.sum(torch.addcmul(constant, epsilon, epsilon, value=-0.5))
