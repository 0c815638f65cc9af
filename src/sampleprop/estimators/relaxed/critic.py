"""Critics: learned functions whose gradient is a control variate."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sampleprop import checks, noise
from sampleprop.costs import Softening
from sampleprop.estimators.relaxed.conditional import WithGradient, with_gradient

SIZE = 8  # cosines


class QuadraticCritic(nn.Module):
    r"""A quadratic function of the points, with the same 81 coefficients for every event shape.

    .. math:: c(s) = c_0 + \langle a, A\rangle + \langle b, B \rangle + A^\top Q A, \qquad
        A_j = \sum_i \omega_{ji} s_i, \quad B_j = \sum_i \omega_{ji} s_i^2

    ω are the first eight cosines along the flattened event. For an event of up to eight coordinates, every quadratic
    function has this form. For a longer one, these are the quadratic functions that vary slowly along it. All
    coefficients start at 0.
    """

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
        waves = _cosines(points)
        a, b = points @ waves, points.square() @ waves  # [..., SIZE]
        linear, squares, products = self.linear.to(points), self.squares.to(points), self.products.to(points)
        turned = a @ products
        values = self.constant.to(points) + a @ linear + b @ squares + (turned * a).sum(-1)
        along = (linear + turned + a @ products.T) @ waves.T
        return values, torch.addcmul(along, points, waves @ (2 * squares))


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
