"""Straight-through Gumbel-softmax.

Source: Jang, Gu and Poole (2017), "Categorical reparameterization with Gumbel-softmax", sec. 2.2.
Differences from the paper: none.
"""

from __future__ import annotations

from torch import Generator, Tensor

from sampleprop.bibliography import cited
from sampleprop.estimators.relaxed.relaxation import (
    Relaxation,
    harden,
    perturbation,
    soften,
    straight_through,
)
from sampleprop.families import Bernoullis, Discrete, OneHots


class StraightThroughGumbel(Relaxation[Bernoullis | OneHots]):
    r"""Evaluates f at the discrete sample, and differentiates as if it had been the Gumbel-softmax of the same noise.

    .. math::

        x_i = \operatorname{onehot}(\arg\max (\phi + G_i)), \qquad
        \nabla_\phi L \approx \frac1k \sum_i
            \Big(\frac{\partial}{\partial \phi} \operatorname{softmax}((\phi + G_i)/\tau)\Big)^{\!T} \nabla_x f(x_i)

    and a logistic cut at 0 with its sigmoid for bits. The value and the gradient for θ are exact in the mean. The
    gradient for φ is biased, and its bias does not vanish as τ → 0: the limit is the mean of ∇f at both ends of each
    step between classes, right for quadratic f only, and its variance grows without bound. f must be differentiable at
    the discrete points. k evaluations of f and k backward passes.

    Args:
        samples: k, at least 1; None for one that adds no dimension in a program.
        temperature: τ, above 0; a buffer, which :class:`ExponentialTemperature` can lower in the course of training.
        allow_unused: let a cost pass that has no path to x, whose gradient for φ is then zero.

    Raises:
        ValueError: for arguments out of range.
        RuntimeError: for a cost with no path to x, unless `allow_unused`.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.OneHotCategorical(logits=logits)
        >>> sp.expect(lambda x: x[..., 0], q, sp.StraightThroughGumbel()).item() in (0.0, 1.0)
        True
    """

    exact_forward = True
    needs = "differentiable"
    source = cited("jang2017categorical", "sec. 2.2")
    temperature: Tensor

    def __init__(self, samples: int | None = 1, *, temperature: float = 0.5, allow_unused: bool = False) -> None:
        super().__init__(samples, allow_unused, {"temperature": temperature})

    def points(self, variables: Bernoullis | OneHots, generator: Generator | None) -> Tensor:
        noise = perturbation(variables, self.draws, generator)
        return _through(variables, noise, self.temperature)


def _through(variables: Discrete, noise: Tensor, temperature: Tensor) -> Tensor:
    scores = variables.logits + noise
    return straight_through(harden(variables, scores), soften(variables, scores / temperature))
