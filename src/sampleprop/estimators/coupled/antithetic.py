"""Antithetic pairs of Bernoulli samples: one is made from u, and the other one from 1 - u.

Source: [yin2019arm], thm. 1.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from sampleprop import noise
from sampleprop.families import Bernoullis
from sampleprop.tracing import hooks_allowed


def pairs(variables: Bernoullis, samples: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
    """Draw the points, [samples, *batch, *event], and the u behind them, [samples / 2, *batch, *event].

    The points are first every b = 1[u > 1 - p], then every b̃ = 1[u < p].
    """
    p = variables.fixed_probs
    u = noise.fractions((samples // 2, *p.shape), p, generator)  # [samples / 2, *batch, *event]
    above, below, smallest = variables.fixed_opposite, p, noise.smallest(u)
    if samples == 2:
        u.clamp_min_(smallest)
    else:  # as in `noise.coins`: a u of 0 exceeds a 1 - p below `smallest`, and is not below such a p
        above, below = torch.threshold(above, smallest, -1.0), torch.threshold(below, smallest, 0.0)
    if not hooks_allowed():  # u may be shared by the rows that vmap adds to the logits
        points = torch.cat([(u > above).to(u.dtype), (u < below).to(u.dtype)])
    else:  # in place, without a tensor of booleans, which is slow to make numbers of
        points = u.new_empty((samples, *p.shape))
        first, second = points.chunk(2)
        torch.gt(u, above, out=first)
        torch.lt(u, below, out=second)
    return noise.cast(points, variables.dtype), u  # [samples, *batch, *event]


def differences(x: Tensor) -> Tensor:
    """The value at b minus that at b̃: [samples, ...] -> [samples / 2, ...]."""
    first, second = x.chunk(2)
    return first - second


def weights(costs: Tensor) -> Tensor:
    """f(b) - f(b̃) divided by the number of pairs, [samples / 2, *batch], so that a sum over the pairs is their mean."""
    difference = differences(costs.detach())
    return difference if difference.shape[0] == 1 else difference / difference.shape[0]
