"""The structures of the library, each with a second, independent description of its states by brute force."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

import sampleprop as sp
from sampleprop.families.structured import LogLinear, Structured

INF = torch.inf


@dataclass(frozen=True)
class Structure:
    """A structure for the tests that all of them share.

    Attributes:
        name: as the tests show it.
        shape: of its parameters θ, which are all in one tensor, [*batch, *shape].
        make: from θ, and whether to validate, to the distribution.
        states: every state, as nested sequences, in the order of `states(numbers)`.
        weight: from θ [*shape] and a state to the logarithm of what its probability is proportional to.
        masked: some θ with -inf, [*shape], under which a part of the states is impossible.
        impossible: some θ under which no state is possible.
    """

    name: str
    shape: tuple[int, ...]
    make: Callable[[Tensor, bool], Structured]
    states: Callable[[], Iterator[Sequence[object]]]
    weight: Callable[[Tensor, Sequence[object]], Tensor]
    masked: Tensor
    impossible: Tensor | None

    def __str__(self) -> str:
        return self.name

    def theta(self, *batch: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
        """A leaf θ, [*batch, *shape]."""
        numbers = torch.randn(*batch, *self.shape, generator=Generator().manual_seed(seed), dtype=torch.float64)
        return numbers.to(dtype).requires_grad_()

    def log_probs(self, theta: Tensor) -> Tensor:
        """log p of each state by brute force, [states], for θ [*shape]."""
        weights = torch.stack([self.weight(theta, state) for state in self.states()])
        return weights - weights.logsumexp(0)


def _subsets(n: int, k: int) -> Iterator[Sequence[object]]:
    for chosen in itertools.combinations(range(n), k):
        yield [1.0 if i in chosen else 0.0 for i in range(n)]


def _sum_of_chosen(theta: Tensor, state: Sequence[object]) -> Tensor:
    total = 0 * torch.where(theta > -INF, theta, 0.0).sum()  # attached, whatever the state
    for x, logit in zip(torch.tensor(state).flatten().tolist(), theta.flatten(), strict=True):
        total = total + (logit if x else 0.0)
    return total


def _subset_of(n: int, k: int, masked: Sequence[float], impossible: Sequence[float] | None) -> Structure:
    return Structure(
        f"{k} of {n}",
        (n,),
        lambda theta, checked: sp.KSubset(theta, k, validate_args=checked),
        lambda: _subsets(n, k),
        _sum_of_chosen,
        torch.tensor(masked, dtype=torch.float64),
        None if impossible is None else torch.tensor(impossible, dtype=torch.float64),
    )


def _one_after_the_other(theta: Tensor, state: Sequence[object]) -> Tensor:
    total = 0 * torch.where(theta > -INF, theta, 0.0).sum()
    left = list(range(len(theta)))
    for item in torch.tensor(state).tolist():
        if theta[item] == -INF:
            return total - INF
        total = total + theta[item] - theta[left].logsumexp(0)
        left.remove(item)
    return total


def _ranking_of(n: int, k: int, masked: Sequence[float], impossible: Sequence[float]) -> Structure:
    return Structure(
        f"ranking of {k} of {n}",
        (n,),
        lambda theta, checked: sp.PlackettLuce(theta, k, validate_args=checked),
        lambda: itertools.permutations(range(n), k),
        _one_after_the_other,
        torch.tensor(masked, dtype=torch.float64),
        torch.tensor(impossible, dtype=torch.float64),
    )


STRUCTURES = (
    _subset_of(5, 2, [0.3, -INF, -0.4, 1.2, 0.1], [0.3, -INF, -INF, -INF, -INF]),
    _subset_of(6, 3, [-INF, 0.2, 0.9, -1.1, -INF, 0.3], [-INF, 0.2, 0.9, -INF, -INF, -INF]),
    _subset_of(7, 6, [0.5, 0.2, 0.9, -1.1, 0.3, 0.3, -INF], [0.5, 0.2, 0.9, -INF, 0.3, 0.3, -INF]),
    _subset_of(3, 0, [-INF, 0.5, -INF], None),
    _subset_of(3, 3, [0.1, 0.5, -0.3], [-INF, 0.1, 0.2]),
    _subset_of(1, 1, [0.5], [-INF]),
    _ranking_of(4, 4, [0.4, -0.3, 1.1, 0.2], [0.1, 0.4, -INF, 0.2]),
    _ranking_of(5, 2, [0.4, -INF, 1.1, -0.3, -INF], [-INF, -INF, 0.3, -INF, -INF]),
    _ranking_of(4, 3, [0.2, -INF, 1.0, 0.5], [0.2, -INF, 1.0, -INF]),  # every finite item is in each ranking
    _ranking_of(5, 1, [0.4, -INF, 1.1, -0.3, -INF], [-INF, -INF, -INF, -INF, -INF]),
)
LOG_LINEAR = tuple(s for s in STRUCTURES if isinstance(s.make(s.theta(), True), LogLinear))
