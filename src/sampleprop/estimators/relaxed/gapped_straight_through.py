"""Gapped straight-through.

Source: Fan, Chi, Rudnicky and Ramadge (2022), "Training discrete deep generative models via gapped straight-through
estimator".
Differences from the paper: Bernoulli variables too, as the two-class case.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.estimators.relaxed.relaxation import Relaxation, soften, straight_through
from sampleprop.families import Bernoullis, Discrete, OneHots


class GappedStraightThrough(Relaxation[Bernoullis | OneHots]):
    r"""Straight-through with a soft point at which the sampled class leads by a gap, without noise of its own.

    .. math::

        x_i \sim p_\phi, \qquad s_i = \operatorname{softmax}((\phi + m_i)/\tau), \qquad
        m_{ic} = \begin{cases} \max \phi - \phi_c & \text{for the sampled class} \\
            -\max(0, \phi_c - \max \phi + g) & \text{for the others} \end{cases}

    The shift m is not differentiated: :math:`\nabla_\phi L \approx \frac1k \sum_i (\partial s_i / \partial \phi)^T \nabla_x f(x_i)`.
    Given x there is no noise left, so the variance is usually below that of :class:`StraightThroughGumbel`, which the
    method imitates. The value and the gradient for θ are exact in the mean; the gradient for φ is biased at every τ, for
    linear f too. f must be differentiable at the discrete points. k evaluations of f and k backward passes.

    Args:
        samples: k, at least 1; None for one that adds no dimension in a program.
        gap: g, above 0; or "expected", the mean by which Gumbel noise lets x win, -log(1 - p(x)) / p(x).
        temperature: τ, above 0; a buffer, which :class:`ExponentialTemperature` can lower in the course of training.
        allow_unused: let a cost pass that has no path to x, whose gradient for φ is then zero.

    Raises:
        ValueError: for arguments out of range.
        RuntimeError: for a cost with no path to x, unless `allow_unused`.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.OneHotCategorical(logits=logits)
        >>> sp.expect(lambda x: x.square().sum(-1), q, sp.GappedStraightThrough(gap="expected")).item()
        1.0
    """

    exact_forward = True
    needs = "differentiable"
    source = cited("fan2022training")
    temperature: Tensor

    def __init__(
        self,
        samples: int | None = 1,
        *,
        gap: float | Literal["expected"] = 1.0,
        temperature: float = 1.0,
        allow_unused: bool = False,
    ) -> None:
        super().__init__(samples, allow_unused, {"temperature": temperature})
        if gap != "expected":
            if isinstance(gap, str):
                raise ValueError(f'GappedStraightThrough needs a gap above 0, or "expected"; got {gap!r}.')
            checks.positive("GappedStraightThrough", "gap", gap)
        self.gap = gap

    def points(self, variables: Bernoullis | OneHots, generator: Generator | None) -> Tensor:
        hard = variables.sample(self.draws, generator)
        return _through(variables, hard, self.gap, self.temperature)


def _through(variables: Discrete, hard: Tensor, gap: float | Literal["expected"], temperature: Tensor) -> Tensor:
    logits = variables.logits.detach()
    hard = hard.to(logits.dtype)
    if isinstance(variables, Bernoullis):
        sign = 2 * hard - 1
        lead = sign * logits  # of the sampled class, before the shift
        margin = _margin(lead.sigmoid(), gap)
        shift = sign * (margin - lead).clamp_min(0)
    else:
        top = logits.amax(-1, keepdim=True)
        margin = _margin((variables.probs.detach() * hard).sum(-1, keepdim=True), gap)
        # Finite where the class is masked, as it is multiplied by 0.
        up = (top - logits).clamp_max(torch.finfo(logits.dtype).max)
        shift = hard * up - (1 - hard) * (logits - top + margin).clamp_min(0)
    return straight_through(hard, soften(variables, (variables.logits + shift) / temperature))


def _margin(sampled: Tensor, gap: float | Literal["expected"]) -> Tensor:
    """The gap, or its expectation from the probability of the sampled class."""
    if gap == "expected":
        limits = torch.finfo(sampled.dtype)  # inside (0, 1), so that the gap is finite
        sampled = sampled.clamp(limits.tiny, 1 - limits.eps)
        return -torch.log1p(-sampled) / sampled
    return torch.full_like(sampled, gap)
