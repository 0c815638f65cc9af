"""Measure-valued gradients, alias weak derivatives: differences of f between two laws that p_φ's derivative splits into.

Source: Pflug (1989), "Sampling derivatives of probabilities"; Mohamed, Rosca, Figurnov and Mnih (2020), "Monte Carlo
gradient estimation in machine learning", sec. 6; the coupling for the scale of a normal law: Heidergott, Vázquez-Abad
and Volk-Makarewicz (2008), "Sensitivity estimation for Gaussian systems".
Differences from the papers: where one of the two laws is p_φ itself, its point is the sample, and the other one is drawn
given it. That is the papers' coupling for half of the evaluations.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.estimators.coupled import weak_derivatives
from sampleprop.estimators.exact import changes
from sampleprop.families import Discrete, Variables
from sampleprop.surrogate import surrogate
from sampleprop.tracing import gradient_asked


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    probes: Tensor  # [m * k, *batch, *event], detached: each sample with one coordinate replaced, for each of `names`
    names: tuple[str, ...]  # the parameters that the probes are for


class MeasureValued(Estimator[Variables, Draw]):
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
    source = cited("mohamed2020monte", "sec. 6")

    def __init__(self, samples: int = 1) -> None:
        super().__init__()
        checks.samples("MeasureValued", samples)
        self.samples = samples

    def calls(self, variables: Variables) -> tuple[int, int]:
        variables = weak_derivatives.separate(variables)
        parts = weak_derivatives.parts_of(variables)
        probes = sum(parts.number(name) for name in _names(variables, parts))
        return self.draws * (1 + math.prod(parts.sites) * probes), 0

    def refuses(self, variables: Variables) -> str | None:
        dependence = weak_derivatives.dependence(variables)
        if dependence is not None:
            return (
                f"MeasureValued needs a MultivariateNormal with a diagonal covariance; got {dependence}. Build it by "
                "scale_tril=torch.diag_embed(scale), or take Independent(Normal(loc, scale), 1), if its coordinates are "
                "independent; else use Pathwise or ScoreFunction."
            )
        variables = weak_derivatives.separate(variables)
        if not isinstance(variables, Discrete) and type(variables.base) not in weak_derivatives.SPLITS:
            known = ", ".join(dict.fromkeys(kind.__name__ for kind in weak_derivatives.SPLITS))
            return (
                f"MeasureValued needs {known}, Bernoulli, OneHotCategorical, Categorical or MultivariateNormal; got "
                f"{variables.kind}. Use ScoreFunction for any distribution, or Pathwise for one with rsample."
            )
        splits = weak_derivatives.parts_of(variables).splits
        for name, parameter in variables.parameters.items():
            if name not in splits and gradient_asked(parameter):
                return (
                    f"MeasureValued needs a {name} without gradient for {variables.kind}; got one that requires it, and "
                    "that derivative is no multiple of a difference of two simple distributions. Use Pathwise or ScoreFunction, or "
                    f"detach {name}."
                )
        return None

    def draw(self, variables: Variables, generator: Generator | None) -> Draw:
        variables = weak_derivatives.separate(variables)
        parts = weak_derivatives.parts_of(variables)
        names = _names(variables, parts)
        points = variables.sample(self.draws, generator)
        with torch.no_grad():
            others = [parts.splits[name].others(parts.parameters, points, generator) for name in names]
            changed = torch.cat(others).to(points.dtype)
            probes = changes.one_at_a_time(points, changed, parts.sites, len(variables.batch_shape))
        return Draw(points, probes, names)

    def estimate(self, variables: Variables, draw: Draw, costs: Costs) -> Tensor:
        variables = weak_derivatives.separate(variables)
        named = variables.parameters
        missing = [name for name, p in named.items() if name not in draw.names and gradient_asked(p)]
        if missing:
            raise ValueError(
                f"{self.name} needs probes for each parameter with a gradient; got a draw for {list(draw.names)}, without "
                f"{missing}. Propose with a distribution whose parameters require the same gradients."
            )
        parts = weak_derivatives.parts_of(variables)
        number = [parts.number(name) for name in draw.names]
        rises = changes.rises(costs.fixed, costs.probes, parts.sites, sum(number))  # [others, k, *batch, *sites]
        with torch.no_grad():
            gradients = tuple(
                costs.average(parts.splits[name].derivative(parts.parameters, draw.points, rise))
                for name, rise in zip(draw.names, rises.split(number), strict=True)
            )
        return surrogate(self.name, costs.mean(), tuple(named[name] for name in draw.names), gradients)


def _names(variables: Variables, parts: weak_derivatives.Parts) -> tuple[str, ...]:
    """The parameters to work on: those that require a gradient; all, where that cannot be known yet."""
    named = variables.parameters
    asked = tuple(name for name in parts.splits if gradient_asked(named[name]))
    return asked if asked and torch.is_grad_enabled() else tuple(parts.splits)
