"""Perfect matchings of two sets: permutation matrices.

Source: [ryser1963combinatorial] for the permanent. Differences from it: the recursion over subsets of columns has
positive terms only, and runs in logarithms.
"""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Generator, Size, Tensor
from torch.distributions import constraints

from sampleprop import noise
from sampleprop.families.discrete import one_hot
from sampleprop.families.enumerable import arrangements
from sampleprop.families.structured import LogLinear, Natural, logsumexp

MOST = 14  # items on a side: there are 2^n subsets of columns


class Matching(LogLinear):
    r"""Match each of n rows with its own one of n columns, by the sum of the scores of the pairs.

    .. math:: p(P) \propto e^{\langle X, P\rangle}, \qquad P \in \{0, 1\}^{n \times n} \text{ a permutation matrix}

    The log-normalizer is the logarithm of a permanent, by a sum over the subsets of columns: n 2^(n - 1) terms, exact,
    for n up to 14. `mean` is the matrix of the marginals. It is not the limit of Sinkhorn's algorithm, which is another
    doubly stochastic matrix. The best assignment to perturbed scores follows another distribution, too.

    Args:
        scores: X, [\*batch, n, n], finite or -inf; a pair of -inf is forbidden.
        validate_args: whether to check for NaN, +inf, rows of the batch without a possible matching, and values outside
            the support in `log_prob`.

    Raises:
        TypeError: for scores that are not a floating-point tensor.
        ValueError: for other shapes, for n above 14, and for scores as above.

    Example, for the weights [[1, 2], [3, 4]]: the identity has 1 · 4 of 1 · 4 + 2 · 3:

        >>> import torch, sampleprop as sp
        >>> sp.Matching(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).log()).mean
        tensor([[0.4000, 0.6000],
                [0.6000, 0.4000]])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"scores": constraints.independent(constraints.real, 2)}
    has_rsample = False
    least = "at least one possible matching in each batch element"

    def __init__(self, scores: Tensor, *, validate_args: bool | None = None) -> None:
        if not isinstance(scores, Tensor) or not scores.is_floating_point():
            got = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
            raise TypeError(f"Matching needs floating-point scores; got {got}. Pass a tensor, [*batch, n, n].")
        if scores.dim() < 2 or scores.shape[-1] != scores.shape[-2] or scores.shape[-1] == 0:
            raise ValueError(f"Matching needs scores [*batch, n, n]; got {list(scores.shape)}.")
        if scores.shape[-1] > MOST:
            raise ValueError(
                f"Matching needs n of at most {MOST}, because it sums over the 2^n subsets of columns; got "
                f"n={scores.shape[-1]}. Use PlackettLuce, a distribution over permutations with another law, or "
                "PerturbAndMAP with a solver such as scipy.optimize.linear_sum_assignment."
            )
        self.scores = scores
        super().__init__(scores.shape[:-2], scores.shape[-2:], validate_args)

    @property
    def natural(self) -> Natural:
        return {"scores": noise.promote(self.scores)}

    @property
    def dtype(self) -> torch.dtype:
        return self.scores.dtype

    def log_normalizer(self, *, scores: Tensor) -> Tensor:  # type: ignore[override]
        return _levels(scores)[-1].squeeze(-1)

    def draw(self, shape: Size, generator: Generator | None = None) -> Tensor:
        """Choose the columns of the last row first, given which sets of columns are left for the rows before it."""
        scores = noise.promote(self.scores.detach())
        n = scores.shape[-1]
        levels = _levels(scores)
        current = torch.zeros(
            (*shape, *self.batch_shape), dtype=torch.int64, device=scores.device
        )  # number in its level
        columns = []
        for r in range(n - 1, -1, -1):
            members, smaller = (table.to(scores.device) for table in _subsets(n, r + 1))  # [subsets, r + 1] each
            options, left = members[current], smaller[current]  # [*shape, *batch, r + 1]
            before = levels[r].expand(*shape, *levels[r].shape).gather(-1, left)
            paid = scores[..., r, :].expand(*shape, *self.batch_shape, n).gather(-1, options)
            choice = (before + paid + noise.gumbel(before.shape, scores, generator)).argmax(-1, keepdim=True)
            columns.append(options.gather(-1, choice).squeeze(-1))
            current = left.gather(-1, choice).squeeze(-1)
        return one_hot(torch.stack(columns[::-1], -1), n, self.dtype)

    @property
    def mode(self) -> Tensor:
        scores = noise.promote(self.scores.detach())
        n = scores.shape[-1]
        levels, sources = [torch.zeros_like(scores[..., :1, 0])], []
        for r in range(n):
            members, smaller = (table.to(scores.device) for table in _subsets(n, r + 1))
            best, source = (levels[-1][..., smaller] + scores[..., r, :][..., members]).max(-1)
            levels.append(best)
            sources.append(source)
        current = torch.zeros((*self.batch_shape, 1), dtype=torch.int64, device=scores.device)
        columns = []
        for r in range(n - 1, -1, -1):
            members, smaller = (table.to(scores.device) for table in _subsets(n, r + 1))
            choice = sources[r].gather(-1, current)  # [*batch, 1]
            columns.append(members[current].gather(-1, choice.unsqueeze(-1)).squeeze(-1))
            current = smaller[current].gather(-1, choice.unsqueeze(-1)).squeeze(-1)
        return one_hot(torch.cat(columns[::-1], -1), n, self.dtype)

    @property
    def support_size(self) -> int:
        return math.factorial(self.scores.shape[-1])

    def states(self, numbers: Tensor) -> Tensor:
        """In the lexicographic order of the permutations."""
        n = self.scores.shape[-1]
        return one_hot(arrangements(numbers, n, n), n, self.dtype)

    def contains(self, points: Tensor) -> Tensor:
        marks = ((points == 0) | (points == 1)).flatten(-2).all(-1)
        return marks & (points.sum(-1) == 1).all(-1) & (points.sum(-2) == 1).all(-1)


def _levels(scores: Tensor) -> list[Tensor]:
    """For r = 0 … n the log of what all matchings of the first r rows weigh, by their set of columns."""
    n = scores.shape[-1]
    levels = [torch.zeros_like(scores[..., :1, 0])]  # [..., 1]
    for r in range(n):
        members, smaller = (table.to(scores.device) for table in _subsets(n, r + 1))
        levels.append(logsumexp(levels[-1][..., smaller] + scores[..., r, :][..., members], -1))
    return levels


def _subsets(n: int, size: int) -> tuple[Tensor, Tensor]:
    """The subsets of so many columns, [subsets, size]; and the numbers of those without one of their members."""
    if torch.compiler.is_dynamo_compiling():  # a compiled program keeps them by itself
        return _tables(n, size)
    with torch.inference_mode(False):  # what is made in inference mode could not be used outside of it
        return _kept_tables(n, size)


def _tables(n: int, size: int) -> tuple[Tensor, Tensor]:
    numbers = {subset: i for i, subset in enumerate(itertools.combinations(range(n), size - 1))}
    subsets = list(itertools.combinations(range(n), size))
    smaller = [[numbers[subset[:i] + subset[i + 1 :]] for i in range(size)] for subset in subsets]
    return torch.tensor(subsets), torch.tensor(smaller)


_kept_tables = cache(_tables)
