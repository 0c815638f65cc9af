"""A constant that you choose.

Source: Williams (1992), "Simple statistical gradient-following algorithms for connectionist reinforcement learning",
sec. 4.
"""

from __future__ import annotations

import math

from torch import Tensor

from sampleprop.baselines.baseline import Baseline
from sampleprop.costs import Costs
from sampleprop.families import Variables


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

    def value(self, variables: Variables, points: Tensor, costs: Costs) -> Tensor:
        return costs.points.new_full((), self.number).expand_as(costs.points)

    @property
    def label(self) -> str:
        return f"Constant({self.number:g})"
