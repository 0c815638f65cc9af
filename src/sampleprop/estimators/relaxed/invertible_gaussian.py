r"""Invertible Gaussian reparameterization, with broken sticks.

Source: Potapczynski, Loaiza-Ganem and Cunningham (2020), "Invertible Gaussian reparameterization: revisiting the
Gumbel-softmax".
Differences from the paper: there the mean and the scale of the Gaussian are free parameters, the relaxed variable is
the model, and a softmax with a temperature follows the sticks. Here the model is the discrete p_φ: the mean is set
from the logits, the scale is 1, and the temperature is inside each stick, so that sticks broken at temperature 0
give p_φ exactly.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Distribution
from torch.nn import functional

from sampleprop import families, noise
from sampleprop.estimator import Source, Worked
from sampleprop.estimators.relaxed.relaxation import HUGE, Draw, Relaxation, probit


class InvertibleGaussian(Relaxation):
    r"""Replaces each binary decision between a class and the later ones by the sigmoid of a Gaussian.

    .. math::

        u_c = \sigma((\Phi^{-1}(\beta_c) + \varepsilon_c)/\tau), \qquad x_c = u_c \prod_{j<c} (1 - u_j), \qquad
        \beta_c = \frac{p_c}{\sum_{j \ge c} p_j}, \qquad
        \nabla_\phi L \approx \frac1k \sum_i \nabla_\phi f(x_i)

    with standard normal ε; a bit is the first of two classes. Since P(u_c > 1/2) = β_c, the first class with
    u_c > 1/2 follows p_φ. Unbiased for the relaxed problem E[f(x)], whose value and gradient (for θ too) are not those
    of L; both tend to them as τ → 0, while the variance grows. The result depends on the order of the classes. f must
    be defined and differentiable between the discrete points. k evaluations of f and k backward passes.

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
        >>> sp.expect(lambda x: x.square().sum(-1), q, sp.InvertibleGaussian(4)).backward()
    """

    exact_forward = False
    needs = "relaxed"
    families = (families.Bernoullis, families.OneHots)
    source = Source(
        key="potapczynski2020invertible",
        authors="Andres Potapczynski and Gabriel Loaiza-Ganem and John P. Cunningham",
        year=2020,
        title="Invertible Gaussian reparameterization: revisiting the Gumbel-softmax",
        venue="Advances in Neural Information Processing Systems 33",
        arxiv="1912.09588",
    )
    temperature: Tensor

    def __init__(self, samples: int | None = 1, *, temperature: float = 0.3, allow_unused: bool = False) -> None:
        super().__init__(samples, allow_unused, {"temperature": temperature})

    def propose(self, dist: Distribution, *, context: Tensor | None = None, generator: Generator | None = None) -> Draw:
        variables = families.variables(dist)
        sticks = _sticks(variables)
        epsilon = noise.normal((self.draws, *sticks.shape), sticks, generator)
        return self.draw(variables, _relaxed(variables, epsilon, self.temperature))

    @classmethod
    def worked(cls) -> Worked:
        # At η = 0 the mean is 0, with derivative p (1 - p) / φ(0) = √(2π) / 4. With ε = 0: x = 1/2, and dx/dη is
        # x (1 - x) / τ = 1/2 times it. With f = x²: 1/4, and 2 x dx/dη = √(2π) / 8.
        epsilon = torch.zeros(1, dtype=torch.float64)
        estimator = cls(temperature=0.5)
        return Worked(
            estimator=estimator,
            parameter=torch.zeros((), dtype=torch.float64),
            dist=lambda logits: Bernoulli(logits=logits),
            draw=lambda dist: Draw(_relaxed(families.variables(dist), epsilon, estimator.temperature)),
            f=torch.square,
            value=torch.tensor(0.25, dtype=torch.float64),
            gradient=torch.tensor(2 * torch.pi, dtype=torch.float64).sqrt() / 8,
        )


def _sticks(variables: families.Discrete) -> Tensor:
    """The logits of β: of each class against all later ones, [*batch, *variables, classes - 1]; for bits the logits."""
    if isinstance(variables, families.Bernoullis):
        return variables.logits
    # Masked classes get a huge number instead of infinity: where all later classes are masked, ∞ - ∞ would be NaN.
    logits = variables.logits.clamp_min(-HUGE)
    return logits[..., :-1] - logits[..., 1:].flip(-1).logcumsumexp(-1).flip(-1)


def _relaxed(variables: families.Discrete, epsilon: Tensor, temperature: Tensor) -> Tensor:
    scores = (probit(_sticks(variables)) + epsilon) / temperature
    if isinstance(variables, families.Bernoullis):
        return scores.sigmoid()
    taken = functional.pad(functional.logsigmoid(scores), (0, 1))  # the last class takes what is left
    left = functional.pad(functional.logsigmoid(-scores).cumsum(-1), (1, 0))
    return (taken + left).exp()
