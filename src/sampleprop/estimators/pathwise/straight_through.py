"""Straight-through.

Source: [bengio2013estimating]. Differences from the paper: of its two variants, this one multiplies ∇f by the
derivative of the probabilities; the other one hands ∇f to the logits as it is. One-hot variables are taken too, and
structures, where the mean is the vector of marginals: on subsets this is SIMPLE, [ahmed2023simple].
"""

from __future__ import annotations

from torch import Generator, Tensor

from sampleprop.bibliography import cited
from sampleprop.estimators.relaxed.relaxation import Relaxation
from sampleprop.families import Bernoullis, LogLinears, OneHots
from sampleprop.surrogate import straight_through


class StraightThrough(Relaxation[Bernoullis | OneHots | LogLinears]):
    r"""Evaluates f at the discrete sample, and differentiates as if the sample had been its mean.

    .. math::

        x_i \sim p_\phi, \qquad
        \nabla_\phi L \approx \frac1k \sum_i
            \Big(\frac{\partial\, \mathbb{E}[x]}{\partial \phi}\Big)^{\!T} \nabla_x f(x_i)

    Biased, except where f is linear in each variable while the others are fixed (multilinear): then it is unbiased. The
    value and the gradient for θ are exact in the mean. f must be differentiable at the discrete points. k evaluations
    of f and k backward passes.

    Args:
        samples: k, at least 1; None for one sample without a sample dimension in a program.
        allow_unused: accept a cost without a path to x; its gradient for φ is then zero.
        allow_steps: accept a cost with a step (round, sign) on its path to x; the gradient for φ ignores the step.

    Raises:
        ValueError: for a number of samples below 1.
        RuntimeError: for a cost with no path to x, unless `allow_unused`; with a step on it, unless `allow_steps`.

    Example, for p = 1/2, so that dp/dφ = p (1 - p) = 1/4, and the samples x = (1, 0). With f = x² the value is the
    mean of (1, 0), and the gradient is the mean of 2x dp/dφ = (1/2, 0):

        >>> import torch, sampleprop as sp
        >>> from sampleprop.estimators.through_points import Draw
        >>> logit = torch.zeros((), requires_grad=True)
        >>> q = torch.distributions.Bernoulli(logits=logit)
        >>> draw = Draw(straight_through("StraightThrough", torch.tensor([1.0, 0.0]), q.probs))
        >>> loss = sp.StraightThrough(2).combine(q, draw, draw.points.square())
        >>> loss.backward()
        >>> loss.detach(), logit.grad
        (tensor(0.5000), tensor(0.2500))
    """

    exact_forward = True
    needs = "differentiable"
    once = True
    family = "straight-through"
    aliases = ("STE",)
    source = cited("bengio2013estimating")

    def points(self, variables: Bernoullis | OneHots | LogLinears, generator: Generator | None) -> Tensor:
        mean = variables.mean  # first, because the samples then need no probabilities of their own
        return straight_through(self.name, variables.sample(self.draws, generator), mean)
