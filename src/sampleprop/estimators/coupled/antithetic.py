"""Antithetic pairs of Bernoulli samples: one is made from u, and the other one from 1 - u.

Source: [yin2019arm], thm. 1.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from sampleprop import noise
from sampleprop.families import Discrete
from sampleprop.tracing import transforms_active


def pairs(variables: Discrete, samples: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
    """Draw the points, [samples, *batch, *event], and the u behind them, [samples / 2, *batch, *event].

    The points are first every b = 1[u > 1 - p], then every b̃ = 1[u < p].
    """
    logits = variables.logits.detach()
    u = noise.uniform((samples // 2, *logits.shape), logits, generator)  # [samples / 2, *batch, *event]
    if transforms_active():  # u may be shared by the rows that vmap adds to the logits
        points = torch.cat([(u > (-logits).sigmoid()).to(u.dtype), (u < logits.sigmoid()).to(u.dtype)])
    else:  # in place, without a tensor of booleans, which is slow to make numbers of
        points = torch.cat([u, u])
        first, second = points.chunk(2)
        first.gt_((-logits).sigmoid())
        second.lt_(logits.sigmoid())
    return noise.cast(points, variables.dtype), u  # [samples, *batch, *event]


def differences(x: Tensor) -> Tensor:
    """The value at b minus that at b̃: [samples, ...] -> [samples / 2, ...]."""
    first, second = x.chunk(2)
    return first - second


def weights(costs: Tensor) -> Tensor:
    """f(b) - f(b̃) divided by the number of pairs, [samples / 2, *batch], so that a sum over the pairs is their mean."""
    difference = differences(costs.detach())
    return difference if difference.shape[0] == 1 else difference / difference.shape[0]
