"""Decoupled straight-through Gumbel-softmax: one temperature for the sample, another for the gradient.

Source: Shah, Yan, Mozer and Liu (2024), "Improving discrete optimisation via decoupled straight-through Gumbel-softmax",
version 1.
Differences from the paper: the forward temperature is the scale of the noise, so that the sample and the soft point
come from the same scores; dividing the logits instead gives samples of the same law.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Distribution

from sampleprop import families
from sampleprop.estimator import Source, Worked
from sampleprop.estimators.relaxed.relaxation import (
    Draw,
    Relaxation,
    harden,
    perturbation,
    soften,
    straight_through,
)


class DecoupledGumbelSoftmax(Relaxation):
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
    families = (families.Bernoullis, families.OneHots)
    source = Source(
        key="shah2024improving",
        authors="Rushi Shah and Mingyuan Yan and Michael Curtis Mozer and Dianbo Liu",
        year=2024,
        title="Improving discrete optimisation via decoupled straight-through Gumbel-softmax",
        venue="arXiv preprint",
        arxiv="2410.13331",
        where="version 1",
        kind="misc",
    )
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

    def propose(self, dist: Distribution, *, context: Tensor | None = None, generator: Generator | None = None) -> Draw:
        variables = families.variables(dist)
        noise = perturbation(variables, self.draws, generator)
        return self.draw(variables, _through(variables, noise, self.forward_temperature, self.backward_temperature))

    @classmethod
    def worked(cls) -> Worked:
        # At η = 0 with logistic noise 4 log 3, scaled by τ_f = 1/2 to 2 log 3: x = 1, and at τ_b = 2 the soft point is
        # s = 3/4, ds/dη = s (1 - s) / τ_b = 3/32. With f = x²: the value 1, and 2 x ds/dη = 3/16.
        noise = 4 * torch.tensor([3.0], dtype=torch.float64).log()
        estimator = cls(forward_temperature=0.5, backward_temperature=2.0)
        temperatures = estimator.forward_temperature, estimator.backward_temperature
        return Worked(
            estimator=estimator,
            parameter=torch.zeros((), dtype=torch.float64),
            dist=lambda logits: Bernoulli(logits=logits),
            draw=lambda dist: Draw(_through(families.variables(dist), noise, *temperatures)),
            f=torch.square,
            value=torch.tensor(1.0, dtype=torch.float64),
            gradient=torch.tensor(0.1875, dtype=torch.float64),
        )


def _through(variables: families.Discrete, noise: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    scores = variables.logits + forward * noise
    return straight_through(harden(variables, scores), soften(variables, scores / backward))
