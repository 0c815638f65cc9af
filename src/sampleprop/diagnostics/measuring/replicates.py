"""Many independent estimates from one call of f: replicates are further rows of the batch."""

from __future__ import annotations

import copy
import sysconfig
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributions as td
from torch import Generator, Tensor
from torch.distributions import Distribution

from sampleprop import checks, families
from sampleprop.estimator import Estimator
from sampleprop.expectation import expect

MOST_CELLS = 2**15  # costs that one call of f computes at most, replicates included
MOST_NUMBERS = 2**23  # numbers in the points of one call
TRAINING_ROWS = 64
TRAINING_RATE = 0.01


class Estimates(NamedTuple):
    """Independent estimates of one expectation."""

    values: Tensor  # [count], summed over the batch
    gradients: Tensor  # [count, coordinates], float64
    evaluations: int  # points at which one estimate evaluated f, per batch element


class Measured(ABC):
    """E_{x ~ p_φ}[f(x)] with f held fixed, and how to estimate it and its gradient many times.

    Args:
        f: from [k, *batch, *event] to [k, *batch].
        dist: p_φ.
        context: [*batch, ...] or None.
        nonfinite: as in `expect`.

    Raises:
        ValueError: for an empty batch.
    """

    def __init__(
        self,
        f: Callable[[Tensor], Any],
        dist: Distribution,
        context: Tensor | None = None,
        nonfinite: checks.Nonfinite = "raise",
    ) -> None:
        if 0 in dist.batch_shape:
            raise ValueError(
                "A gradient needs at least one batch element to be measured; got batch shape "
                f"{list(dist.batch_shape)}. Pass a batch that is not empty."
            )
        self.f = f
        self.dist = dist
        self.context = context
        self.nonfinite: checks.Nonfinite = nonfinite
        self.variables = families.recognize(dist)
        self.batch = tuple(dist.batch_shape)
        self.device: torch.device
        self.rounding: float  # the relative error of a gradient in its dtype
        self.long_run = 32  # samples in one estimate of a reference
        self.shapes: dict[str, torch.Size]  # of the tensors with respect to which the gradient is measured, by name
        self.trained_rows = max(1, TRAINING_ROWS // _product(self.batch))  # estimates in one step of training

    @abstractmethod
    def without_log_q(self) -> Measured:
        """The expectation of f - log q, the ELBO. This log q is detached: its own gradient has mean zero."""

    @abstractmethod
    def together(self) -> Measured:
        """The same for a reference, of which only the means of many estimates are wanted."""

    @abstractmethod
    def _estimates(self, estimator: Estimator[Any, Any], count: int, generator: Generator) -> Estimates:
        """`count` independent estimates from one call of f."""

    @abstractmethod
    def _run(
        self, estimator: Estimator[Any, Any], count: int, generator: Generator
    ) -> tuple[Tensor, tuple[Tensor, ...], int]:
        """`count` independent values, the tensors that their gradient is for, and the points that one evaluates."""

    def costs(self, name: str, points: Tensor) -> Tensor:
        """f at points [k, *batch, *event], for any k: [k, *batch]."""
        with any_number(points.shape[0]):
            return checks.costs(name, self.dist, points, self.f(points))

    def generator(self, seed: int) -> Generator:
        """A generator on the device of the parameters."""
        return Generator(self.device).manual_seed(seed)

    def fits(self, evaluations: int) -> int:
        """How many estimates fit into one call of f."""
        cells = max(1, evaluations) * _product(self.batch)
        return max(1, min(MOST_CELLS // cells, MOST_NUMBERS // (cells * _product(self.dist.event_shape))))

    def estimates(
        self, estimator: Estimator[Any, Any], count: int, generator: Generator, at_once: int | None = None
    ) -> Estimates:
        """`count` independent estimates of value and gradient, `at_once` in a call, by default as many as fit."""
        parts, left = [], count
        at_once = at_once or self.fits(estimator.evaluations(self.dist)[0])
        while left:
            parts.append(self._estimates(estimator, min(left, at_once), generator))
            left -= min(left, at_once)
        return Estimates(
            torch.cat([part.values for part in parts]),
            torch.cat([part.gradients for part in parts]),
            parts[0].evaluations,
        )

    def rows(self, gradients: Tensor) -> Tensor:
        """Arrange gradients by batch element: [count, coordinates] -> [count, elements, ...].

        Tensors without the batch's dimensions belong to no element: then all of the gradient is one row.
        """
        if any(shape[: len(self.batch)] != self.batch for shape in self.shapes.values()):
            return gradients.unsqueeze(1)
        sizes = [shape.numel() for shape in self.shapes.values()]
        parts = [part.reshape(len(gradients), _product(self.batch), -1) for part in gradients.split(sizes, 1)]
        return torch.cat(parts, 2)

    def step(self, estimator: Estimator[Any, Any], generator: Generator) -> None:
        """Compute one estimate and the gradients that a training step needs: for φ and for the control variate."""
        result, leaves, _ = self._run(estimator, 1, generator)
        own = [p for p in estimator.parameters() if p.requires_grad]
        torch.autograd.grad(result.sum(), [*leaves, *own], allow_unused=True)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def train(
        self,
        estimator: Estimator[Any, Any],
        steps: int,
        generator: Generator,
        finished: Callable[[int], None] = lambda step: None,
    ) -> None:
        """Train the estimator's own parameters with Adam on this problem, and let its averages move.

        Args:
            estimator: it is left in training mode.
            steps: how many.
            generator: for the draws.
            finished: called with the number of finished steps.
        """
        own = [p for p in estimator.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(own, lr=TRAINING_RATE) if own else None
        estimator.train()
        for step in range(1, steps + 1):
            result, leaves, _ = self._run(estimator, self.trained_rows, generator)
            inputs = own or leaves  # without parameters too, because an average moves in the backward pass
            gradients = torch.autograd.grad(result.mean(), inputs, allow_unused=True)
            for parameter, gradient in zip(inputs, gradients, strict=True):
                parameter.grad = gradient
            if optimizer is not None:
                optimizer.step()
            finished(step)
        for parameter in own:
            parameter.grad = None

    def _expect(
        self,
        estimator: Estimator[Any, Any],
        dist: Distribution,
        count: int,
        context: Tensor | None,
        generator: Generator,
    ) -> tuple[Tensor, int]:
        """The estimates of `dist`, which stands for `count` times the given one, and the points that one evaluates."""
        evaluated = 0

        def f(points: Tensor) -> Tensor:
            nonlocal evaluated
            k = points.shape[0]
            evaluated += k
            # The user's f gets [k', *batch, *event] as usual, with k' = k × count.
            flat = points.reshape(k * count, *self.batch, *self.dist.event_shape)
            return self.costs(estimator.name, flat).reshape(k, *dist.batch_shape)

        result = expect(f, dist, estimator, context=context, generator=generator, nonfinite=self.nonfinite)
        if result.shape != dist.batch_shape:
            raise ValueError(
                f"{estimator.name}.combine needs to return one estimate for each batch element, shape "
                f"{list(dist.batch_shape)}; got {list(result.shape)}. Average over the samples, and nothing else."
            )
        if not result.requires_grad:
            raise RuntimeError(
                f"{estimator.name}.combine needs to return a value with a gradient for the distribution; got a "
                "detached one. End it with sampleprop.surrogate.surrogate(...), or keep log p attached."
            )
        return result, evaluated


class Expectation(Measured):
    """The parameters of p_φ are copied, so that each estimate has its own gradient and φ's `.grad` is not touched.

    The gradient is that with respect to the parameters in `Variables.parameters` that require one, or with respect to
    all of them where none does.

    Raises:
        TypeError: for a distribution that does not store its parameters under their names, or that cannot be copied.
        ValueError: for an empty batch.
    """

    def __init__(
        self,
        f: Callable[[Tensor], Any],
        dist: Distribution,
        context: Tensor | None = None,
        nonfinite: checks.Nonfinite = "raise",
    ) -> None:
        super().__init__(f, dist, context, nonfinite)
        self.parameters = {name: p.detach() for name, p in self.variables.parameters.items()}
        attached = [name for name, p in self.variables.parameters.items() if p.requires_grad]
        self.measured = attached or list(self.parameters)
        self.shapes = {name: self.parameters[name].shape for name in self.measured}
        self.fixed = families.with_parameters(dist, self.parameters)
        self.device = next(iter(self.parameters.values())).device
        self.rounding = 64 * max(torch.finfo(self.parameters[name].dtype).eps for name in self.measured)
        for name, p in self.parameters.items():
            if p.dim() < len(self.batch):
                raise TypeError(
                    f"The gradient with respect to the parameters of {self.variables.kind} needs parameters with the "
                    f"batch shape {list(self.batch)}, so that they can be copied; got {name} of shape "
                    f"{list(p.shape)}. Expand it in the constructor (torch.distributions.utils.broadcast_all)."
                )

    def without_log_q(self) -> Expectation:
        """The expectation of f - log q, the ELBO. This log q is detached: its own gradient has mean zero."""

        def f(points: Tensor) -> Tensor:
            return self.costs("f", points) - families.recognize(self.fixed).log_prob(points).detach()

        return Expectation(f, self.dist, self.context, self.nonfinite)

    def together(self) -> Expectation:
        return self

    def copies(self, count: int) -> tuple[Distribution, tuple[Tensor, ...]]:
        """`count` copies of the distribution along the first batch dimension, and their leaves [count, ...]."""
        leaves = {name: p.expand(count, *p.shape).clone() for name, p in self.parameters.items()}
        measured = tuple(leaves[name].requires_grad_() for name in self.measured)
        rows = {name: self._rows(leaf) for name, leaf in leaves.items()}
        return families.with_parameters(self._source(count), rows), measured

    def _estimates(self, estimator: Estimator[Any, Any], count: int, generator: Generator) -> Estimates:
        result, leaves, evaluations = self._run(estimator, count, generator)
        gradients = torch.autograd.grad(result.sum(), leaves, allow_unused=True)
        flat = [
            torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, gradients, strict=True)
        ]  # each [count, *batch, ...]
        return Estimates(
            result.detach().reshape(count, -1).sum(1).double(),
            torch.cat([g.reshape(count, -1) for g in flat], 1).double(),
            evaluations,
        )

    def _run(
        self, estimator: Estimator[Any, Any], count: int, generator: Generator
    ) -> tuple[Tensor, tuple[Tensor, ...], int]:
        dist, leaves = self.copies(count)
        context = None if self.context is None else self._rows(self.context.expand(count, *self.context.shape))
        result, evaluated = self._expect(estimator, dist, count, context, generator)
        return result, leaves, evaluated

    def _rows(self, x: Tensor) -> Tensor:
        """[count, *batch, ...] -> [count * batch[0], ...], so that the batch keeps its number of dimensions."""
        return x.flatten(0, 1) if self.batch else x

    def _source(self, count: int) -> Distribution:
        """The distribution from which `with_parameters` reads fixed parameters (a number of trials), one per row."""
        base, event_ndim = families.unwrap(self.dist)
        fixed = {
            name: value
            for name, constraint in base.arg_constraints.items()
            if getattr(constraint, "is_discrete", False) and isinstance(value := base.__dict__.get(name), Tensor)
        }
        if not fixed:
            return self.dist
        base = copy.copy(base)
        base.__dict__.update({name: self._rows(value.expand(count, *value.shape)) for name, value in fixed.items()})
        return td.Independent(base, event_ndim, validate_args=False) if event_ndim else base


@contextmanager
def any_number(k: int) -> Iterator[None]:
    """Add a note to errors of f: here f is called with other numbers of points than in training."""
    try:
        yield
    except Exception as error:
        error.add_note(f"f was called with {k} points for each batch element. {_ANY_NUMBER}")
        raise


@contextmanager
def buffers_kept(estimator: Estimator[Any, Any]) -> Iterator[None]:
    """Put every buffer back at the end: what is only tried or timed in training mode must not move an average."""
    before = [buffer.clone() for buffer in estimator.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, kept in zip(estimator.buffers(), before, strict=True):
                buffer.copy_(kept)


def describe_error(error: BaseException) -> str:
    """What an error says, with its notes, on one line. One that the user's own code raised has its kind and place."""
    where = place(error)
    text = " ".join((str(error) or type(error).__name__, *getattr(error, "__notes__", ())))
    if where:
        text = f"{type(error).__name__}: {str(error) or 'no message'} ({where})."
        if isinstance(error, RuntimeError):  # torch's, of shapes
            text += f" {_ANY_NUMBER}"
    return " ".join(text.split())


def place(error: BaseException) -> str:
    """The innermost line of the user's own code, if that is below ours; "" where our own code raised."""
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        path = Path(frame.f_code.co_filename)
        if _OURS in path.parents:
            found = ""
        elif (
            not path.name.startswith("<frozen")
            and "site-packages" not in path.parts
            and not _STANDARD & {str(parent) for parent in path.parents}
        ):
            found = f"{path.name}, line {line}"
    return found


_ANY_NUMBER = (
    "A measurement calls f with any number of points, [k, *batch, *event] -> [k, *batch]. Let f read k from x.shape[0]."
)
_OURS = Path(__file__).parents[2]
_STANDARD = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}


def _product(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
