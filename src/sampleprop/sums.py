"""Sums of products over the samples or over the event: products of matrices where these are faster."""

from __future__ import annotations

import torch
from torch import Tensor

from sampleprop.surrogate import unsqueeze_to


def over_samples(weights: Tensor, x: Tensor) -> Tensor:
    """Σ_k w_k x_k: [k, *batch] and [k, *batch, *event] to [*batch, *event]."""
    if x.shape[0] == 1:
        return (unsqueeze_to(weights, x.dim()) * x).squeeze(0)
    if not _as_matrices(weights, x) or x.dim() == weights.dim():  # no event: nothing to multiply as a matrix
        return (unsqueeze_to(weights, x.dim()) * x).sum(0)
    rows = x.flatten(weights.dim()).movedim(0, -2)  # [*batch, k, coordinates]
    return (weights.movedim(0, -1).unsqueeze(-2) @ rows).reshape(x.shape[1:])


def over_event(x: Tensor, y: Tensor, event_ndim: int) -> Tensor:
    """⟨x_k, y⟩ of each sample: [k, *batch, *event] and [*batch, *event] to [k, *batch]."""
    if not event_ndim:
        return x * y
    if not _as_matrices(x, y) or x.shape[1:] != y.shape:
        return (x * y).sum(tuple(range(-event_ndim, 0)))
    rows, column = x.flatten(-event_ndim).movedim(0, -2), y.flatten(-event_ndim).unsqueeze(-1)
    return (rows @ column).squeeze(-1).movedim(-1, 0)  # [*batch, k, 1] -> [k, *batch]


def with_impossible(x: Tensor, y: Tensor, event_ndim: int) -> Tensor:
    """⟨x, y⟩ where 0 times -inf is 0: [..., *batch, *event] each, broadcast, to [..., *batch]; x is not negative."""
    batch = y.shape[: y.dim() - event_ndim]
    shared = x.dim() == y.dim() + 1 and x.shape[1 : 1 + len(batch)].numel() == 1
    if not (shared and _as_matrices(x.expand(x.shape[0], *y.shape), y)):
        return (x * torch.where(x != 0, y, 0.0)).sum(tuple(range(-event_ndim, 0)))
    rows = x.flatten(1)  # the same points for all of the batch
    columns = y.flatten(-event_ndim).unsqueeze(0).flatten(0, -2).mT  # [coordinates, batch]
    impossible = columns == -torch.inf
    total = rows @ columns.masked_fill(impossible, 0.0)
    total = total.masked_fill(rows @ impossible.to(rows.dtype) > 0, -torch.inf)  # [k, batch]
    return total.reshape(x.shape[0], *batch)


def _as_matrices(x: Tensor, y: Tensor) -> bool:
    """Whether a product of matrices is faster than one of numbers and a sum, and as exact.

    Compiled code needs none of the intermediate numbers. Autocast would round them to half precision, and
    `torch.set_float32_matmul_precision` to TF32 or bfloat16 on some devices.
    """
    if torch.compiler.is_dynamo_compiling() or max(x.numel(), y.numel()) < 20_000 or x.shape[0] < 16:
        return False
    rounded = x.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    return x.dtype == y.dtype and not rounded and not torch.is_autocast_enabled(x.device.type)
