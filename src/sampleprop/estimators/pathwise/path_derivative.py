"""The path derivative of log q: its derivative with respect to the sample alone, at fixed parameters φ."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from sampleprop import noise
from sampleprop.families import Variables
from sampleprop.surrogate import surrogate
from sampleprop.tracing import value_and_grad


def log_prob_and_gradient(variables: Variables, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return log q at the points, [k, *batch], and its gradient there, [k, *batch, *event]; both without graph."""
    base = variables.base
    with torch.no_grad():
        if type(base) is Normal:  # written out, because it is the commonest
            steps = (noise.promote(points.detach()) - base.loc) / base.scale
            log_q = -steps.square() / 2 - base.scale.log() - math.log(2 * math.pi) / 2  # [k, *batch, *event]
            return variables.sum(log_q), -steps / base.scale
        log_q, (gradient,) = value_and_grad(variables.log_prob, points.detach())
    return log_q, gradient


def add_gradient(name: str, value: Tensor, variables: Variables, x: Tensor, gradient: Tensor) -> Tensor:
    """Return `value`, [*batch], with `gradient` added to its gradient with respect to x; both [k, *batch, ...]."""
    batch_ndim = len(variables.batch_shape)
    return surrogate(name, value, (x.movedim(0, batch_ndim),), (gradient.movedim(0, batch_ndim),))
