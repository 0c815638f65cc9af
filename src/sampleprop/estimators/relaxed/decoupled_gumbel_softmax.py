"""Decoupled straight-through Gumbel-softmax: one temperature for the sample, another for the gradient.

Source: [shah2024improving], version 1. Differences from the paper: the forward temperature is the scale of the noise,
so that the sample and the soft point come from the same scores. Dividing the logits instead gives samples of the same
distribution.
"""

from __future__ import annotations

from torch import Generator, Tensor

from sampleprop.bibliography import cited
from sampleprop.estimators.relaxed.relaxation import Relaxation, harden, perturbation, soften
from sampleprop.families import Bernoullis, OneHots
from sampleprop.noise import cast
from sampleprop.surrogate import straight_through


class DecoupledGumbelSoftmax(Relaxation[Bernoullis | OneHots]):
    r"""Straight-through Gumbel-softmax with one temperature for the samples and another one for the gradient.

    .. math::

        x_i = \operatorname{onehot}(\arg\max (\phi + \tau_f G_i))

        \nabla_\phi L \approx \frac1k \sum_i
            \Big(\frac{\partial}{\partial \phi} \operatorname{softmax}((\phi + \tau_f G_i)/\tau_b)\Big)^{\!T}
            \nabla_x f(x_i)

    For bits the noise is logistic, and the softmax is a sigmoid. At τ_f = 1 this is :class:`StraightThroughGumbel`, and
    x ~ p_φ. At any other τ_f the samples follow softmax(φ/τ_f), which is sharper or flatter than p_φ. Then the value
    and the gradient for θ are biased too, on purpose. The gradient for φ is always biased. f must be differentiable at
    the discrete points. k evaluations of f and k backward passes.

    Args:
        samples: k, at least 1; None for one sample without a sample dimension in a program.
        forward_temperature: τ_f, above 0; 1 for exact samples.
        backward_temperature: τ_b, above 0. Both are buffers that :class:`ExponentialTemperature` can lower, by name.
        allow_unused: accept a cost without a path to x; its gradient for φ is then zero.
        allow_steps: accept a cost with a step (round, sign) on its path to x; the gradient for φ ignores the step.

    Raises:
        ValueError: for arguments out of range.
        RuntimeError: for a cost with no path to x, unless `allow_unused`; with a step on it, unless `allow_steps`.

    Example, for φ = 0, τ_f = 1/2, τ_b = 2 and the noise 4 log 3: the score is 2 log 3, so that x = 1. The soft point is
    s = 3/4, with ds/dφ = s (1 - s) / τ_b = 3/32. With f = x², the value is 1, and the gradient is 2x ds/dφ = 3/16:

        >>> import torch, sampleprop as sp
        >>> from sampleprop.estimators.relaxed.relaxation import Draw
        >>> logit = torch.zeros((), requires_grad=True)
        >>> q = torch.distributions.Bernoulli(logits=logit)
        >>> estimator = sp.DecoupledGumbelSoftmax(forward_temperature=0.5, backward_temperature=2.0)
        >>> draw = Draw(estimator.points_from(sp.families.recognize(q), 4 * torch.tensor([3.0]).log()))
        >>> loss = estimator.combine(q, draw, draw.points.square())
        >>> loss.backward()
        >>> loss.detach(), logit.grad
        (tensor(1.), tensor(0.1875))
    """

    needs = "differentiable"
    once = True
    family = "straight-through"
    source = cited("shah2024improving", "version 1")
    forward_temperature: Tensor
    backward_temperature: Tensor

    def __init__(
        self,
        samples: int | None = 1,
        *,
        forward_temperature: float = 1.0,
        backward_temperature: float = 1.0,
        allow_unused: bool = False,
        allow_steps: bool = False,
    ) -> None:
        super().__init__(samples, allow_unused=allow_unused, allow_steps=allow_steps)
        self.hold_temperature("forward_temperature", forward_temperature)
        self.hold_temperature("backward_temperature", backward_temperature)

    @property
    def exact_forward(self) -> bool:  # type: ignore[override]
        """Whether f sees only true samples, which depends on the forward temperature."""
        return bool(self.forward_temperature == 1)

    def points(self, variables: Bernoullis | OneHots, generator: Generator | None) -> Tensor:
        return self.points_from(variables, perturbation(variables, self.draws, generator))

    def points_from(self, variables: Bernoullis | OneHots, noise: Tensor) -> Tensor:
        """The samples that this noise decides, [k, *batch, *event], with the derivative of the softmax."""
        scores = variables.logits + self.forward_temperature * noise
        hard = cast(harden(variables, scores), variables.dtype)
        return straight_through(self.name, hard, soften(variables, scores / self.backward_temperature))
