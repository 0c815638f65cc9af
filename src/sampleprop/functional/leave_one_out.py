"""The mean cost of the other draws of a group.

Source: Kool, van Hoof and Welling (2019), "Buy 4 REINFORCE samples, get a baseline for free!".
Differences from the paper: draws can be left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sampleprop.costs import others
from sampleprop.functional import arguments
from sampleprop.tracing import inspectable


def leave_one_out(costs: Tensor, dim: int, mask: Tensor | None = None) -> Tensor:
    r"""For each draw, the mean cost of the others in its group: the baseline that costs nothing.

    .. math:: b_i = \frac{1}{n - 1} \sum_{j \ne i} f(x_j)

    Unbiased as a baseline, for draws of a group that are independent given what they share (a prompt, a state): b_i
    does not depend on draw i. The mean of the whole group does; f_i minus it is (n - 1) / n times f_i - b_i, so the
    gradient is right but for that factor. Division by the standard deviation of the group is no such factor: it depends
    on draw i, and the gradient is biased.

    The result has no graph. Attached, f - b would cancel the gradient of θ in f.

    Args:
        costs: of any shape, finite.
        dim: the dimension of the draws of one group, of two or more.
        mask: booleans of the shape of `costs`, False for draws that do not exist; they enter no mean.

    Returns:
        b, of the shape of `costs`; in float32 at least.

    Raises:
        TypeError: for what is not a tensor of real numbers, and a mask that is not boolean.
        ValueError: for a group of one, another shape of the mask, no such dimension, and NaN or infinite costs. Values
            are not looked at under `torch.compile` and `torch.func`; there the only draw of a group has b = 0.

    Example:
        >>> import torch, sampleprop as sp
        >>> sp.leave_one_out(torch.tensor([[1.0, 2.0, 6.0]]), dim=1)
        tensor([[4.0000, 3.5000, 1.5000]])
    """
    name = "leave_one_out"
    values = arguments.real(name, "costs", costs)
    dim = arguments.dimension(name, "dim", dim, values.shape)
    if mask is not None:
        arguments.flags(name, "mask", mask, "costs", values.shape)
    arguments.finite(name, "costs", values, mask, fix="Fix f, or leave such draws out by the mask.")
    company(name, "dim", values.shape, dim, mask)
    return over_group(values, dim, mask)


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
            f"{alone.nonzero()[0].tolist()} of the others. Draw more, or leave that group out."
        )


def over_group(costs: Tensor, dim: int, mask: Tensor | None) -> Tensor:
    """The mean of the others along `dim`, without graph; 0 where there are none."""
    keep = None if mask is None else mask.movedim(dim, 0)
    return others(costs.detach().movedim(dim, 0), keep).movedim(0, dim)
