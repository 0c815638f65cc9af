"""Implicit reparameterization: samples of any kind, differentiated through the cdf.

Source: [figurnov2018implicit]. Differences from the paper: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.distributions as td
from torch import Generator, Size, Tensor
from torch.distributions import Distribution

from sampleprop.families import recognize
from sampleprop.families.reparameterized import Reparameterized
from sampleprop.surrogate import guarded


class ImplicitReparameterization(Reparameterized):
    r"""Gives `rsample` to a continuous distribution on the line that has a sampler and a differentiable cdf.

    .. math:: \nabla_\phi z = -\frac{\nabla_\phi F_\phi(z)}{p_\phi(z)}, \qquad z \sim p_\phi

    This is the derivative that the sample would have if it were drawn as the quantile of a fixed uniform number. How it
    was really drawn does not matter. The second derivative raises.

    Args:
        base_dist: p_φ, with `sample`, `log_prob`, and a `cdf` that is differentiable in φ; each batch element is one
            real number.

    Raises:
        TypeError: for a base that is discrete, not on the line, or without `cdf`.
        RuntimeError: in `rsample`, for a cdf without a graph to φ; in a second backward pass.

    Example:
        >>> import torch, sampleprop as sp
        >>> from sampleprop.distributions.implicit import ImplicitReparameterization
        >>> loc = torch.zeros(3, requires_grad=True)
        >>> q = ImplicitReparameterization(torch.distributions.Cauchy(loc, 1.0))
        >>> sp.expect(torch.tanh, q, sp.Pathwise(samples=4)).sum().backward()
    """

    arg_constraints: ClassVar[dict[str, td.constraints.Constraint]] = {}
    smooth = False

    def __init__(self, base_dist: Distribution, validate_args: bool | None = None) -> None:
        refusal = cdf_refusal("ImplicitReparameterization", base_dist)
        if refusal is not None:
            raise TypeError(refusal)
        self.base_dist = base_dist
        super().__init__(base_dist.batch_shape, validate_args=validate_args)

    @property
    def support(self) -> td.constraints.Constraint | None:
        return self.base_dist.support

    @property
    def mean(self) -> Tensor:
        return self.base_dist.mean

    @property
    def variance(self) -> Tensor:
        return self.base_dist.variance

    def draw(self, shape: Size, generator: Generator | None = None) -> Tensor:
        z = recognize(self.base_dist).sample(shape.numel(), generator).reshape(shape + self.batch_shape)
        if not torch.is_grad_enabled():
            return z
        u = self.base_dist.cdf(z)
        if not u.requires_grad and recognize(self.base_dist).attached:
            raise RuntimeError(
                "ImplicitReparameterization needs a cdf that is differentiable in φ; "
                f"{type(self.base_dist).__name__}.cdf gives a tensor without graph, so the gradient would be zero. "
                "Write the cdf in torch, without detach, or use ScoreFunction."
            )
        density = self.base_dist.log_prob(z).detach().exp()
        return guarded("ImplicitReparameterization", z - (u - u.detach()) / density)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base_dist.log_prob(value)

    def cdf(self, value: Tensor) -> Tensor:
        return self.base_dist.cdf(value)

    def icdf(self, value: Tensor) -> Tensor:
        return self.base_dist.icdf(value)

    def entropy(self) -> Tensor:
        return self.base_dist.entropy()

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> ImplicitReparameterization:
        return ImplicitReparameterization(self.base_dist.expand(Size(batch_shape)), validate_args=self._validate_args)


def cdf_refusal(name: str, dist: Distribution) -> str | None:
    """Why `dist` cannot be differentiated through its cdf, with the fix; None if it can."""
    if not isinstance(dist, Distribution):
        return f"{name} needs a torch.distributions object; got {type(dist).__name__}. Pass Normal(loc, scale), say."
    kind = type(dist).__name__
    if recognize(dist).is_discrete:
        return f"{name} needs a continuous distribution; got {kind}. Use ScoreFunction, or an estimator for its family."
    if dist.event_shape:
        return (
            f"{name} needs a distribution on the line, with event shape []; got {kind} with event shape "
            f"{list(dist.event_shape)}. Independent goes outside; for dependent coordinates use ScoreFunction."
        )
    if type(dist).cdf is Distribution.cdf:
        return f"{name} needs a distribution with a cdf; got {kind}, which has none. Use ScoreFunction."
    return None
