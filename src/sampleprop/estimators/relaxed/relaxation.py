"""What estimators share that differentiate f through relaxed or straight-through points.

Each of them turns the logits and noise into points that are attached to φ. f is then differentiated through the points.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeVar

import torch
from torch import Generator, Tensor

from sampleprop import checks, noise
from sampleprop.estimators.through_points import Draw as Draw
from sampleprop.estimators.through_points import ThroughPoints
from sampleprop.families import Bernoullis, Discrete, Variables, one_hot
from sampleprop.softmax import softmax, softmax_backward
from sampleprop.surrogate import guarded, needing, refused
from sampleprop.tracing import Function, differentiable_backward, inspectable

V = TypeVar("V", bound=Variables)


class Relaxation(ThroughPoints[V], ABC):
    """An estimator of first order whose points are a function of the logits and noise."""

    unbiased = False
    once: ClassVar[bool] = False  # whether `points` are differentiable once already

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
        if not self.once:
            logits = variables.logits if isinstance(variables, Discrete) else None
            points = guarded(self.name, noise.cast(points, variables.dtype), logits)
        return Draw(points, None)


class Tempered(Relaxation[V], ABC):
    """A relaxation with one temperature.

    Args:
        samples: k, at least 1; None for one sample without a sample dimension in a program.
        temperature: τ, above 0; a buffer.
        allow_unused: accept a cost without a path to x; its gradient for φ is then zero.
        allow_steps: accept a cost with a step (round, sign) on its path to x; the gradient for φ ignores the step.
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


def tempered(logits: Tensor, noise: Tensor, temperature: Tensor) -> Tensor:
    """(logits + noise) / temperature. Of several samples in one pass: the logits are divided before they are copied."""
    if noise.shape[0] == 1:
        return (logits + noise) / temperature
    return torch.addcmul(logits / temperature, noise, 1 / temperature)


def soften(variables: Discrete, scores: Tensor) -> Tensor:
    """The probabilities of which the scores are the logits: sigmoid for bits, softmax for one-hots."""
    return scores.sigmoid() if isinstance(variables, Bernoullis) else softmax(scores)


