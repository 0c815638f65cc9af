"""Critics: learned functions whose gradient is a control variate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sampleprop import checks, noise
from sampleprop.costs import Softening
from sampleprop.estimators.relaxed.conditional import WithGradient, with_gradient
from sampleprop.tracing import memorable

SIZE = 8  # cosines


class QuadraticCritic(nn.Module):
    r"""A quadratic function of the points, with the same 81 coefficients for every event shape.

    .. math:: c(s) = c_0 + \langle a, A\rangle + \langle b, B \rangle + A^\top Q A, \qquad
        A_j = \sum_i \omega_{ji} s_i, \quad B_j = \sum_i \omega_{ji} s_i^2

    ω are the first eight cosines along the flattened event. For an event of up to eight coordinates, every quadratic
    function has this form. For a longer one, these are the quadratic functions that vary slowly along it. All
    coefficients start at 0.
    """

    _found: tuple[Any, Tensor] | None = None  # the last cosines, after what they are for

    def __init__(self) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.zeros(()))
        self.linear = nn.Parameter(torch.zeros(SIZE))
        self.squares = nn.Parameter(torch.zeros(SIZE))
        self.products = nn.Parameter(torch.zeros(SIZE, SIZE))

    def forward(self, points: Tensor) -> Tensor:
        """From [..., coordinates] to [...]."""
        return self.value_and_gradient(points)[0]

    def value_and_gradient(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """From [..., coordinates] to [...], and the gradient with respect to the points, [..., coordinates].

        The gradient is written out, so that its own derivative needs no graph of a graph.
        """
        points = points.to(noise.working_dtype(points.dtype))
        waves = self._cosines(points)  # [coordinates, SIZE]
        x = points.flatten(0, -2) if points.dim() > 1 else points.unsqueeze(0)  # [rows, coordinates]
        linear, squares, products = self.linear.to(x), self.squares.to(x), self.products.to(x)
        a, b = x @ waves, x.square() @ waves  # [rows, SIZE]
        turned = a @ (products + products.T)
        affine = self.constant.to(x) + a @ linear + b @ squares
        values = torch.add(affine, (turned * a).sum(-1), alpha=0.5)
        gradient = torch.addcmul((linear + turned) @ waves.T, x, waves @ (2 * squares))
        return values.reshape(points.shape[:-1]), gradient.reshape(points.shape)

    def _cosines(self, points: Tensor) -> Tensor:
        """`_cosines` of the last dimension, computed again only where it differs from that of the call before."""
        if not memorable(points):
            return _cosines(points)
        key = (points.shape[-1], points.dtype, points.device)
        found = self._found  # once, because another thread may put its own there
        if found is None or found[0] != key:
            found = self._found = key, _cosines(points)
        return found[1]


def critic_with_gradient(
    name: str, critic: Callable[..., Tensor], event_ndim: int, context: Tensor | None
) -> WithGradient:
    """The critic as a function of points alone: [m, *batch, *event] to [m, *batch], and the gradient of that shape.

    Raises:
        ValueError: from the function, when the critic returns another shape.
        RuntimeError: from the function, when the critic has a step.
    """

    def quadratic(points: Tensor, softening: Softening | None = None, /) -> tuple[Tensor, Tensor]:
        assert isinstance(critic, QuadraticCritic)
        flat = points.unsqueeze(-1).flatten(points.dim() - event_ndim)  # [m, *batch, coordinates]
        values, gradient = critic.value_and_gradient(flat)
        return values, gradient.reshape(points.shape)

    def checked(points: Tensor) -> Tensor:
        values = critic(points) if context is None else critic(points, context.detach())
        shape = points.shape[: points.dim() - event_ndim]
        if values.shape != shape:
            raise ValueError(
                f"{name} needs one number from the critic for each point, shape [m, *batch] = {list(shape)}; got "
                f"{list(values.shape)}. Sum over the event, or squeeze the last dimension."
            )
        checks.critic_path(name, values, points)
        return values

    return quadratic if isinstance(critic, QuadraticCritic) else with_gradient(checked)


def _cosines(points: Tensor) -> Tensor:
    """[coordinates, SIZE], the orthonormal cosine transform of the last dimension, cut or padded with zeros."""
    size = points.shape[-1]
    place = (torch.arange(size, dtype=points.dtype, device=points.device) + 0.5) * math.pi / max(size, 1)
    frequency = torch.arange(SIZE, dtype=points.dtype, device=points.device)
    waves = (place[:, None] * frequency).cos() * math.sqrt(2 / max(size, 1))
    return torch.where(frequency < size, waves, 0.0)
