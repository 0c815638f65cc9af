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


def _chain_of(
    places: int, labels: int, masked: Sequence[int], impossible: Sequence[int] | None, stationary: bool = False
) -> Structure:
    """`masked` and `impossible` are places in θ that are -inf."""
    steps = min(1, places - 1) if stationary else places - 1
    sizes = [places * labels, steps * labels**2]

    def split(theta: Tensor) -> tuple[Tensor, Tensor]:
        unary, transitions = theta.split(sizes, -1)
        return unary.unflatten(-1, (places, labels)), transitions.unflatten(-1, (steps, labels, labels))

    def weight(theta: Tensor, state: Sequence[object]) -> Tensor:
        unary, transitions = split(theta)
        path = torch.tensor(state).argmax(-1).tolist()
        total = 0 * torch.where(theta > -INF, theta, 0.0).sum()
        for t, label in enumerate(path):
            total = total + unary[t, label]
        for t, (label, following) in enumerate(itertools.pairwise(path)):
            total = total + transitions[0 if stationary else t, label, following]
        return total

    def one_hots() -> Iterator[Sequence[object]]:
        for path in itertools.product(range(labels), repeat=places):
            yield [[float(label == i) for i in range(labels)] for label in path]

    size = sum(sizes)
    numbers = torch.linspace(-1, 1.3, size, dtype=torch.float64)[torch.arange(size) * 7 % size]
    return Structure(
        f"chain of {places} with {labels} labels{', stationary' if stationary else ''}",
        (size,),
        lambda theta, checked: sp.LinearChain(*split(theta), validate_args=checked),
        one_hots,
        weight,
        numbers.index_fill(0, torch.tensor(masked, dtype=torch.int64), -INF),
        None if impossible is None else numbers.index_fill(0, torch.tensor(impossible), -INF),
    )


def _trees(n: int) -> Iterator[Sequence[object]]:
    """In the order of the Prüfer sequences, each found as the one tree that has it."""
    pairs = list(itertools.combinations(range(n), 2))
    found = {}
    for edges in itertools.combinations(pairs, n - 1):
        sequence, left = [], list(edges)
        while len(left) > 1:
            ends = sorted(sum(left, ()))
            leaves = [node for node in range(n) if ends.count(node) == 1]
            if not leaves:
                break
            edge = next(edge for edge in left if leaves[0] in edge)
            left.remove(edge)
            sequence.append(edge[0] + edge[1] - leaves[0])
        if len(left) == 1 and len({*sequence, *sum(edges, ())}) == n and _connected(n, edges):
            found[tuple(sequence)] = [float(pair in edges) for pair in pairs]
    yield from (found[sequence] for sequence in sorted(found))


def _connected(n: int, edges: Sequence[tuple[int, int]]) -> bool:
    reached = {0}
    for _ in range(n):
        reached |= {node for edge in edges if reached & set(edge) for node in edge}
    return len(reached) == n


def _tree_of(n: int, masked: Sequence[float], impossible: Sequence[float]) -> Structure:
    return Structure(
        f"tree of {n}",
        (n * (n - 1) // 2,),
        lambda theta, checked: sp.SpanningTree(theta, validate_args=checked),
        lambda: _trees(n),
        _sum_of_chosen,
        torch.tensor(masked, dtype=torch.float64),
        torch.tensor(impossible, dtype=torch.float64),
    )


def _matching_of(n: int, masked: Sequence[float], impossible: Sequence[float]) -> Structure:
    def matrices() -> Iterator[Sequence[object]]:
        for columns in itertools.permutations(range(n)):
            yield [[float(i == column) for i in range(n)] for column in columns]

    return Structure(
        f"matching of {n}",
        (n, n),
        lambda theta, checked: sp.Matching(theta, validate_args=checked),
        matrices,
        _sum_of_chosen,
        torch.tensor(masked, dtype=torch.float64).reshape(n, n),
        torch.tensor(impossible, dtype=torch.float64).reshape(n, n),
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
    _chain_of(4, 3, [1, 12, 13, 14, 25], [3, 4, 5]),  # label 1 at the first place, and all transitions from label 0
    _chain_of(3, 5, [0, 1, 20, 21, 22, 23, 24], [5, 6, 7, 8, 9]),  # as vectors, not as matrices
    _chain_of(3, 2, [6, 7], [6, 7, 8, 9], stationary=True),
    _chain_of(1, 3, [1], [0, 1, 2]),
    _chain_of(3, 1, [], None),
    _tree_of(2, [0.4], [-INF]),
    _tree_of(3, [0.4, -INF, 0.9], [0.4, -INF, -INF]),
    _tree_of(4, [0.4, -INF, 0.9, -0.8, -INF, 0.1], [0.4, 0.9, -INF, -0.8, -INF, -INF]),
    _matching_of(1, [0.3], [-INF]),
    _matching_of(
        3, [0.4, -INF, 0.9, -0.8, 0.2, 0.1, -INF, 1.1, 0.6], [0.4, -INF, -INF, -0.8, -INF, -INF, 0.3, 1.1, 0.6]
    ),
    _matching_of(4, [0.4, -INF, 0.9, -0.8] * 3 + [0.1, 0.5, -INF, 1.1], [-INF, 0.3, 0.9, -0.8] * 4),
)
LOG_LINEAR = tuple(s for s in STRUCTURES if isinstance(s.make(s.theta(), True), LogLinear))
