"""Finite-order pathwise weights: the derivative of f at a count, weighted so that polynomials have no bias.

Derivation. Let Z be Poisson with rate λ, and η = log λ. Then ∂E[F(Z)]/∂η = λ E[F(Z + 1) - F(Z)] = λ E[∫₀¹ f(Z + u) du]
for f = F'. A weight w(Z) is exact for all f up to degree n - 1 if E[w(Z) f(Z)] is this for f = C₀, ..., C_{n-1}. These
are the monic Charlier polynomials, which are orthogonal under the Poisson law with E[C_j²] = j! λʲ. Their generating
function is Σ C_j(z) tʲ / j! = (1 + t)ᶻ e^{-λt}, whose mean at Z + u is (1 + t)ᵘ. The integral over u is
t / log(1 + t) = Σ G_j tʲ, with Gregory's coefficients 1, 1/2, -1/12, 1/24. So E[w C_j] = λ j! G_j, and

    w(z) = Σ_{j < n} G_j λ^{1-j} C_j(z).

For n = 2 this is (z + λ) / 2. The weight has variance Σ_{j ≥ 1} G_j² j! λ^{2-j} = λ/4 + 1/72 + 1/(96 λ) + ...

The Binomial and the negative binomial law with their logit have the weights n p / 2 + (1 - 2p) z / 2 and
r p / 2 + (1 + p) z / 2, exact for degree 2: for f = 1 and f = z their means are the derivatives of the mean and of half
the second moment.

Source: the weights of a manuscript by He and Wu (2026), of which only the formulas were known; derived here anew.
"""

from __future__ import annotations

import torch
import torch.distributions as td
from torch import Generator, Tensor

from sampleprop.estimators.through_points import Draw, ThroughPoints
from sampleprop.families import Variables
from sampleprop.surrogate import guarded

GREGORY = (1.0, 1 / 2, -1 / 12, 1 / 24)


class FiniteOrder(ThroughPoints[Variables]):
    r"""Differentiates f at the count itself, and weights the slope.

    .. math:: \nabla_\eta L \approx \frac1k \sum_i w(x_i)\, f'(x_i)

    with η the logarithm of a Poisson rate, or the logit of a probability. Unbiased for polynomials f up to the degree
    `degree`, and biased for others. The value, and the gradient for θ, are those of true samples. f must be
    differentiable at the counts. k evaluations of f and k backward passes.

    Args:
        samples: k, at least 1.
        degree: the degree up to which polynomials are exact: 2, 3 or 4 for Poisson, and 2 for the others.
        allow_unused: let a cost pass that has no path to x, whose gradient for φ is then zero.
        allow_steps: let a cost pass that has a step on its path to x; the gradient for φ leaves it out.

    Example, for a rate of 2, the count 4 and f = x². The weight is (4 + 2) / 2 = 3, so that the derivative for the
    logarithm of the rate is 3 · 8 = 24, and that for the rate half of it:

        >>> import torch
        >>> from sampleprop.lab.arena.entrants.finite_order import FiniteOrder, weighted
        >>> from sampleprop.estimators.through_points import Draw
        >>> from sampleprop.families import recognize
        >>> rate = torch.tensor(2.0, requires_grad=True)
        >>> q = torch.distributions.Poisson(rate)
        >>> draw = Draw(weighted(recognize(q), torch.tensor([4.0]), degree=2))
        >>> FiniteOrder().combine(q, draw, draw.points.square()).backward()
        >>> rate.grad
        tensor(12.)
    """

    unbiased = False
    exact_forward = True
    needs = "differentiable"

    def __init__(
        self, samples: int | None = 1, *, degree: int = 2, allow_unused: bool = False, allow_steps: bool = False
    ) -> None:
        super().__init__(samples, allow_unused=allow_unused, allow_steps=allow_steps)
        if degree not in (2, 3, 4):
            raise ValueError(f"FiniteOrder needs a degree of 2, 3 or 4; got {degree}.")
        self.degree = degree

    def refuses(self, variables: Variables) -> str | None:
        kinds = (td.Poisson,) if self.degree > 2 else (td.Poisson, td.Binomial, td.NegativeBinomial)
        if type(variables.base) not in kinds:
            names = ", ".join(kind.__name__ for kind in kinds)
            return f"FiniteOrder of degree {self.degree} needs {names}; got {variables.kind}. Use MeasureValued."
        return None

    def draw(self, variables: Variables, generator: Generator | None) -> Draw:
        counts = variables.sample(self.draws, generator)
        return Draw(guarded(self.name, weighted(variables, counts, self.degree).to(variables.dtype)))


def weighted(variables: Variables, counts: Tensor, degree: int) -> Tensor:
    """The counts [k, *batch, *event] with their weight as the derivative with respect to η."""
    base, parameters = variables.base, variables.parameters
    if isinstance(base, td.Poisson):
        rate = parameters["rate"]
        eta, weight = rate.log(), _poisson(counts, rate.detach(), degree)
    else:
        assert isinstance(base, td.Binomial | td.NegativeBinomial)
        eta, total = base.logits, base.total_count
        p = eta.detach().sigmoid()
        slope = 1 - 2 * p if isinstance(base, td.Binomial) else 1 + p
        weight = total * p / 2 + slope * counts / 2
    return counts + weight * (eta - eta.detach())


def _poisson(z: Tensor, rate: Tensor, degree: int) -> Tensor:
    before, here = torch.zeros_like(z), torch.ones_like(z)  # C_{-1} and C_0
    weight = torch.zeros_like(z)
    for j in range(degree):
        weight = weight + GREGORY[j] * rate ** (1 - j) * here
        before, here = here, (z - rate - j) * here - j * rate * before
    return weight
