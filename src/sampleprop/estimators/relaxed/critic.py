"""Critics: learned functions whose gradient is a control variate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sampleprop import noise
from sampleprop.estimators.relaxed.conditional import with_slopes

SIZE = 8  # cosines


class QuadraticCritic(nn.Module):
    r"""A quadratic function of the points, with the same 81 coefficients for every event shape.

    .. math:: c(s) = c_0 + \langle a, A\rangle + \langle b, B \rangle + A^\top Q A, \qquad
        A_j = \sum_i \omega_{ji} s_i, \quad B_j = \sum_i \omega_{ji} s_i^2

    ω are the first eight cosines of the event, flattened: for an event of up to eight coordinates every quadratic
    function is of this form; for a longer one, those that vary slowly along it. All coefficients start at 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.zeros(()))
        self.linear = nn.Parameter(torch.zeros(SIZE))
        self.squares = nn.Parameter(torch.zeros(SIZE))
        self.products = nn.Parameter(torch.zeros(SIZE, SIZE))

    def forward(self, points: Tensor) -> Tensor:
        """From [..., coordinates] to [...]."""
        return self.value_and_slopes(points)[0]

    def value_and_slopes(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """From [..., coordinates] to [...] and the derivative by the points, written out, which spares a graph of the graph."""
        points = points.to(noise.working_dtype(points.dtype))
        waves = _cosines(points)
        a, b = points @ waves, points.square() @ waves  # [..., SIZE]
        linear, squares, products = self.linear.to(points), self.squares.to(points), self.products.to(points)
        turned = a @ products
        values = self.constant.to(points) + a @ linear + b @ squares + (turned * a).sum(-1)
        slopes = (linear + turned + a @ products.T) @ waves.T + 2 * points * (waves @ squares)
        return values, slopes


def value_and_slopes(
    name: str,
    critic: Callable[..., Tensor] | None,
    quadratic: QuadraticCritic | None,
    points: Tensor,
    event_ndim: int,
    context: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The critic, or the quadratic one where it is None, at points [m, *batch, *event]: [m, *batch]; and its derivative by them.

    Raises:
        ValueError: when the critic returns another shape.
    """
    shape = points.shape[: points.dim() - event_ndim]
    if critic is None:
        assert quadratic is not None
        flat = points.unsqueeze(-1).flatten(len(shape))  # [m, *batch, coordinates]
        values, slopes = quadratic.value_and_slopes(flat)
        return values, slopes.reshape(points.shape)

    def checked(points: Tensor) -> Tensor:
        values = critic(points) if context is None else critic(points, context.detach())
        if values.shape != shape:
            raise ValueError(
                f"{name} needs one number from the critic for each point, shape [m, *batch] = {list(shape)}; got "
                f"{list(values.shape)}. Sum over the event, or squeeze the last dimension."
            )
        return values

    return with_slopes(checked)(points)


def tilted(estimator: Any) -> Any:
    """The estimator with a quadratic critic that is not zero: what its certificate is about."""
    with torch.no_grad():
        for parameter in estimator.quadratic.parameters():
            parameter.copy_(torch.linspace(0.05, -0.05, parameter.numel()).reshape(parameter.shape))
    return estimator


def _cosines(points: Tensor) -> Tensor:
    """[coordinates, SIZE], the orthonormal cosine transform of the last dimension, cut or padded with zeros."""
    size = points.shape[-1]
    place = (torch.arange(size, dtype=points.dtype, device=points.device) + 0.5) * math.pi / max(size, 1)
    frequency = torch.arange(SIZE, dtype=points.dtype, device=points.device)
    waves = (place[:, None] * frequency).cos() * math.sqrt(2 / max(size, 1))
    return torch.where(frequency < size, waves, 0.0)
