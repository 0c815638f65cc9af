"""Values and derivatives of f, for control variates made of its tangents."""

from __future__ import annotations

import torch
from torch import Tensor

from sampleprop.costs import F
from sampleprop.tracing import value_and_grad


def value_and_slopes(f: F, points: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """f at the points, [k, *batch], and its derivative by them, [k, *batch, *event] in `dtype`; no graph for θ."""
    with torch.no_grad():
        values, (slopes,) = value_and_grad(f, points)
    return values, slopes.to(dtype)
