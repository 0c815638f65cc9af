"""One number from a loss at each step, such that micro-batches and ranks add up to the whole.

Source: the definition of a mean; the constant divisor is that of [liu2025understanding] (Dr. GRPO). Differences from
the paper: the divisor is counted over the whole step of the optimizer.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, distributed

from sampleprop import noise, parallel
from sampleprop.functional import arguments
from sampleprop.tracing import inspectable

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Normalize = Literal["draws", "tokens", "length"]
NORMALIZE = ("draws", "tokens", "length")


def aggregate(
    loss: Tensor,
    mask: Tensor | None = None,
    *,
    time_dim: int,
    normalize: Normalize = "draws",
    divisor: Tensor | float | None = None,
) -> Tensor:
    r"""Sum a loss over the steps that exist, and divide by the number of draws or tokens.

    .. math::

        \frac{1}{n} \sum_i \sum_t L_{it} \;\text{(draws)}, \qquad
        \frac{1}{\sum_i T_i} \sum_i \sum_t L_{it} \;\text{(tokens)}, \qquad
        \frac{1}{n} \sum_i \frac{1}{T_i} \sum_t L_{it} \;\text{(length)}

    "draws" adds no bias. "tokens" is biased if lengths are random, because the number of tokens in the batch depends on
    the draws. "length" is biased whatever the number of draws, because it changes the objective. See
    :func:`score_function_loss`.

    With a `divisor` from :func:`count`, which counts the whole step of the optimizer, micro-batches and ranks add up to
    the result of one call for all draws. Without it, "tokens" of a micro-batch of one draw is the same as "length".

    Args:
        loss: [*draws] with the steps as one more dimension; finite where the mask is True.
        mask: booleans of the shape of `loss`, False for padding; None for all.
        time_dim: the dimension of the steps of one draw.
        normalize: "draws", "tokens" or "length".
        divisor: above 0; replaces n ("draws", "length") or the number of tokens of this call.

    Returns:
        A number, in float32 at least.

    Raises:
        TypeError: for a loss that is not floating point, and a mask that is not boolean.
        ValueError: for shapes that do not fit, an unknown `normalize`, a divisor that is not above 0, and NaN or
            infinite losses (not checked under `torch.compile` and `torch.func`).

    Example:
        >>> import torch, sampleprop as sp
        >>> loss = torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]])
        >>> mask = torch.tensor([[True, True, True], [True, False, False]])
        >>> [sp.aggregate(loss, mask, time_dim=-1, normalize=n).item() for n in ("draws", "length", "tokens")]
        [5.0, 3.0, 2.5]
    """
    name = "aggregate"
    arguments.floating(name, "loss", loss)
    loss = noise.promote(loss)
    time = arguments.dimension(name, "time_dim", time_dim, loss.shape)
    arguments.choice(name, "normalize", normalize, NORMALIZE)
    divides(name, divisor)
    if mask is None:
        mask = torch.ones_like(loss, dtype=torch.bool)
    arguments.flags(name, "mask", mask, "loss", loss.shape)
    arguments.finite(name, "loss", loss, mask, fix="Fix the loss, or mask it.")
    per_draw = torch.where(mask, loss, 0).sum(time)  # [*draws]
    if normalize == "length":
        per_draw = per_draw / mask.sum(time).clamp_min(1)
    return per_draw.sum() / (count(mask, time_dim=time, normalize=normalize) if divisor is None else divisor)


def count(
    mask: Tensor,
    *,
    time_dim: int | None,
    normalize: Normalize = "draws",
    process_group: ProcessGroup | None = None,
    averaged: bool = True,
) -> Tensor:
    """Count the draws or tokens of a whole step of the optimizer, over all ranks, for use as a divisor.

    Call it before you cut the batch into micro-batches, and pass the result to each call as `divisor`.

    Args:
        mask: booleans, False for padding. A draw whose steps are all False does not count.
        time_dim: the dimension of the steps of one draw; None if each entry is a whole draw.
        normalize: the same as in the calls that get the divisor. "draws" and "length" count draws, "tokens" counts
            steps.
        process_group: the ranks that share the step. All of these ranks must then make the call.
        averaged: whether to divide by the number of ranks. True for wrappers that average gradients over the ranks
            (DDP, FSDP), False for those that sum them.

    Returns:
        A number in float64, at least one over the number of ranks.

    Raises:
        TypeError: for a mask that is not boolean.
        ValueError: for an unknown `normalize`, and no such dimension.

    Example:
        >>> import torch, sampleprop as sp
        >>> mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
        >>> [sp.count(mask, time_dim=1, normalize=n).item() for n in ("draws", "tokens")]
        [2.0, 3.0]
    """
    name = "count"
    arguments.choice(name, "normalize", normalize, NORMALIZE)
    if not isinstance(mask, Tensor):
        raise TypeError(f"{name} needs mask as a tensor of booleans; got {type(mask).__name__}.")
    arguments.flags(name, "mask", mask, "itself", mask.shape)
    if time_dim is not None and normalize != "tokens":
        mask = mask.any(arguments.dimension(name, "time_dim", time_dim, mask.shape))
    number = mask.sum().to(torch.float64)
    if process_group is None:
        return number.clamp_min(1)
    number = parallel.total(number, process_group).clamp_min(1)
    return number / distributed.get_world_size(process_group) if averaged else number


def divides(name: str, divisor: Any) -> None:
    """Refuse a divisor that is not one number above 0."""
    if divisor is None:
        return
    if isinstance(divisor, Tensor):
        if divisor.dim() or divisor.is_complex() or divisor.requires_grad:
            raise ValueError(
                f"{name} needs divisor as one number without a gradient; got a tensor of shape {list(divisor.shape)}. "
                "sampleprop.count makes one."
            )
        if not inspectable(divisor):
            return
    elif isinstance(divisor, bool) or not isinstance(divisor, (int, float)):  # torch 2.6 does not compile int | float
        raise TypeError(f"{name} needs divisor as a number or a tensor of one; got {type(divisor).__name__}.")
    if not (math.isfinite(divisor) and divisor > 0):
        raise ValueError(f"{name} needs a finite divisor above 0; got {float(divisor)}. sampleprop.count makes one.")
