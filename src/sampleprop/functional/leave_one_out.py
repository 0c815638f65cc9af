"""The mean cost of the other draws of a group.

Source: [kool2019buy]; for language models [ahmadian2024back]. Lengths as weights are those of [hao2025policy], whose
mean has the own draw in it and is biased. Differences from the papers: draws can be left out, groups can be ragged and
spread over ranks, and the own draw never enters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sampleprop.costs import others
from sampleprop.functional import arguments
from sampleprop.functional.groups import by_ids
from sampleprop.tracing import inspectable

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

NAME = "leave_one_out"


def leave_one_out(
    costs: Tensor,
    dim: int | None = None,
    mask: Tensor | None = None,
    *,
    groups: Tensor | None = None,
    weight: Tensor | None = None,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    r"""For each draw, return the mean cost of the other draws in its group: a baseline without further evaluations.

    .. math:: b_i = \frac{\sum_{j \ne i} w_j\, c_j}{\sum_{j \ne i} w_j}, \qquad w = 1 \text{ without weights}

    This baseline is unbiased, because :math:`b_i` does not depend on draw i. The draws of a group must be independent
    given what they share, such as a prompt or a state. A weight may be any number of 0 or more that depends on its own
    draw only, such as the length of the draw, or the squared length of its score.

    The mean of the whole group does depend on draw i. The cost minus that mean is (n - 1) / n times
    :math:`c_i - b_i`, so the gradient is right up to this factor. The standard deviation of the group is not such a
    factor: it depends on draw i, and a gradient that is divided by it is biased.

    The result has no graph. With a graph, c - b would lose a part of the gradient for θ in c.

    A group consists of the entries along `dim`, or of the entries of dimension 0 that have the same id. Ids allow
    groups of different sizes. With `process_group`, the draws of a group may be on several ranks. Compute the baseline
    for the whole step of the optimizer, before you cut it into micro-batches.

    Args:
        costs: of any shape, finite.
        dim: the dimension of the draws of one group, of two or more.
        mask: booleans of the shape of `costs`, False for draws that do not exist; they enter no mean. Pass no mask for
            costs to go [draws, time]: after the end of a draw they are 0, which is right.
        groups: [N] int64, one id for each entry of dimension 0; instead of `dim`.
        weight: of the shape of `costs`, finite, 0 or more; None for equal weights.
        process_group: the ranks that share the ids; needs `groups`. All of these ranks must then make the call.

    Returns:
        b, of the shape of `costs`; in float32 at least. It is 0 if all other draws of the group have weight 0.

    Raises:
        TypeError: for an argument that is not a tensor of real numbers, and a mask that is not boolean.
        ValueError: for both or neither of `dim` and `groups`, a group of one, shapes that do not fit, negative weights,
            and NaN or infinite costs. Values are not checked under `torch.compile` and `torch.func`; there the only
            draw of a group has b = 0.

    Example:
        >>> import torch, sampleprop as sp
        >>> sp.leave_one_out(torch.tensor([[1.0, 2.0, 6.0]]), dim=1)
        tensor([[4.0000, 3.5000, 1.5000]])
        >>> sp.leave_one_out(torch.tensor([1.0, 0.0, 2.0, 6.0, 4.0]), groups=torch.tensor([5, 2, 5, 5, 2]))
        tensor([4.0000, 4.0000, 3.5000, 1.5000, 0.0000])
    """
    values = arguments.real(NAME, "costs", costs).detach()
    one_of(NAME, dim, groups, process_group)
    if mask is not None:
        arguments.flags(NAME, "mask", mask, "costs", values.shape)
    arguments.finite(NAME, "costs", values, mask, fix="Fix f, or leave such draws out by the mask.")
    weights = None if weight is None else _weights(weight, values, mask)
    if dim is None:
        return _by_ids(values, groups, mask, weights, process_group)
    dim = arguments.dimension(NAME, "dim", dim, values.shape)
    company(NAME, "dim", values.shape, dim, mask)
    if weights is None:
        return over_group(values, dim, mask)
    own = _terms(values, weights)
    return _mean_of_others(own, tuple(x.sum(dim, keepdim=True) for x in own))


def one_of(name: str, dim: int | None, groups: Tensor | None, process_group: ProcessGroup | None) -> None:
    """Refuse groups that are named twice, or not at all, or by a dimension where there are several ranks."""
    if (dim is None) == (groups is None):
        got = "neither" if dim is None else "both"
        raise ValueError(f"{name} needs the dimension of the draws of one group, or groups=ids; got {got}.")
    if process_group is not None and groups is None:
        raise ValueError(
            f"{name} needs groups=ids where a process_group is given, because ids say which draws of other ranks "
            f"belong together; got dim={dim}. Pass the number of each draw's prompt."
        )


def company(name: str, argument: str, shape: torch.Size, dim: int, mask: Tensor | None) -> None:
    """Refuse a draw without another one in its group."""
    if shape[dim] < 2:
        raise ValueError(
            f"{name} needs groups of two draws or more along {argument}={dim}; got shape {list(shape)}. Draw more, or "
            "name another dimension."
        )
    if mask is None or not inspectable(mask):
        return
    alone = mask.sum(dim) == 1
    if bool(alone.any()):
        raise ValueError(
            f"{name} needs two draws or more that the mask keeps in each group along {argument}={dim}; got one at "
            f"{alone.nonzero()[0].tolist()} of the others. Draw more, leave that group out, or, where these are costs "
            "to go of a draw that outlives the others, leave the mask out: those of ended draws are 0."
        )


def over_group(costs: Tensor, dim: int, mask: Tensor | None) -> Tensor:
    """The mean of the others along `dim`, without graph; 0 where there are none."""
    keep = None if mask is None else mask.movedim(dim, 0)
    return others(costs.detach().movedim(dim, 0), keep).movedim(0, dim)


def _by_ids(
    values: Tensor, ids: Tensor | None, mask: Tensor | None, weights: Tensor | None, process_group: ProcessGroup | None
) -> Tensor:
    where = by_ids(NAME, ids, values.shape[0] if values.dim() else 0, process_group)
    present = torch.ones_like(values) if mask is None else mask.to(values.dtype)
    own = _terms(values, present if weights is None else weights)
    count, *totals = where.sums(present, *own)  # in one collective
    alone = where.spread(count == 1) & (present > 0)
    if inspectable(alone) and bool(alone.any()):
        raise ValueError(
            f"{NAME} needs two draws or more in each group; got one at {alone.nonzero()[0].tolist()}. Draw more, leave "
            "that group out by the mask, or take `shrinkage`, which leans on the other groups. Where these are costs "
            "to go of a draw that outlives the others, leave the mask out: those of ended draws are 0."
        )
    return _mean_of_others(own, tuple(where.spread(x) for x in totals))


def _weights(weight: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    arguments.same_shape(NAME, "weight", weight, "costs", values.shape)
    weight = arguments.real(NAME, "weight", weight).detach().to(values.dtype)
    arguments.finite(NAME, "weight", weight, mask, fix="Leave such draws out by the mask.")
    weight = weight if mask is None else torch.where(mask, weight, 0)
    if inspectable(weight) and bool((weight < 0).any()):
        raise ValueError(f"{NAME} needs weights of 0 or more; got {weight.min().item()}. A baseline is a mean.")
    return weight


def _terms(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What is added up over a group: weighted costs, weights, and how many weights are above 0."""
    positive = weights > 0
    return weights * torch.where(positive, values, 0), weights, positive.to(weights.dtype)


def _mean_of_others(own: tuple[Tensor, ...], totals: tuple[Tensor, ...]) -> Tensor:
    """From each draw's own terms and their sums over its group; 0 where the others have no weight."""
    cost, weight, positive = (total - x for total, x in zip(totals, own, strict=True))
    there = positive > 0  # a count is exact where the difference of two sums of weights is not
    return torch.where(there, cost / torch.where(there, weight, 1), 0)
