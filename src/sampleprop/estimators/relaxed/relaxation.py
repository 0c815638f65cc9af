"""What estimators share that differentiate f through relaxed or straight-through points.

Each of them turns the logits and noise into points that are attached to φ; f is then differentiated through them.
"""

from __future__ import annotations

import math
from abc import ABC

import torch
from torch import Generator, Tensor
from torch.nn import functional

from sampleprop import checks, families, noise
from sampleprop.estimators.pathwise.through_points import Draw as Draw
from sampleprop.estimators.pathwise.through_points import ThroughPoints
from sampleprop.surrogate import guarded


class Relaxation(ThroughPoints, ABC):
    """An estimator of first order whose points are a function of the logits, noise and temperatures.

    Args:
        samples: k, at least 1; None for one that adds no dimension in a program.
        allow_unused: let a cost pass that has no path to x, whose gradient for φ is then zero.
        temperatures: by argument, each above 0. They are buffers, not floats: a schedule writes into them without
            making `torch.compile` start again, `state_dict` keeps them, and they are never trained.
    """

    unbiased = False

    def __init__(self, samples: int | None, allow_unused: bool, temperatures: dict[str, float]) -> None:
        super().__init__(samples, allow_unused)
        for argument, value in temperatures.items():
            checks.positive(self.name, argument, value)
            self.register_buffer(argument, torch.tensor(float(value)))

    def draw(self, variables: families.Discrete, points: Tensor) -> Draw:
        """The draw of these points, differentiable once."""
        return Draw(guarded(self.name, points.to(variables.dtype)))


def perturbation(variables: families.Discrete, k: int, generator: Generator | None) -> Tensor:
    """The noise that makes `harden(logits + noise)` an exact sample: logistic or Gumbel, [k, *batch, *event]."""
    law = noise.logistic if isinstance(variables, families.Bernoullis) else noise.gumbel
    return law((k, *variables.logits.shape), variables.logits, generator)


def soften(variables: families.Discrete, scores: Tensor) -> Tensor:
    """The probabilities of these scores as logits: sigmoid for bits, softmax for one-hots."""
    return scores.sigmoid() if isinstance(variables, families.Bernoullis) else scores.softmax(-1)


def harden(variables: families.Discrete, scores: Tensor) -> Tensor:
    """The vertex next to these scores, without graph: x > 0 for bits, the argmax for one-hots."""
    if isinstance(variables, families.Bernoullis):
        return (scores.detach() > 0).to(scores.dtype)
    return families.one_hot(scores.detach().argmax(-1), scores.shape[-1], scores.dtype)


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """`hard`, with the derivative of `soft`."""
    # With these brackets the difference is exactly 0; (hard + soft) - soft would round, and not be one-hot.
    return hard + (soft - soft.detach())


HUGE = 1e18  # stands in for infinity where ∞ - ∞ would be NaN; its square is finite in float32


def probit(logits: Tensor) -> Tensor:
    r"""The normal quantile :math:`\Phi^{-1}(\sigma(\eta))` of the probability with these logits, differentiable once.

    Accurate in the tails too, where the probability itself is 0 or 1 in floating point.
    """
    eta = logits.clamp(-HUGE, HUGE)
    size = eta.detach().abs()
    log_tail = functional.logsigmoid(-size)  # = log Φ(-z) for the quantile z >= 0 of |η|
    hazard_at_0 = math.sqrt(2 / math.pi)
    z = (2 * (-log_tail - math.log(2)) + hazard_at_0**2).sqrt() - hazard_at_0
    # Newton on log Φ(-z) = log_tail, with log Φ(-z) = log(erfcx(z/√2)/2) - z²/2 and derivative -hazard. log Φ is
    # concave and the start is close, so that three steps leave an error of 1e-10.
    for _ in range(3):
        scaled = torch.special.erfcx(z / math.sqrt(2))
        z = z + ((scaled / 2).log() - z.square() / 2 - log_tail) * scaled / hazard_at_0
    slope = size.sigmoid() * torch.special.erfcx(z / math.sqrt(2)) / hazard_at_0  # σ(|η|) / hazard
    quantile: Tensor = torch.copysign(z, eta.detach()) + slope * (eta - eta.detach())
    return quantile
