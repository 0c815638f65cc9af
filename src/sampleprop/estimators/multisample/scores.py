"""The scores of q at its own samples, weighted: what the estimators add that have no path through the samples."""

from __future__ import annotations

import torch
from torch import Tensor

from sampleprop.estimators.pathwise.path_derivative import add_gradient
from sampleprop.families import Discrete, Variables
from sampleprop.surrogate import surrogate


def log_prob(variables: Variables, points: Tensor) -> Tensor:
    """log q at the samples, [k, *batch]: without graph where `add_scores` writes the score out, else attached to φ."""
    if not isinstance(variables, Discrete):
        return variables.log_prob(points)
    with torch.set_grad_enabled(False):
        return variables.log_prob(points)


def add_scores(
    name: str, value: Tensor, variables: Variables, points: Tensor, log_q: Tensor, weights: Tensor
) -> Tensor:
    """Return `value`, [*batch], with Σ_k w_k ∇ log q(z_k) added to its gradient.

    Args:
        name: the estimator, for the refusal of a second derivative.
        value: [*batch].
        variables: q_φ.
        points: its samples, [k, *batch, *event].
        log_q: what `log_prob` returned for them.
        weights: w, [k, *batch], without graph.
    """
    if not isinstance(variables, Discrete):
        return add_gradient(name, value, variables, log_q, weights)
    return surrogate(name, value, (variables.logits,), (variables.gradient_for_logits(points, weights),))
