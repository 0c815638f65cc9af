"""Subsets of exactly k items.

Source: [chen1994weighted], the conditional Bernoulli distribution. Differences from the paper: the normalizer is a
product tree of tilted polynomials, which stays inside the range of floating point, and the sampler goes down this tree.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Size, Tensor
from torch.distributions import constraints

from sampleprop import noise
from sampleprop.families.structured import LogLinear, Natural

HALVINGS = 16  # of the interval for the tilt, whose precision decides nothing but the range of the numbers
SHORT = 8  # products of polynomials up to this length are written out, longer ones are made by Fourier transforms


class KSubset(LogLinear):
    r"""Choose exactly k of n items: every subset of k items, with a probability proportional to the product of weights.

    .. math:: p(x) = \frac{e^{\langle\theta, x\rangle}}{\sum_{|y| = k} e^{\langle\theta, y\rangle}},
        \qquad x \in \{0, 1\}^n, \quad \sum_i x_i = k

    This is the distribution of n independent Bernoulli variables, given that their sum is k. It is *not* that of the k
    largest perturbed logits (`gumbel_top_k`, :class:`PlackettLuce`), which has other inclusion probabilities. Adding a
    constant to all logits changes nothing. With k = 1 it is a `OneHotCategorical`.

    The log-normalizer takes O(n k) memory and log₂ n steps. Its derivative is `mean`, the inclusion probabilities,
    which are differentiable in the logits.

    Args:
        logits: θ, [\*batch, n], finite or -inf; an item of -inf is never chosen.
        k: the number of chosen items, from 0 to n.
        validate_args: whether to check for NaN, +inf, rows with fewer than k finite logits, and values outside the
            support in `log_prob`.

    Raises:
        TypeError: for logits that are not a floating-point tensor.
        ValueError: for a k out of range, and for logits as above.

    Example, for the weights 1, 2 and 3. The subsets {0, 1}, {0, 2} and {1, 2} have the weights 2, 3 and 6, so that the
    first item is in a subset with probability (2 + 3) / 11:

        >>> import torch, sampleprop as sp
        >>> q = sp.KSubset(torch.tensor([1.0, 2.0, 3.0]).log(), 2)
        >>> q.log_prob(torch.tensor([0.0, 1.0, 1.0])).exp(), q.mean[0]
        (tensor(0.5455), tensor(0.4545))

    A layer that keeps the two best of four features, with an unbiased gradient:

        >>> scores = torch.zeros(5, 4, requires_grad=True)
        >>> features = torch.ones(5, 4)
        >>> q = sp.KSubset(scores, 2)
        >>> loss = sp.expect(lambda kept: (kept * features).sum(-1), q, sp.ScoreFunction(4))
        >>> loss.mean().backward()
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "logits": constraints.real_vector,
        "k": constraints.nonnegative_integer,
    }
    has_rsample = False

    def __init__(self, logits: Tensor, k: int, *, validate_args: bool | None = None) -> None:
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            got = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
            raise TypeError(f"KSubset needs floating-point logits; got {got}. Pass a tensor of scores, [*batch, n].")
        n = logits.shape[-1] if logits.dim() else 0
        if isinstance(k, bool) or not isinstance(k, int) or not 0 <= k <= n or n == 0:
            raise ValueError(
                f"KSubset needs k from 0 to the number of items, which are the last dimension; got k={k!r} for logits "
                f"{list(logits.shape)}."
            )
        self.logits = logits
        self.k = k
        self.least = f"at least {k} finite logits in each row"
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args)

    @property
    def natural(self) -> Natural:
        return {"logits": noise.promote(self.logits)}

    @property
    def dtype(self) -> torch.dtype:
        return self.logits.dtype

    def log_normalizer(self, *, logits: Tensor) -> Tensor:  # type: ignore[override]
        c, s = _tilt(logits, self.k)
        return _log_coefficient(logits, self.k, c, s) + s.sum(-1) - self.k * c.squeeze(-1)

    def log_density(self, points: Tensor, *, logits: Tensor) -> Tensor:  # type: ignore[override]
        # As the logarithm of Π p^x (1 - p)^(1 - x) / P(sum = k), whose terms are small; ⟨θ, x⟩ and A are large.
        c, s = _tilt(logits, self.k)
        x = points.to(logits.dtype)
        inside = (x * torch.where(x != 0, logits + c, 0.0)).sum(-1) - s.sum(-1)
        return inside - _log_coefficient(logits, self.k, c, s)

    def draw(self, shape: Size, generator: Generator | None = None) -> Tensor:
        """Divide the k items between the two halves of the items, then in each half, down to single items."""
        logits = noise.promote(self.logits.detach())
        levels = [_leaves(logits, *_tilt(logits, self.k))]
        while levels[-1].shape[-2] > 2:
            levels.append(_direct(levels[-1], _length(levels[-1], self.k)))
        counts = torch.full((*shape, *self.batch_shape, 1), self.k, device=logits.device)  # [..., nodes]
        for table in reversed(levels) if levels[-1].shape[-2] > 1 else ():
            left, right = table[..., 0::2, :], table[..., 1::2, :]  # [*batch, nodes, length]
            other = counts.unsqueeze(-1) - torch.arange(table.shape[-1], device=logits.device)  # [..., nodes, length]
            valid = (other >= 0) & (other < table.shape[-1])
            weights = right.expand(other.shape).gather(-1, torch.where(valid, other, 0))
            upto = (left * torch.where(valid, weights, 0.0)).cumsum(-1)
            u = noise.uniform((*counts.shape, 1), upto, generator)
            taken = (u * upto[..., -1:] >= upto).sum(-1)
            counts = torch.stack((taken, counts - taken), -1).flatten(-2)
        return counts[..., : logits.shape[-1]].to(self.dtype)

    @property
    def mode(self) -> Tensor:
        chosen = self.logits.detach().topk(self.k, -1).indices
        return torch.zeros_like(self.logits.detach()).scatter(-1, chosen, 1.0)

    @property
    def support_size(self) -> int:
        return math.comb(self.event_shape[0], self.k)

    def states(self, numbers: Tensor) -> Tensor:
        """In lexicographic order of the chosen items."""
        n = self.event_shape[0]
        # How many ways there are to choose so many of so many items; a number never reaches the largest ones.
        ways = torch.tensor([[min(math.comb(i, j), 2**62) for j in range(self.k + 1)] for i in range(n)])
        ways = ways.to(numbers.device)
        left = torch.full_like(numbers, self.k)  # still to be chosen
        columns = []
        for i in range(n):
            first = torch.where(left > 0, ways[n - 1 - i][(left - 1).clamp_min(0)], 0)  # with item i
            chosen = numbers < first
            numbers = torch.where(chosen, numbers, numbers - first)
            left = left - chosen.to(left.dtype)
            columns.append(chosen)
        return torch.stack(columns, -1).to(self.dtype)

    def contains(self, points: Tensor) -> Tensor:
        marks = ((points == 0) | (points == 1)).all(-1)
        return marks & ((points == 1).sum(-1) == self.k)  # counted as integers: bfloat16 has no 257

    def possible(self) -> Tensor:
        return (self.logits.detach() > -torch.inf).sum(-1) >= self.k


