"""What the control variates made of tangents of f share: the derivative of f, and the training on the variance."""

from __future__ import annotations

import torch
from torch import Tensor

from sampleprop.costs import F
from sampleprop.families import Enumerable
from sampleprop.surrogate import learning_surrogate
from sampleprop.tracing import value_and_grad


def value_and_derivative(f: F, points: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return f at the points, [k, *batch], and its derivative with respect to them, [k, *batch, *event] in `dtype`.

    Both are without graph, therefore nothing reaches θ.
    """
    with torch.set_grad_enabled(False):  # no_grad takes twice as long
        values, (derivative,) = value_and_grad(f, points)
    return values, derivative.to(dtype)


def tuned(
    name: str,
    value: Tensor,
    variables: Enumerable,
    fixed: Tensor,
    coefficient: Tensor | float,
    added: Tensor,
    learn: bool,
) -> Tensor:
    """Return `value` with the gradient fixed + coefficient · added, whose coefficient learns to lower its variance.

    The mean of the gradient does not depend on the coefficient. The derivative of its square is therefore an unbiased
    estimate of the derivative of its variance.

    Args:
        name: the estimator.
        value: [*batch].
        variables: p_φ, attached to φ.
        fixed: [*batch, *natural], without graph.
        coefficient: of the control variate.
        added: the control variate, [*batch, *natural], of mean zero and without graph.
        learn: whether the coefficient is trained.
    """
    with torch.no_grad():
        gradient = fixed + coefficient * added
    learned = ((coefficient, slope(variables, gradient, added)),) if learn and isinstance(coefficient, Tensor) else ()
    return learning_surrogate(name, value, variables.logits, gradient, learned)


def slope(variables: Enumerable, gradient: Tensor, added: Tensor) -> Tensor:
    """The derivative of ‖gradient‖² with respect to the coefficient of what is added in it, [*batch]."""
    return variables.sum(2 * gradient * added)
