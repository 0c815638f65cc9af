"""Estimates for a distribution that cannot be copied: with respect to the tensors that it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from sampleprop import checks, graph
from sampleprop.diagnostics.measuring.replicates import Estimates, Expectation, Measured
from sampleprop.estimator import Estimator
from sampleprop.families.parameters import tensors

MOST_COORDINATES = 2**18  # of a gradient: each of 32 groups keeps one
SAMPLES_IN_A_CALL = 2048  # of the reference, where each estimate takes a call


def measured(
    f: Callable[[Tensor], Any],
    dist: Distribution,
    context: Tensor | None = None,
    nonfinite: checks.Nonfinite = "raise",
    parameters: Iterable[Tensor] | None = None,
    apart: bool = False,
) -> Measured:
    """The expectation with copies of its parameters where that can be; else, and for given parameters, `Attached`.

    Raises:
        TypeError: where neither is possible.
        ValueError: for an empty batch.
    """
    if parameters is None:
        try:
            return Expectation(f, dist, context, nonfinite)
        except TypeError:
            pass
    return Attached(f, dist, context, nonfinite, parameters, apart)


class Attached(Measured):
    """The gradient with respect to the tensors in the distribution, none of which depends on another one of them.

    The distribution is expanded along a further batch dimension, where it can be, and keeps its path to φ. All
    estimates of one call share φ. One backward pass gives the mean of their gradients and not each of them, which is
    enough for a bias and not for a variance: for that, or without `expand`, each estimate takes a call.

    Args:
        f: as in `Measured`.
        dist: as in `Measured`.
        context: as in `Measured`.
        nonfinite: as in `Measured`.
        parameters: the tensors with respect to which the gradient is measured, in the place of those in `dist`.
        apart: whether each gradient is wanted, and not their mean alone.

    Raises:
        TypeError: where there is no such tensor, and where they have too many numbers.
        ValueError: for an empty batch.
    """

    def __init__(
        self,
        f: Callable[[Tensor], Any],
        dist: Distribution,
        context: Tensor | None = None,
        nonfinite: checks.Nonfinite = "raise",
        parameters: Iterable[Tensor] | None = None,
        apart: bool = False,
    ) -> None:
        super().__init__(f, dist, context, nonfinite)
        found = _held(dist) if parameters is None else {f"parameters[{i}]": x for i, x in enumerate(parameters)}
        if not found or not all(tensor.requires_grad for tensor in found.values()):
            raise TypeError(
                f"The gradient with respect to the parameters of {self.variables.kind} needs tensors in it that "
                "require a gradient; there are none. Build the distribution from parameters that require one."
            )
        count = sum(tensor.numel() for tensor in found.values())
        if count > MOST_COORDINATES:
            raise TypeError(
                f"The gradient with respect to the parameters of {self.variables.kind} has {count} numbers, and "
                f"{MOST_COORDINATES} are compared at most. Take a smaller batch, or pass parameters= to check."
            )
        self.shapes = {name: tensor.shape for name, tensor in found.items()}
        self.apart = apart
        self._wanted = tuple(found.values())
        self.device = self._wanted[0].device
        self.rounding = 64 * max(torch.finfo(tensor.dtype).eps for tensor in self._wanted)
        self._expands = _expands(dist)
        if not self._expands:
            self.long_run = SAMPLES_IN_A_CALL
            self.trained_rows = 1

    def without_log_q(self) -> Attached:
        def f(points: Tensor) -> Tensor:
            return self.costs("f", points) - self.variables.log_prob(points).detach()

        return Attached(f, self.dist, self.context, self.nonfinite, self._wanted, self.apart)

    def together(self) -> Attached:
        return Attached(self.f, self.dist, self.context, self.nonfinite, self._wanted)

    def _estimates(self, estimator: Estimator[Any, Any], count: int, generator: Generator) -> Estimates:
        """`count` independent estimates; their mean, as one, unless they are wanted apart."""
        at_once = count if self._expands and not self.apart else 1
        values, gradients = [], []
        for _ in range(count // at_once):
            result, wanted, evaluated = self._run(estimator, at_once, generator)
            value = result.sum() / at_once
            parts = torch.autograd.grad(value, wanted, retain_graph=True, materialize_grads=True)
            values.append(value.detach().double())
            gradients.append(torch.cat([part.reshape(-1).double() for part in parts]))
            if len(gradients) == 2 and not self.apart:  # no more memory than that of one
                values, gradients = [values[0] + values[1]], [gradients[0] + gradients[1]]
        share = 1.0 if self.apart else at_once / count
        return Estimates(torch.stack(values) * share, torch.stack(gradients) * share, evaluated)

    def _run(
        self, estimator: Estimator[Any, Any], count: int, generator: Generator
    ) -> tuple[Tensor, tuple[Tensor, ...], int]:
        dist, context = self.dist, self.context
        if self._expands:
            dist = dist.expand((count, *self.batch))
            context = None if context is None else context.expand(count, *context.shape)
        result, evaluated = self._expect(estimator, dist, count, context, generator)
        return result, self._wanted, evaluated


def _expands(dist: Distribution) -> bool:
    """Whether the distribution can be expanded, to one of the expected shape that samples as usual."""
    try:
        expanded = dist.expand((2, *dist.batch_shape))
        shape = expanded.sample((3,)).shape
    except Exception:  # an author's `expand` may fail in any way
        return False
    return type(expanded) is type(dist) and shape == (3, 2, *dist.batch_shape, *dist.event_shape)


def _held(dist: Distribution) -> dict[str, Tensor]:
    """The tensors in the distribution that require a gradient and were computed from no other one of them."""
    found = {name: tensor for name, tensor in tensors(dist).items() if tensor.requires_grad}
    nodes = {name: graph.node_of(tensor) for name, tensor in found.items()}
    return {
        name: tensor
        for name, tensor in found.items()
        if graph.search(tensor, others := set(nodes.values()) - {nodes[name]}).unreached == others
    }
