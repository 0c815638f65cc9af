"""f evaluated on a few points at a time, so that its memory does not grow with the number of points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from sampleprop import checks
from sampleprop.tracing import transforms_active


def chunked(f: Callable[[Tensor], Any], chunk: int) -> Callable[[Tensor], Any]:
    r"""The same function, called with at most `chunk` points [chunk, \*batch, \*event] at a time.

    Where a gradient is recorded, only the points and costs are kept: the backward pass calls f again, piece by piece,
    with the random numbers that it had. So f is evaluated twice, and its memory is that of one piece.

    Raises:
        RuntimeError: in the backward pass, where f then gives other costs than before.
    """

    def pieces(points: Tensor) -> Any:
        if points.shape[0] <= chunk:
            return f(points)
        # A recomputation would not reach the record that torch.func keeps. Without a gradient nothing is kept anyway.
        recompute = torch.is_grad_enabled() and not transforms_active()
        parts = []
        for piece in points.split(chunk):
            costs = _recomputed(f, piece) if recompute else f(piece)
            parts.append(costs if isinstance(costs, Tensor) else checks.as_tensor("expect", costs, points.device))
        if any(part.dim() == 0 for part in parts):
            return parts[0]  # the check of the shape says what is wrong
        return torch.cat(parts)  # [k, *batch]

    return pieces


def _recomputed(f: Callable[[Tensor], Any], points: Tensor) -> Any:
    """f(points), of which nothing is kept: the backward pass evaluates it again, and compares the costs."""
    before: list[Tensor] = []

    def evaluate(points: Tensor) -> Any:
        # Another tensor object each time: a transform with a cache would recognize its own result the second time.
        costs = f(points.view_as(points))
        if not isinstance(costs, Tensor):
            return costs
        if before and not torch.compiler.is_dynamo_compiling():
            checks.repeated(before[0], costs.detach())
        before.append(costs.detach())
        return costs

    with set_checkpoint_early_stop(False):  # to the end, so that the costs can be compared
        return checkpoint(evaluate, points, use_reentrant=False)
