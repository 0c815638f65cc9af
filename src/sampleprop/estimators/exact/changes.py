"""Points with one variable changed at a time, and the derivative that the costs of these changes give."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sampleprop.families import Bernoullis, Discrete, Integers, one_hot


def sites(variables: Discrete) -> tuple[int, ...]:
    """Return the shape of the event with one entry for each variable."""
    shape = tuple(variables.event_logits_shape)
    return shape if isinstance(variables, Bernoullis) else shape[:-1]


def other_classes(variables: Discrete) -> int:
    """Return how many classes each variable has besides the one that it is in."""
    return 1 if isinstance(variables, Bernoullis) else variables.logits.shape[-1] - 1


def all_changed(variables: Discrete, points: Tensor) -> Tensor:
    """Return the points with each variable moved by one class, by two classes and so on: [C - 1, k, *batch, *event].

    A variable stays as it is where the new class is impossible.
    """
    if isinstance(variables, Bernoullis):
        return torch.where(variables.variance > 0, 1 - points, points).unsqueeze(0)
    count = variables.logits.shape[-1]
    classes = _classes(variables, points)  # [k, *batch, *variables]
    shifts = torch.arange(1, count, device=points.device).reshape(-1, *(1,) * classes.dim())
    shifted = (classes + shifts) % count  # [C - 1, k, *batch, *variables]
    possible = (variables.fixed_probs > 0).expand(*classes.shape, count)
    changed = torch.where(possible.gather(-1, shifted.movedim(0, -1)).movedim(-1, 0), shifted, classes)
    return changed if isinstance(variables, Integers) else one_hot(changed, count, points.dtype)


def one_at_a_time(points: Tensor, changed: Tensor, sites: Sequence[int], batch_ndim: int) -> Tensor:
    """Return the points with a single site changed, for each change and each site, in this order.

    Args:
        points: [k, *batch, *event].
        changed: [m, k, *batch, *event], with every site changed.
        sites: the shape of the event, without the classes of one-hot variables.
        batch_ndim: the number of dimensions of the batch.

    Returns:
        [m * sites * k, *batch, *event].
    """
    lead, count, m = 1 + batch_ndim, math.prod(sites), changed.shape[0]
    if count == 1:
        return changed.flatten(0, 1)
    shape = (*points.shape[:lead], count, *points.shape[lead + len(sites) :])  # the sites as one dimension
    each = points.reshape(shape).expand(m, count, *shape)
    diagonal = changed.reshape(m, *shape).movedim(1 + lead, -1)
    return torch.diagonal_scatter(each, diagonal, 0, 1, 2 + lead).reshape(m * count * shape[0], *points.shape[1:])


def rises(costs: Tensor, changed_costs: Tensor, sites: Sequence[int], parts: int) -> Tensor:
    """Return how much more each change of `one_at_a_time` costs, [m, k, *batch, *sites].

    Args:
        costs: those of the points, [k, *batch].
        changed_costs: those of the changed points, [m * sites * k, *batch].
        sites: as for `one_at_a_time`.
        parts: m, which cannot be read from the shapes where the event has no sites.
    """
    rise = changed_costs.reshape(parts, math.prod(sites), *costs.shape) - costs
    return rise.movedim(1, -1).reshape(parts, *costs.shape, *sites)


def derivative(variables: Discrete, points: Tensor, rises: Tensor) -> Tensor:
    """Return Σ_c f(x with x_v = c) ∇p(x_v = c) with respect to the logits, [k, *batch, *event].

    Args:
        variables: p_φ.
        points: [k, *batch, *event].
        rises: those of the changes of `all_changed`, [C - 1, k, *batch, *variables].
    """
    if isinstance(variables, Bernoullis):
        signs = torch.rsub(points, 1, alpha=2)  # 1 - 2 x
        return rises.squeeze(0) * signs * variables.variance
    # Reorder from the shifts of `all_changed` to the classes; the class of the point itself has the rise 0.
    padded = torch.cat((torch.zeros_like(rises[:1]), rises)).movedim(0, -1)  # [k, *batch, *variables, C]
    count = padded.shape[-1]
    shifts = (torch.arange(count, device=points.device) - _classes(variables, points).unsqueeze(-1)) % count
    return variables.through_mean(padded.gather(-1, shifts))


def _classes(variables: Discrete, points: Tensor) -> Tensor:
    return points if isinstance(variables, Integers) else points.argmax(-1)
