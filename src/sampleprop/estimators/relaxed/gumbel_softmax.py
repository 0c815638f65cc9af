"""Gumbel-softmax, alias the Concrete distribution.

Source: Jang, Gu and Poole (2017), "Categorical reparameterization with Gumbel-softmax", eq. 2; Maddison, Mnih and Teh
(2017), "The Concrete distribution: A continuous relaxation of discrete random variables".
Differences from the paper: none; a Bernoulli variable is relaxed by the logistic noise that two Gumbel draws differ by.
"""

from __future__ import annotations

from torch import Generator, Tensor

from sampleprop.bibliography import cited
from sampleprop.estimators.relaxed.relaxation import Relaxation, perturbation, soften
from sampleprop.families import Bernoullis, Discrete, OneHots


class GumbelSoftmax(Relaxation[Bernoullis | OneHots]):
    r"""Replaces the discrete sample by a softmax of the noise that decides it, and differentiates f there.

    .. math::

        x_i = \operatorname{softmax}((\phi + G_i)/\tau) \quad\text{or}\quad \sigma((\phi + \ell_i)/\tau), \qquad
        \nabla_\phi L \approx \frac1k \sum_i \nabla_\phi f(x_i)

    with Gumbel noise G for one-hots and logistic noise ℓ for bits. Unbiased for the relaxed problem E[f(x)], whose
    value and gradient (for θ too) are not those of L; both tend to them as τ → 0, while the variance grows. f must be
    defined and differentiable between the discrete points; it never sees one. k evaluations of f and k backward passes.

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
        >>> sp.expect(lambda x: x.square().sum(-1), q, sp.GumbelSoftmax(4, temperature=0.3)).backward()
    """

    exact_forward = False
    needs = "relaxed"
    source = cited("jang2017categorical", "eq. 2")
    temperature: Tensor

    def __init__(self, samples: int | None = 1, *, temperature: float = 0.5, allow_unused: bool = False) -> None:
        super().__init__(samples, allow_unused, {"temperature": temperature})

    def points(self, variables: Bernoullis | OneHots, generator: Generator | None) -> Tensor:
        noise = perturbation(variables, self.draws, generator)
        return _relaxed(variables, noise, self.temperature)


def _relaxed(variables: Discrete, noise: Tensor, temperature: Tensor) -> Tensor:
    return soften(variables, (variables.logits + noise) / temperature)
