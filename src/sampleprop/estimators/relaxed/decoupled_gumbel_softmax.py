"""Decoupled straight-through Gumbel-softmax: one temperature for the sample, another for the gradient.

Source: Shah, Yan, Mozer and Liu (2024), "Improving discrete optimisation via decoupled straight-through Gumbel-softmax",
version 1.
Differences from the paper: the forward temperature is the scale of the noise, so that the sample and the soft point
come from the same scores; dividing the logits instead gives samples of the same law.
"""

from __future__ import annotations

from torch import Generator, Tensor

from sampleprop.bibliography import cited
from sampleprop.estimators.relaxed.relaxation import (
    Relaxation,
    harden,
    perturbation,
    soften,
    straight_through,
)
from sampleprop.families import Bernoullis, Discrete, OneHots


class DecoupledGumbelSoftmax(Relaxation[Bernoullis | OneHots]):
    r"""Straight-through Gumbel-softmax with one temperature for how random x is and one for how soft the gradient is.

    .. math::

        x_i = \operatorname{onehot}(\arg\max (\phi + \tau_f G_i)), \qquad
        \nabla_\phi L \approx \frac1k \sum_i
            \Big(\frac{\partial}{\partial \phi} \operatorname{softmax}((\phi + \tau_f G_i)/\tau_b)\Big)^{\!T}
            \nabla_x f(x_i)

    and logistic noise with a sigmoid for bits. At τ_f = 1 this is :class:`StraightThroughGumbel`, and x ~ p_φ. At any
    other τ_f the samples follow softmax(φ/τ_f), sharper or flatter than p_φ: the value and the gradient for θ are then
    biased too, on purpose. The gradient for φ is always biased. f must be differentiable at the discrete points. k
    evaluations of f and k backward passes.

    Args:
        samples: k, at least 1; None for one that adds no dimension in a program.
        forward_temperature: τ_f, above 0; 1 for exact samples.
        backward_temperature: τ_b, above 0. Both are buffers that :class:`ExponentialTemperature` can lower, by name.
        allow_unused: let a cost pass that has no path to x, whose gradient for φ is then zero.

    Raises:
        ValueError: for arguments out of range.
        RuntimeError: for a cost with no path to x, unless `allow_unused`.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.OneHotCategorical(logits=logits)
        >>> estimator = sp.DecoupledGumbelSoftmax(forward_temperature=0.7, backward_temperature=2.0)
        >>> sp.expect(lambda x: x.square().sum(-1), q, estimator).item()
        1.0
    """

    needs = "differentiable"
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
    ) -> None:
        temperatures = {"forward_temperature": forward_temperature, "backward_temperature": backward_temperature}
        super().__init__(samples, allow_unused, temperatures)

    @property
    def exact_forward(self) -> bool:  # type: ignore[override]
        return bool(self.forward_temperature == 1)

    def points(self, variables: Bernoullis | OneHots, generator: Generator | None) -> Tensor:
        noise = perturbation(variables, self.draws, generator)
        return _through(variables, noise, self.forward_temperature, self.backward_temperature)


def _through(variables: Discrete, noise: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    scores = variables.logits + forward * noise
    return straight_through(harden(variables, scores), soften(variables, scores / backward))
