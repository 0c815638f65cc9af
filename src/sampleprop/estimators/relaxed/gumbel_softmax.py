"""Gumbel-softmax, also known as the Concrete distribution.

Source: [jang2017categorical], eq. 2; found at the same time by [maddison2017concrete]. Differences from the papers:
none. A Bernoulli variable is relaxed by logistic noise, which is the difference of two Gumbel draws.
"""

from __future__ import annotations

from torch import Generator, Tensor

from sampleprop.bibliography import cited
from sampleprop.estimators.relaxed.relaxation import Tempered, perturbation, soften, tempered
from sampleprop.families import Bernoullis, OneHots


class GumbelSoftmax(Tempered[Bernoullis | OneHots]):
    r"""Replaces the discrete sample by a softmax of the noise that decides it, and differentiates f there.

    .. math::

        x_i = \operatorname{softmax}((\phi + G_i)/\tau) \quad\text{or}\quad \sigma((\phi + \ell_i)/\tau), \qquad
        \nabla_\phi L \approx \frac1k \sum_i \nabla_\phi f(x_i)

    G is Gumbel noise for one-hots, and ℓ is logistic noise for bits. Unbiased for the relaxed problem E[f(x)]. Its
    value and its gradients, for θ too, are not those of L. They tend to those of L as τ → 0, while the variance grows.
    f must be defined and differentiable between the discrete points, and is evaluated only there. k evaluations of f
    and k backward passes.

    Args:
        samples: k, at least 1; None for one sample without a sample dimension in a program.
        temperature: τ, above 0; a buffer, which :class:`ExponentialTemperature` can lower during a training.
        allow_unused: accept a cost without a path to x; its gradient for φ is then zero.
        allow_steps: accept a cost with a step (round, sign) on its path to x; the gradient for φ ignores the step.

    Raises:
        ValueError: for arguments out of range.
        RuntimeError: for a cost with no path to x, unless `allow_unused`; with a step on it, unless `allow_steps`.

    Example, for φ = 0, τ = 1/2 and the noise (0, ∞): x = (1/2, 1), and dx/dφ = x (1 - x) / τ = (1/2, 0). With f = x²,
    the value is the mean of (1/4, 1), and the gradient is the mean of 2x dx/dφ = (1/2, 0):

        >>> import torch, sampleprop as sp
        >>> from sampleprop.estimators.relaxed.relaxation import Draw
        >>> logit = torch.zeros((), requires_grad=True)
        >>> q = torch.distributions.Bernoulli(logits=logit)
        >>> estimator = sp.GumbelSoftmax(2)
        >>> draw = Draw(estimator.points_from(sp.families.recognize(q), torch.tensor([0.0, torch.inf])))
        >>> loss = estimator.combine(q, draw, draw.points.square())
        >>> loss.backward()
        >>> loss.detach(), logit.grad
        (tensor(0.6250), tensor(0.2500))
    """

    exact_forward = False
    needs = "relaxed"
    family = "relaxations"
    aliases = ("Concrete",)
    source = cited("jang2017categorical", "eq. 2")

    def points(self, variables: Bernoullis | OneHots, generator: Generator | None) -> Tensor:
        return self.points_from(variables, perturbation(variables, self.samples or 1, generator))

    def points_from(self, variables: Bernoullis | OneHots, noise: Tensor) -> Tensor:
        """The relaxed points for this noise, [k, *batch, *event]."""
        return soften(variables, tempered(variables.logits, noise, self.temperature))
