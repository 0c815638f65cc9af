"""What estimators share that differentiate f through relaxed or straight-through points.

Each of them turns the logits and noise into points that are attached to φ. f is then differentiated through the points.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, TypeVar

import torch
from torch import Generator, Tensor

from sampleprop import checks, noise
from sampleprop.estimators.through_points import Draw as Draw
from sampleprop.estimators.through_points import ThroughPoints
from sampleprop.families import Bernoullis, Discrete, Variables, one_hot
from sampleprop.softmax import softmax, softmax_backward
from sampleprop.surrogate import guarded
from sampleprop.tracing import inspectable

V = TypeVar("V", bound=Variables)


class Relaxation(ThroughPoints[V], ABC):
    """An estimator of first order whose points are a function of the logits and noise."""

    unbiased = False
    hard: ClassVar[bool] = False  # whether `points` come from `straight_through`, which is differentiable once itself

    def hold_temperature(self, argument: str, value: float) -> None:
        """Keep a temperature, above 0, as a buffer and not as a float.

        A schedule can then write into it, and `torch.compile` does not start again. `state_dict` keeps it, and it is
        never trained.
        """
        checks.positive(self.name, argument, value)
        self.register_buffer(argument, torch.tensor(float(value)))

    @abstractmethod
    def points(self, variables: V, generator: Generator | None) -> Tensor:
        """Draw the relaxed or straight-through points, [k, *batch, *event], attached to φ."""

    def draw(self, variables: V, generator: Generator | None) -> Draw:
        points = self.points(variables, generator)
        if self.hard:
            return Draw(points)
        return Draw(guarded(self.name, points if points.dtype == variables.dtype else points.to(variables.dtype)))


class Tempered(Relaxation[V], ABC):
    """A relaxation with one temperature.

    Args:
        samples: k, at least 1; None for one that adds no dimension in a program.
        temperature: τ, above 0; a buffer.
        allow_unused: let a cost pass that has no path to x, whose gradient for φ is then zero.
        allow_steps: let a cost pass that has a step on its path to x (round, sign); the gradient for φ leaves it out.
    """

    temperature: Tensor

    def __init__(
        self,
        samples: int | None = 1,
        *,
        temperature: float = 0.5,
        allow_unused: bool = False,
        allow_steps: bool = False,
    ) -> None:
        super().__init__(samples, allow_unused=allow_unused, allow_steps=allow_steps)
        self.hold_temperature("temperature", temperature)


def perturbation(variables: Discrete, k: int, generator: Generator | None) -> Tensor:
    """The noise that makes `harden(logits + noise)` an exact sample: logistic or Gumbel, [k, *batch, *event]."""
    standard = noise.logistic if isinstance(variables, Bernoullis) else noise.gumbel
    return standard((k, *variables.logits.shape), variables.logits, generator)


def soften(variables: Discrete, scores: Tensor) -> Tensor:
    """The probabilities of which the scores are the logits: sigmoid for bits, softmax for one-hots."""
    return scores.sigmoid() if isinstance(variables, Bernoullis) else softmax(scores)


def through_soft(variables: Discrete, soft: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with respect to the scores, from that with respect to `soft`, which is `soften` of the scores."""
    gradient = gradient.to(soft.dtype)
    through: Tensor
    if isinstance(variables, Bernoullis):
        through = torch.ops.aten.sigmoid_backward(gradient, soft)  # as autograd does it, in one pass
    else:
        through = softmax_backward(gradient, soft)
    return through


def harden(variables: Discrete, scores: Tensor) -> Tensor:
    """The sample that these scores decide, without graph: 1[score > 0] for bits, the argmax for one-hots."""
    if isinstance(variables, Bernoullis):
        return (scores.detach() > 0).to(scores.dtype)
    return one_hot(scores.detach().argmax(-1), scores.shape[-1], scores.dtype)


EDGE = {torch.float32: 80.0, torch.float64: 600.0}  # beyond it the probability of the tail underflows
HUGE = 1e18  # stands in for infinity where ∞ - ∞ would be NaN; its square is finite in float32


def probit(logits: Tensor) -> Tensor:
    r"""The normal quantile :math:`\Phi^{-1}(\sigma(\eta))` of the probability with these logits, differentiable once.

    Accurate in the tails too, where the probability itself is 0 or 1 in floating point.
    """
    inside = logits.clamp(-HUGE, HUGE)
    eta = inside.detach()
    size = eta.abs()
    edge = EDGE[eta.dtype]
    rare = (-size.clamp_max(edge)).sigmoid()
    z = -torch.special.ndtri(rare)
    derivative = rare * (1 - rare) * (z.square() / 2).exp() * math.sqrt(2 * math.pi)  # p (1 - p) over the density
    if not inspectable(size) or size.is_cuda or bool((size > edge).any()):
        tail, tail_derivative = _tail(size.clamp_min(edge))
        z, derivative = torch.where(size > edge, tail, z), torch.where(size > edge, tail_derivative, derivative)
    quantile: Tensor = torch.copysign(z, eta) + derivative * (inside - eta)
    return quantile


def _tail(size: Tensor) -> tuple[Tensor, Tensor]:
    """The quantile and its derivative where σ(-|η|) underflows, from the asymptotic series of Mills' ratio."""
    goal = 2 * size - math.log(2 * math.pi)  # = z² - 2 log(Mills' ratio at z)
    square = goal
    for _ in range(5):
        square = goal - (square / _series(square).square()).log()
    return square.sqrt(), _series(square) / square.sqrt()


def _series(square: Tensor) -> Tensor:
    return 1 - 1 / square + 3 / square**2 - 15 / square**3
