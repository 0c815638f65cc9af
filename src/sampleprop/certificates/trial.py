"""The statistics of a certificate: how many replicates, which comparisons, and what bias they would have seen.

Each replicate is one row of a batch. For φ every coordinate and the projection on the exact gradient are compared, for
θ every coordinate, and the value, each by a z-test. The threshold spends one false-alarm budget over all comparisons of
the suite; the number of replicates follows from the variance in a pilot run, so that a bias of 2 % along the exact
gradient is rejected with a probability of 99 %.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any
from zlib import crc32

import torch
from certificates.problems import PAIRS, Problem
from certificates.tails import Shares, tails
from torch import Generator, Tensor

import sampleprop as sp

FALSE_ALARM = 1e-3  # of the whole suite: half of it for the certificates, half for the other random tests
POWER = 0.99
DETECTABLE = 0.02
LEAST_REPLICATES = 30_000  # so that a mean is normal as far out as the threshold
MOST_REPLICATES = 12_000_000
PILOT_REPLICATES = 8_192
PILOT_ROUNDS = 12  # to learn how to weight the draws of rare outcomes
MOST_NUMBERS = 300_000  # in one chunk of rows: small enough for the processor's cache
CHUNKS = (257, 1031, 4099, 8209, 16411)  # primes, so that no other dimension has the size of the rows


def threshold(comparisons: int, false_alarm: float) -> float:
    """The |z| that one of so many comparisons exceeds by chance with the probability `false_alarm`."""
    return NormalDist().inv_cdf(1 - false_alarm / comparisons / 2)


def comparisons(problem: Problem) -> int:
    """How many z-tests a certificate makes: the coordinates of φ and their projection, the value, θ."""
    return problem.phi.numel() + 1 + problem.count + problem.theta.numel()


# Every pair once, and room for as many comparisons again in the tests that certify a changed estimator.
THRESHOLD = threshold(2 * sum(comparisons(problem) for _, problem in PAIRS), FALSE_ALARM / 2)


@dataclass(frozen=True)
class Certificate:
    """What a comparison with the exact gradient found.

    Attributes:
        estimator: the label.
        problem: the name.
        replicates: how many estimates were averaged.
        z: the largest |z| among the coordinates of φ ("φ"), of the projection ("along"), the "value", and "θ".
        mutant: |z| of the projection had every estimate been multiplied by 0.97.
        sees: the relative bias along the exact gradient that is rejected with a probability of 99 %.
        seconds: how long it took.
    """

    estimator: str
    problem: str
    replicates: int
    z: dict[str, float]
    mutant: float
    sees: float
    seconds: float

    def __str__(self) -> str:
        z = "  ".join(f"{part} {number:6.2f}" for part, number in self.z.items())
        return (
            f"{self.estimator:60} {self.problem:28} {self.replicates:9} replicates  |z| {z}  "
            f"sees {100 * self.sees:5.2f} %  {self.seconds:5.2f} s"
        )


def certify(estimator: sp.Estimator[Any, Any], problem: Problem, *, detectable: float = DETECTABLE) -> Certificate:
    """Compare with the exact value and gradients, with as many replicates as the variance asks for.

    Args:
        estimator: of any configuration.
        problem: one that it takes.
        detectable: the relative bias along the exact gradient that is to be seen.

    Raises:
        AssertionError: if that takes too many replicates.
    """
    start = time.perf_counter()
    trial = Trial(estimator, problem, seed=crc32(f"{estimator.label} {problem}".encode()))
    needed = (THRESHOLD + NormalDist().inv_cdf(POWER)) / detectable / trial.norm
    variance = trial.pilot(PILOT_REPLICATES)
    while True:
        # A quarter more, for what the pilot run does not know of the variance. Where that was not enough, all is
        # drawn afresh: when to stop must not depend on the numbers that are averaged.
        replicates = max(LEAST_REPLICATES, math.ceil(1.25 * variance * needed**2))
        assert replicates <= MOST_REPLICATES, (
            f"{estimator} on “{problem}” needs {replicates} replicates to see a bias of {100 * detectable:g} %: its "
            f"variance along the gradient is {variance / trial.norm**2:.3g} times the squared gradient."
        )
        mean, variances, count = trial.run(replicates)
        variance = variances[trial.along].item()
        sees = needed * detectable * math.sqrt(variance / count)
        if sees <= detectable:
            break
    errors = (variances / count + trial.rounding.square()).sqrt()
    z = (mean / errors).abs()
    phi, projection, value, theta = z.split((trial.along, 1, problem.count, problem.theta.numel()))
    return Certificate(
        estimator=estimator.label,
        problem=problem.name,
        replicates=count,
        z={"φ": phi.max().item(), "along": projection.item(), "value": value.max().item(), "θ": theta.max().item()},
        mutant=abs((0.97 * mean[trial.along] - 0.03 * trial.norm) / (0.97 * errors[trial.along])).item(),
        sees=sees,
        seconds=time.perf_counter() - start,
    )


class Trial:
    """One estimator on one problem: the exact numbers, and chunks of replicates."""

    def __init__(self, estimator: sp.Estimator[Any, Any], problem: Problem, seed: int) -> None:
        self.estimator, self.problem = estimator, problem
        self.generator = Generator().manual_seed(seed)
        phi, theta = problem.rows(1)
        value = problem.exact(estimator, phi, theta)
        self.gradient, slope = torch.autograd.grad(value.sum(), (phi, theta), materialize_grads=True)
        self.norm = self.gradient.norm().item()
        self.exact = torch.cat([self.gradient.flatten(), self.gradient.norm()[None], value.detach(), slope.flatten()])
        self.along = problem.phi.numel()  # the column of the projection
        self.rounding = 1e-9 * (1 + self.exact.abs())
        rows = MOST_NUMBERS // (problem.phi.numel() * estimator.evaluations(problem.dist(phi))[0])
        self.chunk = max((size for size in CHUNKS if size <= rows), default=CHUNKS[0])
        self.shares = self._learn_shares() if problem.rare else None
        self.control = torch.zeros_like(self.exact)

    def pilot(self, replicates: int) -> float:
        """The variance along the exact gradient; and learn how much of the weights' chance to subtract."""
        chunks = [self._chunk() for _ in range(math.ceil(replicates / self.chunk))]
        deviations = torch.cat([deviations for deviations, _ in chunks])  # [replicates, columns]
        surplus = torch.cat([weights for _, weights in chunks])[:, None] - 1
        self.control = (deviations * surplus).sum(0) / surplus.square().sum().clamp_min(1e-300)
        return (deviations - self.control * surplus).var(0)[self.along].item()

    def run(self, replicates: int) -> tuple[Tensor, Tensor, int]:
        """The mean and the variance of the deviations from the exact numbers, [columns], and over how many."""
        count, total, squares = 0, torch.zeros_like(self.exact), torch.zeros_like(self.exact)
        while count < replicates:
            deviations, weights = self._chunk()
            deviations -= self.control * (weights[:, None] - 1)  # of mean zero, as weights have mean 1
            count += deviations.shape[0]
            total += deviations.sum(0)
            squares += deviations.square().sum(0)
        mean = total / count
        return mean, (squares / count - mean.square()).clamp_min(0), count

    def _chunk(self) -> tuple[Tensor, Tensor]:
        """Weighted deviations, [replicates, columns], and the weights, [replicates]."""
        if self.shares is None:
            return self._deviations(), torch.ones(self.chunk, dtype=torch.float64)
        with tails(self.chunk, self.shares, self.generator) as source:
            deviations = self._deviations()
        return deviations * source.weights[:, None], source.weights

    def _deviations(self) -> Tensor:
        problem = self.problem
        phi, theta = problem.rows(self.chunk)
        value = sp.expect(
            lambda x: problem.f(x, phi, theta), problem.dist(phi), self.estimator, generator=self.generator
        )
        gradient, slope = torch.autograd.grad(value.sum(), (phi, theta), materialize_grads=True)
        gradient = gradient.reshape(self.chunk, -1)
        along = gradient @ self.gradient.flatten() / self.norm
        columns = (gradient, along[:, None], value.detach().reshape(self.chunk, -1), slope.reshape(self.chunk, -1))
        return torch.cat(columns, 1) - self.exact

    def _learn_shares(self) -> Shares:
        phi, _ = self.problem.rows(self.chunk)
        with tails(self.chunk, None, self.generator) as source, torch.no_grad():
            self.estimator.propose(self.problem.dist(phi), generator=self.generator)
        shares = Shares(source.numbers, source.groups)
        for _ in range(PILOT_ROUNDS):
            with tails(self.chunk, shares, self.generator) as source:
                errors = self._deviations()[:, self.along] * source.weights
            shares.learn(source.way, errors)
        return shares
