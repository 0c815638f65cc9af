"""Measure-valued gradients, alias weak derivatives: differences of f between two laws that p_φ's derivative splits into.

Source: Pflug (1989), "Sampling derivatives of probabilities"; Mohamed, Rosca, Figurnov and Mnih (2020), "Monte Carlo
gradient estimation in machine learning", sec. 6; the coupling for the scale of a normal law: Heidergott, Vázquez-Abad
and Volk-Makarewicz (2008), "Sensitivity estimation for Gaussian systems".
Differences from the papers: where one of the two laws is p_φ itself, its point is the sample, and the other one is drawn
given it. That is the papers' coupling for half of the evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
import torch.distributions as td
from torch import Generator, Tensor
from torch.distributions import Distribution

from sampleprop import checks, families
from sampleprop.estimator import Estimator, F, Source, Worked, average
from sampleprop.estimators.coupled import weak_derivatives
from sampleprop.estimators.exact import changes
from sampleprop.surrogate import surrogate


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    probes: Tensor  # [m * k, *batch, *event], detached: each sample with one coordinate replaced, for each of `names`
    names: tuple[str, ...]  # the parameters that the probes are for


class MeasureValued(Estimator[Draw]):
    r"""Replaces one coordinate of a sample at a time by draws from the two laws that p's derivative is the difference of.

    .. math::

        \nabla_{\phi_j} p_\phi = c_j\,(p_j^+ - p_j^-), \qquad
        \nabla_{\phi_j} L \approx \frac1k \sum_i c_j \bigl(f(x_i \text{ with } x_{i,j}^+) - f(x_i \text{ with } x_{i,j}^-)\bigr)

    Unbiased. f may be a black box, with jumps. The two points of a pair come from the same noise, so what f does not tell
    apart cancels. For each sample one evaluation of f, and for each coordinate further ones by parameter:

    ============================  ==========  ===========================  ===========================  ===========
    parameter                     c           x⁺                           x⁻                           evaluations
    ============================  ==========  ===========================  ===========================  ===========
    Normal, loc                   1/(σ√(2π))  μ + σW, W Rayleigh           μ - σW                       2
    Normal, scale                 1/σ         μ + σM, M two-sided Maxwell  x                            1
    Gamma, rate                   a/b         x                            x + an exponential draw      1
    Exponential, rate             1/λ         x                            x + an exponential draw      1
    Poisson, rate                 1           x + 1                        x                            1
    Binomial, p                   n           x or x + 1                   x - 1 or x                   2
    Geometric, p                  1/p         x                            x + 1 + a geometric draw     1
    NegativeBinomial, p           r/(1 - p)   x + 1 + a geometric draw     x                            1
    Bernoulli, logit              p(1 - p)    1                            0                            1
    C classes, each logit         π           this class                   x                            C - 1 for all
    ============================  ==========  ===========================  ===========================  ===========

    By a logit it is p(1 - p) times that by p. Only parameters that require a gradient are counted, and evaluated. The
    shape of a Gamma law has no such split with simple laws. A MultivariateNormal is taken for independent Normal variables,
    and must have a diagonal covariance. For bits and classes this is :class:`LocalExpectation`.

    Args:
        samples: k, at least 1.

    Raises:
        ValueError: for a number of samples below 1, and when `combine` is not given the costs of the replaced points.
        TypeError: for another distribution, for a trained parameter that is not in the table, and for a
            MultivariateNormal whose covariance is not diagonal or whose matrix, where it is trained, was not built by
            `torch.diag_embed`: its entries off the diagonal would have gradients, too.

    Example:
        >>> import torch, sampleprop as sp
        >>> mean = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Normal(mean, 1.0), 1)
        >>> sp.expect(lambda x: (x > 0.5).float().sum(-1), q, sp.MeasureValued(4)).backward()
        >>> sp.MeasureValued(4).evaluations(q)
        (28, 0)
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    source = Source(
        key="mohamed2020monte",
        authors="Shakir Mohamed and Mihaela Rosca and Michael Figurnov and Andriy Mnih",
        year=2020,
        title="Monte Carlo gradient estimation in machine learning",
        venue="Journal of Machine Learning Research 21",
        arxiv="1906.10652",
        where="sec. 6",
        kind="article",
    )

    def __init__(self, samples: int = 1) -> None:
        super().__init__()
        checks.samples("MeasureValued", samples)
        self.samples = samples

    def evaluations(self, dist: Distribution) -> tuple[int, int]:
        dist = weak_derivatives.separate(dist)
        law = weak_derivatives.law(dist)
        probes = sum(law.parts(name) for name in _names(dist, law))
        return self.draws * (1 + math.prod(law.sites) * probes), 0

    def refusal(self, dist: Distribution) -> str | None:
        refusal = super().refusal(dist)
        if refusal is not None:
            return refusal
        dependence = weak_derivatives.dependence(dist)
        if dependence is not None:
            return (
                f"MeasureValued needs a MultivariateNormal with a diagonal covariance; got {dependence}. Build it by "
                "scale_tril=torch.diag_embed(scale), or take Independent(Normal(loc, scale), 1), if its coordinates are "
                "independent; else use Pathwise or ScoreFunction."
            )
        dist = weak_derivatives.separate(dist)
        base, _ = families.unwrap(dist)
        if families.discrete(dist) is None and type(base) not in weak_derivatives.SPLITS:
            known = ", ".join(dict.fromkeys(kind.__name__ for kind in weak_derivatives.SPLITS))
            return (
                f"MeasureValued needs {known}, Bernoulli, OneHotCategorical, Categorical or MultivariateNormal; got "
                f"{type(base).__name__}. Use ScoreFunction for any distribution, or Pathwise for one with rsample."
            )
        law = weak_derivatives.law(dist)
        for name, parameter in families.parameters(dist).items():
            if name not in law.splits and families.gradient_asked(parameter):
                return (
                    f"MeasureValued needs a {name} without gradient for {type(base).__name__}; got one that requires it, and "
                    "that derivative is no multiple of a difference of two simple laws. Use Pathwise or ScoreFunction, or "
                    f"detach {name}."
                )
        return None

    def propose(self, dist: Distribution, *, context: Tensor | None = None, generator: Generator | None = None) -> Draw:
        dist = weak_derivatives.separate(dist)
        law = weak_derivatives.law(dist)
        names = _names(dist, law)
        points = families.sample(dist, self.draws, generator)
        with torch.no_grad():
            others = [law.splits[name].others(law.parameters, points, generator) for name in names]
            changed = torch.cat(others).to(points.dtype)
            probes = changes.one_at_a_time(points, changed, law.sites, len(dist.batch_shape))
        return Draw(points, probes, names)

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
        probe_costs = checks.probe_costs(self.name, dist, draw.probes, probe_costs, "the costs of the replaced points")
        dist = weak_derivatives.separate(dist)
        named = families.parameters(dist)
        missing = [name for name, p in named.items() if name not in draw.names and families.gradient_asked(p)]
        if missing:
            raise ValueError(
                f"{self.name} needs probes for each parameter with a gradient; got a draw for {list(draw.names)}, without "
                f"{missing}. Propose with a distribution whose parameters require the same gradients."
            )
        law = weak_derivatives.law(dist)
        number = [law.parts(name) for name in draw.names]
        rises = changes.rises(costs.detach(), probe_costs, law.sites, sum(number))  # [parts, k, *batch, *sites]
        parts = rises.split(number)
        with torch.no_grad():
            gradients = tuple(
                average(law.splits[name].derivative(law.parameters, draw.points, rise), keep)
                for name, rise in zip(draw.names, parts, strict=True)
            )
        return surrogate(self.name, average(costs, keep), tuple(named[name] for name in draw.names), gradients)

    @classmethod
    def variants(cls) -> Sequence[Self]:
        return (cls(), cls(2))

    @classmethod
    def worked(cls) -> Worked:
        # μ = 0, σ = 1, x = 1, W = 2 gives x± = ±2 and, for f = x³ = 1, 8 and -8: (8 - -8) / √(2π).
        return Worked(
            estimator=cls(),
            parameter=torch.zeros((), dtype=torch.float64),
            dist=lambda mean: td.Normal(mean, 1.0),
            draw=lambda dist: Draw(
                torch.tensor([1.0], dtype=torch.float64), torch.tensor([2.0, -2.0], dtype=torch.float64), ("loc",)
            ),
            f=lambda x: x**3,
            value=torch.tensor(1.0, dtype=torch.float64),
            gradient=torch.tensor(16 / math.sqrt(2 * math.pi), dtype=torch.float64),
        )


def _names(dist: Distribution, law: weak_derivatives.Law) -> tuple[str, ...]:
    """The parameters to work on: those that require a gradient; all, where that cannot be known yet."""
    named = families.parameters(dist)
    asked = tuple(name for name in law.splits if families.gradient_asked(named[name]))
    return asked if asked and torch.is_grad_enabled() else tuple(law.splits)
