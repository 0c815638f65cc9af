"""A constant that you choose.

Source: Williams (1992), "Simple statistical gradient-following algorithms for connectionist reinforcement learning",
sec. 4.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.distributions import Distribution

from sampleprop.baselines.baseline import Baseline
from sampleprop.estimator import Group


class Constant(Baseline):
    """A fixed number; with 0, no baseline at all.

    Args:
        number: the cost that is typical, any finite number.

    Raises:
        ValueError: for a number that is not finite.

    Example:
        >>> import sampleprop as sp
        >>> sp.ScoreFunction(1, baseline=sp.Constant(2.0))
        ScoreFunction(samples=1, baseline=Constant(2))
    """

    def __init__(self, number: float = 0.0) -> None:
        super().__init__()
        if not math.isfinite(number):
            raise ValueError(f"Constant needs a finite number; got {number}.")
        self.number = number

    def value(
        self,
        dist: Distribution,
        points: Tensor,
        costs: Tensor,
        probe_costs: Tensor | None,
        context: Tensor | None,
        keep: Tensor | None,
        group: Group | None,
    ) -> Tensor:
        return costs.new_full((), self.number).expand_as(costs)

    @property
    def label(self) -> str:
        return f"Constant({self.number:g})"
