"""Structured discrete variables: subsets, rankings, chains, trees, matchings.

`Structured` is the base of their distributions, `LogLinear` that of the exponential families among them, which know
their log-normalizer A: everything else follows from its derivatives. `Structures` and `LogLinears` are what `recognize`
makes of them for estimators.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Self

import torch
from torch import Generator, Size, Tensor
from torch.distributions import Distribution, constraints, kl

from sampleprop import noise, sums
from sampleprop.families import parameters
from sampleprop.families.enumerable import Enumerable, digits
from sampleprop.surrogate import unsqueeze_to
from sampleprop.tracing import gradient_asked, inspectable, value_and_grad, vjp

Natural = dict[str, Tensor]


class Structured(Distribution, ABC):
    """A distribution over the states of a discrete structure, which has finitely many.

    A subclass keeps each constructor argument under its name. It states those that are tensors in `arg_constraints` as
    real, and whole numbers among them as `nonnegative_integer`. It calls `super().__init__` last.
    """

    has_enumerate_support = True

    def __init__(self, batch_shape: Size, event_shape: Size, validate_args: bool | None) -> None:
        checked = Distribution._validate_args if validate_args is None else validate_args
        super().__init__(batch_shape, event_shape, validate_args=False)
        self._validate_args = checked
        if checked:
            self.require_possible()

    @property
    @abstractmethod
    def natural(self) -> Natural:
        """The natural parameters by name, [*batch, ...] each, attached to φ; float32 at least."""

    @abstractmethod
    def log_density(self, points: Tensor, **natural: Tensor) -> Tensor:
        """log p of the points as a function of the natural parameters, which may have more dimensions on the left.

        Points [..., *event] broadcast with the parameters' [..., *batch]. Differentiable twice.
        """

    @abstractmethod
    def draw(self, shape: Size, generator: Generator | None = None) -> Tensor:
        r"""Draw [\*shape, \*batch, \*event], detached.

        Args:
            shape: the sample dimensions.
            generator: the source of noise; the default one if None.
        """

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of the points."""

    @property
    @abstractmethod
    def support_size(self) -> int:
        """The number of states of one draw, impossible ones included."""

    @abstractmethod
    def states(self, numbers: Tensor) -> Tensor:
        """The states of these numbers from 0 to `support_size` - 1: [...] -> [..., *event]."""

    @abstractmethod
    def contains(self, points: Tensor) -> Tensor:
        """Whether these are states: [..., *event] -> [...]."""

    def possible(self) -> Tensor:
        """Whether any state has a probability above 0, [*batch]."""
        return torch.ones(self.batch_shape, dtype=torch.bool)

    least: str
    """What a row needs so that there is a possible state, for the refusal of one that has none."""

    def require_possible(self) -> None:
        """Refuse parameters that are NaN or +inf, and rows without a possible state.

        Raises:
            ValueError: with the index. Not looked at under `torch.compile` and `torch.func`.
        """
        masked = False
        for name, x in self.natural.items():
            given = x.detach()
            if not inspectable(given):
                return
            wrong = given.isnan() | (given == torch.inf)
            if bool(wrong.any()):
                index = wrong.nonzero()[0].tolist()
                raise ValueError(
                    f"{type(self).__name__} needs {name} that are finite or -inf; got {given[tuple(index)].item()} at "
                    f"index {index}. Fix them, or mask what must not be drawn with -inf."
                )
            masked = masked or bool((given == -torch.inf).any())
        if masked and not bool((possible := self.possible()).all()):
            row = (~possible).nonzero()[0].tolist()
            raise ValueError(f"{type(self).__name__} needs {self.least}; got none in row {row}. Mask less with -inf.")

    def __repr__(self) -> str:
        given = []
        for name in self.arg_constraints:
            value = getattr(self, name)
            given.append(f"{name}: {value.size() if isinstance(value, Tensor) else value}")
        return f"{type(self).__name__}({', '.join(given)})"

    @property
    def support(self) -> constraints.Constraint:
        return _States(self)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return self.draw(Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args and inspectable(value):
            self._validate_sample(value)
        return self.log_density(value, **self.natural)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All states, [support_size, *batch, *event]; with batch dimensions of size 1 unless `expand`."""
        numbers = torch.arange(self.support_size, device=next(iter(self.natural.values())).device)
        states = self.states(numbers)
        states = states.reshape(len(states), *(1 for _ in self.batch_shape), *self.event_shape)
        return states.expand(len(states), *self.batch_shape, *self.event_shape) if expand else states

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        dims = len(self.batch_shape)
        given = parameters.named(self)
        new: Any = parameters.with_parameters(
            self, {name: p.expand(*batch_shape, *p.shape[dims:]) for name, p in given.items()}
        )
        new._validate_args = self._validate_args
        return new  # type: ignore[no-any-return]


class LogLinear(Structured):
    r"""An exponential family :math:`p(x) = \exp(\langle\theta, T(x)\rangle - A(\theta))` that knows A.

    A subclass gives the log-normalizer A as a pure function, and the statistics T if they are not the point itself.
    The marginals are ∇A, their derivative is ∇²A, the entropy is A - ⟨θ, ∇A⟩.
    """

    @abstractmethod
    def log_normalizer(self, **natural: Tensor) -> Tensor:
        """A, [..., *batch], for natural parameters [..., *batch, ...]; differentiable twice; -inf without a state."""

    def statistics(self, points: Tensor) -> Natural:
        """T(x) by the names of the natural parameters, of their shapes."""
        (name,) = self.natural
        return {name: points}

    def mean_of(self, moments: Natural) -> Tensor:
        """E[x] from the expected statistics."""
        (mean,) = moments.values()
        return mean

    def log_density(self, points: Tensor, **natural: Tensor) -> Tensor:
        return self.inner(natural, self.statistics(points)) - self.log_normalizer(**natural)

    def possible(self) -> Tensor:
        with torch.no_grad():
            return self.log_normalizer(**self.natural) > -torch.inf

    def moments(self, **natural: Tensor) -> Natural:
        """E[T(x)] = ∇A, attached to the natural parameters where gradients are on."""
        if (
            not torch.compiler.is_dynamo_compiling() and torch.is_inference_mode_enabled()
        ):  # there autograd records nothing, not even this derivative
            with torch.inference_mode(False), torch.no_grad():
                return self.moments(**{name: x.clone() for name, x in natural.items()})

        def total(*tensors: Tensor) -> Tensor:
            return self.log_normalizer(**dict(zip(natural, tensors, strict=True)))

        # Otherwise the result would be attached to copies. While compiling, grad mode inside `vjp` is not what it says.
        alone = not torch.compiler.is_dynamo_compiling() and not any(gradient_asked(x) for x in natural.values())
        with torch.no_grad() if alone else nullcontext():
            _, moments = value_and_grad(total, *natural.values())
        return dict(zip(natural, moments, strict=True))

    def inner(self, natural: Natural, statistics: Natural) -> Tensor:
        """⟨θ, T⟩, [..., *batch], where 0 times -inf is 0; T is not negative."""
        total: Tensor | float = 0.0
        own = self.natural
        for name, theta in natural.items():
            t = statistics[name].to(theta.dtype)
            dims = own[name].dim() - len(self.batch_shape)
            total = total + sums.with_impossible(t, theta, dims)
        assert isinstance(total, Tensor)
        return total

    @property
    def mean(self) -> Tensor:
        """The marginals, [*batch, *event], attached to φ."""
        return self.mean_of(self.moments(**self.natural))

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate, which is 0 or 1."""
        mean = self.mean
        return mean * (1 - mean)

    def entropy(self) -> Tensor:
        natural = self.natural
        return self.log_normalizer(**natural) - self.inner(natural, self.moments(**natural))


@kl.register_kl(LogLinear, LogLinear)  # type: ignore[untyped-decorator]
def _kl(p: LogLinear, q: LogLinear) -> Tensor:
    """⟨θ_p - θ_q, ∇A_p⟩ - A_p + A_q, for two distributions of one structure."""
    if type(p) is not type(q) or p.event_shape != q.event_shape or _numbers(p) != _numbers(q):
        raise NotImplementedError(
            f"kl_divergence needs two distributions over one structure; got {p} and {q}. Estimate it by "
            "kl_surrogate from samples."
        )
    ours, theirs = p.natural, q.natural
    moments = p.moments(**ours)
    difference = {
        name: torch.where(ours[name] == -torch.inf, 0.0, ours[name]) - theirs[name] for name in ours
    }  # where ours is -inf the moment is 0
    return p.inner(difference, moments) - p.log_normalizer(**ours) + q.log_normalizer(**theirs)


def _numbers(structure: Structured) -> dict[str, int]:
    """The whole numbers among the constructor's arguments."""
    return {name: value for name, value in vars(structure).items() if type(value) is int}


class _States(constraints.Constraint):
    """The states of a structure."""

    is_discrete = True

    def __init__(self, structure: Structured) -> None:
        self.structure = structure
        self.event_dim = len(structure.event_shape)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return self.structure.contains(value)


class Structures(Enumerable):
    """A structure, or several independent ones that are one draw.

    Several natural parameters are packed into one tensor `logits`.
    """

    _support: Tensor | None = None  # what `support` returned before

    def __init__(self, dist: Distribution, base: Structured, copies_ndim: int) -> None:
        self.dist = dist
        self.base: Structured = base
        self.copies_ndim = copies_ndim
        self.event_ndim = copies_ndim + len(base.event_shape)
        self.dtype = base.dtype
        natural = base.natural
        self._shapes = {name: x.shape[len(base.batch_shape) :] for name, x in natural.items()}
        self.logits = self._packed(natural)

    @property
    def parameters(self) -> dict[str, Tensor]:
        return {name: noise.promote(p) for name, p in parameters.named(self.base).items()}

    def sample(self, k: int, generator: Generator | None = None) -> Tensor:
        with torch.no_grad():
            return self.base.draw(Size((k,)), generator)

    def mode(self) -> Tensor:
        return self.base.mode.detach()

    def log_prob(self, points: Tensor) -> Tensor:
        return self._log_prob(self.logits, points)

    def score(self, points: Tensor) -> Tensor:
        copies = self.logits.detach().expand(*points.shape[:1], *self.logits.shape)
        with torch.no_grad():
            return value_and_grad(lambda logits: self._log_prob(logits, points), copies)[1][0]

    def scores(self, points: Tensor, names: Sequence[str] | None = None) -> tuple[Tensor, ...]:
        named = parameters.named(self.base)
        if len(named) == 1:
            return (self.score(points),)
        named = named if names is None else {name: named[name] for name in names}
        copies = tuple(noise.promote(p).detach().expand(*points.shape[:1], *p.shape) for p in named.values())

        def total(*tensors: Tensor) -> Tensor:
            moved: Any = parameters.with_parameters(self.base, dict(zip(named, tensors, strict=True)))
            return moved.log_density(points, **moved.natural)  # type: ignore[no-any-return]

        with torch.no_grad():
            return value_and_grad(total, *copies)[1]

    def gradient_for_logits(self, points: Tensor, weights: Tensor) -> Tensor:
        with torch.no_grad():
            _, pull = vjp(lambda logits: self._log_prob(logits, points), self.logits)
            return pull(weights)[0]

    @property
    def support_size(self) -> int:
        return int(self.base.support_size ** self._copies.numel())

    def states(self, numbers: Tensor) -> Tensor:
        count, copies = self.base.support_size, self._copies
        return self.base.states(digits(numbers, count, copies.numel()).reshape(*numbers.shape, *copies))

    def support(self) -> Tensor:
        if self._support is None:
            self._support = super().support()
        return self._support

    def support_log_prob(self) -> Tensor:
        support = self.support()
        return self.log_prob(support.reshape(len(support), *(1 for _ in self.batch_shape), *self.event_shape))

    @property
    def _copies(self) -> Size:
        """How many structures are one draw."""
        shape = self.base.batch_shape
        return shape[len(shape) - self.copies_ndim :]

    def _log_prob(self, logits: Tensor, points: Tensor) -> Tensor:
        log_prob = self.base.log_density(points, **self._unpacked(logits))
        return log_prob.sum(tuple(range(-self.copies_ndim, 0))) if self.copies_ndim else log_prob

    def _packed(self, natural: Natural) -> Tensor:
        """All parts in one tensor with as many dimensions for one draw as a point has: [..., *batch, *natural]."""
        wanted = len(self.base.event_shape)
        shapes = self._shapes
        parts = [x.flatten(x.dim() - len(shapes[name])) for name, x in natural.items()]
        if len(parts) == 1 and len(next(iter(shapes.values()))) == wanted:
            return next(iter(natural.values()))
        flat = torch.cat(parts, -1)
        return flat.reshape(*flat.shape[:-1], *(1 for _ in range(wanted - 1)), flat.shape[-1])

    def _unpacked(self, logits: Tensor) -> Natural:
        """The inverse of `_packed`."""
        wanted, shapes = len(self.base.event_shape), self._shapes
        if len(shapes) == 1 and len(next(iter(shapes.values()))) == wanted:
            return dict.fromkeys(shapes, logits)
        parts = logits.flatten(logits.dim() - wanted).split([shape.numel() for shape in shapes.values()], -1)
        return {
            name: part.reshape(*part.shape[:-1], *shape)
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }


class LogLinears(Structures):
    """Structures with known marginals."""

    base: LogLinear
    _expected: Tensor | None = None  # what `_moments` returned before: functools.cached_property does not compile

    def score(self, points: Tensor) -> Tensor:
        return self._statistics(points) - self._moments()

    def gradient_for_logits(self, points: Tensor, weights: Tensor) -> Tensor:
        statistics = self._statistics(points)
        weights = unsqueeze_to(weights, statistics.dim())
        return (weights * statistics).sum(0) - weights.sum(0) * self._moments()

    @property
    def mean(self) -> Tensor:
        """The marginals, [*batch, *event], attached to φ."""
        return self._mean(self.logits)

    def centered(self, points: Tensor) -> Tensor:
        """x - E[x] in the dtype of the logits, without graph."""
        mean = self.base.mean_of(self._unpacked(self._moments()))
        return points.to(mean.dtype) - mean

    def through_mean(self, direction: Tensor) -> Tensor:
        """The gradient of ⟨direction, E[x]⟩ with respect to the logits, [*batch, *natural], without graph."""
        with torch.no_grad():
            _, pull = vjp(self._mean, self.logits)
            return pull(direction)[0]

    def _moments(self) -> Tensor:
        """E[T(x)] packed as the logits are, without graph."""
        if self._expected is None:
            with torch.no_grad():
                self._expected = self._packed(self.base.moments(**self._unpacked(self.logits.detach())))
        return self._expected

    def _mean(self, logits: Tensor) -> Tensor:
        return self.base.mean_of(self.base.moments(**self._unpacked(logits)))

    def _statistics(self, points: Tensor) -> Tensor:
        return self._packed(self.base.statistics(points.to(self.logits.dtype)))


def logsumexp(x: Tensor, dim: int) -> Tensor:
    """log Σ exp x over a dimension. Where all terms are -inf, the value is -inf and every derivative is 0.

    `torch.logsumexp` has the derivative NaN there.
    """
    largest = x.detach().amax(dim, keepdim=True)
    largest = torch.where(largest == -torch.inf, 0.0, largest)
    total = (x - largest).exp().sum(dim)
    some = total > 0
    return torch.where(some, torch.where(some, total, 1.0).log() + largest.squeeze(dim), -torch.inf)
