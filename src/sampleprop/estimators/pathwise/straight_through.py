"""Straight-through.

Source: Bengio, Léonard and Courville (2013), "Estimating or propagating gradients through stochastic neurons for
conditional computation".
Differences from the paper: of its two variants, the one that passes ∇f on by the derivative of the probabilities; the
other hands it to the logits as it is. One-hot variables too.
"""

from __future__ import annotations

from torch import Generator, Tensor

from sampleprop.bibliography import cited
from sampleprop.estimators.relaxed.relaxation import Relaxation, straight_through
from sampleprop.families import Bernoullis, OneHots


class StraightThrough(Relaxation[Bernoullis | OneHots]):
    r"""Evaluates f at the discrete sample, and differentiates as if the sample had been its mean.

    .. math::

        x_i \sim p_\phi, \qquad
        \nabla_\phi L \approx \frac1k \sum_i \Big(\frac{\partial\, \mathbb{E}[x]}{\partial \phi}\Big)^{\!T} \nabla_x f(x_i)

    Biased, except where f is linear in each variable while the others are fixed (multilinear): then unbiased. The value
    and the gradient for θ are exact in the mean. f must be differentiable at the discrete points. k evaluations of f
    and k backward passes.

    Args:
        samples: k, at least 1; None for one that adds no dimension in a program.
        allow_unused: let a cost pass that has no path to x, whose gradient for φ is then zero.

    Raises:
        ValueError: for a number of samples below 1.
        RuntimeError: for a cost with no path to x, unless `allow_unused`.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
        >>> sp.expect(lambda x: x.sum(-1), q, sp.StraightThrough()).backward()
        >>> logits.grad
        tensor([0.2500, 0.2500, 0.2500])
    """

    exact_forward = True
    needs = "differentiable"
    source = cited("bengio2013estimating")

    def __init__(self, samples: int | None = 1, *, allow_unused: bool = False) -> None:
        super().__init__(samples, allow_unused, {})

    def points(self, variables: Bernoullis | OneHots, generator: Generator | None) -> Tensor:
        hard = variables.sample(self.draws, generator)
        return straight_through(hard, variables.probs)
