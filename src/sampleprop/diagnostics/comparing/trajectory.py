"""`trajectory`: several estimators measured at the same points of one optimization path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributions as td
from torch import Tensor
from torch.distributions import Distribution

from sampleprop import families
from sampleprop.diagnostics.comparing.compare import Progress, compare, wanted_of
from sampleprop.diagnostics.comparing.comparison import Comparison
from sampleprop.diagnostics.measuring.reference import MEAN, Reference, Target
from sampleprop.diagnostics.measuring.replicates import Expectation
from sampleprop.diagnostics.measuring.tally import devices
from sampleprop.estimator import Estimator
from sampleprop.families.parameters import constraint_of

EVALUATIONS = 256  # evaluations of f for a step; a long run takes 16 times as many


class Stop(NamedTuple):
    """A point of the path at which estimators are measured.

    Attributes:
        step: the number of steps so far.
        value: the expectation there, summed over the batch; an estimate where it cannot be enumerated.
        dist: p_φ with the parameters of that step.
    """

    step: int
    value: float
    dist: Distribution


@dataclass(frozen=True)
class Checkpoint:
    """The measurements at one point of the path."""

    step: int
    value: float
    comparison: Comparison


def trajectory(
    f: Callable[[Tensor], Any],
    dist: Distribution,
    estimators: Iterable[Estimator[Any, Any]],
    *,
    checkpoints: int = 5,
    steps: int = 100,
    rate: float = 0.05,
    budget: int = 16,
    context: Tensor | None = None,
    replicates: int = 1024,
    seed: int = 0,
    train_steps: int = 200,
    progress: Progress | None = None,
) -> tuple[Checkpoint, ...]:
    r"""Measure bias and variance of the estimators at several points of one optimization path of φ.

    The path does not depend on the estimators. At each stop, `compare` measures all of them at the same parameters,
    against the exact gradient or a long run. Estimators that learn are trained anew for each stop.

    Args:
        f: as in `compare`. It is held fixed; only φ changes.
        dist: p_φ at the start.
        estimators: the estimators to compare. The first one decides the objective: E[f] is minimized, and an ELBO or a
            bound is maximized.
        checkpoints: the number of stops, including the start and the end; at least 2.
        steps: steps of the path, at least checkpoints - 1.
        rate: the learning rate of Adam.
        budget: as in `compare`.
        context: as in `compare`.
        replicates: as in `compare`.
        seed: for all noise.
        train_steps: as in `compare`.
        progress: as in `compare`.

    Returns:
        One checkpoint for each stop; fewer after Ctrl-C.

    Raises:
        ValueError: for fewer than 2 checkpoints, for too few steps, and if no unbiased gradient is known.
        TypeError: for parameters whose bounds depend on other parameters.

    Example:
        >>> import torch, sampleprop as sp
        >>> from sampleprop.diagnostics import trajectory
        >>> q = torch.distributions.Bernoulli(logits=torch.zeros((), requires_grad=True))
        >>> f = lambda x: (x - 0.45).square()
        >>> start, end = trajectory(f, q, [sp.ScoreFunction()], checkpoints=2, steps=20, replicates=128)
        >>> (start.step, end.step), end.value < start.value
        ((0, 20), True)
    """
    waiting = list(estimators)
    found: list[Checkpoint] = []
    for stop in path(f, dist, wanted_of(waiting, dist, budget), checkpoints, steps, rate, context, seed):
        comparison = compare(
            f,
            stop.dist,
            waiting,
            budget=budget,
            context=context,
            replicates=replicates,
            seed=seed,
            train_steps=train_steps,
            progress=progress,
        )
        found.append(Checkpoint(stop.step, stop.value, comparison))
        if comparison.interrupted:
            break
    return tuple(found)


def path(
    f: Callable[[Tensor], Any],
    dist: Distribution,
    wanted: Target = MEAN,
    checkpoints: int = 5,
    steps: int = 100,
    rate: float = 0.05,
    context: Tensor | None = None,
    seed: int = 0,
) -> Iterator[Stop]:
    """Optimize φ by Adam, and yield some points of the path.

    The gradient is exact, or that of a long run of an unbiased estimator.
    Parameters with bounds (a scale, a rate) are optimized in a space without bounds, for example by their logarithm.
    Those that require no gradient stay fixed, unless none requires one.

    Raises:
        ValueError: for fewer than 2 checkpoints, too few steps, where no unbiased gradient is known, and where a
            parameter leaves its bounds.
        TypeError: for parameters whose bounds depend on other parameters.
    """
    if not 2 <= checkpoints <= steps + 1:
        raise ValueError(
            f"A trajectory needs at least 2 checkpoints and a step between any two of them; got {checkpoints} "
            f"checkpoints and {steps} steps. Ask for fewer checkpoints or more steps."
        )
    start = Expectation(f, dist, context)
    transforms = {name: _transform_to(dist, name) for name in start.measured}
    # Cloned, because the transform of a parameter without bounds returns the user's own tensor.
    free = {
        name: move.inv(start.parameters[name]).detach().clone().requires_grad_() for name, move in transforms.items()
    }
    optimizer = torch.optim.Adam(free.values(), lr=rate)
    stops = {round(i * steps / (checkpoints - 1)) for i in range(checkpoints)}
    generator = start.generator(seed)
    for step in range(steps + 1):
        moved = {name: transforms[name](tensor) for name, tensor in free.items()}
        leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in moved.items()}
        here = families.with_parameters(dist, start.parameters | leaves)
        _refuse_out_of_bounds(here, leaves, step)
        value, gradient = _reference(Expectation(f, here, context), wanted, seed, generator)
        if step in stops:
            yield Stop(step, value, here)
        sign = 1.0 if wanted.objective == "mean" else -1.0  # a cost goes down, a bound up
        parts = gradient.split([tensor.numel() for tensor in moved.values()])
        gradients = [sign * part.view_as(p).to(p) for part, p in zip(parts, moved.values(), strict=True)]
        by_free = torch.autograd.grad(tuple(moved.values()), tuple(free.values()), gradients)
        for tensor, found in zip(free.values(), by_free, strict=True):
            tensor.grad = found
        optimizer.step()


def _reference(expectation: Expectation, wanted: Target, seed: int, generator: torch.Generator) -> tuple[float, Tensor]:
    """The value and the gradient [coordinates], exact where the states can be enumerated."""
    with torch.random.fork_rng(devices=devices(expectation.dist)):
        torch.manual_seed(seed)
        reference = Reference(expectation, None, generator, wanted)
        reference.round(EVALUATIONS)
    values = reference.values(1)
    if values is None:
        raise ValueError(
            f"A trajectory needs an unbiased gradient to follow; got {reference.describe()}. Give a distribution that "
            "ScoreFunction or Pathwise takes."
        )
    return float(values[0]), reference.means(1)[0]


def _transform_to(dist: Distribution, name: str) -> Any:
    """The transform from the real line to the values that the parameter may have."""
    try:
        return td.transform_to(constraint_of(families.unwrap(dist)[0], name))
    except NotImplementedError:
        raise TypeError(
            f"A trajectory needs parameters with fixed bounds; got {name} of "
            f"{type(families.unwrap(dist)[0]).__name__}, whose bounds depend on other parameters. Let only other "
            "parameters require a gradient."
        ) from None


def _refuse_out_of_bounds(dist: Distribution, names: Iterable[str], step: int) -> None:
    """Refuse parameters that are not finite or out of bounds, for bounds may move with other parameters."""
    base, parameters = families.unwrap(dist)[0], families.recognize(dist).parameters
    for name in names:
        value = parameters[name].detach()
        if not bool((constraint_of(base, name).check(value) & value.isfinite().all()).all()):
            raise ValueError(
                f"A trajectory needs parameters inside their bounds; got {name} outside after {step} steps. Take a "
                "smaller rate or fewer steps."
            )
