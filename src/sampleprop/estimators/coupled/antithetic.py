"""Antithetic pairs of Bernoulli draws: both from one uniform number, seen from either end.

Source: Yin and Zhou (2019), "ARM: Augment-REINFORCE-merge gradient for stochastic binary networks", thm. 1.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from sampleprop import noise
from sampleprop.estimators.coupled import comparable
from sampleprop.families import Discrete


def pairs(variables: Discrete, samples: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
    """Draw the points, [samples, *batch, *event], and the u behind them, [samples / 2, *batch, *event].

    First comes every b = 1[u > 1 - p], then every b̃ = 1[u < p].
    """
    logits = variables.logits.detach()
    u = noise.uniform((samples // 2, *logits.shape), logits, generator)  # [samples / 2, *batch, *event]
    first, second = u > torch.sigmoid(-logits), u < torch.sigmoid(logits)
    # Numbers before they are joined: compiled for a CPU, booleans are not worked on in vectors.
    return torch.cat([first.to(variables.dtype), second.to(variables.dtype)]), u  # [samples, *batch, *event]


def differences(x: Tensor) -> Tensor:
    """What b has more than b̃: [samples, ...] -> [samples / 2, ...]."""
    first, second = x.chunk(2)
    return first - second


def weights(name: str, costs: Tensor, keep: Tensor | None) -> Tensor:
    """f(b) - f(b̃) over the number of pairs, [samples / 2, *batch], so that a sum over pairs is their mean.

    A pair of which one point is left out is left out whole.

    Raises:
        ValueError: where no pair is left.
    """
    difference = differences(costs.detach())
    if keep is None:
        return difference if difference.shape[0] == 1 else difference / difference.shape[0]
    first, second = keep.chunk(2)
    whole = first & second
    comparable.require(name, whole.sum(0) > 0, "a whole pair of finite costs")
    return difference * whole / whole.sum(0)
