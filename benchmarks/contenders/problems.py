"""What the contenders are asked: the cases, each as large as it is timed, and small enough to know the answer.

The answer is a sum over all states, quadrature, or for a relaxation, which has a bias, the same relaxation by hand.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import numpy
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, kl_divergence

import naive
from cases import KINDS
from workloads import WORKLOADS

Step = Callable[[], object]
Build = Callable[["Problem", int], Step]  # for so many samples
CHAIN = 5  # variables of the chain that is timed
BATCH = 64  # rows of a small problem, all alike: one step is so many estimates


class Problem(NamedTuple):
    """E[cost(x)] for x of a kind; `trained` are the leaves that get a gradient."""

    kind: str
    parameter: Callable[[], Tensor]  # [*batch, *event]; of a chain (weight, bias)
    cost: naive.Cost  # [*draws, *batch, *event] -> [*draws, *batch]
    trained: list[Tensor]
    batch: int
    length: int = 0  # of a chain
    validated: bool | None = None  # as `Case.validated`

    @property
    def dist(self) -> Callable[[Tensor], Distribution]:
        return KINDS[self.kind].dist


class Case(NamedTuple):
    """A method on a workload, and how many samples it takes there.

    `validated` says whether a distribution object is built and checks its parameters: None for each as its users have
    it. dice-mc samples categories without such an object, and what the checks of one cost is most of the difference.
    Therefore some cases are timed with the checks on both sides (True) and on neither (False), beside one contender.
    """

    method: str
    workload: str
    kind: str
    samples: int = 1
    validated: bool | None = None
    beside: str | None = None  # the only contender; None for all

    def __str__(self) -> str:
        said = {None: "", True: ", both validated", False: ", neither validated"}[self.validated]
        return f"{self.method}, {self.workload}" + (f", {self.kind}" if self.workload == "vae" else "") + said

    def has(self, module: ModuleType) -> bool:
        """Whether the case is asked of this contender, or of our own library."""
        mine = self.beside is None or module.PACKAGE in (self.beside, "sampleprop")
        return mine and self.method in module.STEPS

    def problem(self) -> Problem:
        """As it is timed."""
        if self.kind == "chain":
            leaf = torch.tensor([0.7, -0.1], requires_grad=True)
            return Problem("chain", lambda: leaf, _no_cost, [leaf], 16, CHAIN)
        workload = WORKLOADS[self.workload](self.kind)
        assert workload is not None
        batch = len(workload.parameter())
        return Problem(self.kind, workload.parameter, workload.cost, workload.trained, batch, validated=self.validated)

    def small(self) -> Problem:
        """As it is compared with the answer."""
        leaf = SMALL[self.kind].clone().requires_grad_()
        if self.kind == "chain":
            return Problem("chain", lambda: leaf, _no_cost, [leaf], BATCH, 3)
        return Problem(
            self.kind, lambda: leaf.expand(BATCH, *leaf.shape), smooth, [leaf], BATCH, validated=self.validated
        )

    @property
    def small_samples(self) -> int:
        """The answer of a bound is a sum over the states of all samples."""
        return 2 if self.method.endswith("bound") else self.samples


SMALL = {
    "bits": torch.tensor([0.4, -0.9, 1.3]),
    "one-hots": torch.tensor([[0.4, -0.9, 0.2], [1.0, 0.3, -0.5]]),
    "outcomes": torch.tensor([0.7, -0.6, 0.1, 0.5, -0.2]),
    "reals": torch.tensor([0.4, -0.9]),
    "chain": torch.tensor([0.7, -0.1]),
}

CASES = [
    Case("score function", "toy-1", "bits"),
    Case("score function", "toy-1000", "bits"),
    Case("score function", "vae", "bits"),
    Case("score function", "categorical", "one-hots"),
    Case("score function", "categorical", "one-hots", validated=True, beside="dice-mc"),
    Case("score function", "categorical", "one-hots", validated=False, beside="dice-mc"),
    Case("leave-one-out", "toy-1", "bits", 4),
    Case("leave-one-out", "toy-1000", "bits", 4),
    Case("leave-one-out", "vae", "bits", 4),
    Case("leave-one-out", "categorical", "one-hots", 4),
    Case("moving average", "vae", "bits"),
    Case("moving average", "categorical", "one-hots"),
    Case("moving average", "categorical", "one-hots", validated=True, beside="dice-mc"),
    Case("moving average", "categorical", "one-hots", validated=False, beside="dice-mc"),
    Case("second derivative", "toy-1000", "bits"),
    Case("ARM", "vae", "bits", 2),
    Case("DisARM", "vae", "bits", 2),
    Case("REBAR", "vae", "bits"),
    Case("RELAX", "vae", "bits"),
    Case("summed and sampled", "toy-1", "outcomes", 4),
    Case("unordered set", "toy-1", "outcomes", 4),
    Case("enumeration", "toy-1", "outcomes"),
    Case("pathwise", "toy-1000", "reals"),
    Case("pathwise", "vae", "reals"),
    Case("Gumbel-softmax", "vae", "bits"),
    Case("Gumbel-softmax", "categorical", "one-hots"),
    Case("straight-through Gumbel", "vae", "bits"),
    Case("straight-through Gumbel", "categorical", "one-hots"),
    Case("chain", "chain", "chain"),
    Case("ELBO, score function", "vae", "bits"),
    Case("ELBO, moving average", "vae", "bits"),
    Case("ELBO, enumeration", "toy-1", "outcomes"),
    Case("ELBO, pathwise", "vae", "reals"),
    Case("importance-weighted bound", "vae", "reals", 8),
    Case("importance-weighted bound", "vae", "bits", 8),
    Case("ELBO, chain", "chain", "chain"),
]


def prior(problem: Problem) -> Distribution:
    """What the ELBO compares with: even odds, or the standard normal distribution."""
    return problem.dist(torch.zeros(problem.parameter().shape[1:]))


def smooth(x: Tensor) -> Tensor:
    """A cost that is not separable and not quadratic, of points with one dimension of coordinates or two (classes)."""
    flat = x.flatten(-2) if x.shape[-2:] == (2, 3) else x
    weights = torch.linspace(-1.1, 1.4, flat.shape[-1], dtype=x.dtype)
    return 0.7 + (flat * weights).sum(-1).sin() + 0.3 * (flat - 0.45).square().sum(-1)


def chain_cost(x: Tensor) -> Tensor:
    """What each variable of a chain costs."""
    return (x - 0.3).square()


def _no_cost(x: Tensor) -> Tensor:
    raise AssertionError("a chain has its costs at its variables")


def answer(case: Case) -> Callable[[Tensor], Tensor]:
    """From the parameter of the small problem, in float64, to the expectation."""
    if case.kind == "chain":
        return lambda parameter: _chain(parameter, case.method.startswith("ELBO"))
    problem = case.small()
    if case.method.endswith("bound"):
        return lambda parameter: _bound(problem, parameter, case.small_samples)
    return lambda parameter: _mean(problem, parameter, case.method.startswith("ELBO"))


def by_hand(case: Case) -> Callable[[Distribution, naive.Cost, int], Tensor] | None:
    """A relaxation in plain PyTorch; None where the answer is exact."""
    relaxations = {
        "Gumbel-softmax": naive.gumbel_softmax,
        "straight-through Gumbel": naive.straight_through_gumbel,
    }
    return relaxations.get(case.method)


def _nodes(problem: Problem, parameter: Tensor) -> tuple[Tensor, Tensor]:
    """States [n, *event] with the logarithms of their probabilities, [n], differentiable."""
    if problem.kind == "reals":
        points, mass = (torch.from_numpy(x) for x in numpy.polynomial.hermite_e.hermegauss(24))
        x = parameter + torch.cartesian_prod(*[points] * len(parameter))
        return x, torch.cartesian_prod(*[(mass / mass.sum()).log()] * len(parameter)).sum(-1)
    if problem.kind == "bits":
        x = torch.tensor(list(itertools.product([0.0, 1.0], repeat=len(parameter))), dtype=parameter.dtype)
    elif problem.kind == "outcomes":
        x = torch.eye(len(parameter), dtype=parameter.dtype)
    else:
        rows = torch.eye(parameter.shape[1], dtype=parameter.dtype)
        x = torch.stack([torch.stack(both) for both in itertools.product(rows, repeat=len(parameter))])
    return x, problem.dist(parameter).log_prob(x)


def _mean(problem: Problem, parameter: Tensor, elbo: bool) -> Tensor:
    x, log_mass = _nodes(problem, parameter)
    mean = (log_mass.exp() * problem.cost(x)).sum()
    return mean + kl_divergence(problem.dist(parameter), problem.dist(torch.zeros_like(parameter))) if elbo else mean


def _bound(problem: Problem, parameter: Tensor, samples: int) -> Tensor:
    """-E[log 1/K Σ w], as a loss."""
    x, log_mass = _nodes(problem, parameter)
    log_p = problem.dist(torch.zeros_like(parameter)).log_prob(x)
    terms = log_p - problem.cost(x) - problem.dist(parameter).log_prob(x)
    bound, mass = terms, log_mass
    for _ in range(samples - 1):
        bound = torch.logaddexp(bound.unsqueeze(1), terms).flatten()
        mass = (mass.unsqueeze(1) + log_mass).flatten()
    return -(mass.exp() * (bound - math.log(samples))).sum()


def _chain(parameter: Tensor, elbo: bool) -> Tensor:
    """Over all paths of three bits."""
    weight, bias = parameter
    even = Bernoulli(logits=torch.zeros_like(bias))
    total = torch.zeros_like(bias)
    for path in itertools.product([0.0, 1.0], repeat=3):
        x, log_mass, cost = torch.zeros_like(bias), torch.zeros_like(bias), torch.zeros_like(bias)
        for outcome in path:
            q = Bernoulli(logits=weight * x + bias)
            x = torch.full_like(bias, outcome)
            log_mass = log_mass + q.log_prob(x)
            cost = cost + chain_cost(x) + (kl_divergence(q, even) if elbo else 0)
        total = total + log_mass.exp() * cost
    return total
