"""Discrete variables whose joint states can be listed and whose score is known: independent ones and structures."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from sampleprop.families.variables import Variables


def digits(numbers: Tensor, base: int, count: int) -> Tensor:
    """The digits of these numbers in this base, the lowest first: [...] -> [..., count]."""
    return numbers.unsqueeze(-1) // base ** torch.arange(count, device=numbers.device) % base


def arrangements(numbers: Tensor, n: int, k: int) -> Tensor:
    """The arrangements of k of n items with these numbers, in lexicographic order: [...] -> [..., k]."""
    left = torch.ones(*numbers.shape, n, dtype=torch.bool, device=numbers.device)
    items = []
    for i in range(k):
        following = min(math.perm(n - 1 - i, k - 1 - i), 2**62)
        which, numbers = numbers // following, numbers % following  # of the items that are left
        item = (left & (left.cumsum(-1) == which.unsqueeze(-1) + 1)).to(torch.uint8).argmax(-1)
        left = left.scatter(-1, item.unsqueeze(-1), False)
        items.append(item)
    return torch.stack(items, -1)


class Enumerable(Variables):
    """Discrete variables with one tensor of logits through which φ acts, and with joint states that have numbers.

    Attributes:
        logits: [*batch, *natural], attached to φ; float32 at least. As many dimensions belong to one draw as in a
            point.
    """

    logits: Tensor
    is_discrete = True

    @property
    def attached(self) -> bool:
        return self.logits.requires_grad

    def rsample(self, k: int | None, generator: Generator | None = None) -> Tensor:
        raise TypeError("A discrete sample has no derivative.")

    def scores(self, points: Tensor, names: Sequence[str] | None = None) -> tuple[Tensor, ...]:
        return (self.score(points),)

    @abstractmethod
    def score(self, points: Tensor) -> Tensor:
        """The gradient of log p_φ(points) with respect to the logits, [..., *batch, *natural], without graph."""

    @abstractmethod
    def gradient_for_logits(self, points: Tensor, weights: Tensor) -> Tensor:
        """What the logits hand on to φ, for it to get Σ_k w_k ∇ log p(x_k): [*batch, *natural] for weights [k, *batch].

        That is Σ_k w_k `score`(x_k), up to what the backward pass from normalized logits to φ adds. It has no graph, if
        the weights have none.
        """

    @property
    @abstractmethod
    def support_size(self) -> int:
        """The number of joint states of one draw."""

    @abstractmethod
    def states(self, numbers: Tensor) -> Tensor:
        """The joint states of these numbers from 0 to `support_size` - 1: [...] -> [..., *event]."""

    def support(self) -> Tensor:
        """All joint states of one draw: [support_size, *event]."""
        return self.states(torch.arange(self.support_size, device=self.logits.device))

    @abstractmethod
    def support_log_prob(self) -> Tensor:
        """log p_φ of every joint state, [support_size, *batch], attached to φ, twice differentiable."""
