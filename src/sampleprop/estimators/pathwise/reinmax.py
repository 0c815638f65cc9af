"""ReinMax: straight-through of second order.

Source: Liu, Dong, Liu, Yu and Gao (2023), "Bridging discrete and backpropagation: straight-through and beyond", alg. 2.
Differences from the paper: Bernoulli variables too, as the two-class case.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Distribution

from sampleprop import families
from sampleprop.estimator import Source, Worked
from sampleprop.estimators.relaxed.relaxation import Draw, Relaxation, soften, straight_through


class ReinMax(Relaxation):
    r"""Straight-through with a derivative taken halfway between the sample and its mean, after Heun's method.

    .. math::

        x_i \sim p_\phi, \qquad
        \nabla_\phi L \approx \frac1k \sum_i \big(2 J(\tfrac12 (x_i + \pi_\tau)) - \tfrac12 J(\pi)\big) \nabla_x f(x_i),
            \qquad J(\pi) = \operatorname{diag}(\pi) - \pi \pi^T

    with :math:`\pi_\tau = \operatorname{softmax}(\phi/\tau)`. Biased, except at τ = 1 for f that is quadratic in each
    variable while the others are fixed: then unbiased. The value and the gradient for θ are exact in the mean. f must
    be differentiable at the discrete points. k evaluations of f and k backward passes.

    Args:
        samples: k, at least 1; None for one that adds no dimension in a program.
        temperature: τ, above 0, the paper advises 1 or more; a buffer, which :class:`ExponentialTemperature` can
            lower in the course of training.
        allow_unused: let a cost pass that has no path to x, whose gradient for φ is then zero.

    Raises:
        ValueError: for arguments out of range.
        RuntimeError: for a cost with no path to x, unless `allow_unused`.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.OneHotCategorical(logits=logits)
        >>> sp.expect(lambda x: x.square().sum(-1), q, sp.ReinMax()).item()
        1.0
    """

    exact_forward = True
    needs = "differentiable"
    families = (families.Bernoullis, families.OneHots)
    source = Source(
        key="liu2023bridging",
        authors="Liyuan Liu and Chengyu Dong and Xiaodong Liu and Bin Yu and Jianfeng Gao",
        year=2023,
        title="Bridging discrete and backpropagation: straight-through and beyond",
        venue="Advances in Neural Information Processing Systems 36",
        arxiv="2304.08612",
        where="alg. 2",
    )
    temperature: Tensor

    def __init__(self, samples: int | None = 1, *, temperature: float = 1.0, allow_unused: bool = False) -> None:
        super().__init__(samples, allow_unused, {"temperature": temperature})

    def propose(self, dist: Distribution, *, context: Tensor | None = None, generator: Generator | None = None) -> Draw:
        variables = families.variables(dist)
        hard = variables.sample(self.draws, generator)
        return self.draw(variables, _through(variables, hard, self.temperature))

    @classmethod
    def worked(cls) -> Worked:
        # p = 1/2, samples x = (1, 0): halfway h = (3/4, 1/4), so 2 h (1 - h) - p (1 - p) / 2 = 3/8 - 1/8 = 1/4. With
        # f = x²: the mean of (1, 0), and of 2 x / 4 = (1/2, 0); their mean is exact, as f is quadratic.
        hard = torch.tensor([1.0, 0.0], dtype=torch.float64)
        estimator = cls(2)
        return Worked(
            estimator=estimator,
            parameter=torch.zeros((), dtype=torch.float64),
            dist=lambda logits: Bernoulli(logits=logits),
            draw=lambda dist: Draw(_through(families.variables(dist), hard, estimator.temperature)),
            f=torch.square,
            value=torch.tensor(0.5, dtype=torch.float64),
            gradient=torch.tensor(0.25, dtype=torch.float64),
        )


def _through(variables: families.Discrete, hard: Tensor, temperature: Tensor) -> Tensor:
    logits = variables.logits
    halfway = (hard + soften(variables, logits.detach() / temperature)) / 2
    scores = torch.logit(halfway) if isinstance(variables, families.Bernoullis) else halfway.log()
    # The soft point halfway has J(halfway) for a derivative. Where scores or logits are infinite, so that halfway is
    # 0 or 1, the logits give the same point without ∞ - ∞.
    shift = (scores - logits.detach()).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    return straight_through(hard.to(logits.dtype), 2 * soften(variables, logits + shift) - variables.probs / 2)
