"""Gumbel-Rao: straight-through Gumbel-softmax, averaged over the noise that gives the same sample.

Source: [paulus2021rao], sec. 3. Differences from the paper: Bernoulli variables too, with logistic noise.
"""

from __future__ import annotations

from torch import Generator, Tensor

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.estimators.relaxed.conditional import latent
from sampleprop.estimators.relaxed.relaxation import Tempered, soften, through_softmax
from sampleprop.families import Bernoullis, OneHots


class GumbelRao(Tempered[Bernoullis | OneHots]):
    r"""Passes the gradient to the logits through the relaxation, and averages it over the noise, given the sample.

    .. math::

        \nabla_\phi L \approx \Big(\frac{\partial}{\partial\phi} \frac1K \sum_{j=1}^K
            \sigma\big((\phi + \varepsilon_j) / \tau\big)\Big)^{\!\top} \nabla_x f(x),
        \qquad \varepsilon_j \sim p(\varepsilon \mid x)

    σ is the softmax with Gumbel noise, or the sigmoid with logistic noise. Here the noise given x is not differentiated
    with respect to φ; in REBAR it is. Averaged over the samples.

    Biased, by the same amount as straight-through Gumbel-softmax. The variance falls as K grows. f sees
    only true samples, and must be differentiable there. k evaluations of f, and k backward passes.

    Args:
        samples: k, at least 1; None for one sample without a sample dimension in a program.
        temperature: τ, above 0; a buffer, which :class:`ExponentialTemperature` can lower during a training.
        noises: K, draws of the noise for each sample, at least 1. They cost no evaluations of f.
        allow_unused: accept a cost without a path to x; its gradient for φ is then zero.
        allow_steps: accept a cost with a step (round, sign) on its path to x; the gradient for φ ignores the step.

    Raises:
        ValueError: for arguments out of range.
        RuntimeError: for a cost with no path to x, unless `allow_unused`; with a step on it, unless `allow_steps`.

    Example, for φ = 0, τ = 1, x = 1 and K = 2 noises log 3 and 0: the sigmoids 3/4 and 1/2 have the derivatives 3/16
    and 1/4, and the mean is 7/32. With f = 3 - 2x, the value is 1, and the gradient is -2 · 7/32 = -7/16:

        >>> import torch, sampleprop as sp
        >>> from sampleprop.estimators.relaxed.relaxation import Draw
        >>> logit = torch.zeros((), requires_grad=True)
        >>> q = torch.distributions.Bernoulli(logits=logit)
        >>> estimator = sp.GumbelRao(temperature=1.0, noises=2)
        >>> z = torch.tensor([[3.0], [1.0]]).log()
        >>> draw = Draw(estimator.points_from(sp.families.recognize(q), torch.ones(1), z))
        >>> loss = estimator.combine(q, draw, 3 - 2 * draw.points)
        >>> loss.backward()
        >>> loss.detach(), logit.grad
        (tensor(1.), tensor(-0.4375))
    """

    exact_forward = True
    needs = "differentiable"
    once = True
    family = "straight-through"
    source = cited("paulus2021rao", "sec. 3")

    def __init__(
        self,
        samples: int | None = 1,
        *,
        temperature: float = 0.5,
        noises: int = 10,
        allow_unused: bool = False,
        allow_steps: bool = False,
    ) -> None:
        super().__init__(samples, temperature=temperature, allow_unused=allow_unused, allow_steps=allow_steps)
        checks.samples(self.name, noises, argument="noises")
        self.noises = noises

    def points(self, variables: Bernoullis | OneHots, generator: Generator | None) -> Tensor:
        hard = variables.sample(self.draws, generator)
        z = latent(variables, hard.expand(self.noises, *hard.shape), generator)  # [K, k, *batch, *event]
        return self.points_from(variables, hard, z)

    def points_from(self, variables: Bernoullis | OneHots, hard: Tensor, z: Tensor) -> Tensor:
        """These samples, with the derivative of the relaxation, averaged over noisy logits z [K, k, *batch, *event]."""
        soft = soften(variables, z / self.temperature)
        return through_softmax(self.name, variables, hard, (1 / len(z), soft), temperature=self.temperature)
