"""Draws for outcomes too rare to be drawn.

An estimator takes its noise from `sampleprop.noise`, and there from `fractions` (the normal distribution apart). Inside
`tails` most rows are moved to where natural draws do not come, each in one of many ways, and carry the weight p / q
that undoes it:

- one number is moved into one of the INTERVALS, which reach far into both tails;
- of the k numbers that differ in the sample only, a random half is raised to one of the POWERS, which brings them close
  to 1: in a copula it takes several numbers to make one outcome rare.

Relative to the natural draw a row has the density q = NATURAL + the sum over the ways of share * density
("deterministic mixture"), so no weight exceeds 1 / NATURAL. The shares are learned from pilot runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as nnf
from torch import Generator, Tensor

from sampleprop import noise

NATURAL = 0.1  # the share of rows in which nothing is moved
IN_GROUPS = 0.25  # the share in which a group is moved, where there are groups
EVEN = 0.25  # of the rest, the part that is spread evenly over all ways, whatever the pilot runs say
_TAIL = torch.tensor([3, 5, 7, 8, 9, 10, 11, 12, 13, 14, 16, 20, 34], dtype=torch.float64, device="cpu")
NEAR, FAR = (-_TAIL[:-1]).sigmoid(), (-_TAIL[1:]).sigmoid()  # distances of each interval's ends from 0, or from 1
INTERVALS = 2 * len(NEAR)
POWERS = torch.tensor([0.1, 0.03, 0.01, 0.003, 0.001], dtype=torch.float64, device="cpu")


class Unmovable(Exception):
    """Why the draws of an estimator cannot be moved into the tails, as the end of a sentence."""


class Shares:
    """How many of the rows are moved in each of the ways; learned from what each way adds to the variance.

    Args:
        numbers: how many uniform numbers one `propose` draws for each row.
        groups: how many groups of them differ in the sample only.
    """

    def __init__(self, numbers: int, groups: int) -> None:
        self.numbers, self.groups = numbers, groups
        self.variance = torch.full((numbers * INTERVALS + groups * len(POWERS),), 1e-30, dtype=torch.float64)

    @property
    def all(self) -> Tensor:
        """[ways], summing to 1 - NATURAL; in proportion to the roots, the variance of the weighted mean is least."""
        one, group = self.variance.sqrt().split((self.numbers * INTERVALS, self.groups * len(POWERS)))
        one = one.reshape(self.numbers, len(NEAR), 2)  # [numbers, intervals on a side, sides]
        # What pilot runs found in one interval, more of them would have found next to it.
        near = nnf.pad(one, (0, 0, 1, 1))
        one = torch.maximum(one, 0.3 * torch.maximum(near[:, :-2], near[:, 2:]))
        in_groups = IN_GROUPS if self.groups else 0.0
        return torch.cat([(1 - NATURAL - in_groups) * _mostly(one.flatten()), in_groups * _mostly(group)])

    def learn(self, way: Tensor, errors: Tensor) -> None:
        """Add a pilot run: the way of each row, and its weighted error, [rows] each."""
        second = torch.zeros(len(self.variance) + 1, dtype=torch.float64).index_add(0, way, errors.square())
        self.variance += second[:-1] * self.all


def _mostly(roots: Tensor) -> Tensor:
    """Summing to 1, mostly in proportion to `roots`."""
    return EVEN / max(len(roots), 1) + (1 - EVEN) * roots / roots.sum()


class Tails:
    """The uniform numbers that one `propose` draws.

    Args:
        rows: how many rows; the dimension of this size is the one of the rows.
        shares: None while the numbers of a row are counted.
        generator: the source of the moves.
    """

    def __init__(self, rows: int, shares: Shares | None, generator: Generator) -> None:
        self.rows, self.generator = rows, generator
        self.counting = shares is None
        self.shares = Shares(0, 0) if shares is None else shares
        self.numbers = self.groups = 0  # met so far
        self.density = torch.full((rows,), NATURAL, dtype=torch.float64)
        each = self.shares.all
        self.of_number = each[: self.shares.numbers * INTERVALS].reshape(-1, INTERVALS)
        self.of_group = each[self.shares.numbers * INTERVALS :].reshape(-1, len(POWERS))
        natural = torch.tensor([NATURAL], dtype=torch.float64)
        self.way = torch.cat([each, natural]).multinomial(rows, replacement=True, generator=generator)

    @property
    def weights(self) -> Tensor:
        """p / q, [rows].

        Raises:
            Unmovable: when `propose` drew fewer numbers than when they were counted.
        """
        if (self.numbers, self.groups) != (self.shares.numbers, self.shares.groups):
            raise Unmovable("not every call of its `propose` draws the same number of random numbers")
        return 1 / self.density if self.numbers else torch.ones_like(self.density)

    def uniform(self, shape: Sequence[int], like: Tensor, generator: Generator | None = None) -> Tensor:
        """Draw numbers as `noise.fractions` does, some of them from the tails."""
        u = _FRACTIONS(shape, like, generator)
        if generator is not self.generator:  # of other code: in another thread, say
            return u
        if self.rows not in shape:
            raise Unmovable("its `propose` draws random numbers that are not independent along the batch")
        axis = tuple(shape).index(self.rows)
        by_row = u.movedim(axis, 0)
        samples = shape[0] if axis > 0 else 1
        numbers = by_row.reshape(self.rows, samples, -1).contiguous()  # [rows, samples, positions]
        first_number, first_group = self.numbers, self.groups
        self.numbers += numbers[0].numel()
        self.groups += numbers.shape[2] if samples > 1 else 0
        if self.counting:
            return u
        if self.numbers > self.shares.numbers or self.groups > self.shares.groups:
            raise Unmovable("not every call of its `propose` draws the same number of random numbers")
        self._move_one(numbers.flatten(1), first_number)
        if samples > 1:
            self._move_group(numbers, first_group)
            self._weigh_group(numbers, first_group)
        self._weigh_one(numbers.flatten(1), first_number)
        return numbers.reshape(by_row.shape).movedim(0, axis)

    def _move_one(self, numbers: Tensor, first: int) -> None:
        way = self.way - first * INTERVALS
        row = ((way >= 0) & (way < numbers.shape[1] * INTERVALS)).nonzero().squeeze(1)
        number, interval = way[row] // INTERVALS, way[row] % INTERVALS
        near, far = NEAR[interval // 2], FAR[interval // 2]
        distance = far + (near - far) * self._rand(len(row))
        numbers[row, number] = torch.where(interval % 2 == 0, distance, 1 - distance)

    def _weigh_one(self, numbers: Tensor, first: int) -> None:
        row, column = torch.where((numbers < NEAR[0]) | (numbers > 1 - NEAR[0]))
        number = numbers[row, column]
        side = (number > 0.5).long()
        distance = torch.where(side == 0, number, 1 - number)
        interval = torch.bucketize(-distance, -NEAR, right=True).sub(1).clamp_min(0)
        density = self.of_number[first + column, 2 * interval + side] / (NEAR - FAR)[interval]
        self.density.index_add_(0, row, torch.where(distance > FAR[-1], density, 0.0))

    def _move_group(self, numbers: Tensor, first: int) -> None:
        way = self.way - self.shares.numbers * INTERVALS - first * len(POWERS)
        row = ((way >= 0) & (way < numbers.shape[2] * len(POWERS))).nonzero().squeeze(1)
        position, power = way[row] // len(POWERS), POWERS[way[row] % len(POWERS)]
        group = numbers[row, :, position]  # [rows in this way, samples]
        half = self._rand(*group.shape) < 0.5
        numbers[row, :, position] = torch.where(half, group ** power[:, None], group)

    def _weigh_group(self, numbers: Tensor, first: int) -> None:
        of_group = self.of_group[first : first + numbers.shape[2]]
        logs = numbers.log()
        for power, share in zip(POWERS.tolist(), of_group.T, strict=True):
            density = (0.5 + 0.5 / power * ((1 / power - 1) * logs).exp()).prod(1)  # [rows, positions]
            self.density += density @ share

    def _rand(self, *shape: int) -> Tensor:
        return torch.rand(shape, dtype=torch.float64, generator=self.generator)


@contextmanager
def tails(rows: int, shares: Shares | None, generator: Generator) -> Iterator[Tails]:
    """Let `propose` draw from the tails, where it draws from `generator`."""
    source = Tails(rows, shares, generator)
    with _replaced(source.uniform):
        yield source


def depends_on_other_noise(points: Callable[[Generator], Tensor]) -> bool:
    """Whether points depend on random numbers other than those of `noise.fractions` from the generator given."""

    def drawn(seed: int) -> Tensor:
        generator, fixed = Generator().manual_seed(seed), Generator().manual_seed(0)

        def uniform(shape: Sequence[int], like: Tensor, given: Generator | None = None) -> Tensor:
            """Draw numbers as `noise.fractions` does, from one fixed state in place of the generator's."""
            return _FRACTIONS(shape, like, fixed if given is generator else given)

        torch.manual_seed(seed)
        with _replaced(uniform):
            return points(generator)

    with torch.random.fork_rng(devices=[]):
        return not torch.equal(drawn(1), drawn(2))


@contextmanager
def _replaced(uniform: Callable[..., Tensor]) -> Iterator[None]:
    noise.fractions = uniform
    try:
        yield
    finally:
        noise.fractions = _FRACTIONS


_FRACTIONS = noise.fractions
