"""Augment-REINFORCE-merge: the original antithetic estimator for Bernoulli variables.

Source: Yin and Zhou (2019), "ARM: Augment-REINFORCE-merge gradient for stochastic binary networks", thm. 1.
Differences from the paper: none.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Distribution

from sampleprop import checks, families
from sampleprop.estimator import Estimator, F, Source, Worked, average
from sampleprop.estimators.coupled import antithetic
from sampleprop.surrogate import surrogate, unsqueeze_to


class Draw(NamedTuple):
    points: Tensor  # [samples, *batch, *event], detached; first every b, then every b̃
    u: Tensor  # [samples / 2, *batch, *event], the uniform numbers behind the pairs
    probes: None = None


class ARM(Estimator[Draw]):
    r"""Weighs the difference of f over an antithetic pair with the noise behind the pair.

    .. math::

        \nabla_{\phi_i} L \approx (f(b) - f(\tilde b)) (u_i - \tfrac12), \qquad
            b = \mathbb{1}[u > 1 - p], \quad \tilde b = \mathbb{1}[u < p], \quad u \sim U(0, 1)^D

    Unbiased, averaged over the pairs. f may be a black box; the variables are Bernoulli. One evaluation of f for each
    sample. :class:`DisARM` is this with u averaged out, for the same evaluations: its variance is never larger, and,
    unlike here, its gradient is zero where a probability is 0 or 1.

    Args:
        samples: evaluations of f, two for each pair: an even number, at least 2.

    Raises:
        ValueError: for an odd number of samples.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
        >>> sp.expect(lambda x: (x - 0.4).square().sum(-1), q, sp.ARM()).backward()
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    families = (families.Bernoullis,)
    samples_step: ClassVar[int] = 2
    source = Source(
        key="yin2019arm",
        authors="Mingzhang Yin and Mingyuan Zhou",
        year=2019,
        title="ARM: Augment-REINFORCE-merge gradient for stochastic binary networks",
        venue="International Conference on Learning Representations",
        arxiv="1807.11143",
        where="thm. 1",
    )

    def __init__(self, samples: int = 2) -> None:
        super().__init__()
        checks.samples("ARM", samples, least=2, step=2)
        self.samples = samples

    def propose(self, dist: Distribution, *, context: Tensor | None = None, generator: Generator | None = None) -> Draw:
        return Draw(*antithetic.pairs(families.variables(dist), self.draws, generator))

    def combine(
        self,
        dist: Distribution,
        draw: Draw,
        costs: Tensor,
        *,
        probe_costs: Tensor | None = None,
        relaxed_f: F | None = None,
        context: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        costs = checks.costs(self.name, dist, draw.points, costs, keep)
        weights = antithetic.weights(self.name, costs, keep)  # [samples / 2, *batch]
        gradient = (unsqueeze_to(weights, draw.u.dim()) * (draw.u - 0.5)).sum(0)  # [*batch, *event]
        return surrogate(self.name, average(costs, keep), (families.variables(dist).logits,), (gradient,))

    @classmethod
    def worked(cls) -> Worked:
        # p = 1/2 and u = 0.8: b = 1[0.8 > 0.5] = 1, b̃ = 1[0.8 < 0.5] = 0, f = (3, 1): the gradient is 2 · 0.3.
        return Worked(
            estimator=cls(),
            parameter=torch.zeros((), dtype=torch.float64),
            dist=lambda logits: Bernoulli(logits=logits),
            draw=lambda dist: Draw(
                torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([0.8], dtype=torch.float64)
            ),
            f=lambda x: 1 + 2 * x,
            value=torch.tensor(2.0, dtype=torch.float64),
            gradient=torch.tensor(0.6, dtype=torch.float64),
        )
