"""Softmax of Gaussian noise: a logistic-normal relaxation.

Source: Aitchison and Shen (1980), "Logistic-normal distributions: some properties and uses".
Differences from the paper: the mean is φ/τ and the covariance a multiple of the identity, whereas the paper's are free.
"""

from __future__ import annotations

import math

from torch import Generator, Tensor

from sampleprop import noise
from sampleprop.bibliography import cited
from sampleprop.estimators.relaxed.relaxation import Relaxation, soften
from sampleprop.families import Bernoullis, Discrete, OneHots

SCALE = 1.702  # of the normal distribution closest to the standard logistic one: 0.0095 apart at most


class LogisticNormalSoftmax(Relaxation[Bernoullis | OneHots]):
    r"""Gumbel-softmax with Gaussian noise in place of Gumbel noise: lighter tails, a law that is only close to p.

    .. math::

        x_i = \operatorname{softmax}\Big(\frac{\phi + s\,\varepsilon_i}{\tau}\Big) \quad\text{or}\quad
        \sigma\Big(\frac{\phi + \sqrt2 s\,\varepsilon_i}{\tau}\Big), \qquad s = \frac{1.702}{\sqrt 2}, \qquad
        \nabla_\phi L \approx \frac1k \sum_i \nabla_\phi f(x_i)

    with standard normal ε. Which class is largest follows a probit model, not p_φ: for a bit the two differ by less
    than 0.0095, and for three classes or more no noise that is independent and of one law gives p_φ, but Gumbel noise. So
    the bias does not vanish as τ → 0 (use
    :class:`GumbelSoftmax` or :class:`InvertibleGaussian` for that). The value and the gradient for θ are biased
    too. f must be defined and differentiable between the discrete points. k evaluations of f and k backward passes.

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
        >>> sp.expect(lambda x: x.square().sum(-1), q, sp.LogisticNormalSoftmax(4, temperature=0.3)).backward()
    """

    exact_forward = False
    needs = "relaxed"
    source = cited("aitchison1980logistic")
    temperature: Tensor

    def __init__(self, samples: int | None = 1, *, temperature: float = 0.5, allow_unused: bool = False) -> None:
        super().__init__(samples, allow_unused, {"temperature": temperature})

    def points(self, variables: Bernoullis | OneHots, generator: Generator | None) -> Tensor:
        epsilon = noise.normal((self.draws, *variables.logits.shape), variables.logits, generator)
        return _relaxed(variables, epsilon, self.temperature)


def _relaxed(variables: Discrete, epsilon: Tensor, temperature: Tensor) -> Tensor:
    # A bit is decided by the difference of two draws, a one-hot by each of its classes' own.
    scale = SCALE if isinstance(variables, Bernoullis) else SCALE / math.sqrt(2)
    return soften(variables, (variables.logits + scale * epsilon) / temperature)
