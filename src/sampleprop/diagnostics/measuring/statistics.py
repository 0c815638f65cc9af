"""Bias and variance of a vector estimate from groups of replicates.

A group mean is the mean of some replicates. The differences of the group means from the reference, [groups,
coordinates], show whether there is a bias: their own mean is tested against zero, with a standard error from their
spread. A reference that is itself estimated is given group by group, so that its noise is part of that spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

THRESHOLD = 4.0  # standard normal; false alarms: 3e-5 for each of the two tests
POWER = 3.5  # standard errors beyond the threshold: 2.33 for 99 %, and more because they are estimated from 32 groups
LEAST_GROUPS = 4


@dataclass(frozen=True)
class Bias:
    """How far the mean of an estimator is from the gradient.

    Attributes:
        relative: the length of the bias over the length of the gradient, after subtracting the part due to noise.
        along: the component along the gradient over the gradient's length, with its sign: 0.1 is 10 % too long.
        z: the larger of two test statistics, one for the whole vector and one for the component along the gradient.
            Each is standard normal where there is no bias; above 4 there is one.
        visible: the relative bias that would have been seen with 99 % probability, whatever its direction.
        visible_along: the same for a bias along the gradient.
    """

    relative: float
    along: float
    z: float
    visible: float
    visible_along: float

    @property
    def seen(self) -> bool:
        """Whether the bias is significant."""
        return self.z > THRESHOLD


class Unseen(NamedTuple):
    """Variances of the mean of all replicates due to outcomes too rare to be drawn, which the spread cannot show."""

    gradient: float = 0.0  # the trace of the covariance of the gradient
    along: float = 0.0  # of the product with the exact gradient
    value: float = 0.0  # of the value, summed over the batch


NOTHING = Unseen()


def bias(means: Tensor, reference: Tensor, rounding: float, unseen: Unseen = NOTHING) -> Bias:
    """Test the group means [groups, coordinates] against those of the reference, of the same shape.

    Args:
        means: one row for each group; all groups have the same size.
        reference: the exact gradient in every row, or the group means of an unbiased estimator.
        rounding: the error, as a length, that floating point alone may cause.
        unseen: the variance that the spread of the groups cannot show.
    """
    groups = means.shape[0]
    length = signal(reference)
    differences = means - reference  # [groups, coordinates]
    mean = differences.mean(0)
    gram = (differences - mean) @ (differences - mean).T  # [groups, groups]
    trace = float(gram.trace()) / (groups - 1)
    off_diagonal = gram[~torch.eye(groups, dtype=torch.bool, device=gram.device)] + trace / groups
    trace_of_square = float(off_diagonal.square().mean())
    noise = trace / groups + unseen.gradient + rounding**2 + torch.finfo(torch.float64).tiny
    squared = float(mean.square().sum())
    # Satterthwaite: the squared length of the mean is about a scaled chi-square with this number of degrees.
    degrees = min(max(trace**2 / trace_of_square, 1.0), float(means.shape[1])) if trace_of_square > 0 else 1.0
    z = normal_score(squared / noise, degrees, degrees * (groups - 1))

    # The direction for group i comes from the other groups, so that it does not share the noise of group i.
    directions = (reference.sum(0) - reference) / (groups - 1)
    projected = (differences * directions).sum(1)  # [groups], in units of the squared length
    rounded = (rounding * length) ** 2 + torch.finfo(torch.float64).tiny
    error = math.sqrt(float(projected.var()) / groups + unseen.along + rounded)
    z_along = normal_score((float(projected.mean()) / error) ** 2, 1.0, groups - 1.0)

    return Bias(
        relative=_ratio(math.sqrt(max(0.0, squared - trace / groups)), length),
        along=_ratio(float(projected.mean()), length**2),
        z=max(z, z_along),
        visible=_ratio(math.sqrt(_seen(degrees, groups) * noise / degrees), length),
        visible_along=_ratio((student(groups) + POWER) * error, length**2),
    )


def student(groups: int) -> float:
    """The threshold in standard errors that are estimated from this number of groups."""
    return math.sqrt(_f_at_threshold(1.0, groups - 1.0))


def _seen(degrees: float, groups: int) -> float:
    """The noncentrality that a chi-square test with these degrees detects with 99 % probability, in any direction.

    The statistic has mean n + λ and variance at most 2 n + 4 √n λ. In the worst direction the noise is that of the
    largest eigenvalue, which is at most √n times the mean eigenvalue.
    """
    root = math.sqrt(degrees)
    excess = degrees * (_f_at_threshold(degrees, degrees * (groups - 1)) - 1)
    if not math.isfinite(excess):
        return math.inf
    deviation = 2 * root * (POWER + math.sqrt(POWER**2 + (excess + root / 2) / root))
    return (deviation**2 - 2 * degrees) / (4 * root)


def signal(means: Tensor) -> float:
    """The length of the mean of [groups, coordinates], after subtracting the part due to noise."""
    groups = means.shape[0]
    noise = float(means.var(0).sum()) / groups if groups > 1 else 0.0
    return math.sqrt(max(0.0, float(means.mean(0).square().sum()) - noise))


def percent(x: float) -> str:
    """A fraction as percent with two digits, and no exponent up to a million percent."""
    return f"{100 * x:.2g} %" if abs(x) < 0.995 else f"{100 * x:.0f} %"


def counted(count: int, what: str) -> str:
    """1 point, 2 points."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def rounded(x: float, digits: int = 3) -> str:
    """This number of significant digits, and no exponent up to a million."""
    return f"{float(f'{x:.{digits}g}'):g}"


def plus_minus(value: float, error: float) -> str:
    """A number with its error: three digits ± one."""
    return f"{rounded(value)} ± {rounded(error, 1)}"


def aligned(lines: Sequence[Sequence[str]], left: tuple[int, ...]) -> list[str]:
    """The cells in columns: those numbered in `left` on the left, the others on the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def _ratio(a: float, b: float) -> float:
    if b > 0:
        return a / b
    return 0.0 if a == 0 else math.copysign(math.inf, a)


def normal_score(f: float, n: float, m: float) -> float:
    """The standard normal deviate with the tail of an F(n, m) variable at f (Paulson, 1942)."""
    root = math.cbrt(f)
    a, b = 2 / (9 * n), 2 / (9 * m)
    return ((1 - b) * root - (1 - a)) / math.sqrt(b * root**2 + a)


def _f_at_threshold(n: float, m: float) -> float:
    """The f at which `normal_score` reaches the threshold; infinite where there are too few groups to reach it."""
    a, b = 2 / (9 * n), 2 / (9 * m)
    p = (1 - b) ** 2 - THRESHOLD**2 * b
    q = (1 - a) * (1 - b)
    r = (1 - a) ** 2 - THRESHOLD**2 * a
    if p <= 0:
        return math.inf
    return ((q + math.sqrt(q**2 - p * r)) / p) ** 3
