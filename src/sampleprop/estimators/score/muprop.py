"""MuProp: the first-order expansion of the cost at the mean as a control variate.

Source: [gu2016muprop]. Differences from the paper: the coefficient multiplies the linear term only, and may be
learned; the further learned baseline and the division by a running deviation are left out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from sampleprop import checks, sums
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.estimators.score.control_variates import tuned, value_and_derivative
from sampleprop.families import Bernoullis, Discrete, LogLinears, OneHots
from sampleprop.surrogate import surrogate


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    probes: None = None


class MuProp(Estimator[Bernoullis | OneHots | LogLinears, Draw]):
    r"""Subtracts the tangent of the cost at the mean, whose expectation is known, and multiplies the score by the rest.

    .. math::

        \nabla_\phi L \approx \frac1k \sum_i (f(x_i) - h(x_i))\,\nabla_\phi \log p_\phi(x_i)
            + a\,\nabla f(\mu)^\top \nabla_\phi \mu

        h(x) = f(\mu) + a\,\nabla f(\mu)^\top (x - \mu), \quad \mu = \mathbb{E}_{p_\phi}[x]

    Unbiased for every a. f must be defined and differentiable at the mean, which lies between the discrete points.
    k + 1 evaluations of f and one backward pass through it, however large k is.

    Args:
        samples: k, at least 1; None for one sample without a sample dimension in a program.
        coefficient: a, finite; 0 leaves f(μ) as a constant baseline, 1 is the paper's.
        learn: whether a is trained, from `coefficient` on, to minimize the variance of the gradient.
        allow_steps: accept a cost with a step (round, sign) between the outcomes. The derivative ignores the step. The
            control variate is then worse, but the gradient stays unbiased.

    Raises:
        ValueError: for fewer samples than 1, a coefficient that is not finite, and by `combine` without f.
        RuntimeError: for a cost with no path to x, and with a step on it, unless `allow_steps`.

    Example, for p = 1/2, x = 1 and f = x² + 2. At the mean f(1/2) = 9/4 with derivative 1, so h(1) = 9/4 + 1/2 and
    f(1) - h(1) = 1/4. With the score 1/2 and the derivative 1/4 of the mean, 1/4 · 1/2 + 1 · 1/4 = 3/8:

        >>> import torch, sampleprop as sp
        >>> logit = torch.zeros((), requires_grad=True)
        >>> draw = Draw(torch.tensor([1.0]))
        >>> f = lambda x: x.square() + 2
        >>> q = torch.distributions.Bernoulli(logits=logit)
        >>> loss = sp.MuProp().combine(q, draw, f(draw.points), relaxed_f=f)
        >>> loss.backward()
        >>> loss.detach(), logit.grad
        (tensor(3.), tensor(0.3750))
    """

    unbiased = True
    exact_forward = True
    needs = "relaxed"
    family = "control variates"
    calls_f = True
    source = cited("gu2016muprop")

    coefficient: float | nn.Parameter

    def __init__(
        self, samples: int | None = 1, *, coefficient: float = 1.0, learn: bool = False, allow_steps: bool = False
    ) -> None:
        super().__init__()
        checks.samples("MuProp", samples, optional=True)
        checks.finite_number("MuProp", "coefficient", coefficient)
        self.samples = samples
        self.coefficient = nn.Parameter(torch.tensor(float(coefficient))) if learn else coefficient
        self.learn = learn
        self.allow_steps = allow_steps

    def calls(self, variables: Bernoullis | OneHots | LogLinears) -> tuple[int, int]:
        return self.draws + 1, 1

    def draw(self, variables: Bernoullis | OneHots | LogLinears, generator: Generator | None) -> Draw:
        return Draw(variables.sample(self.draws, generator))

    def estimate(self, variables: Bernoullis | OneHots | LogLinears, draw: Draw, costs: Costs) -> Tensor:
        with torch.set_grad_enabled(False):  # no_grad takes twice as long
            mean = variables.mean.to(variables.dtype).unsqueeze(0)
        at_mean, derivative = value_and_derivative(costs.f, mean, variables.logits.dtype)
        direction = derivative.squeeze(0)  # [*batch, *event]
        centered = variables.centered(draw.points)
        linear = variables.inner(centered, direction)  # [k, *batch]
        # In full, because the coefficient learns from the length of the gradient.
        score = centered if isinstance(variables, Discrete) else variables.score(draw.points)
        beyond, mean, a = costs.fixed - at_mean, variables.through_mean(direction), self.coefficient
        if not isinstance(a, Tensor):
            weights = costs.shared(torch.sub(beyond, linear, alpha=a))
            gradient = torch.add(sums.over_samples(weights, score), mean, alpha=a)
            return surrogate(self.name, costs.mean(), (variables.logits,), (gradient,))
        # The gradient is affine in the coefficient: what it is at 0, and what each unit adds.
        fixed = sums.over_samples(costs.shared(beyond), score)
        added = mean - sums.over_samples(costs.shared(linear), score)
        return tuned(self.name, costs.mean(), variables, fixed, a, added, self.training)
