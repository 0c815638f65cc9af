"""Any function of hidden states, a few positions at a time.

Source: [chen2016training], for the recomputation.
Differences from the paper: none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sampleprop import checks
from sampleprop.tracing import transforms_active

NAME = "in_chunks"


def in_chunks(f: Callable[..., Any], *tensors: Tensor, dims: int, chunk: int = 512) -> Any:
    r"""Call f on `chunk` positions at a time, so that its intermediate results exist for these positions only.

    f may be any head, or several: with a soft cap, a scale, a bias or an adapter. If the head is one weight matrix and
    nothing else, :func:`sequence_log_prob` is faster.

    If a gradient is needed, the backward pass calls f again (checkpointing), with the same random numbers. All
    parameters that f uses get their gradient, to any order. Under `torch.func` nothing is computed again, so no memory
    is saved.

    Args:
        f: from one tensor [n, ...] for each of `tensors` to a tensor [n, ...], or to a tuple of tensors and None.
        tensors: [\*positions, ...], with the same positions.
        dims: how many dimensions are positions: 2 for [batch, time].
        chunk: how many positions at a time, at least 1.

    Returns:
        What f returns, [\*positions, ...]; of the same class if it is a named tuple.

    Raises:
        TypeError: for an f that returns something else.
        ValueError: for tensors of different positions, and an f that does not return one row for each position.

    Example:
        >>> import torch, sampleprop as sp
        >>> head = torch.nn.Linear(8, 1000)
        >>> hidden, tokens = torch.zeros(2, 5, 8), torch.zeros(2, 5, dtype=torch.int64)
        >>> def terms(h, t):
        ...     return sp.token_terms(30 * (head(h) / 30).tanh(), t)
        >>> sp.in_chunks(terms, hidden, tokens, dims=2, chunk=4).entropy.shape
        torch.Size([2, 5])
    """
    checks.samples(NAME, chunk, argument="positions to a chunk")
    if not tensors or not all(isinstance(x, Tensor) and x.dim() >= dims for x in tensors):
        raise ValueError(
            f"{NAME} needs one tensor or more, each with dims={dims} dimensions of positions. Pass hidden."
        )
    positions = tensors[0].shape[:dims]
    for x in tensors[1:]:
        if x.shape[:dims] != positions:
            raise ValueError(
                f"{NAME} needs the same positions in each tensor, {list(positions)}; got {list(x.shape[:dims])}. "
                "Expand it, or put its dimensions in that order."
            )
    rows = [x.reshape(-1, *x.shape[dims:]) for x in tensors]
    recompute = torch.is_grad_enabled() and not transforms_active()
    found = []
    for start in range(0, max(len(rows[0]), 1), chunk):
        piece = [x[start : start + chunk] for x in rows]
        found.append(checkpoint(f, *piece, use_reentrant=False) if recompute else f(*piece))
        _require_rows(found[-1], len(piece[0]))
    first = found[0]
    if isinstance(first, Tensor):
        return _joined(found, positions)
    parts = [_joined(list(part), positions) for part in zip(*found, strict=True)]
    return first._make(parts) if hasattr(first, "_make") else tuple(parts)


def _joined(parts: list[Any], positions: torch.Size) -> Tensor | None:
    return None if parts[0] is None else torch.cat(parts).view(*positions, *parts[0].shape[1:])


def _require_rows(found: Any, n: int) -> None:
    for x in found if isinstance(found, tuple) else (found,):
        if x is None and isinstance(found, tuple):
            continue
        if not isinstance(x, Tensor):
            raise TypeError(f"{NAME} needs f to return a tensor, or a tuple of them; got {type(x).__name__}.")
        if x.dim() == 0 or len(x) != n:
            raise ValueError(
                f"{NAME} needs f to return one row for each position, [{n}, ...]; got {list(x.shape)}. Do not sum in f."
            )
