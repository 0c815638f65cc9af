"""What estimators share whose gradient is that of f through the points that they propose."""

from __future__ import annotations

from abc import ABC
from typing import NamedTuple

from torch import Generator, Tensor
from torch.distributions import Distribution

from sampleprop import checks
from sampleprop.estimator import Estimator, F, average


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], attached to φ
    probes: None = None


class ThroughPoints(Estimator[Draw], ABC):
    """An estimator that differentiates f through its points: all that is left to `combine` is the mean of the costs.

    Args:
        samples: k, at least 1; None for one that adds no dimension in a program.
        allow_unused: let a cost pass that has no path to x, whose gradient for φ is then zero.
    """

    def __init__(self, samples: int | None, allow_unused: bool) -> None:
        super().__init__()
        checks.samples(self.name, samples, optional=True)
        self.samples = samples
        self.allow_unused = allow_unused

    def evaluations(self, dist: Distribution) -> tuple[int, int]:
        return self.draws, self.draws

    def one(self, dist: Distribution, generator: Generator | None) -> Tensor:
        """One draw without a sample dimension, [*batch, *event], for a program's variable with `samples=None`."""
        return self.propose(dist, generator=generator).points.squeeze(0)

    def combine(
        self,
        dist: Distribution,
        draw: Draw,
        costs: Tensor,
        *,
        probe_costs: Tensor | None = None,
        relaxed_f: F | None = None,
        context: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        costs = checks.costs(self.name, dist, draw.points, costs, keep)
        checks.path(self.name, dist, costs, draw.points, self.allow_unused)
        return average(costs, keep)
