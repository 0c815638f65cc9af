"""The interface of a recognized distribution: everything that an estimator or a baseline may ask of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Generator, Size, Tensor
from torch.distributions import Distribution

from sampleprop import sums


class Variables:
    """What `recognize` makes of a distribution, once for each call of `expect`, `propose` or `combine`.

    It is no ABC, because `isinstance` asks an ABC by calling Python, several times a step.

    Attributes:
        dist: the distribution as it was given. Estimators read it only to hand it to a function of the user's.
        base: the distribution inside `Independent`.
        dtype: the dtype of the points.
        event_ndim: how many trailing dimensions of the parameters belong to one draw.
        is_discrete: whether samples take values in a countable set, whatever `dist.has_rsample` says.
        smooth: whether `rsample` is an explicit formula that autograd differentiates to any order.
        moving_support: whether the support moves with parameters whose gradient could be asked for.
        contradiction: how the methods of the distribution contradict each other; None if they do not.
        plain: whether all methods are those of torch's own class, or of ours.
        no_path: why `rsample` is not known to reparameterize the distribution; None if it is.
    """

    dist: Distribution
    base: Distribution
    dtype: torch.dtype
    event_ndim: int
    is_discrete: bool
    smooth: bool = False
    moving_support: bool = False
    contradiction: str | None = None
    plain: bool = True
    no_path: str | None = None

    @property
    def batch_shape(self) -> Size:
        """[*batch]: each element is an expectation of its own."""
        return self.dist.batch_shape

    @property
    def event_shape(self) -> Size:
        """[*event], the shape of one draw."""
        return self.dist.event_shape

    @property
    @abstractmethod
    def attached(self) -> bool:
        """Whether any tensor of the distribution requires a gradient."""

    @property
    @abstractmethod
    def parameters(self) -> dict[str, Tensor]:
        """The tensors through which φ acts, by name: the logits of a discrete family, else the constructor's arguments.

        Raises:
            TypeError: for a distribution that does not keep its parameters under their names (a transformed one, say).
        """

    @property
    def kind(self) -> str:
        """The name of the distribution inside `Independent`, for messages."""
        return type(self.base).__name__

    @property
    def knows_mode(self) -> bool:
        """Whether the distribution defines its mode."""
        return type(self.base).mode is not Distribution.mode

    def sum(self, x: Tensor) -> Tensor:
        """Sum over the event: [..., *batch, *event] -> [..., *batch]."""
        return x.sum(tuple(range(-self.event_ndim, 0))) if self.event_ndim else x

    def inner(self, x: Tensor, y: Tensor) -> Tensor:
        """⟨x_k, y⟩, summed over the event: [k, *batch, *event] and [*batch, *event] to [k, *batch]."""
        return sums.over_event(x, y, self.event_ndim)

    @abstractmethod
    def sample(self, k: int, generator: Generator | None = None) -> Tensor:
        """Draw [k, *batch, *event], detached."""

    @abstractmethod
    def rsample(self, k: int | None, generator: Generator | None = None) -> Tensor:
        """Draw [k, *batch, *event], attached to φ by reparameterization; [*batch, *event] for None."""

    @abstractmethod
    def log_prob(self, points: Tensor) -> Tensor:
        """log p_φ, summed over the event: [..., *batch], attached to φ; float32 at least."""

    @abstractmethod
    def scores(self, points: Tensor, names: Sequence[str] | None = None) -> tuple[Tensor, ...]:
        """The gradients of log p_φ with respect to each of `parameters`: [k, *batch, ...] each, without graph.

        Args:
            points: [k, *batch, *event].
            names: with respect to which of the parameters; None for all.
        """

    @abstractmethod
    def mode(self) -> Tensor:
        """The most probable point, [*batch, *event], detached."""
