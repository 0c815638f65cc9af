"""Straight-through Gumbel-softmax.

Source: [jang2017categorical], sec. 2.2. Differences from the paper: Bernoulli variables too, with logistic noise.
"""

from __future__ import annotations

from torch import Generator, Tensor

from sampleprop.bibliography import cited
from sampleprop.estimators.relaxed.relaxation import Tempered, harden, perturbation, soften
from sampleprop.families import Bernoullis, OneHots
from sampleprop.noise import cast
from sampleprop.surrogate import straight_through


class StraightThroughGumbel(Tempered[Bernoullis | OneHots]):
    r"""Evaluates f at the discrete sample, and differentiates as if it had been the Gumbel-softmax of the same noise.

    .. math::

        x_i = \operatorname{onehot}(\arg\max (\phi + G_i)), \qquad
        \nabla_\phi L \approx \frac1k \sum_i
            \Big(\frac{\partial}{\partial \phi} \operatorname{softmax}((\phi + G_i)/\tau)\Big)^{\!T} \nabla_x f(x_i)

    For bits, x = 1 where φ plus logistic noise is above 0, and the softmax is a sigmoid. The value and the gradient for
    θ are exact in the mean. The gradient for φ is biased, and its bias does not vanish as τ → 0. The limit is the mean
    of ∇f at both ends of each step between classes, which is right for quadratic f only. As τ falls, the variance
    grows without bound. f must be differentiable at the discrete points. k evaluations of f and k backward passes.

    Args:
        samples: k, at least 1; None for one sample without a sample dimension in a program.
        temperature: τ, above 0; a buffer, which :class:`ExponentialTemperature` can lower during a training.
        allow_unused: accept a cost without a path to x; its gradient for φ is then zero.
        allow_steps: accept a cost with a step (round, sign) on its path to x; the gradient for φ ignores the step.

    Raises:
        ValueError: for arguments out of range.
        RuntimeError: for a cost with no path to x, unless `allow_unused`; with a step on it, unless `allow_steps`.

    Example, for φ = 0, τ = 1/2 and the noise (log(3)/2, ∞): x = (1, 1). The soft points are s = (3/4, 1), with
    ds/dφ = s (1 - s) / τ = (3/8, 0). With f = x², the value is 1, and the gradient is the mean of 2x ds/dφ = (3/4, 0):

        >>> import torch, sampleprop as sp
        >>> from sampleprop.estimators.relaxed.relaxation import Draw
        >>> logit = torch.zeros((), requires_grad=True)
        >>> q = torch.distributions.Bernoulli(logits=logit)
        >>> estimator = sp.StraightThroughGumbel(2)
        >>> draw = Draw(estimator.points_from(sp.families.recognize(q), torch.tensor([3.0, torch.inf]).log() / 2))
        >>> loss = estimator.combine(q, draw, draw.points.square())
        >>> loss.backward()
        >>> loss.detach(), logit.grad
        (tensor(1.), tensor(0.3750))
    """

    exact_forward = True
    needs = "differentiable"
    once = True
    family = "straight-through"
    source = cited("jang2017categorical", "sec. 2.2")

    def points(self, variables: Bernoullis | OneHots, generator: Generator | None) -> Tensor:
        return self.points_from(variables, perturbation(variables, self.draws, generator))

    def points_from(self, variables: Bernoullis | OneHots, noise: Tensor) -> Tensor:
        """The samples that this noise decides, [k, *batch, *event], with the derivative of the softmax."""
        scores = variables.logits + noise
        hard = cast(harden(variables, scores), variables.dtype)
        return straight_through(self.name, hard, soften(variables, scores / self.temperature))
