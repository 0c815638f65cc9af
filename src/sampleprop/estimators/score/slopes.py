"""Values and derivatives of f, for control variates made of its tangents."""

from __future__ import annotations

import torch
from torch import Tensor

from sampleprop.estimator import F
from sampleprop.surrogate import value_and_grad


def value_and_slopes(name: str, f: F | None, points: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """f at the points, [k, *batch], and its derivative by them, [k, *batch, *event] in `dtype`; no graph for θ.

    Raises:
        ValueError: when f is not given.
    """
    if f is None:
        raise ValueError(f"{name} needs the derivative of f; got costs only. Pass relaxed_f=f.")
    with torch.no_grad():
        values, (slopes,) = value_and_grad(f, points)
    return values, slopes.to(dtype)