def through_soft(bits: bool, soft: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with respect to the scores, from that with respect to `soft`, which is `soften` of the scores."""
    gradient = noise.cast(gradient, soft.dtype)
    if not bits:
        return softmax_backward(gradient, soft)
    through: Tensor = torch.ops.aten.sigmoid_backward(gradient, soft)  # as autograd does it, in one pass
    return through


def through_softmax(
    name: str, variables: Discrete, points: Tensor, *softs: tuple[float, Tensor], temperature: Tensor | None = None
) -> Tensor:
    r"""Return the points, differentiable once: their derivative with respect to the logits is given by soft points.

    .. math::

        \frac{\partial x}{\partial \phi} = \frac1\tau \sum_j w_j J(s_j), \qquad J(s) = \operatorname{diag}(s) - s s^T

    Nothing of this is recorded until the backward pass, which multiplies by each J once.

    Args:
        name: the estimator, for the refusal of a second derivative.
        variables: Bernoulli or one-hot variables.
        points: [k, \*batch, \*event], without graph.
        softs: each w and s, without graph: [k, \*batch, \*event], [\*batch, \*event] for all samples, or
            [m, k, \*batch, \*event] for a sum over m.
        temperature: τ; None for 1.
    """
    bits, weights = isinstance(variables, Bernoullis), tuple(weight for weight, _ in softs)
    given = (variables.logits, temperature, *(soft for _, soft in softs))
    result: Tensor = _ThroughSoftmax.apply(name, bits, weights, points, *given)
    return result


class _ThroughSoftmax(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(name: str, bits: bool, weights: tuple[float, ...], points: Tensor, *given: Tensor | None) -> Tensor:
        if torch.compiler.is_dynamo_compiling():
            return needing(points, [soft for soft in given[2:] if soft is not None])
        return points.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name, ctx.bits, ctx.weights, _, *given = inputs
        ctx.save_for_backward(*given)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        logits, temperature, *softs = ctx.saved_tensors
        total: Any = None
        for weight, soft in zip(ctx.weights, softs, strict=True):
            gradient = grad_output
            if soft.dim() == logits.dim():  # the same for all samples, whose gradients are summed first
                gradient = summed(gradient, logits)
            elif soft.dim() > gradient.dim():
                gradient = gradient.expand_as(soft)
            part = summed(through_soft(ctx.bits, soft, gradient), logits) * weight
            total = part if total is None else total + part
        if temperature is not None:
            total = total / temperature
        if differentiable_backward():
            total = refused(ctx.name, total, logits)
        return None, None, None, None, total, None, *(None for _ in softs)


def summed(x: Tensor, like: Tensor) -> Tensor:
    """Summed over the first dimensions, which `like` lacks."""
    if x.dim() == like.dim():
        return x
    return x.reshape(like.shape) if x.numel() == like.numel() else x.sum_to_size(like.shape)


def harden(variables: Discrete, scores: Tensor) -> Tensor:
    """The sample that these scores decide, without graph: 1[score > 0] for bits, the argmax for one-hots."""
    if isinstance(variables, Bernoullis):
        return noise.above(scores.detach(), 0.0, scores.dtype)
    return one_hot(scores.detach().argmax(-1), scores.shape[-1], scores.dtype)


# Below it the density at the quantile underflows.
RAREST = {torch.float32: math.exp(-80.0), torch.float64: math.exp(-600.0)}
HUGE = 1e18  # stands in for infinity where ∞ - ∞ would be NaN; its square is finite in float32


def probit(logits: Tensor) -> Tensor:
    r"""The normal quantile :math:`\Phi^{-1}(\sigma(\eta))` of the probability with these logits, attached to them."""
    inside = logits.clamp(-HUGE, HUGE)
    eta = inside.detach()
    z, rare = normal_quantile(eta)
    return z + quantile_slope(z, rare) * (inside - eta)


def normal_quantile(logits: Tensor) -> tuple[Tensor, Tensor]:
    r"""z = :math:`\Phi^{-1}(\sigma(\eta))`, and the rarer probability, σ(-|η|); for logits without graph.

    Accurate in the tails too, where the probability itself is 0 or 1 in floating point.
    """
    size = logits.abs()
    rare = (-size).sigmoid()
    z = torch.special.ndtri(rare)
    if _in_tails(rare):
        z = torch.where(rare < RAREST[rare.dtype], _tail(size), z)
    return torch.copysign(z, logits), rare


def quantile_slope(z: Tensor, rare: Tensor) -> Tensor:
    """dz/dη, which is p (1 - p) over the density, from what `normal_quantile` returned."""
    square = z.square()
    slope = torch.addcmul(rare, rare, rare, value=-1) * (square / 2).exp() * math.sqrt(2 * math.pi)
    if _in_tails(rare):
        slope = torch.where(rare < RAREST[rare.dtype], _series(square) / square.sqrt(), slope)
    return slope


def _in_tails(rare: Tensor) -> bool:
    """Whether some of these probabilities may be too small for the density at their quantiles."""
    if not inspectable(rare) or rare.is_cuda:
        return True
    return rare.numel() > 0 and rare.amin().item() < RAREST[rare.dtype]


def _tail(size: Tensor) -> Tensor:
    """The quantile where σ(-|η|) underflows, from the asymptotic series of Mills' ratio."""
    size = size.clamp_min(50.0)  # elsewhere it is not asked for
    goal = 2 * size - math.log(2 * math.pi)  # = z² - 2 log(Mills' ratio at z)
    square = goal
    for _ in range(5):
        square = goal - (square / _series(square).square()).log()
    return square.sqrt()


def _series(square: Tensor) -> Tensor:
    return 1 - 1 / square + 3 / square**2 - 15 / square**3
