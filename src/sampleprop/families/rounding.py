"""Samples that floating point cannot tell from the edge of the support: their score is lost, so it is refused."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributions as td
from torch import Tensor
from torch.distributions import Distribution

from sampleprop.families.laws import unwrap
from sampleprop.families.parameters import bounds, flat
from sampleprop.families.reparameterized import Reparameterized
from sampleprop.tracing import inspectable

STEPS = 16  # of floating point: within so many of an edge, a sample has lost its place in the base distribution
SHARE = 1e-3  # of the samples, or of the probability, that may be lost


def refuse_rounded(base: Distribution, points: Tensor) -> None:
    """Refuse samples that were rounded to the edge of the support. On a GPU this makes the host wait for the device."""
    if not inspectable(points) or isinstance(base, Reparameterized):  # ours refuse by themselves
        return
    if isinstance(base, _BY_SAMPLES):
        _refuse_sampled(base, points.detach())
    elif isinstance(base, td.TransformedDistribution):
        _refuse_transformed(base, points.detach())


# The classes whose samples may lie close to both ends of the unit interval, and those that may lie close to 0 only.
_BOTH_ENDS = (td.Beta, td.Kumaraswamy, td.Dirichlet, td.RelaxedBernoulli)
_BY_SAMPLES = (*_BOTH_ENDS, td.Gamma, td.RelaxedOneHotCategorical)


def _refuse_sampled(base: Distribution, points: Tensor) -> None:
    """Refuse more than one sample in a hundred, and at least two: one such sample does no visible harm."""
    rounded = points <= torch.finfo(points.dtype).tiny
    if isinstance(base, _BOTH_ENDS):
        rounded = rounded | (points >= 1 - torch.finfo(points.dtype).eps)
    count = int(rounded.sum())
    if count > max(1, points.numel() / 100):
        raise ValueError(
            f"The score of {type(base).__name__} needs samples that floating point can tell from the edge of the "
            f"support; got {count} of {points.numel()} rounded to it in {points.dtype}. Use Pathwise, a milder "
            "temperature or concentration, or the distribution of the logarithm or the logit."
        )


def _refuse_transformed(base: td.TransformedDistribution, points: Tensor) -> None:
    """Refuse where the samples, or the distribution function, show that a bounded transform rounds to its bounds."""
    transforms = flat(base.transforms)
    after: list[td.Transform] = []
    while transforms and isinstance(transforms[-1], td.AffineTransform):
        after.append(transforms.pop())
    if not transforms:
        return
    codomain: Any = transforms[-1].codomain
    while isinstance(codomain, td.constraints.independent):
        codomain = codomain.base_constraint
    ends = (0.0, 1.0) if codomain is td.constraints.simplex else bounds(codomain)
    if ends is None:
        return
    with torch.no_grad():
        for affine in after:
            points = affine.inv(points)
        lost = 0.0
        for end, side in zip(ends, (1, -1), strict=True):
            if not math.isfinite(end):
                continue
            numbers = torch.finfo(points.dtype)
            edge = end + side * max(STEPS * numbers.eps * abs(end), numbers.tiny)
            rounded = (points >= end) & (points <= edge) if side > 0 else (points <= end) & (points >= edge)
            share = float(rounded.double().mean())
            lost = max(lost, share, _mass_beyond(base, transforms, points.new_tensor(edge), side))
    if lost > SHARE:
        name = type(transforms[-1]).__name__
        raise ValueError(
            f"The score of {type(base).__name__} needs samples that floating point can tell from the edge of the "
            f"support; {name} rounds {lost:.1%} of them to it in {points.dtype}. Give the distribution without the "
            "transform, and let f apply it: expect(lambda y: f(transform(y)), base_dist)."
        )


def _mass_beyond(base: td.TransformedDistribution, transforms: list[td.Transform], edge: Tensor, side: int) -> float:
    """The largest probability, of any coordinate, between this edge and the end of the support; 0 if not known."""
    inner, _ = unwrap(base.base_dist)
    if inner.event_shape:
        return 0.0
    sign: Any = 1
    try:
        for transform in reversed(transforms):
            sign = sign * transform.sign
            edge = transform.inv(edge)
        below = inner.cdf(edge.expand(inner.batch_shape))
    except (NotImplementedError, ValueError):  # no distribution function, or none at this point
        return 0.0
    beyond = torch.where(torch.as_tensor(sign, device=below.device) * side > 0, below, 1 - below)
    return float(beyond.max()) if beyond.numel() else 0.0
