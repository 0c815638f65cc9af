"""Sequences of labels with scores for labels and for transitions: a linear-chain conditional random field.

Source: [lafferty2001conditional]. Differences from the paper: it is a distribution to be sampled, not a loss.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Generator, Size, Tensor
from torch.distributions import constraints

from sampleprop import noise
from sampleprop.families.discrete import one_hot
from sampleprop.families.enumerable import digits
from sampleprop.families.structured import LogLinear, Natural, logsumexp

FEW = 4  # up to so many labels, products of matrices in log₂ T steps are faster than T steps with vectors


class LinearChain(LogLinear):
    r"""Label T places, each with one of C labels, by scores of the labels and of the pairs of neighbouring labels.

    .. math:: p(y) \propto \exp\Bigl(\sum_{t=1}^T u_t(y_t) + \sum_{t=1}^{T-1} m_t(y_t, y_{t+1})\Bigr)

    A point holds a one-hot row for each place. The log-normalizer comes from the forward algorithm, and samples are
    drawn backwards from its results. `mode` is the path of the Viterbi algorithm. `mean` holds the probabilities of the
    labels at each place; `moments` those of the pairs too. Without transitions the places are independent; with
    log-probabilities for both scores this is the posterior of a hidden Markov model.

    Args:
        unary: u, [\*batch, T, C], finite or -inf.
        transitions: m, [\*batch, T - 1, C, C], or [\*batch, 1, C, C] for the same at each place; from the label in the
            row to the label in the column. A transition of -inf is forbidden.
        validate_args: whether to check for NaN, +inf, rows in which every path is forbidden, and values outside the
            support in `log_prob`.

    Raises:
        TypeError: for an argument that is not a floating-point tensor.
        ValueError: for shapes that do not fit, and for scores as above.

    Example, for two places, two labels and the weights 1, 2, 3 and 4 of the pairs: label 0 comes first with
    probability (1 + 2) / 10:

        >>> import torch, sampleprop as sp
        >>> q = sp.LinearChain(torch.zeros(2, 2), torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]).log())
        >>> q.mean
        tensor([[0.3000, 0.7000],
                [0.4000, 0.6000]])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "unary": constraints.independent(constraints.real, 2),
        "transitions": constraints.independent(constraints.real, 3),
    }
    has_rsample = False
    least = "at least one possible path in each row"

    def __init__(self, unary: Tensor, transitions: Tensor, *, validate_args: bool | None = None) -> None:
        for name, given, ndim in (("unary", unary, 2), ("transitions", transitions, 3)):
            if not isinstance(given, Tensor) or not given.is_floating_point():
                got = given.dtype if isinstance(given, Tensor) else type(given).__name__
                raise TypeError(f"LinearChain needs {name} as a floating-point tensor of scores; got {got}.")
            if given.dim() < ndim or 0 in given.shape[-2:]:
                raise ValueError(
                    "LinearChain needs unary [*batch, T, C] and transitions [*batch, T - 1, C, C]; got "
                    f"{list(unary.shape)} and {list(transitions.shape)}."
                )
        *batch, places, labels = unary.shape
        steps = transitions.shape[-3]
        if transitions.shape[-2:] != (labels, labels) or steps not in (1, places - 1):
            raise ValueError(
                f"LinearChain needs transitions [*batch, {places - 1}, {labels}, {labels}] (or 1 in the place of "
                f"{places - 1}) for unary {list(unary.shape)}; got {list(transitions.shape)}."
            )
        shape = torch.broadcast_shapes(tuple(batch), transitions.shape[:-3])
        self.unary = unary.expand(*shape, places, labels)
        self.transitions = transitions.expand(*shape, steps, labels, labels)
        super().__init__(shape, Size((places, labels)), validate_args)

    @property
    def natural(self) -> Natural:
        unary, transitions = noise.promote(self.unary), noise.promote(self.transitions)
        places, labels = self.event_shape
        return {
            "unary": unary,
            "transitions": transitions.expand(*self.batch_shape, places - 1, labels, labels),
        }

    @property
    def dtype(self) -> torch.dtype:
        return self.unary.dtype

    def statistics(self, points: Tensor) -> Natural:
        return {"unary": points, "transitions": points[..., :-1, :, None] * points[..., 1:, None, :]}

    def mean_of(self, moments: Natural) -> Tensor:
        return moments["unary"]

    def log_normalizer(self, *, unary: Tensor, transitions: Tensor) -> Tensor:  # type: ignore[override]
        if 1 < unary.shape[-1] <= FEW:
            return _by_products(unary, transitions)
        before, offset = _forward(unary, transitions)
        return torch.where(offset > -torch.inf, before[-1].logsumexp(-1) + offset, -torch.inf)

    def draw(self, shape: Size, generator: Generator | None = None) -> Tensor:
        natural = {name: x.detach() for name, x in self.natural.items()}
        unary, backwards = natural["unary"], natural["transitions"].transpose(-1, -2)  # [*batch, T - 1, to, from]
        places, labels = self.event_shape
        before, _ = _forward(**natural)
        scores = before[-1]
        chosen: list[Tensor] = []
        for t in reversed(range(places)):
            if chosen:
                step = backwards[..., t, :, :].expand(*shape, *self.batch_shape, labels, labels)
                index = chosen[-1][..., None, None].expand(*chosen[-1].shape, 1, labels)
                scores = before[t] + step.gather(-2, index).squeeze(-2)  # [*shape, *batch, C]
            gumbel = noise.gumbel((*shape, *self.batch_shape, labels), unary, generator)
            chosen.append((scores + gumbel).argmax(-1))
        return one_hot(torch.stack(chosen[::-1], -1), labels, self.dtype)

    @property
    def mode(self) -> Tensor:
        natural = {name: x.detach() for name, x in self.natural.items()}
        unary, transitions = natural["unary"], natural["transitions"]
        best, sources = unary[..., 0, :], []
        for t in range(transitions.shape[-3]):
            best, source = (best.unsqueeze(-1) + transitions[..., t, :, :]).max(-2)
            best = best + unary[..., t + 1, :]
            sources.append(source)  # [*batch, to]
        path = [best.argmax(-1, keepdim=True)]
        for source in reversed(sources):
            path.append(source.gather(-1, path[-1]))
        return one_hot(torch.cat(path[::-1], -1), unary.shape[-1], self.dtype)

    @property
    def support_size(self) -> int:
        places, labels = self.event_shape
        return int(labels**places)

    def states(self, numbers: Tensor) -> Tensor:
        """The last place counts lowest."""
        places, labels = self.event_shape
        return one_hot(digits(numbers, labels, places).flip(-1), labels, self.dtype)

    def contains(self, points: Tensor) -> Tensor:
        return (((points == 0) | (points == 1)).all(-1) & (points.sum(-1) == 1)).all(-1)


