"""Points with one variable changed at a time, and the derivative that the costs of the changes give."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sampleprop.families import Bernoullis, Discrete, Integers, one_hot


def sites(variables: Discrete) -> tuple[int, ...]:
    """The event's shape with one entry for each variable."""
    shape = tuple(variables.event_logits_shape)
    return shape if isinstance(variables, Bernoullis) else shape[:-1]


def other_classes(variables: Discrete) -> int:
    """How many classes each variable has besides the one that it is in."""
    return 1 if isinstance(variables, Bernoullis) else variables.logits.shape[-1] - 1


def all_changed(variables: Discrete, points: Tensor) -> Tensor:
    """The points with each variable one class further, two classes and so on: [C - 1, k, *batch, *event].

    A variable stays as it is where the new class is impossible.
    """
    if isinstance(variables, Bernoullis):
        return torch.where(variables.variance > 0, 1 - points, points).unsqueeze(0)
    count = variables.logits.shape[-1]
    classes = _classes(variables, points)  # [k, *batch, *variables]
    shifts = torch.arange(1, count, device=points.device).reshape(-1, *(1,) * classes.dim())
    shifted = (classes + shifts) % count
    onehot = one_hot(shifted, count, torch.bool)  # [C - 1, k, *batch, *variables, C]
    possible = (onehot & (variables.probs.detach() > 0)).any(-1)
    if isinstance(variables, Integers):
        return torch.where(possible, shifted, points)
    return torch.where(possible.unsqueeze(-1), onehot.to(points.dtype), points)


def one_at_a_time(points: Tensor, changed: Tensor, sites: Sequence[int], batch_ndim: int) -> Tensor:
    """The points with a single site changed, for each change and each site, in this order.

    Args:
        points: [k, *batch, *event].
        changed: [m, k, *batch, *event], with every site changed.
        sites: the event's shape, but for the classes of one-hot variables.
        batch_ndim: the number of dimensions of the batch.

    Returns:
        [m * sites * k, *batch, *event].
    """
    lead, count, m = 1 + batch_ndim, math.prod(sites), changed.shape[0]
    shape = (*points.shape[:lead], count, *points.shape[lead + len(sites) :])  # the sites as one dimension
    each = points.reshape(shape).expand(m, count, *shape)
    diagonal = changed.reshape(m, *shape).movedim(1 + lead, -1)
    return torch.diagonal_scatter(each, diagonal, 0, 1, 2 + lead).reshape(m * count * shape[0], *points.shape[1:])


def rises(costs: Tensor, changed_costs: Tensor, sites: Sequence[int], parts: int) -> Tensor:
    """How much more each change of `one_at_a_time` costs, [m, k, *batch, *sites].

    Args:
        costs: of the points, [k, *batch].
        changed_costs: of the changes, [m * sites * k, *batch].
        sites: as for `one_at_a_time`.
        parts: m, which an event without sites does not show.
    """
    rise = changed_costs.reshape(parts, math.prod(sites), *costs.shape) - costs
    return rise.movedim(1, -1).reshape(parts, *costs.shape, *sites)


def derivative(variables: Discrete, points: Tensor, rises: Tensor) -> Tensor:
    """Σ_c f(x with x_v = c) ∇p(x_v = c) by the logits, from the rises of `all_changed`: [k, *batch, *event]."""
    if isinstance(variables, Bernoullis):
        return rises[0] * (1 - 2 * points) * variables.variance
    # From the order of `all_changed` to that of the classes; at the point's own class there is no rise.
    padded = torch.cat((torch.zeros_like(rises[:1]), rises)).movedim(0, -1)  # [k, *batch, *variables, C]
    count = padded.shape[-1]
    shifts = (torch.arange(count, device=points.device) - _classes(variables, points).unsqueeze(-1)) % count
    return variables.through_mean(padded.gather(-1, shifts))


def _classes(variables: Discrete, points: Tensor) -> Tensor:
    return points if isinstance(variables, Integers) else points.argmax(-1)
