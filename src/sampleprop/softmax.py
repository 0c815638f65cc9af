"""The softmax over few classes, which torch computes slowly on the CPU.

torch works through one row of the last dimension at a time. With fewer than 16 classes, no row fills a register of the
processor, and a softmax over the first dimension, for which it works through many rows at once, is up to ten times
faster.
"""

from __future__ import annotations

import torch
from torch import Tensor

FEW = 16  # classes, from where on a row is long enough
MANY = 1000  # numbers, below which the further calls cost more than they save


def softmax(x: Tensor) -> Tensor:
    """The softmax over the last dimension."""
    return _last_first(x).softmax(0).movedim(0, -1).contiguous() if _slow(x) else x.softmax(-1)


def log_softmax(x: Tensor) -> Tensor:
    """The logarithm of the softmax over the last dimension."""
    return _last_first(x).log_softmax(0).movedim(0, -1).contiguous() if _slow(x) else x.log_softmax(-1)


def softmax_backward(gradient: Tensor, probs: Tensor) -> Tensor:
    """The gradient with respect to x, from that with respect to probs = softmax(x)."""
    if _slow(probs):
        inner = probs * gradient
        return torch.addcmul(inner, probs, inner.sum(-1, keepdim=True), value=-1)
    result: Tensor = torch.ops.aten._softmax_backward_data(gradient, probs, -1, probs.dtype)
    return result


def _slow(x: Tensor) -> bool:
    if torch.compiler.is_dynamo_compiling() or x.device.type != "cpu":
        return False
    return x.shape[-1] < FEW and x.numel() > MANY


def _last_first(x: Tensor) -> Tensor:
    return x.movedim(-1, 0)
