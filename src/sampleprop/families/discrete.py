"""The three discrete families that are known in full: Bernoulli variables, one-hot vectors and integers."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.distributions import Distribution

from sampleprop import noise
from sampleprop.families.enumerable import Enumerable, digits
from sampleprop.sums import over_samples
from sampleprop.surrogate import unsqueeze_to

# Up to this number of classes one uniform number decides, which is fast. Float32 uniforms have spacing 2⁻²⁴, so each
# class probability has an error of up to 2⁻²⁴.
FEW = 256


@dataclass(eq=False)
class Discrete(Enumerable):
    """Independent discrete variables that together are one draw of a distribution.

    Attributes:
        logits: [*batch, *event] (with the classes as last dimension), attached to φ; float32 at least.
        event_ndim: how many trailing dimensions of `logits` belong to one draw.
        dtype: the dtype of the points.
    """

    logits: Tensor
    event_ndim: int
    dtype: torch.dtype
    # None only where tensors alone are kept: in a backward pass, and in a chain of a program.
    dist: Distribution = None  # type: ignore[assignment]
    base: Distribution = None  # type: ignore[assignment]
    _fixed_probs: Tensor | None = field(default=None, init=False)  # what `fixed_probs` returned before

    @property
    def batch_shape(self) -> torch.Size:
        return self.logits.shape[: self.logits.dim() - self.event_ndim]

    @property
    def event_shape(self) -> torch.Size:
        return self.event_logits_shape

    @property
    def parameters(self) -> dict[str, Tensor]:
        return {"logits": self.logits}

    @property
    def event_logits_shape(self) -> torch.Size:
        """The shape of the logits of one draw."""
        return self.logits.shape[self.logits.dim() - self.event_ndim :]

    @staticmethod
    @abstractmethod
    def probs_of(logits: Tensor) -> Tensor:
        """The probabilities of which these are the logits."""

    @property
    def probs(self) -> Tensor:
        """The probabilities, of the shape of `logits`, attached to φ; the mean of the points, except for integers."""
        if not torch.is_grad_enabled():
            return self.fixed_probs
        probs = self.probs_of(self.logits)
        if self._fixed_probs is None:
            self._fixed_probs = probs.detach()
        return probs

    @property
    def fixed_probs(self) -> Tensor:
        """`probs` without graph, computed once."""
        if self._fixed_probs is None:
            self._fixed_probs = self.probs_of(self.logits.detach())
        return self._fixed_probs

    @property
    def mean(self) -> Tensor:
        """E[x], attached to φ, for variables whose points have the shape of the logits."""
        return self.probs

    def centered(self, points: Tensor) -> Tensor:
        """x - E[x] in the dtype of the logits, without graph; it equals the score, because φ are the logits."""
        return self.score(points)

    def through_mean(self, direction: Tensor) -> Tensor:
        """The gradient of ⟨direction, probs⟩ with respect to the logits, [*batch, *event], without graph."""
        probs = self.fixed_probs
        return probs * (direction - (probs * direction).sum(-1, keepdim=True))

    @abstractmethod
    def outcomes(self) -> Tensor:
        """log p_φ of each outcome of each variable, [*batch, *variables, outcomes], attached to φ."""

    def support_log_prob(self) -> Tensor:
        each = self.outcomes()
        *variables, count = each.shape[len(self.batch_shape) :]
        each = each.reshape(*self.batch_shape, math.prod(variables), count).movedim((-2, -1), (0, 1))
        joint = each.new_zeros(1, *self.batch_shape)
        for i in range(each.shape[0]):  # one more variable, which counts higher in the states' numbers
            joint = (each[i].unsqueeze(1) + joint).flatten(0, 1)
        return joint

    def sample(self, k: int, generator: Generator | None = None) -> Tensor:
        """Draw [k, *batch, *event], detached."""
        return self.decide(self.noise_for(k, generator))

    def noise_for(self, k: int, generator: Generator | None = None) -> Tensor:
        """Draw shared noise for k samples: with the same noise, similar logits mostly give the same sample."""
        return noise.gumbel((k, *self.logits.shape), self.logits, generator)

    @abstractmethod
    def decide(self, given: Tensor) -> Tensor:
        """The samples that this noise decides, for noise that broadcasts with `logits`, detached."""

    def score(self, points: Tensor) -> Tensor:
        return self.one_hot(points) - self.fixed_probs

    def gradient_for_logits(self, points: Tensor, weights: Tensor, *, attached: bool = False) -> Tensor:
        """As `Enumerable` says; `attached` to φ where a graph is wanted, for the next derivative."""
        return self.weighted_score(points, weights, attached=attached)

    def weighted_score(self, points: Tensor, weights: Tensor, *, attached: bool = False) -> Tensor:
        """Σ_k w_k `score`(x_k), [*batch, *event] for weights [k, *batch], attached to these, and to φ if asked."""
        statistics, probs = self.one_hot(points), self.probs if attached else self.fixed_probs
        if weights.shape[0] == 1:
            return over_samples(weights, statistics - probs)
        # No copy of p for each sample.
        return over_samples(weights, statistics) - unsqueeze_to(weights.sum(0), self.logits.dim()) * probs

    def weighted_points(self, points: Tensor, weights: Tensor) -> Tensor:
        """Σ_k w_k x_k as sufficient statistics: `gradient_for_logits` for weights that sum to 0 over the samples."""
        return over_samples(weights, self.one_hot(points))

    def one_hot(self, points: Tensor) -> Tensor:
        """The points as the sufficient statistics of the logits, in the dtype of the logits."""
        return points if points.dtype == self.logits.dtype else points.to(self.logits.dtype)


class Bernoullis(Discrete):
    """Bernoulli variables with values 0 and 1."""

    _fixed_opposite: Tensor | None = None  # what these properties returned before
    _variance: Tensor | None = None

    @staticmethod
    def probs_of(logits: Tensor) -> Tensor:
        return logits.sigmoid()

    @property
    def fixed_opposite(self) -> Tensor:
        """The probabilities of 0, without graph, computed once; 1 - p would cancel near p = 1."""
        if self._fixed_opposite is None:
            self._fixed_opposite = (-self.logits.detach()).sigmoid()
        return self._fixed_opposite

    @property
    def rarer(self) -> Tensor:
        """The probability of the rarer value, without graph."""
        return torch.minimum(self.fixed_probs, self.fixed_opposite)

    @property
    def commoner(self) -> Tensor:
        """The probability of the commoner value, without graph."""
        return torch.maximum(self.fixed_probs, self.fixed_opposite)

    @property
    def variance(self) -> Tensor:
        """p (1 - p), without graph, computed once."""
        if self._variance is None:
            self._variance = self.fixed_probs * self.fixed_opposite
        return self._variance

    def through_mean(self, direction: Tensor) -> Tensor:
        return direction * self.variance

    @property
    def support_size(self) -> int:
        return int(2 ** math.prod(self.event_logits_shape))

    def states(self, numbers: Tensor) -> Tensor:
        places = torch.arange(math.prod(self.event_logits_shape), device=numbers.device)
        bits = numbers.unsqueeze(-1) >> places & 1
        return bits.reshape(numbers.shape + self.event_logits_shape).to(self.dtype)

    def outcomes(self) -> Tensor:
        return torch.stack((F.logsigmoid(-self.logits), F.logsigmoid(self.logits)), -1)

    def sample(self, k: int, generator: Generator | None = None) -> Tensor:
        return noise.cast(noise.coins((k, *self.logits.shape), self.fixed_probs, generator), self.dtype)

    def noise_for(self, k: int, generator: Generator | None = None) -> Tensor:
        return noise.uniform((k, *self.logits.shape), self.logits, generator)

    def decide(self, given: Tensor) -> Tensor:
        return noise.above(self.fixed_probs, given, self.dtype)

    def mode(self) -> Tensor:
        return (self.logits.detach() > 0).to(self.dtype)

    def log_prob(self, points: Tensor) -> Tensor:
        # Of each bit that of the mode, log σ(|φ|), and |φ| less where it is the other value: no digits cancel. For
        # infinite logits 0 * |φ| would be NaN, therefore they are made finite, and -inf is put back at the end.
        mode = (self.logits.detach() > 0).to(self.logits.dtype)
        most = torch.finfo(self.logits.dtype).max
        lost = self.inner(points - mode, self.logits.clamp(-most, most))
        lost = lost.masked_fill(lost <= -most, -math.inf)
        # |φ|, whose derivative at 0 would be 0.
        size = (2 * mode - 1) * self.logits if torch.is_grad_enabled() else self.logits.abs()
        return lost + self.sum(F.logsigmoid(size))


class Classes(Discrete):
    """Categorical variables; `logits` are normalized over the last dimension, the classes."""

    @staticmethod
    def probs_of(logits: Tensor) -> Tensor:
        return logits.exp()

    @property
    def support_size(self) -> int:
        *variables, classes = self.event_logits_shape
        return int(classes ** math.prod(variables))

    def outcomes(self) -> Tensor:
        return self.logits

    def gradient_for_logits(self, points: Tensor, weights: Tensor, *, attached: bool = False) -> Tensor:
        """Without -Σ_k w_k p, which the backward pass of the normalization subtracts."""
        return self.weighted_points(points, weights)


class OneHots(Classes):
    """Categorical variables as one-hot vectors."""

    def states(self, numbers: Tensor) -> Tensor:
        return one_hot(_joint_classes(self, numbers), self.logits.shape[-1], self.dtype)

    def sample(self, k: int, generator: Generator | None = None) -> Tensor:
        if self.logits.shape[-1] > FEW:
            return super().sample(k, generator)
        u, upto = _shares(self, k, generator)
        reached = noise.above(upto, u, self.dtype)  # 1 for the class and all later ones
        return reached - torch.constant_pad_nd(reached, (1, -1))

    def decide(self, given: Tensor) -> Tensor:
        return one_hot((self.logits.detach() + given).argmax(-1), self.logits.shape[-1], self.dtype)

    def mode(self) -> Tensor:
        return one_hot(self.logits.detach().argmax(-1), self.logits.shape[-1], self.dtype)

    def log_prob(self, points: Tensor) -> Tensor:
        # 0 * -inf would be NaN for masked classes, therefore -inf is put back at the end.
        least = torch.finfo(self.logits.dtype).min
        total = self.inner(points, self.logits.clamp_min(least))
        return total.masked_fill(total <= least, -math.inf)


class Integers(Classes):
    """Categorical variables as integers: points lack the last dimension of the logits."""

    @property
    def event_shape(self) -> torch.Size:
        return self.event_logits_shape[:-1]

    def states(self, numbers: Tensor) -> Tensor:
        return _joint_classes(self, numbers)

    def sample(self, k: int, generator: Generator | None = None) -> Tensor:
        if self.logits.shape[-1] > FEW:
            return super().sample(k, generator)
        u, upto = _shares(self, k, generator)
        return (u >= upto).sum(-1)

    def decide(self, given: Tensor) -> Tensor:
        return (self.logits.detach() + given).argmax(-1)

    def mode(self) -> Tensor:
        return self.logits.detach().argmax(-1)

    def log_prob(self, points: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(points.shape, self.logits.shape[:-1])
        logits = self.logits.expand(*shape, self.logits.shape[-1])
        return self.sum(logits.gather(-1, points.expand(shape).unsqueeze(-1)))

    def one_hot(self, points: Tensor) -> Tensor:
        return one_hot(points, self.logits.shape[-1], self.logits.dtype)


def one_hot(classes: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """[...] -> [..., count]. `torch.nn.functional.one_hot` reads the values on the way, which vmap over grad cannot."""
    if torch.compiler.is_dynamo_compiling():  # which fuses the comparison with what follows
        return (classes.unsqueeze(-1) == torch.arange(count, device=classes.device)).to(dtype)
    zero = torch.zeros((), dtype=dtype, device=classes.device)
    return zero.expand(*classes.shape, count).scatter(-1, classes.unsqueeze(-1), 1)


def _shares(variables: Discrete, k: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
    """Uniform numbers [k, *batch, *variables, 1], and the distribution function [*batch, *variables, classes]."""
    upto = variables.fixed_probs.cumsum(-1)
    u = noise.uniform((k, *upto.shape[:-1], 1), upto, generator)
    return u * upto[..., -1:], upto  # below its last value, which rounding may leave beside 1


def _joint_classes(variables: Discrete, numbers: Tensor) -> Tensor:
    *shape, classes = variables.event_logits_shape
    return digits(numbers, classes, math.prod(shape)).reshape((*numbers.shape, *shape))  # [..., *variables]
