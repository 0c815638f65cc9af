"""Numbers that come one at a time: an average over the last ones, and a test of whether their mean is zero."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sampleprop.diagnostics.measuring.statistics import POWER, normal_score, student

LEAST = 8  # numbers before a test


@dataclass
class Average:
    """Exponential moving average with bias correction, as in Adam.

    Attributes:
        total: Σ decay^age · x.
        weight: Σ decay^age.
    """

    total: float = 0.0
    weight: float = 0.0

    def add(self, x: float, decay: float) -> None:
        """Add one number, with this decay of the earlier ones."""
        self.total = decay * self.total + x
        self.weight = decay * self.weight + 1

    @property
    def value(self) -> float:
        """The average so far."""
        return self.total / self.weight if self.weight else math.nan


@dataclass
class Drift:
    """A test of whether numbers have mean zero, each given all that came before it.

    Each number is divided by the size of those before it, so that all phases of a training count alike. Its own size
    does not enter. The scale is therefore fixed, given the past, and a mean of zero stays zero for any such scale.

    Attributes:
        size: the average square of the numbers so far.
        count: how many numbers were tested: all but the first, which only sets the scale.
        total: the sum of the scaled numbers.
        squares: the sum of their squares.
    """

    size: Average
    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, x: float, decay: float) -> None:
        """Add one number, with this decay of the earlier ones."""
        if self.size.weight and self.size.value > 0:
            scaled = x / math.sqrt(self.size.value)
            self.count += 1
            self.total += scaled
            self.squares += scaled**2
        self.size.add(x**2, decay)

    @property
    def z(self) -> float:
        """The test statistic with the sign of the mean, standard normal where the mean is zero; NaN for few numbers."""
        error = self._error
        if math.isnan(error):
            return math.nan
        mean = self.total / self.count
        if error == 0:
            return math.copysign(math.inf, mean) if mean else 0.0
        return math.copysign(max(0.0, normal_score((mean / error) ** 2, 1.0, self.count - 1.0)), mean)

    @property
    def visible(self) -> float:
        """The mean that would have a z above 4 with 99 % probability, in units of the latest numbers."""
        if math.isnan(self._error):
            return math.nan
        return (student(self.count) + POWER) * self._error * math.sqrt(self.size.value)

    @property
    def _error(self) -> float:
        if self.count < LEAST:
            return math.nan
        variance = (self.squares - self.total**2 / self.count) / (self.count - 1)
        return math.sqrt(max(0.0, variance) / self.count)
