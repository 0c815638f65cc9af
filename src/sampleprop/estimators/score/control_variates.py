"""What the control variates made of tangents of f share: the derivative of f, and the training on the variance."""

from __future__ import annotations

import torch
from torch import Tensor

from sampleprop.costs import F
from sampleprop.families import Enumerable
from sampleprop.surrogate import surrogate, train
from sampleprop.tracing import value_and_grad


def value_and_derivative(f: F, points: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return f at the points, [k, *batch], and its derivative with respect to them, [k, *batch, *event] in `dtype`.

    Both are without graph, therefore nothing reaches θ.
    """
    with torch.no_grad():
        values, (derivative,) = value_and_grad(f, points)
    return values, derivative.to(dtype)


def tuned(name: str, value: Tensor, variables: Enumerable, gradient: Tensor, learn: bool) -> Tensor:
    """Return `value` with this gradient with respect to the logits, whose coefficients learn to lower its variance.

    The mean of the gradient does not depend on the coefficients. The derivative of its square is therefore an unbiased
    estimate of the derivative of its variance.

    Args:
        name: the estimator.
        value: [*batch].
        variables: p_φ, attached to φ.
        gradient: [*batch, *natural], attached to the coefficients of the control variates and to nothing else.
        learn: whether the coefficients are trained.
    """
    result = surrogate(name, value, (variables.logits,), (gradient.detach(),))
    return train(result, variables.sum(gradient.square())) if learn else result
