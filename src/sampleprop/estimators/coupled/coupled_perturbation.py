"""Coupled perturbation: one alternative outcome of the draw, weighted by the rate at which φ makes the draw jump there.

Source: Arya, Schauer, Schäfer and Rackauckas (2022), "Automatic differentiation of programs with discrete randomness"; it
is the smoothed perturbation analysis of Gong and Ho (1987).
Differences from the paper: the gradient by all parameters at once, by giving the weight of all alternatives to the
parameter of the one that is kept; between two classes the jump starts from the more probable one, for all logits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributions as td
from torch import Generator, Tensor
from torch.distributions import Distribution

from sampleprop import checks, families, noise
from sampleprop.estimator import Estimator, F, Source, Worked, average
from sampleprop.estimators.coupled import jumps
from sampleprop.surrogate import surrogate, unsqueeze_to


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    probes: Tensor  # [k, *batch, *event], detached: each sample with one coordinate moved to the outcome next to it
    moved: Tensor  # [k, *batch, *event, sides], whether it is this coordinate, to this side


class CoupledPerturbation(Estimator[Draw]):
    r"""Moves one coordinate to the outcome next to it, as a small change of the parameters would under the same noise.

    .. math::

        \nabla_{\phi_v} L \approx \frac1k \sum_i \mathbb{1}[v = v_i] \Bigl(\sum_u w_u\Bigr) s_v
            \bigl(f(x_i \text{ with } x_{i,v} \to x_{i,v} \pm 1) - f(x_i)\bigr), \qquad P(v_i = v) \propto w_v

    where w is the rate of the jump by φ, and s its sign. Of the two sides from which a jump between neighbours can start,
    it is the one of the smaller weight; an alternative whose weight is zero has merged with its sample, and is dropped:

    =======================  ================  ======================================================
    parameter                jump              s w
    =======================  ================  ======================================================
    Poisson, rate            x + 1             1
    Binomial, logit          x + 1             (n - x) p, for p ≤ 1/2
    (Bernoulli: n = 1)       x - 1             -x (1 - p), for p > 1/2
    Geometric, logit         x + 1             -(x + 1)(1 - p)
    NegativeBinomial, logit  x + 1             (x + r) p
    Categorical, logits      to a neighbour    ∓∇F / π(x), F the probability below the edge between
                             less probable
    =======================  ================  ======================================================

    and by a probability p the same over p (1 - p).

    Unbiased. f may be a black box, but the order of the outcomes should mean something to it: of low variance for f that
    changes little from one outcome to the next. 2 k evaluations of f, whatever the number of coordinates.

    Args:
        samples: k, at least 1.

    Raises:
        ValueError: for a number of samples below 1, and when `combine` is not given the costs of the moved points.

    Example:
        >>> import torch, sampleprop as sp
        >>> rate = torch.full((3,), 2.0, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Poisson(rate), 1)
        >>> sp.expect(lambda x: x.sum(-1).square(), q, sp.CoupledPerturbation(8)).backward()
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    source = Source(
        key="arya2022automatic",
        authors="Gaurav Arya and Moritz Schauer and Frank Schäfer and Chris Rackauckas",
        year=2022,
        title="Automatic differentiation of programs with discrete randomness",
        venue="Advances in Neural Information Processing Systems 35",
        arxiv="2210.08572",
    )

    def __init__(self, samples: int = 1) -> None:
        super().__init__()
        checks.samples("CoupledPerturbation", samples)
        self.samples = samples

    def evaluations(self, dist: Distribution) -> tuple[int, int]:
        return 2 * self.draws, 0

    def refusal(self, dist: Distribution) -> str | None:
        return super().refusal(dist) or jumps.refusal(self.name, dist)

    def propose(self, dist: Distribution, *, context: Tensor | None = None, generator: Generator | None = None) -> Draw:
        points = families.sample(dist, self.draws, generator)
        with torch.no_grad():
            neighbours, weights, _ = jumps.jumps(dist, points)
            scores = (weights.log() + noise.gumbel(weights.shape, weights, generator)).flatten(
                1 + len(dist.batch_shape)
            )
            count = scores.shape[-1]
            first = families.one_hot(scores.argmax(-1), count, torch.bool) if count else scores > 0
            moved = first.reshape(weights.shape)
            moves = moved & (weights > 0)
            target = (moves * neighbours).sum(-1) + points * ~moves.any(-1)  # [k, *batch, *event]
            return Draw(points, target.to(points.dtype), moved)

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
        probe_costs = checks.probe_costs(self.name, dist, draw.probes, probe_costs, "the costs of the moved points")
        _, parameter = jumps.given(dist)
        with torch.no_grad():
            _, weights, directions = jumps.jumps(dist, draw.points)
            total = weights.flatten(costs.dim()).sum(-1)  # [k, *batch]
            kept = draw.moved * unsqueeze_to(total * (probe_costs - costs), draw.moved.dim())
            gradient = (unsqueeze_to(kept, directions.dim()) * directions).sum(kept.dim() - 1)  # [k, *batch, *event]
        return surrogate(self.name, average(costs, keep), (parameter,), (average(gradient, keep),))

    @classmethod
    def worked(cls) -> Worked:
        # Rates 2 and 2, x = (1, 3), the second moved to 4: weights 1 + 1, f = x₁ x₂ goes from 3 to 4, and 2 (4 - 3) = 2.
        return Worked(
            estimator=cls(),
            parameter=torch.full((2,), 2.0, dtype=torch.float64),
            dist=lambda rate: td.Independent(td.Poisson(rate), 1),
            draw=lambda dist: Draw(
                torch.tensor([[1.0, 3.0]], dtype=torch.float64),
                torch.tensor([[1.0, 4.0]], dtype=torch.float64),
                torch.tensor([[[False], [True]]]),
            ),
            f=lambda x: x.prod(-1),
            value=torch.tensor(3.0, dtype=torch.float64),
            gradient=torch.tensor([0.0, 2.0], dtype=torch.float64),
        )
