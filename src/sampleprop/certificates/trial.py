"""The test of one estimator on one exact problem: how many replicates, which comparisons, and what bias they see.

Each replicate is one row of a batch. For φ every coordinate and the projection on the exact gradient are compared, for
θ every coordinate, and the value, each by a z-test. The number of replicates follows from the variance in a pilot run,
so that a relative bias of the size `detectable` along the exact gradient is rejected with a probability of 99 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Generator, Tensor

from sampleprop.certificates.problems import Problem
from sampleprop.certificates.tails import Shares, Unmovable, depends_on_other_noise, tails
from sampleprop.estimator import Estimator
from sampleprop.expectation import expect

POWER = 0.99
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


@dataclass(frozen=True)
class Certificate:
    """What the comparison with one exact problem found.

    Attributes:
        problem: its name.
        replicates: how many independent estimates were averaged.
        bias: the bias of the gradient with respect to φ along the exact one, over the length of that: 0.1 is 10 % too
            long, -0.1 is 10 % too short.
        bias_error: its standard error.
        z: the largest absolute z among the coordinates of φ ("φ"), of the projection ("along"), of the "value", and of
            "θ".
        sees: the relative bias along the exact gradient that is rejected with a probability of 99 %.
    """

    problem: str
    replicates: int
    bias: float
    bias_error: float
    z: dict[str, float]
    sees: float

    def __str__(self) -> str:
        z = "  ".join(f"{part} {number:.2f}" for part, number in self.z.items())
        return f"{self.problem}: {self.replicates} replicates, |z| {z}, sees {100 * self.sees:.2f} %"


@dataclass(frozen=True)
class Undecided:
    """A problem that decides nothing about the estimator.

    Attributes:
        problem: its name.
        reason: why, in a sentence.
    """

    problem: str
    reason: str


def measure(
    estimator: Estimator[Any, Any],
    problem: Problem,
    *,
    threshold: float,
    detectable: float,
    seed: int,
    most_replicates: int = MOST_REPLICATES,
) -> Certificate | Undecided:
    """Compare with the exact value and gradients, with as many replicates as the variance asks for.

    Args:
        estimator: of any configuration.
        problem: one that it takes.
        threshold: a comparison is rejected when the absolute value of its z is larger.
        detectable: the relative bias along the exact gradient that is to be seen.
        seed: of all noise.
        most_replicates: the problem stays undecided when more are needed.

    Raises:
        ValueError: for an estimate of another shape than [*batch], and for one that is not finite.
    """
    try:
        return _measure(Trial(estimator, problem, seed), threshold, detectable, most_replicates)
    except Unmovable as reason:
        return Undecided(problem.name, f"Its outcomes are too rare to be met by chance, and {reason}.")


class Trial:
    """One estimator on one problem: the exact numbers, and chunks of replicates.

    Raises:
        Unmovable: when the outcomes of the problem are rare, and the estimator's draws cannot be moved to them.
        ValueError: for an estimate of another shape than [*batch], and for one that is not finite.
    """

    def __init__(self, estimator: Estimator[Any, Any], problem: Problem, seed: int) -> None:
        self.estimator, self.problem = estimator, problem
        self.generator = Generator().manual_seed(seed)
        phi, theta = problem.rows(1)
        value = problem.exact(estimator, phi, theta)
        self.gradient, slope = torch.autograd.grad(value.sum(), (phi, theta), materialize_grads=True)
        self.norm = self.gradient.norm().item()
        if self.norm == 0:
            raise ValueError(
                f"A bias needs a gradient to be measured by; that of the problem “{problem}” is exactly 0."
            )
        self.exact = torch.cat([self.gradient.flatten(), self.gradient.norm()[None], value.detach(), slope.flatten()])
        self.along = problem.phi.numel()  # the column of the projection
        self.rounding = 1e-9 * (1 + self.exact.abs())
        rows = MOST_NUMBERS // (problem.phi.numel() * self._evaluations())
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
        value = expect(lambda x: problem.f(x, phi, theta), problem.dist(phi), self.estimator, generator=self.generator)
        gradient, slope = torch.autograd.grad(value.sum(), (phi, theta), materialize_grads=True)
        gradient = gradient.reshape(self.chunk, -1)
        along = gradient @ self.gradient.flatten() / self.norm
        columns = (gradient, along[:, None], value.detach().reshape(self.chunk, -1), slope.reshape(self.chunk, -1))
        estimates = torch.cat(columns, 1)
        if not math.isfinite(estimates.sum().item()):
            raise ValueError(
                f"{self.estimator.name} needs finite values and gradients to be certified; got NaN or infinite ones. "
                "Look at where it divides, takes a logarithm, or differentiates f."
            )
        return estimates - self.exact

    def _evaluations(self) -> int:
        """At how many points one estimate evaluates f."""
        problem, evaluated = self.problem, 0
        phi, theta = problem.rows(1)

        def f(x: Tensor) -> Tensor:
            nonlocal evaluated
            evaluated += x.shape[0]
            return problem.f(x, phi, theta)

        value = expect(f, problem.dist(phi), self.estimator, generator=Generator().manual_seed(0))
        if value.shape != (problem.count,) or not value.requires_grad:
            got = list(value.shape) if value.requires_grad else "a detached one"
            raise ValueError(
                f"{self.estimator.name} needs to return one estimate for each batch element, shape [{problem.count}], "
                f"with a gradient; got {got}. Average over the samples only, and return "
                "sampleprop.surrogate.surrogate(...), or keep log p attached."
            )
        return evaluated

    def _learn_shares(self) -> Shares:
        phi, _ = self.problem.rows(self.chunk)
        # With small logits all outcomes are met, so that other noise shows in the points.
        if depends_on_other_noise(lambda generator: self._propose(0.1 * phi, generator)):
            raise Unmovable(
                "its samples come from other noise than sampleprop.noise.uniform, which could be moved to them"
            )
        with tails(self.chunk, None, self.generator) as source:
            self._propose(phi, self.generator)
        shares = Shares(source.numbers, source.groups)
        for _ in range(PILOT_ROUNDS):
            with tails(self.chunk, shares, self.generator) as source:
                errors = self._deviations()[:, self.along] * source.weights
            shares.learn(source.way, errors)
        return shares

    def _propose(self, phi: Tensor, generator: Generator) -> Tensor:
        with torch.no_grad():
            points: Tensor = self.estimator.propose(self.problem.dist(phi), generator=generator).points
        return points


def _measure(trial: Trial, threshold: float, detectable: float, most_replicates: int) -> Certificate | Undecided:
    problem = trial.problem
    needed = (threshold + NormalDist().inv_cdf(POWER)) / detectable / trial.norm
    variance = trial.pilot(PILOT_REPLICATES)
    while True:
        # A quarter more, for what the pilot run does not know of the variance. Where that was not enough, all is
        # drawn afresh: when to stop must not depend on the numbers that are averaged.
        replicates = max(LEAST_REPLICATES, math.ceil(1.25 * variance * needed**2))
        if replicates > most_replicates:
            visible = math.ceil(100 * detectable * math.sqrt(replicates / most_replicates))
            return Undecided(
                problem.name,
                f"To see a bias of {100 * detectable:g} % takes {replicates:,} estimates, and {most_replicates:,} are "
                f"allowed; with those, a bias of {visible} % could be seen. The variance of one estimate along the "
                f"gradient is {variance / trial.norm**2:.2g} times the squared gradient.",
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
        problem=problem.name,
        replicates=count,
        bias=mean[trial.along].item() / trial.norm,
        bias_error=errors[trial.along].item() / trial.norm,
        z={"φ": phi.max().item(), "along": projection.item(), "value": value.max().item(), "θ": theta.max().item()},
        sees=sees,
    )
