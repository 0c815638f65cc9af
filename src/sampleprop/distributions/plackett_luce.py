"""Rankings, and ordered choices without replacement.

Source: [plackett1975analysis], [luce1959individual]. Differences from them: none.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Generator, Size, Tensor
from torch.distributions import constraints

from sampleprop import noise
from sampleprop.families.enumerable import arrangements
from sampleprop.families.structured import Natural, Structured, logsumexp


class PlackettLuce(Structured):
    r"""Choose k of n items one after the other, each with a probability proportional to its weight among those left.

    .. math:: p(b) = \prod_{i=1}^k \frac{e^{\theta_{b_i}}}{\sum_{j \notin \{b_1, \dots, b_{i-1}\}} e^{\theta_j}}

    A point holds the item at each rank, as integers. With k = n it is a permutation, with k = 1 a `Categorical`. The
    score of two items is the Bradley-Terry model. The set of the k items does not follow :class:`KSubset`. Computing
    log p takes O(n + k) operations.

    The marginals have no closed form, so estimators that use the mean refuse it: take :class:`KSubset` where only the
    set matters.

    Args:
        logits: θ, [\*batch, n], finite or -inf; an item of -inf is never chosen.
        k: the number of ranks, from 1 to n; None for n.
        validate_args: whether to check for NaN, +inf, rows with fewer than k finite logits, and values outside the
            support in `log_prob`.

    Raises:
        TypeError: for logits that are not a floating-point tensor.
        ValueError: for a k out of range, and for logits as above.

    Example, for the weights 1, 2 and 3: the third item first has 3/6, and then the second one 2/3:

        >>> import torch, sampleprop as sp
        >>> q = sp.PlackettLuce(torch.tensor([1.0, 2.0, 3.0]).log(), 2)
        >>> q.log_prob(torch.tensor([2, 1])).exp()
        tensor(0.3333)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "logits": constraints.real_vector,
        "k": constraints.nonnegative_integer,
    }
    has_rsample = False
    dtype = torch.int64

    def __init__(self, logits: Tensor, k: int | None = None, *, validate_args: bool | None = None) -> None:
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            got = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
            raise TypeError(
                f"PlackettLuce needs floating-point logits; got {got}. Pass a tensor of scores, [*batch, n]."
            )
        n = logits.shape[-1] if logits.dim() else 0
        k = n if k is None else k
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= n:
            raise ValueError(
                f"PlackettLuce needs k from 1 to the number of items, which are the last dimension; got k={k!r} for "
                f"logits {list(logits.shape)}."
            )
        self.logits = logits
        self.k = k
        self.least = f"at least {k} finite logits in each row"
        super().__init__(logits.shape[:-1], Size((k,)), validate_args)

    @property
    def natural(self) -> Natural:
        return {"logits": noise.promote(self.logits)}

    def log_density(self, points: Tensor, *, logits: Tensor) -> Tensor:  # type: ignore[override]
        shape = torch.broadcast_shapes(points.shape[:-1], logits.shape[:-1])
        points, logits = points.long().expand(*shape, self.k), logits.expand(*shape, logits.shape[-1])
        chosen = logits.gather(-1, points)  # [..., k]
        possible = (chosen > -torch.inf).all(-1)
        chosen = torch.where(possible.unsqueeze(-1), chosen, 0.0)  # where it is impossible, the result is set below
        if self.k < logits.shape[-1]:
            left = torch.ones_like(logits, dtype=torch.bool).scatter(-1, points, False)
            # The items that are never chosen; never 1 - Σ p, which cancels.
            rest = logsumexp(torch.where(left, logits, -torch.inf), -1)
            rest = rest.clamp_min(torch.finfo(rest.dtype).min / 2)  # -inf - -inf would be NaN; this adds nothing either
            among = _logsumexp_of_rest(torch.cat((chosen, rest.unsqueeze(-1)), -1))[..., :-1]
        else:
            among = _logsumexp_of_rest(chosen)
        return torch.where(possible, (chosen - among).sum(-1), -torch.inf)

    def draw(self, shape: Size, generator: Generator | None = None) -> Tensor:
        logits = noise.promote(self.logits.detach())
        return (logits + noise.gumbel((*shape, *logits.shape), logits, generator)).topk(self.k, -1).indices

    @property
    def mode(self) -> Tensor:
        return self.logits.detach().topk(self.k, -1).indices

    @property
    def support_size(self) -> int:
        return math.perm(self.logits.shape[-1], self.k)

    def states(self, numbers: Tensor) -> Tensor:
        """In lexicographic order."""
        return arrangements(numbers, self.logits.shape[-1], self.k)

    def contains(self, points: Tensor) -> Tensor:
        ordered = points.sort(-1).values
        inside = (ordered >= 0) & (ordered < self.logits.shape[-1]) & (ordered == ordered.floor())
        return inside.all(-1) & (ordered[..., 1:] > ordered[..., :-1]).all(-1)

    def possible(self) -> Tensor:
        return (self.logits.detach() > -torch.inf).sum(-1) >= self.k


def _logsumexp_of_rest(x: Tensor) -> Tensor:
    """log Σ_(j ≥ i) exp x_j for each i, by pairs, pairs of pairs and so on: about 2 n additions in 2 log₂ n steps.

    The second derivative of torch.logcumsumexp is NaN at times.
    """
    n = x.shape[-1]
    if n == 1:
        return x
    even, odd = x[..., 0 : n - 1 : 2], x[..., 1::2]
    upto = _logsumexp_of_rest(torch.cat((_log_of_sum(even, odd), x[..., n - n % 2 :]), -1))  # from each even i on
    others = _log_of_sum(odd[..., : upto.shape[-1] - 1], upto[..., 1:])  # from each odd i on
    if n % 2 == 0:
        others = torch.cat((others, odd[..., -1:]), -1)
        return torch.stack((upto, others), -1).flatten(-2)
    return torch.cat((torch.stack((upto[..., :-1], others), -1).flatten(-2), upto[..., -1:]), -1)


def _log_of_sum(x: Tensor, y: Tensor) -> Tensor:
    """log(exp x + exp y). Far beyond the range of floating point, the second derivative of logaddexp would be ∞ / ∞."""
    most = 0.9 * math.log(torch.finfo(x.dtype).max)
    return torch.logaddexp(x.maximum(y.detach() - most), y.maximum(x.detach() - most))