def _forward(unary: Tensor, transitions: Tensor) -> tuple[list[Tensor], Tensor]:
    """For each place the log of what all paths up to it weigh, by its label: T times [..., C], less its maximum.

    The second result is the sum of the maxima, [...]. Without them the numbers would grow with T, and lose digits.
    """
    lowest = torch.finfo(unary.dtype).min / 4  # in the place of -inf, at which torch.logsumexp has no derivative
    scores = unary[..., 0, :].clamp_min(lowest)
    steps = (transitions + unary[..., 1:, :].unsqueeze(-2)).clamp_min(lowest).unbind(-3)
    before: list[Tensor] = []
    maxima = []
    for step in (None, *steps):
        if step is not None:
            scores = torch.logsumexp(before[-1].unsqueeze(-1) + step, -2)
        largest = scores.detach().amax(-1, keepdim=True)
        before.append(scores - largest)
        maxima.append(largest)
    offset = torch.cat(maxima, -1).sum(-1)
    return before, torch.where(offset > lowest / 2, offset, -torch.inf)


def _by_products(unary: Tensor, transitions: Tensor) -> Tensor:
    """The log of what all paths weigh, by products of neighbouring matrices in logarithms."""
    first = unary[..., 0, :]
    offset = torch.zeros_like(first[..., 0])
    matrices = transitions + unary[..., 1:, :].unsqueeze(-2)  # [..., T - 1, from, to]
    while matrices.shape[-3] > 1:
        pairs = matrices.shape[-3] // 2
        left, right = matrices[..., 0 : 2 * pairs : 2, :, :], matrices[..., 1 : 2 * pairs : 2, :, :]
        products = logsumexp(left.unsqueeze(-1) + right.unsqueeze(-3), -2)
        largest = _largest(products, 2)
        matrices = torch.cat((products - largest[..., None, None], matrices[..., 2 * pairs :, :, :]), -3)
        offset = offset + largest.sum(-1)
    if matrices.shape[-3] == 0:
        return logsumexp(first, -1)
    return logsumexp((first.unsqueeze(-1) + matrices.squeeze(-3)).flatten(-2), -1) + offset


def _largest(scores: Tensor, ndim: int) -> Tensor:
    """The maximum over the last dimensions, detached; 0 where all is -inf."""
    largest = scores.detach().flatten(-ndim).amax(-1)
    return torch.where(largest == -torch.inf, 0.0, largest)
