"""Softmax of Gaussian noise: a logistic-normal relaxation.

Source: [aitchison1980logistic]. Differences from the paper: the mean is φ/τ and the covariance a multiple of the
identity, whereas the paper's are free.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from sampleprop import noise
from sampleprop.bibliography import cited
from sampleprop.estimators.relaxed.relaxation import Tempered, soften
from sampleprop.families import Bernoullis, OneHots

SCALE = 1.702  # of the normal distribution closest to the standard logistic one: 0.0095 apart at most


class LogisticNormalSoftmax(Tempered[Bernoullis | OneHots]):
    r"""Gumbel-softmax with Gaussian noise in place of Gumbel noise, which follows p_φ only approximately.

    .. math::

        x_i = \operatorname{softmax}\Big(\frac{\phi + s\,\varepsilon_i}{\tau}\Big) \quad\text{or}\quad
        \sigma\Big(\frac{\phi + \sqrt2 s\,\varepsilon_i}{\tau}\Big), \qquad s = \frac{1.702}{\sqrt 2}

        \nabla_\phi L \approx \frac1k \sum_i \nabla_\phi f(x_i)

    ε is standard normal. Which class is largest follows a probit model, not p_φ. For a bit the two differ by less than
    0.0095. For three classes or more, only Gumbel noise gives p_φ, among noises that are independent and identically
    distributed. Therefore the bias does not vanish as τ → 0 (use :class:`GumbelSoftmax` or :class:`InvertibleGaussian`
    for that). The value and the gradient for θ are biased too. f must be defined and differentiable between the
    discrete points. k evaluations of f and k backward passes.

    Args:
        samples: k, at least 1; None for one sample without a sample dimension in a program.
        temperature: τ, above 0; a buffer, which :class:`ExponentialTemperature` can lower during a training.
        allow_unused: accept a cost without a path to x; its gradient for φ is then zero.
        allow_steps: accept a cost with a step (round, sign) on its path to x; the gradient for φ ignores the step.

    Raises:
        ValueError: for arguments out of range.
        RuntimeError: for a cost with no path to x, unless `allow_unused`; with a step on it, unless `allow_steps`.

    Example, for a bit with φ = 0, τ = 1/2 and ε = log(3) / 3.404: x = σ(1.702 ε / τ) = σ(log 3) = 3/4, and
    dx/dφ = x (1 - x) / τ = 3/8. With f = 8x² - x, the value is 15/4, and the gradient is (16x - 1) dx/dφ = 33/8:

        >>> import math, torch, sampleprop as sp
        >>> from sampleprop.estimators.relaxed.relaxation import Draw
        >>> logit = torch.zeros((), requires_grad=True)
        >>> q = torch.distributions.Bernoulli(logits=logit)
        >>> estimator = sp.LogisticNormalSoftmax()
        >>> draw = Draw(estimator.points_from(sp.families.recognize(q), torch.tensor([math.log(3) / 3.404])))
        >>> loss = estimator.combine(q, draw, 8 * draw.points.square() - draw.points)
        >>> loss.backward()
        >>> loss.detach(), logit.grad
        (tensor(3.7500), tensor(4.1250))
    """

    exact_forward = False
    needs = "relaxed"
    family = "relaxations"
    source = cited("aitchison1980logistic")

    def points(self, variables: Bernoullis | OneHots, generator: Generator | None) -> Tensor:
        shape = (self.draws, *variables.logits.shape)
        return self.points_from(variables, noise.normal(shape, variables.logits, generator))

    def points_from(self, variables: Bernoullis | OneHots, epsilon: Tensor) -> Tensor:
        """The relaxed points for this noise, [k, *batch, *event]."""
        # A bit is decided by the difference of two draws, a one-hot by each of its classes' own.
        scale = SCALE if isinstance(variables, Bernoullis) else SCALE / math.sqrt(2)
        return soften(variables, torch.addcmul(variables.logits / self.temperature, epsilon, scale / self.temperature))
