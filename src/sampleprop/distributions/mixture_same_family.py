"""Mixtures that can be differentiated through a sample, weights included.

Source: [figurnov2018implicit]; [graves2016stochastic] for the distributional transform of mixtures. Differences from
the papers: the triangular system is written out instead of solved by differentiation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributions as td
import torch.nn.functional as F
from torch import Generator, Size, Tensor
from torch.distributions import Distribution

from sampleprop import noise
from sampleprop.distributions.implicit import cdf_refusal
from sampleprop.families import recognize, unwrap
from sampleprop.families.parameters import categorical_logits
from sampleprop.families.reparameterized import Reparameterized
from sampleprop.surrogate import guarded
from sampleprop.tracing import value_and_grad


class MixtureSameFamily(Reparameterized, td.MixtureSameFamily):
    r"""A mixture with `rsample`: the sample moves with the components and with their weights.

    .. math::

        S_d(z) = \sum_k r_k(z_{<d})\, F_{kd}(z_d), \quad r_k(z_{<d}) \propto w_k \prod_{j<d} p_{kj}(z_j), \qquad
            \nabla_\phi z = -(\nabla_z S)^{-1}\, \nabla_\phi S

    S maps the coordinates, one after the other, to independent uniform numbers, whatever φ is. The gradient is
    unbiased. Its variance is large where almost no mass lies between modes, because mass that changes sides has to move
    through the gap. The second derivative raises. Everything but `rsample` is as in
    :class:`torch.distributions.MixtureSameFamily`.

    Args:
        mixture_distribution: `Categorical`, the weights w.
        component_distribution: the components along its last batch dimension. This is a distribution on the line with
            a `cdf` that is differentiable in φ, or `Independent` over such (coordinates that are independent within a
            component).

    Raises:
        TypeError: for components without cdf, or with dependent coordinates (a full covariance, say).
        ValueError: for several coordinates with components of bounded support, where S jumps.
        RuntimeError: in a second backward pass.

    Example:
        >>> import torch, sampleprop as sp
        >>> from torch.distributions import Categorical, Normal
        >>> from sampleprop.distributions.mixture_same_family import MixtureSameFamily
        >>> logits = torch.zeros(2, requires_grad=True)
        >>> q = MixtureSameFamily(Categorical(logits=logits), Normal(torch.tensor([-1.0, 1.0]), 1.0))
        >>> sp.expect(torch.square, q, sp.Pathwise(samples=4)).backward()
    """

    has_rsample = True
    smooth = False

    def __init__(
        self,
        mixture_distribution: td.Categorical,
        component_distribution: Distribution,
        validate_args: bool | None = None,
    ) -> None:
        _refuse(component_distribution)
        td.MixtureSameFamily.__init__(self, mixture_distribution, component_distribution, validate_args)

    def draw(self, shape: Size, generator: Generator | None = None) -> Tensor:
        log_weights = categorical_logits(self.mixture_distribution)
        log_weights = log_weights.expand(*self.batch_shape, log_weights.shape[-1])  # [*batch, K]
        z = self._choose(log_weights.detach(), shape.numel(), generator)
        if torch.is_grad_enabled():
            z = guarded("MixtureSameFamily", self._attach(log_weights, z))
        return z.reshape(shape + self.batch_shape + self.event_shape)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> MixtureSameFamily:
        new = self._get_checked_instance(MixtureSameFamily, _instance)  # type: ignore[no-untyped-call]
        result: MixtureSameFamily = td.MixtureSameFamily.expand(self, Size(batch_shape), new)
        return result

    def _choose(self, log_weights: Tensor, k: int, generator: Generator | None) -> Tensor:
        """Draw from every component and keep one: [k, *batch, *event], without graph."""
        scores = log_weights + noise.gumbel((k, *log_weights.shape), log_weights, generator)
        every = recognize(self.component_distribution).sample(k, generator)  # [k, *batch, K, *event]
        dim = every.dim() - len(self.event_shape) - 1
        index = scores.argmax(-1).reshape(k, *self.batch_shape, *(1 for _ in range(len(self.event_shape) + 1)))
        return every.gather(dim, index.expand(k, *self.batch_shape, 1, *self.event_shape)).squeeze(dim)

    def _attach(self, log_weights: Tensor, z: Tensor) -> Tensor:
        """Give z its derivative, -(∂S/∂z)⁻¹ ∂S/∂φ. Below, D is the number of coordinates."""
        base, event_ndim = unwrap(self.component_distribution)

        def flat(x: Tensor) -> Tensor:
            return noise.promote(x.flatten(-event_ndim) if event_ndim else x.unsqueeze(-1))

        at = z.unsqueeze(-1 - event_ndim)  # [k, *batch, 1, *event]
        at = at.expand(z.shape[0], *base.batch_shape)  # [k, *batch, K, *event]
        cdf, log_density = flat(base.cdf(at)), flat(base.log_prob(at))  # [k, *batch, K, D]
        seen = F.pad(log_density.cumsum(-1)[..., :-1], (1, 0))
        log_r = (log_weights.unsqueeze(-1) + seen).log_softmax(-2)
        u = (log_r.exp() * cdf).sum(-2)  # [k, *batch, D]
        with torch.no_grad():
            density = (log_r + log_density).logsumexp(-2).exp()  # p(z_d | z_<d), the diagonal of ∂S/∂z
        move = (u - u.detach()) / density
        if move.shape[-1] > 1:
            with torch.no_grad():
                scores = flat(value_and_grad(base.log_prob, at)[1][0])  # [k, *batch, K, D], ∂ log p_kj / ∂z_j
                # ∂S_d/∂z_j = Σ_k r_kd (F_kd - S_d) ∂ log p_kj / ∂z_j, for j < d.
                excess = log_r.exp() * (cdf - u.unsqueeze(-2)) / density.unsqueeze(-2)
                lower = excess.transpose(-2, -1) @ scores  # [k, *batch, D, D]
            # The solver takes the matrix as unit lower triangular, whatever stands on and above the diagonal.
            move = torch.linalg.solve_triangular(lower.tril(-1), move.unsqueeze(-1), upper=False, unitriangular=True)
            move = move.squeeze(-1)
        return z - move.reshape(z.shape).to(z.dtype)


def _refuse(components: Distribution) -> None:
    base, _ = unwrap(components)
    if isinstance(base, Distribution) and base.event_shape:
        raise TypeError(
            "MixtureSameFamily needs components whose coordinates are independent, such as Independent(Normal(loc, "
            f"scale), 1); got {type(base).__name__} with event shape {list(base.event_shape)}, which has no cdf to "
            "differentiate through. Use torch.distributions.MixtureSameFamily with ScoreFunction."
        )
    refusal = cdf_refusal("MixtureSameFamily", base)
    if refusal is not None:
        raise TypeError(refusal)
    bounds = [getattr(base.support, name, None) for name in ("lower_bound", "upper_bound")]
    if components.event_shape.numel() > 1 and any(isinstance(bound, Tensor) for bound in bounds):
        raise ValueError(
            "MixtureSameFamily needs components of one common support when there are several coordinates; got "
            f"{type(base).__name__}, where crossing the edge of one component makes the other coordinates jump. Use "
            "ScoreFunction, or make the components' supports the whole line."
        )
