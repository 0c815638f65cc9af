"""Double control variates: leave-one-out, improved by the gradients of f at the other samples.

Source: [titsias2022double], sec. 3. Differences from the paper: the correction is subtracted, so that a good
coefficient is positive.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.estimators.score.control_variates import tuned, value_and_derivative
from sampleprop.families import Bernoullis, LogLinears, OneHots


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    probes: None = None


class DoubleCV(Estimator[Bernoullis | OneHots | LogLinears, Draw]):
    r"""Corrects each cost, and each cost in its leave-one-out baseline, by a tangent taken from the other samples.

    .. math::

        \nabla_\phi L \approx \frac1k \sum_i \Bigl(h_i - \frac{1}{k-1} \sum_{j \ne i} h_j\Bigr)
            \nabla_\phi \log p_\phi(x_i) + a\,\frac1k \sum_i \nabla f(x_i)^\top \nabla_\phi \mu

        h_i = f(x_i) - a \Bigl(\frac{1}{k-1} \sum_{j \ne i} \nabla f(x_j)\Bigr)^\top (x_i - \mu)

    with :math:`\mu = \mathbb{E}_{p_\phi}[x]`.

    Unbiased for every a (`coefficient`). It starts at 0, where this is the score function with its leave-one-out
    baseline, and is trained to minimize the variance of the gradient. f must be differentiable at the discrete points;
    how it continues between them does not matter. 2 k evaluations of f (k of them for its derivative with respect to x,
    without gradient for θ) and k backward passes through it.

    Args:
        samples: k, at least 2.
        allow_steps: accept a cost with a step (round, sign) between the outcomes. The derivative ignores the step. The
            control variate is then worse, but the gradient stays unbiased.

    Raises:
        ValueError: for fewer samples than 2, and by `combine` without f.
        RuntimeError: for a cost with no path to x, and with a step on it, unless `allow_steps`.

    Example, for a = 1/2, p = 1/2, x = (1, 0) and f = x² + x, with costs (2, 0) and derivatives (3, 1). x - μ = ±1/2, so
    the tangents are 1 · 1/2 and 3 · (-1/2), and h = (2 - 1/4, 0 + 3/4). Scores ±1/2 times ±(7/4 - 3/4) give 1/2, and
    the part of the mean adds 1/2 · 2 · 1/4:

        >>> import torch, sampleprop as sp
        >>> logit = torch.zeros((), requires_grad=True)
        >>> draw = Draw(torch.tensor([1.0, 0.0]))
        >>> f = lambda x: x.square() + x
        >>> q = torch.distributions.Bernoulli(logits=logit)
        >>> estimator = sp.DoubleCV()
        >>> _ = torch.nn.init.constant_(estimator.coefficient, 0.5)
        >>> loss = estimator.combine(q, draw, f(draw.points), relaxed_f=f)
        >>> loss.backward()
        >>> loss.detach(), logit.grad
        (tensor(1.), tensor(0.7500))
    """

    unbiased = True
    exact_forward = True
    needs = "differentiable"
    family = "control variates"
    calls_f = True
    samples_least = 2
    source = cited("titsias2022double", "sec. 3")

    def __init__(self, samples: int = 2, *, allow_steps: bool = False) -> None:
        super().__init__()
        checks.samples("DoubleCV", samples, least=2)
        self.samples = samples
        self.allow_steps = allow_steps
        self.coefficient = nn.Parameter(torch.tensor(0.0))

    def calls(self, variables: Bernoullis | OneHots | LogLinears) -> tuple[int, int]:
        return 2 * self.draws, self.draws

    def draw(self, variables: Bernoullis | OneHots | LogLinears, generator: Generator | None) -> Draw:
        return Draw(variables.sample(self.draws, generator))

    def estimate(self, variables: Bernoullis | OneHots | LogLinears, draw: Draw, costs: Costs) -> Tensor:
        _, derivatives = value_and_derivative(costs.f, draw.points, variables.logits.dtype)  # [k, *batch, *event]
        centered, total = variables.centered(draw.points), derivatives.sum(0)
        # Of the mean derivative of the others along each sample's way from the mean.
        tangents = (variables.inner(centered, total) - variables.sum(derivatives * centered)) / (self.draws - 1)
        with torch.no_grad():
            fixed = _leave_one_out(variables, draw.points, costs.fixed)
            slope = variables.through_mean(total / self.draws)
            added = slope - _leave_one_out(variables, draw.points, tangents)  # [k, *batch]
        return tuned(self.name, costs.mean(), variables, fixed, self.coefficient, added, self.training)


def _leave_one_out(variables: Bernoullis | OneHots | LogLinears, points: Tensor, costs: Tensor) -> Tensor:
    """Return the leave-one-out estimate of the gradient, [*batch, *natural]."""
    return variables.gradient_for_logits(points, Costs(costs).beyond_others())
