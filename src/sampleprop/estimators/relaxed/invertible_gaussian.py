r"""Invertible Gaussian reparameterization, with broken sticks.

Source: [potapczynski2020invertible]. Differences from the paper: there the mean and the scale of the Gaussian are free
parameters, the relaxed variable is the model, and a softmax with a temperature follows the sticks. Here the model is
the discrete p_φ: the mean is set from the logits, and the scale is 1. The temperature is inside each stick, so that
sticks broken at temperature 0 give p_φ exactly.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional

from sampleprop import noise
from sampleprop.bibliography import cited
from sampleprop.estimators.relaxed.relaxation import (
    HUGE,
    Tempered,
    normal_quantile,
    quantile_slope,
    summed,
    tempered,
    through_soft,
)
from sampleprop.families import Bernoullis, Discrete, OneHots
from sampleprop.surrogate import refused
from sampleprop.tracing import Function, differentiable_backward, inspectable

NEAR = 60.0  # to where the logarithms of the probabilities may reach down so that no exponential underflows


class InvertibleGaussian(Tempered[Bernoullis | OneHots]):
    r"""Replaces each binary decision between a class and the later ones by the sigmoid of a Gaussian.

    .. math::

        u_c = \sigma((\Phi^{-1}(\beta_c) + \varepsilon_c)/\tau), \qquad x_c = u_c \prod_{j<c} (1 - u_j), \qquad
            \beta_c = \frac{p_c}{\sum_{j \ge c} p_j}

        \nabla_\phi L \approx \frac1k \sum_i \nabla_\phi f(x_i)

    ε is standard normal; a bit is the first of two classes. Since P(u_c > 1/2) = β_c, the first class with u_c > 1/2
    follows p_φ. Unbiased for the relaxed problem E[f(x)]. Its value and its gradients, for θ too, are not those of L.
    They tend to those of L as τ → 0, while the variance grows. The result depends on the order of the classes. f must
    be defined and differentiable between the discrete points. k evaluations of f and k backward passes.

    Args:
        samples: k, at least 1; None for one sample without a sample dimension in a program.
        temperature: τ, above 0; a buffer, which :class:`ExponentialTemperature` can lower during a training.
        allow_unused: accept a cost without a path to x; its gradient for φ is then zero.
        allow_steps: accept a cost with a step (round, sign) on its path to x; the gradient for φ ignores the step.

    Raises:
        ValueError: for arguments out of range.
        RuntimeError: for a cost with no path to x, unless `allow_unused`; with a step on it, unless `allow_steps`.

    Example, for a bit with p = Φ(m), m = 1/2, τ = 1/2 and ε = log(3)/2 - 1/2: x = σ((m + ε) / τ) = σ(log 3) = 3/4, and
    dx/dm = x (1 - x) / τ = 3/8. With f = 8x² - x, the value is 15/4, and the gradient is (16x - 1) dx/dm = 33/8:

        >>> import math, torch, sampleprop as sp
        >>> from sampleprop.estimators.relaxed.relaxation import Draw
        >>> m = torch.tensor(0.5, requires_grad=True)
        >>> q = torch.distributions.Bernoulli(probs=torch.special.ndtr(m))
        >>> estimator = sp.InvertibleGaussian(temperature=0.5)
        >>> epsilon = torch.tensor([math.log(3) / 2 - 0.5])
        >>> draw = Draw(estimator.points_from(sp.families.recognize(q), epsilon))
        >>> loss = estimator.combine(q, draw, 8 * draw.points.square() - draw.points)
        >>> loss.backward()
        >>> loss.detach(), m.grad
        (tensor(3.7500), tensor(4.1250))
    """

    exact_forward = False
    once = True
    needs = "relaxed"
    family = "relaxations"
    aliases = ("IGR",)
    source = cited("potapczynski2020invertible")

    def __init__(
        self,
        samples: int | None = 1,
        *,
        temperature: float = 0.3,
        allow_unused: bool = False,
        allow_steps: bool = False,
    ) -> None:
        super().__init__(samples, temperature=temperature, allow_unused=allow_unused, allow_steps=allow_steps)

    def points(self, variables: Bernoullis | OneHots, generator: Generator | None) -> Tensor:
        sticks: tuple[int, ...] = tuple(variables.logits.shape)
        if not isinstance(variables, Bernoullis):
            sticks = (*sticks[:-1], sticks[-1] - 1)
        return self.points_from(variables, noise.normal((self.draws, *sticks), variables.logits, generator))

    def points_from(self, variables: Bernoullis | OneHots, epsilon: Tensor) -> Tensor:
        """The relaxed points for this noise, one number for each stick: [k, *batch, *event]."""
        parameter, sticks, later = _sticks(variables)
        middle, rare = normal_quantile(sticks)
        scores = tempered(middle, epsilon, self.temperature)
        if isinstance(variables, Bernoullis):
            soft, broken, rest = scores.sigmoid_(), None, None
        else:
            broken, rest = scores.sigmoid(), (-scores).sigmoid()  # the last class takes what is left
            left = functional.pad(rest.cumprod(-1), (1, 0), value=1.0)
            soft = functional.pad(broken, (0, 1), value=1.0) * left
        given = (parameter, later, middle, rare, self.temperature, broken, rest)
        result: Tensor = _Broken.apply(self.name, variables.dtype, soft, *given)
        return result


class _Broken(Function):
    """The points, whose derivative with respect to the logits of the sticks, or of the classes, is written out."""

    generate_vmap_rule = True

    @staticmethod
    def forward(name: str, dtype: torch.dtype, soft: Tensor, *given: Tensor | None) -> Tensor:
        return soft.detach() if soft.dtype == dtype else soft.to(dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name, _, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        soft, parameter, later, middle, rare, temperature, broken, rest = ctx.saved_tensors
        gradient = noise.cast(grad_output, soft.dtype)
        if broken is None:  # bits
            gradient = through_soft(True, soft, gradient)
        else:
            # dx_c/ds_j is (1 - u_j) x_j for the class of the stick itself, and -u_j x_c for the later ones.
            each = gradient * soft
            gradient = each[..., :-1] * rest - broken * _from_here(each[..., 1:])
        gradient = summed(gradient, middle) * quantile_slope(middle, rare) / temperature
        if later is not None:  # η_j = φ_j - log Σ exp φ_i over the later classes i
            share = functional.pad((gradient / later).cumsum(-1), (1, 0))
            gradient = functional.pad(gradient, (0, 1)) - parameter.detach().exp() * share
        if differentiable_backward():
            gradient = refused(ctx.name, gradient, parameter)
        return None, None, None, gradient, *(None,) * 6


def _sticks(variables: Discrete) -> tuple[Tensor, Tensor, Tensor | None]:
    """The logits η of β: of each class against all later ones, [*batch, *variables, classes - 1]; for bits the logits.

    Returns:
        What the gradient is to be handed to, the logits of the variables or η itself; η without graph; and, for the
        logits of classes, the probabilities of all later ones.
    """
    logits = variables.logits
    fixed = logits.detach()
    if isinstance(variables, Bernoullis):
        return logits, fixed.clamp(-HUGE, HUGE), None
    if inspectable(fixed) and not fixed.is_cuda and fixed.numel() and fixed.amin().item() > -NEAR:
        later = _from_here(variables.fixed_probs[..., 1:])
        return logits, fixed[..., :-1] - later.log(), later
    # Masked classes get a huge number instead of infinity: where all later classes are masked, ∞ - ∞ would be NaN.
    logits = logits.clamp_min(-HUGE)
    sticks = logits[..., :-1] - logits[..., 1:].flip(-1).logcumsumexp(-1).flip(-1)
    return sticks, sticks.detach(), None


def _from_here(x: Tensor) -> Tensor:
    """The sum over each class and all later ones."""
    return x.flip(-1).cumsum(-1).flip(-1)
