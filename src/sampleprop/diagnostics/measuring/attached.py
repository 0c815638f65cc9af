"""Estimates for a distribution that cannot be copied: with respect to the tensors that it was computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributions as td
from torch import Generator, Tensor, nn
from torch.distributions import Distribution

from sampleprop import graph
from sampleprop.diagnostics.measuring.replicates import Estimates, Measured
from sampleprop.estimator import Estimator

MOST_COORDINATES = 2**18  # of a gradient: each of 32 groups keeps one
SAMPLES_IN_A_CALL = 2048  # of the reference, where each estimate takes a call


class Attached(Measured):
    """The distribution is expanded along a further batch dimension, where it can be, and keeps its path to φ.

    All estimates of one call share φ. One backward pass gives the mean of their gradients and not each of them, which
    is enough for a bias and not for a variance. A distribution without `expand` gets one call for each estimate.

    Args:
        f: as in `Measured`.
        dist: as in `Measured`.
        context: as in `Measured`.
        parameters: the tensors with respect to which the gradient is measured; None for the leaves of the graph from
            which the distribution was computed.

    Raises:
        TypeError: where there is no such tensor, and where they have too many numbers.
        ValueError: for an empty batch.
    """

    def __init__(
        self,
        f: Callable[[Tensor], Any],
        dist: Distribution,
        context: Tensor | None = None,
        parameters: Iterable[Tensor] | None = None,
    ) -> None:
        super().__init__(f, dist, context)
        found = graph.leaves(_tensors(dist)) if parameters is None else tuple(parameters)
        if not found or not all(tensor.requires_grad for tensor in found):
            raise TypeError(
                f"it needs tensors that require a gradient and that {self.variables.kind} was computed from; there are "
                "none. Build the distribution from parameters that require a gradient"
            )
        count = sum(tensor.numel() for tensor in found)
        if count > MOST_COORDINATES:
            raise TypeError(
                f"{self.variables.kind} was computed from tensors with {count} numbers, and {MOST_COORDINATES} are "
                "compared at most. Pass parameters=, the tensors of interest: the output of an encoder, say"
            )
        self.wanted = found
        self.device = found[0].device
        self.rounding = 64 * max(torch.finfo(tensor.dtype).eps for tensor in found)
        self._expands = _expands(dist)
        if not self._expands:
            self.long_run = SAMPLES_IN_A_CALL

    def without_log_q(self) -> Attached:
        def f(points: Tensor) -> Tensor:
            return self.costs("f", points) - self.variables.log_prob(points).detach()

        return Attached(f, self.dist, self.context, self.wanted)

    def _estimates(self, estimator: Estimator[Any, Any], count: int, generator: Generator) -> Estimates:
        """The mean of `count` independent estimates, as one."""
        dist, context = self.dist, self.context
        at_once = count if self._expands else 1
        if self._expands:
            dist = self.dist.expand((count, *self.batch))
            context = None if context is None else context.expand(count, *context.shape)
        value = torch.zeros((), dtype=torch.float64)
        gradient: Tensor | None = None
        for _ in range(count // at_once):
            result, evaluated = self._expect(estimator, dist, at_once, context, generator)
            mean = result.sum() / count
            parts = torch.autograd.grad(mean, self.wanted, retain_graph=True, allow_unused=True)
            flat = [(torch.zeros_like(x) if g is None else g) for x, g in zip(self.wanted, parts, strict=True)]
            one = torch.cat([g.detach().reshape(-1).double() for g in flat])
            gradient = one if gradient is None else gradient + one
            value += mean.detach().double().cpu()
        assert gradient is not None
        return Estimates(value.reshape(1), gradient.unsqueeze(0), evaluated)


def _expands(dist: Distribution) -> bool:
    """Whether the distribution can be expanded, to one of the expected shape that samples as usual."""
    try:
        expanded = dist.expand((2, *dist.batch_shape))
        shape = expanded.sample((3,)).shape
    except Exception:  # an author's `expand` may fail in any way
        return False
    return type(expanded) is type(dist) and shape == (3, 2, *dist.batch_shape, *dist.event_shape)


def _tensors(dist: Distribution) -> Iterator[Tensor]:
    """Every tensor in the distribution, its transforms and its networks."""
    stack: list[Any] = [dist]
    seen: set[int] = set()  # a transform and its inverse hold each other
    while stack:
        part = stack.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, nn.Module):
            yield from part.parameters()
        elif isinstance(part, list | tuple):
            stack.extend(part)
        elif isinstance(part, dict):
            stack.extend(part.values())
        elif isinstance(part, Distribution | td.Transform):
            stack.extend(vars(part).values())