def _tilt(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """A constant c, [..., 1], such that bits of the logits θ + c have a mean sum near k, and s = log(1 + e^(θ + c)).

    Given the sum, the constant does not matter. With it, k is among the most probable sums, so that all numbers are
    probabilities, and nothing underflows. Both are detached: A does not depend on c, and what is 1 - p = e^-s may stay
    a constant of the same kind.
    """
    theta = logits.detach()
    n = theta.shape[-1]
    # From the first of these two constants on the mean sum is above k - 1/2, up to the second one below k + 1/2: the k
    # largest logits are then nearly certain, and the others nearly impossible. So the search is short for any logits.
    ordered = F.pad(theta.topk(min(k + 1, n), -1).values, (1, 0), value=torch.inf)
    ordered = F.pad(ordered, (0, 1), value=-torch.inf)[..., k : k + 2]  # the k-th largest logit, and the next one
    beyond = [math.log(2 * max(k, 1)), -math.log(2 * max(n - k, 1))]
    ends = torch.tensor(beyond, dtype=theta.dtype, device=theta.device) - ordered  # [..., 2]
    finite = ends.isfinite()
    ends = torch.where(finite, ends, torch.where(finite, ends, 0.0).sum(-1, keepdim=True))
    c = ends.mean(-1, keepdim=True)
    step = (ends[..., :1] - ends[..., 1:]).abs() / 2
    for _ in range(HALVINGS):
        step = step / 2
        fewer = (theta + c).sigmoid().sum(-1, keepdim=True) < k
        c = torch.where(fewer, c + step, c - step)
    return c, F.softplus(theta + c)


def _leaves(logits: Tensor, c: Tensor, s: Tensor) -> Tensor:
    """The polynomials (1 - p) + p t of single items, padded by ones to a power of two: [..., items, 2]."""
    leaves = torch.stack(((-s).exp(), (logits + c - s).exp()), -1)
    n = leaves.shape[-2]
    one = torch.tensor([1.0, 0.0], dtype=leaves.dtype, device=leaves.device)
    missing = (1 << (n - 1).bit_length()) - n
    return torch.cat((leaves, one.expand(*leaves.shape[:-2], missing, 2)), -2) if missing else leaves


def _log_coefficient(logits: Tensor, k: int, c: Tensor, s: Tensor) -> Tensor:
    """log P(sum = k) of bits of the logits θ + c, [...]."""
    level = _leaves(logits, c, s)
    while level.shape[-2] > 2:
        product = _written_out if level.shape[-1] <= SHORT else _by_fourier
        level = product(level, _length(level, k))
    if level.shape[-2] == 1:
        return level[..., 0, k].log()
    most = level.shape[-1] - 1
    least, upto = max(0, k - most), min(k, most)
    left, right = level[..., 0, least : upto + 1], level[..., 1, k - upto : k - least + 1]
    return (left * right.flip(-1)).sum(-1).log()


def _length(level: Tensor, k: int) -> int:
    """How many coefficients the products of neighbours have, up to degree k."""
    return min(2 * level.shape[-1] - 1, k + 1)


def _written_out(level: Tensor, length: int) -> Tensor:
    """Products of neighbours, [..., nodes, size] -> [..., nodes / 2, length], one degree of the left one at a time."""
    left, right = level[..., 0::2, :], level[..., 1::2, :]
    size = level.shape[-1]
    terms = []
    for i in range(min(size, length)):
        kept = min(size, length - i)
        terms.append(left[..., i : i + 1] * F.pad(right[..., :kept], (i, length - i - kept)))
    return torch.stack(terms).sum(0)


def _direct(level: Tensor, length: int) -> Tensor:
    """Products of neighbours with every coefficient accurate for itself, as the sampler needs them."""
    left, right = level[..., 0::2, :], level[..., 1::2, :]
    size = level.shape[-1]
    windows = F.pad(right, (size - 1, length - size)).unfold(-1, size, 1)  # [..., nodes, length, size]
    return (windows @ left.flip(-1).unsqueeze(-1)).squeeze(-1)


def _by_fourier(level: Tensor, length: int) -> Tensor:
    """Products of neighbours, accurate compared to the largest coefficient, which is all that P(sum = k) needs."""
    size = 1 << (2 * level.shape[-1] - 2).bit_length()
    transformed = torch.fft.rfft(level, n=size)
    products: Tensor = torch.fft.irfft(transformed[..., 0::2, :] * transformed[..., 1::2, :], n=size)
    return products[..., :length]
