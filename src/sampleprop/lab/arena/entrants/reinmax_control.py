"""ReinMax as a control variate: the trapezoid rule between two samples, minus its mean given one of them.

Derivation. Leave-one-out is the mean over pairs of ½ (f(x) - f(x')) (s - s'), with the scores s. The trapezoid rule
replaces f(x) - f(x') by t(x, x') = ½ (∇f(x) + ∇f(x'))ᵀ (x - x'), which is exact for a quadratic f of all variables
together. By the symmetry of x and x' the replaced pair has the same mean as

    C(x) = E[½ ∇f(x)ᵀ (x - x') (s - s') | x],

and the mean over x' is known, because s = x - π and different variables are independent: for variable v it is

    ½ (diag(x_v) + diag(π_v) - x_v π_vᵀ - π_v x_vᵀ) ∇f_v  +  ½ Σ_{u ≠ v} ∇f_uᵀ (x_u - π_u) s_v.

The first term is ReinMax at τ = 1. So ½ t(x, x') (s - s') - ½ (C(x) + C(x')) has mean zero, and a times it may be
subtracted. With a = 1 and a quadratic f only C is left.

Source: the idea of ReinMax as a control variate is of Wang and Bui (2026), “Beyond ReinMax”, arXiv:2603.08257, of which
the abstract was known. This unbiased form was derived here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from sampleprop import checks
from sampleprop.costs import Costs, others
from sampleprop.estimator import Estimator
from sampleprop.estimators.score.control_variates import tuned, value_and_derivative
from sampleprop.families import Bernoullis, OneHots
from sampleprop.surrogate import unsqueeze_to


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    probes: None = None


class ReinMaxControl(Estimator[Bernoullis | OneHots, Draw]):
    r"""Leave-one-out, from whose differences of costs the trapezoid rule is subtracted, and ReinMax added.

    .. math::

        \nabla_\phi L \approx \frac{1}{k (k - 1)} \sum_{i < j} \big(f(x_i) - f(x_j) - a\, t_{ij}\big) (s_i - s_j)
            + \frac{a}{k} \sum_i C(x_i), \qquad t_{ij} = \tfrac12 (\nabla f(x_i) + \nabla f(x_j))^\top (x_i - x_j)

    Unbiased for every a (`coefficient`), which starts at 0, where this is leave-one-out, and is trained to minimize the
    variance. f must be differentiable at the discrete points. 2 k evaluations of f (k of them for its derivative with
    respect to x) and k backward passes through it.

    Args:
        samples: k, at least 2.
        allow_steps: let a cost pass that has a step between the outcomes. The derivative leaves it out, which makes no
            bias.

    Example, for p = 1/2, x = (1, 0), f = x² and a = 1. t = ½ (2 + 0) (1 - 0) = 1 = f(1) - f(0), so that only C is left:
    2 · ¼ at x = 1, and 0 at x = 0:

        >>> import torch, sampleprop as sp
        >>> from sampleprop.lab.arena.entrants.reinmax_control import Draw, ReinMaxControl
        >>> logit = torch.zeros((), requires_grad=True)
        >>> q = torch.distributions.Bernoulli(logits=logit)
        >>> estimator = ReinMaxControl()
        >>> _ = torch.nn.init.constant_(estimator.coefficient, 1.0)
        >>> x = torch.tensor([1.0, 0.0])
        >>> estimator.combine(q, Draw(x), x.square(), relaxed_f=torch.square).backward()
        >>> logit.grad
        tensor(0.2500)
    """

    unbiased = True
    exact_forward = True
    needs = "differentiable"
    calls_f = True
    samples_least = 2

    def __init__(self, samples: int = 2, *, allow_steps: bool = False) -> None:
        super().__init__()
        checks.samples("ReinMaxControl", samples, least=2)
        self.samples = samples
        self.allow_steps = allow_steps
        self.coefficient = nn.Parameter(torch.tensor(0.0))

    def calls(self, variables: Bernoullis | OneHots) -> tuple[int, int]:
        return 2 * self.draws, self.draws

    def draw(self, variables: Bernoullis | OneHots, generator: Generator | None) -> Draw:
        return Draw(variables.sample(self.draws, generator))

    def estimate(self, variables: Bernoullis | OneHots, draw: Draw, costs: Costs) -> Tensor:
        _, slopes = value_and_derivative(costs.f, draw.points, variables.logits.dtype)  # [k, *batch, *event]
        x, pi = draw.points.to(slopes), variables.probs.detach()
        score = x - pi
        fixed = (unsqueeze_to(costs.fixed - others(costs.fixed), score.dim()) * score).mean(0)  # leave-one-out
        added = _given_one(variables, x, pi, slopes).mean(0) - _trapezoids(variables, x, slopes, score)
        return tuned(self.name, costs.mean(), variables, fixed, self.coefficient, added, self.training)


def _given_one(variables: Bernoullis | OneHots, x: Tensor, pi: Tensor, slopes: Tensor) -> Tensor:
    """C of each sample, [k, *batch, *event]: ReinMax, and what the other variables add to the score."""

    def inner(a: Tensor, b: Tensor) -> Tensor:  # of each variable
        return a * b if isinstance(variables, Bernoullis) else (a * b).sum(-1, keepdim=True)

    score = x - pi
    if isinstance(variables, Bernoullis):
        own = (x + pi - 2 * x * pi) * slopes / 2
    else:
        own = ((x + pi) * slopes - x * inner(pi, slopes) - pi * inner(x, slopes)) / 2
    each = inner(slopes, score)
    whole = unsqueeze_to(variables.sum(slopes * score), score.dim())
    return own + (whole - each) * score / 2


def _trapezoids(variables: Bernoullis | OneHots, x: Tensor, slopes: Tensor, score: Tensor) -> Tensor:
    """1 / (k (k - 1)) Σ_{i < j} t_ij (s_i - s_j), [*batch, *event]."""
    k = x.shape[0]
    products = torch.stack([variables.sum(slopes * x[j]) for j in range(k)], 1)  # ∇f(x_i)ᵀ x_j, [k, k, *batch]
    own = products.diagonal(dim1=0, dim2=1).movedim(-1, 0)  # [k, *batch]
    # Σ_j t_ij = ½ Σ_j (own_i - products_ij + products_ji - own_j)
    sums = (k * own - products.sum(1) + products.sum(0) - own.sum(0)) / 2
    return (unsqueeze_to(sums, score.dim()) * score).sum(0) / (k * (k - 1))
