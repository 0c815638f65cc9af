"""Evolution strategies with a leave-one-out baseline and Sobol noise.

Derivation. One-sided evolution strategies estimate ∇E_ε[L(u + σε)] by f(x_i) ε_i / σ, x_i ~ p at u + σ ε_i. A baseline
may be subtracted from f(x_i) if it is independent of ε_i. Sobol points spread evenly over the cube; each of them is
uniform if all are moved by one random shift, modulo 1, but then they depend on each other, and the costs of the others
are no baseline: E[f(x_j) ε_i] is not 0. Therefore the points are drawn in two halves with shifts of their own. Within a
half the directions spread evenly; the baseline of each point is the mean cost of the other half. The i-th points of
both halves draw x from the same noise, which does not depend on the directions, so that the noise of x mostly cancels.

Source: Salimans et al. (2017) for evolution strategies; the halves were derived here.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.distributions import transform_to

from sampleprop import noise
from sampleprop.costs import Costs
from sampleprop.estimators.smoothing.evolution_strategies import EvolutionStrategies
from sampleprop.estimators.smoothing.perturbation import Draw, in_unbounded, sample_both
from sampleprop.families import Variables
from sampleprop.families.parameters import asked, constraint_of
from sampleprop.surrogate import surrogate, unsqueeze_to


class SobolStrategies(EvolutionStrategies):
    r"""Moves all parameters in evenly spread random directions, and weights each by its cost less that of other ones.

    .. math::

        \nabla_u L \approx \frac{1}{2k\sigma} \sum_i \big(f(x_i) - \bar f'\big)\, \varepsilon_i
            + \big(f(x'_i) - \bar f\big)\, \varepsilon'_i, \qquad x_i \sim p_{u + \sigma\varepsilon_i}

    where ε and ε' are two halves of k normal directions from shifted Sobol points, and the bars are the means over a
    half. Biased by the order σ², as evolution strategies are: its mean is the gradient of the smoothed L. The value,
    and the gradient for θ, are those of true samples. f may be a black box. 3 k evaluations of f.

    Args:
        samples: k, at least 1.
        sigma: σ, above 0, in the units of the parameters in coordinates without bounds.
    """

    source = None  # type: ignore[assignment]  # not the paper of the class above

    def draw(self, variables: Variables, generator: Generator | None) -> Draw:
        points, names = variables.sample(self.draws, generator), asked(variables.parameters)
        with torch.no_grad():
            named = {name: p.expand(2, self.draws, *p.shape) for name, p in variables.parameters.items()}
            unbounded = in_unbounded(variables, named)  # [2, k, *parameter]
            directions = _directions({name: unbounded[name] for name in names}, len(variables.batch_shape), generator)
            sides = dict(named)
            for name, direction in directions.items():
                moved = unbounded[name] + self.sigma * direction
                sides[name] = transform_to(constraint_of(variables.base, name))(moved)
            probes = sample_both(variables, sides, generator).flatten(0, 1).to(points.dtype)  # [2 k, *batch, *event]
        return Draw(points, probes, directions, self.sigma)

    def estimate(self, variables: Variables, draw: Draw, costs: Costs) -> Tensor:
        named = variables.parameters
        unbounded = in_unbounded(variables, {name: named[name] for name in draw.directions})  # attached
        halves = torch.stack(costs.probes.chunk(2))  # [2, k, *batch]
        weights = (halves - halves.mean(1, keepdim=True).flip(0)) / (2 * len(draw.points) * draw.step)
        gradients = tuple((unsqueeze_to(weights, d.dim()) * d).sum((0, 1)) for d in draw.directions.values())
        return surrogate(self.name, costs.mean(), tuple(unbounded.values()), gradients)


def _directions(unbounded: dict[str, Tensor], batch_ndim: int, generator: Generator | None) -> dict[str, Tensor]:
    """Normal directions by parameter, [2, k, *parameter], from one Sobol sequence in as many dimensions as numbers."""
    sizes = {
        name: u[0, 0].flatten(batch_ndim).shape[-1] if u.dim() > 2 + batch_ndim else 1 for name, u in unbounded.items()
    }
    k = next(iter(unbounded.values())).shape[1]
    engine = torch.quasirandom.SobolEngine(sum(sizes.values()))
    even = engine.draw(k, dtype=torch.float64).split(list(sizes.values()), 1)
    found = {}
    for (name, u), part in zip(unbounded.items(), even, strict=True):
        spread = part.to(u).reshape(k, *(1,) * batch_ndim, *u.shape[2 + batch_ndim :])
        shift = noise.uniform((2, 1, *u.shape[2:]), u, generator)
        uniform = (spread + shift).frac()
        smallest = torch.finfo(u.dtype).eps / 4
        found[name] = torch.special.ndtri(uniform.clamp(smallest, 1 - 2 * smallest))
    return found
