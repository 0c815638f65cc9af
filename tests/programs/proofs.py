"""Programs small enough that every run of `CoupledReplay` can be made: all noise, and all choices.

Uniform noise takes the four mid-points, and each probability is a multiple of 1/4, so that four numbers stand exactly
for all. Normal noise takes three values. The mean over all noise and all choices is then a sum, and equals what forced
replay gives over the same normal noise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, Normal, OneHotCategorical

import sampleprop as sp
from sampleprop import noise
from sampleprop.programs import forced

UNIFORM = [0.125, 0.375, 0.625, 0.875]
NORMAL = [-1.0, 0.5, 1.2]
Program = Callable[[Tensor], Tensor]


class Tape:
    """One value for each source of noise, and the next combination of values."""

    def __init__(self) -> None:
        self.choices: list[int] = []

    def start(self) -> None:
        """Rewind: the same sources get the same numbers."""
        self.found: dict[Any, int] = {}
        self.sizes: list[int] = []

    def draw(self, kind: str, shape: Sequence[int], generator: Generator | None, values: list[float]) -> Tensor:
        assert generator is not None
        count = torch.Size(shape).numel()
        key = (kind, generator.initial_seed(), count)
        if key not in self.found:
            if len(self.sizes) == len(self.choices):
                self.choices.append(0)
            self.found[key] = self.choices[len(self.sizes)]
            self.sizes.append(len(values) ** count)
        number, drawn = self.found[key], []
        for _ in range(count):
            drawn.append(values[number % len(values)])
            number //= len(values)
        return torch.tensor(drawn, dtype=torch.float64).reshape(tuple(shape))

    @property
    def probability(self) -> float:
        product = 1.0
        for size in self.sizes:
            product /= size
        return product

    def advance(self) -> bool:
        self.choices = self.choices[: len(self.sizes)]
        while self.choices and self.choices[-1] + 1 >= self.sizes[len(self.choices) - 1]:
            self.choices.pop()
        if not self.choices:
            return False
        self.choices[-1] += 1
        return True


@contextmanager
def taped() -> Iterator[Tape]:
    tape = Tape()
    fractions, normal = noise.fractions, noise.normal
    noise.fractions = lambda shape, like, generator=None: tape.draw("uniform", shape, generator, UNIFORM)
    noise.normal = lambda shape, like, generator=None: tape.draw("normal", shape, generator, NORMAL)
    try:
        yield tape
    finally:
        noise.fractions, noise.normal = fractions, normal


class Choosing(sp.CoupledReplay):
    """Chooses a given entry, and notes the probabilities of all."""

    wanted = 0
    upto: Tensor | None = None

    def choose(self, upto: Tensor, u: Tensor) -> Tensor:
        self.upto = upto
        return torch.tensor([self.wanted])


def mean(function: Program) -> tuple[float, Tensor, int]:
    """The mean value and gradient over all noise and all choices, and the number of calls."""
    leaf, replay = torch.zeros(2, dtype=torch.float64, requires_grad=True), Choosing()
    model = sp.program(function).using(replay)
    value, gradient, calls = 0.0, torch.zeros(2, dtype=torch.float64), 0
    with taped() as tape:
        while True:
            tape.start()  # all choices of one noise first: they may ask for noise that the first run does not
            total, entry, entries = torch.zeros(2, dtype=torch.float64), 0, 1
            while entry < entries:
                replay.wanted, replay.upto = entry, None
                torch.manual_seed(0)
                cost = model(leaf)
                (found,) = torch.autograd.grad(cost, leaf)
                if replay.upto is None:
                    total += found
                else:
                    probabilities = replay.upto.diff(prepend=torch.zeros(1, dtype=torch.float64))
                    entries = len(probabilities)
                    if probabilities[entry] > 0:
                        total += probabilities[entry] * found
                entry, calls = entry + 1, calls + 1
            value += tape.probability * float(cost.detach())
            gradient += tape.probability * total
            if not tape.advance():
                return value, gradient, calls


@functools.cache
def by_paths(function: Program) -> tuple[float, Tensor]:
    """The value and gradient by forced replay, over every value of the normal noise."""
    leaf = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    value, gradient = 0.0, torch.zeros(2, dtype=torch.float64)

    def numbered() -> Callable[[str | None], Generator]:
        seeds = iter(range(1000))
        return lambda name: Generator().manual_seed(next(seeds))

    with taped() as tape:
        while True:
            tape.start()
            found = forced.exact(sp.program(function), (leaf,), {}, (leaf,), noise=numbered)
            value += tape.probability * float(found.value)
            gradient += tape.probability * found.gradients[0]
            if not tape.advance():
                return value, gradient


def logit(p: float, slope: Tensor) -> Tensor:
    """Exactly this probability, with a derivative."""
    return torch.logit(torch.tensor(p, dtype=torch.float64)) + slope


def bit(logits: Tensor) -> Distribution:
    return Bernoulli(logits=logits, validate_args=False)


def with_if(t: Tensor) -> Tensor:
    a = sp.sample(bit(logit(0.75, t[0])))
    sp.charge(0.3 * a + t[1] * a)
    if a == 1:
        return (sp.sample(bit(logit(0.25, t[1] - t[0]))) - 0.4).square() * 2
    return t[0] * 1.5 + a


def with_while(t: Tensor) -> Tensor:
    n = 0
    while n < 3:
        c = sp.sample(bit(logit((0.5, 0.75, 0.25)[n], t[0] + 0.2 * n * t[1])))
        sp.charge(0.1 * n * c + t[1] * c)
        if c == 0:
            break
        n += 1
    return torch.tensor(n**2, dtype=torch.float64)


THIRDS = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64).log()


def with_a_random_number_of_sites(t: Tensor) -> Tensor:
    k = sp.sample(Categorical(logits=THIRDS + torch.stack([t[0], t[1], -t[0]])))
    s = torch.zeros((), dtype=torch.float64)
    for i in range(int(k)):
        logits = torch.stack([logit(0.5, t[1]), logit(0.25, t[0] * (i + 1))][i:])
        weights = torch.tensor([1.0, -2.0], dtype=torch.float64)[i:]
        s = s + (sp.sample(Independent(bit(logits), 1)) * weights).sum()
    return s**2 + k


def with_numbers_of_python(t: Tensor) -> Tensor:
    x = 0.0
    for _ in range(3):
        move = sp.sample(bit(logit(0.75 if x <= 0 else 0.25, t[0] * (1 + x))))
        x = x + 2 * float(move) - 1
        sp.charge(t[1] * x**2)
    return torch.tensor(x, dtype=torch.float64) ** 2


def with_recursion(t: Tensor, depth: int = 0) -> Tensor:
    if depth == 2:
        return torch.ones((), dtype=torch.float64)
    s = sp.sample(bit(logit((0.5, 0.75)[depth], t[0] - depth * t[1])))
    below = with_recursion(t, depth + 1)
    return below + with_recursion(t, depth + 1) if s == 1 else below


def with_normal_variables(t: Tensor) -> Tensor:
    """Before, between and after; the probability of a bit depends on noise."""
    z = sp.sample(Normal(t[0], t[1].exp(), validate_args=False))
    a = sp.sample(bit(logit(0.25 if float(z.detach()) > 0 else 0.75, t[0] * z + z - z.detach())))
    y = sp.sample(Normal(z * a + t[1], 1.0, validate_args=False))
    b = sp.sample(bit(logit(0.5, y - y.detach() + 0.3 * t[1] * a)))
    return (y - b).square() + z * b * a


def with_names(t: Tensor) -> Tensor:
    """The changed branch skips a site; by their names the others keep their noise."""
    a = sp.sample(bit(logit(0.5, t[0])), name="a")
    if a == 1:
        sp.charge(sp.sample(bit(logit(0.25, t[1])), name="only") * 2.0)
    b = sp.sample(bit(logit(0.75, t[0] + t[1])), name="b")
    return b * (1 + a) - 0.5 * a


def with_one_hots(t: Tensor) -> Tensor:
    both = torch.stack([THIRDS + torch.stack([t[0], t[1], -t[0]]), THIRDS + torch.stack([t[1], 2 * t[0], t[1] * 0])])
    z = sp.sample(Independent(OneHotCategorical(logits=both), 1))
    b = sp.sample(bit(logit(0.25 if z[0, 0] == 1 else 0.75, t[0] * z[1, 2] + t[1])))
    weights = torch.tensor([[1.0, -2.0, 0.5], [0.3, 1.0, -1.0]], dtype=torch.float64)
    return (z * weights).sum() * b + z[0, 1] * z[1, 1] * 3


PROGRAMS: tuple[Program, ...] = (
    with_if,
    with_while,
    with_a_random_number_of_sites,
    with_numbers_of_python,
    with_recursion,
    with_normal_variables,
    with_names,
    with_one_hots,
)
