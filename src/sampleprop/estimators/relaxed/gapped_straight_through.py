"""Gapped straight-through.

Source: [fan2022training]. Differences from the paper: Bernoulli variables too, as the two-class case.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.estimators.relaxed.relaxation import Tempered, soften, tempered
from sampleprop.families import Bernoullis, OneHots
from sampleprop.surrogate import straight_through


class GappedStraightThrough(Tempered[Bernoullis | OneHots]):
    r"""Straight-through with a soft point at which the sampled class leads by a gap, without noise of its own.

    .. math::

        x_i \sim p_\phi, \qquad s_i = \operatorname{softmax}((\phi + m_i)/\tau)

        m_{ic} = \begin{cases} \max \phi - \phi_c & \text{for the sampled class} \\
            -\max(0, \phi_c - \max \phi + g) & \text{for the others} \end{cases}

        \nabla_\phi L \approx \frac1k \sum_i \Big(\frac{\partial s_i}{\partial \phi}\Big)^{\!T} \nabla_x f(x_i)

    The shift m is not differentiated. The method imitates :class:`StraightThroughGumbel`, usually with less variance,
    because given x no noise is left. The value and the gradient for θ are exact in the mean. The gradient for φ is
    biased at every τ, for linear f too. f must be differentiable at the discrete points. k evaluations of f and k
    backward passes.

    Args:
        samples: k, at least 1; None for one sample without a sample dimension in a program.
        gap: g, above 0; or "expected", the mean by which Gumbel noise lets x win, -log(1 - p(x)) / p(x).
        temperature: τ, above 0; a buffer, which :class:`ExponentialTemperature` can lower during a training.
        allow_unused: accept a cost without a path to x; its gradient for φ is then zero.
        allow_steps: accept a cost with a step (round, sign) on its path to x; the gradient for φ ignores the step.

    Raises:
        ValueError: for arguments out of range.
        RuntimeError: for a cost with no path to x, unless `allow_unused`; with a step on it, unless `allow_steps`.

    Example, for φ = 0, g = log 3, τ = 1 and the samples x = (1, 0): the soft points are s = (3/4, 1/4), with
    ds/dφ = s (1 - s) = 3/16. With f = x², the value is the mean of (1, 0), and the gradient is that of
    2x ds/dφ = (3/8, 0):

        >>> import math, torch, sampleprop as sp
        >>> from sampleprop.estimators.relaxed.relaxation import Draw
        >>> logit = torch.zeros((), requires_grad=True)
        >>> q = torch.distributions.Bernoulli(logits=logit)
        >>> estimator = sp.GappedStraightThrough(2, gap=math.log(3))
        >>> draw = Draw(estimator.points_from(sp.families.recognize(q), torch.tensor([1.0, 0.0])))
        >>> loss = estimator.combine(q, draw, draw.points.square())
        >>> loss.backward()
        >>> loss.detach(), logit.grad
        (tensor(0.5000), tensor(0.1875))
    """

    exact_forward = True
    needs = "differentiable"
    once = True
    family = "straight-through"
    aliases = ("GST",)
    source = cited("fan2022training")

    def __init__(
        self,
        samples: int | None = 1,
        *,
        gap: float | Literal["expected"] = 1.0,
        temperature: float = 1.0,
        allow_unused: bool = False,
        allow_steps: bool = False,
    ) -> None:
        super().__init__(samples, temperature=temperature, allow_unused=allow_unused, allow_steps=allow_steps)
        if isinstance(gap, str):
            if gap != "expected":
                raise ValueError(f'GappedStraightThrough needs a gap above 0, or "expected"; got {gap!r}.')
        else:
            checks.positive("GappedStraightThrough", "gap", gap)
        self.gap = gap

    def points(self, variables: Bernoullis | OneHots, generator: Generator | None) -> Tensor:
        return self.points_from(variables, variables.sample(self.draws, generator))

    def points_from(self, variables: Bernoullis | OneHots, hard: Tensor) -> Tensor:
        """These samples, [k, *batch, *event], with the derivative of their soft points."""
        logits = variables.logits.detach()
        sampled = variables.one_hot(hard)
        if isinstance(variables, Bernoullis):
            sign = (2 * sampled).sub_(1)
            lead = sign * logits  # of the sampled class, before the shift
            margin = self._expected(lead.sigmoid()) if isinstance(self.gap, str) else self.gap
            shift = (margin - lead).clamp_min_(0).mul_(sign)
        else:
            top = logits.amax(-1, keepdim=True)
            likely = (variables.fixed_probs * sampled).sum(-1, keepdim=True)
            margin = self._expected(likely) if isinstance(self.gap, str) else self.gap
            # A masked class has an infinite difference, which is multiplied by 0 here; therefore it is made finite.
            up = (top - logits).clamp_max(torch.finfo(logits.dtype).max)
            shift = sampled * up - (1 - sampled) * (logits - top + margin).clamp_min(0)
        return straight_through(self.name, hard, soften(variables, tempered(variables.logits, shift, self.temperature)))

    def _expected(self, sampled: Tensor) -> Tensor:
        """The mean gap, from the probability of the sampled class."""
        limits = torch.finfo(sampled.dtype)  # inside (0, 1), so that the gap is finite
        sampled = sampled.clamp(limits.tiny, 1 - limits.eps)
        return -torch.log1p(-sampled) / sampled
