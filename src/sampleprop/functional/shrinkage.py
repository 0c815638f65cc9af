"""The mean of the other draws of a group, drawn towards the other groups.

Source: [james1961estimation], for the idea; the estimate of the two variances is the usual one of random effects.
Differences from the paper: the own draw and the own group are left out, each where it would bias the gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sampleprop.functional import arguments
from sampleprop.functional.groups import Groups, by_ids
from sampleprop.functional.leave_one_out import one_of
from sampleprop.tracing import inspectable

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

NAME = "shrinkage"


def shrinkage(
    costs: Tensor,
    dim: int | None = None,
    mask: Tensor | None = None,
    *,
    groups: Tensor | None = None,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    r"""Return a baseline for few draws of each of many prompts: leave-one-out, pulled towards the other prompts.

    .. math::

        b_{ij} = (1 - \lambda_i)\, m_{i,-j} + \lambda_i\, M_{-i}, \qquad
        \lambda_i = \frac{W_{-i} / (K_i - 1)}{W_{-i} / (K_i - 1) + B_{-i}}

    :math:`m_{i,-j}` is the mean of the other draws of group i, which has :math:`K_i` draws; :math:`M_{-i}` is the mean
    of the means of the other groups, :math:`W_{-i}` their mean variance within a group, and :math:`B_{-i}` the variance
    between their means that this does not explain, or 0. A group of one has λ = 1.

    This baseline is unbiased: λ and M depend on other groups only, the groups are independent, and m does not depend on
    draw j. With 0/1 costs and a few draws, the variance is usually smaller than that of :func:`leave_one_out`. With few
    prompts it can be larger, because W and B are estimates themselves.

    The result has no graph.

    Args:
        costs: one for each draw, finite: [N] with `groups`, or any shape with `dim`. In the second case, each index of
            the other dimensions is a group.
        dim: the dimension of the draws of one group.
        mask: booleans of the shape of `costs`, False for draws that do not exist.
        groups: [N] int64, one id for each draw; instead of `dim`.
        process_group: the ranks that share the ids; needs `groups`. All of these ranks must then make the call.

    Returns:
        b, of the shape of `costs`; in float32 at least; 0 for draws that do not exist.

    Raises:
        TypeError: for an argument that is not a tensor of real numbers, and a mask that is not boolean.
        ValueError: for both or neither of `dim` and `groups`, fewer than four groups, shapes that do not fit, and NaN
            or infinite costs. Values are not checked under `torch.compile` and `torch.func`.

    Example:
        >>> import torch, sampleprop as sp
        >>> sp.shrinkage(torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]), dim=1)
        tensor([[0.7500, 0.2500],
                [0.3333, 0.3333],
                [0.6667, 0.6667],
                [0.2500, 0.7500]])
    """
    values = arguments.real(NAME, "costs", costs).detach()
    one_of(NAME, dim, groups, process_group)
    if mask is not None:
        arguments.flags(NAME, "mask", mask, "costs", values.shape)
    arguments.finite(NAME, "costs", values, mask, fix="Fix f, or leave such draws out by the mask.")
    if dim is not None:
        dim = arguments.dimension(NAME, "dim", dim, values.shape)
        rows = values.movedim(dim, -1)  # [*groups, draws]
        size = rows[..., 0].numel()
        index = torch.arange(size, device=values.device).repeat_interleave(rows.shape[-1])
        flags = None if mask is None else mask.movedim(dim, -1).reshape(-1)
        found = _shrunk(rows.reshape(-1), flags, Groups(index, size, None))
        return found.view(rows.shape).movedim(-1, dim)
    if values.dim() != 1:
        raise ValueError(
            f"{NAME} needs one cost for each draw, [N], with groups=ids; got {list(values.shape)}. Sum the costs of "
            "the steps of one draw, or take leave_one_out."
        )
    return _shrunk(values, mask, by_ids(NAME, groups, len(values), process_group))


def _shrunk(values: Tensor, mask: Tensor | None, where: Groups) -> Tensor:
    present = torch.ones_like(values) if mask is None else mask.to(values.dtype)
    values = values if mask is None else torch.where(mask, values, 0)
    total, count = where.sums(values, present)  # [groups]
    mean = total / count.clamp_min(1)
    (squares,) = where.sums(present * (values - where.spread(mean)).square())
    exists, several = (count > 0).to(values.dtype), (count > 1).to(values.dtype)
    if inspectable(exists) and int(exists.sum()) < 4:
        raise ValueError(
            f"{NAME} needs four groups or more, to learn from three others how they differ; got {int(exists.sum())}. "
            "Take leave_one_out."
        )
    number = _others(exists)
    center = _others(exists * mean) / number  # M
    within = _others(several * squares / (count - 1).clamp_min(1)) / _others(several).clamp_min(1)  # W
    spread = (_others(exists * mean.square()) - number * center.square()) / (number - 1)
    between = (spread - within * _others(exists / count.clamp_min(1)) / number).clamp_min(0)  # B
    noise = within / (count - 1).clamp_min(1)
    both = noise + between
    share = torch.where(count > 1, noise / torch.where(both > 0, both, 1), 1)  # λ
    own = (where.spread(total) - values) / (where.spread(count) - 1).clamp_min(1)
    result = torch.lerp(own, where.spread(center), where.spread(share))
    return result if mask is None else torch.where(mask, result, 0)


def _others(x: Tensor) -> Tensor:
    """The sum over the other groups, for each group."""
    return x.sum(0) - x
