"""What estimators share whose gradient is that of f through the points that they propose."""

from __future__ import annotations

from abc import ABC
from typing import NamedTuple, TypeVar

from torch import Generator, Tensor

from sampleprop import checks
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.families import Variables

V = TypeVar("V", bound=Variables)


class Draw(NamedTuple):
    """Points through which f is differentiated."""

    points: Tensor  # [k, *batch, *event], attached to φ
    probes: None = None


class ThroughPoints(Estimator[V, Draw], ABC):
    """An estimator that differentiates f through its points: its result is the mean of the costs.

    Args:
        samples: k, at least 1; None for one sample without a sample dimension in a program.
        allow_unused: accept a cost without a path to x; its gradient for φ is then zero.
        allow_steps: accept a cost with a step (round, sign) on its path to x; the gradient for φ ignores the step.
    """

    def __init__(self, samples: int | None = 1, *, allow_unused: bool = False, allow_steps: bool = False) -> None:
        super().__init__()
        checks.samples(self.name, samples, optional=True)
        self.samples = samples
        self.allow_unused = allow_unused
        self.allow_steps = allow_steps

    def calls(self, variables: V) -> tuple[int, int]:
        draws = self.draws
        return draws, draws

    def one(self, variables: V, generator: Generator | None) -> Tensor:
        """One draw without a sample dimension, [*batch, *event], for a program's variable with `samples=None`."""
        return self.draw(variables, generator).points.squeeze(0)

    def estimate(self, variables: V, draw: Draw, costs: Costs) -> Tensor:
        checks.path(self.name, variables, costs.points, draw.points, self.allow_unused, self.allow_steps)
        return costs.mean()
