"""Measure-valued gradients, also known as weak derivatives: ∇p is split into the difference of two distributions.

Source: [mohamed2020monte], sec. 6; first in [pflug1989sampling]; the coupling for the scale of a Normal is from
[heidergott2008sensitivity]. Differences from the papers: where one of the two distributions is p_φ itself, its point is
the sample, and the other point is drawn given it. This is the papers' coupling with half of the evaluations.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from sampleprop import checks, noise
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.estimators.coupled import weak_derivatives
from sampleprop.estimators.exact import changes
from sampleprop.families import Variables
from sampleprop.surrogate import surrogate

MANY = 2**14  # evaluations of f for each sample, of which a warning tells


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    probes: Tensor  # [m * k, *batch, *event], detached: each sample with one coordinate replaced, for each of `names`
    names: tuple[str, ...]  # the parameters that the probes are for


class MeasureValued(Estimator[Variables, Draw]):
    r"""Replaces one coordinate at a time by draws from two distributions whose difference is the derivative of p.

    .. math::

        \nabla_{\phi_j} p_\phi = c_j\,(p_j^+ - p_j^-), \qquad \nabla_{\phi_j} L \approx
            \frac1k \sum_i c_j \bigl(f(x_i \text{ with } x_{i,j}^+) - f(x_i \text{ with } x_{i,j}^-)\bigr)

    Unbiased. f may be a black box, with jumps. Both points of a pair are made from the same noise. Their costs cancel
    if f does not distinguish them. For each sample one evaluation of f, and for each coordinate further ones by
    parameter:

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

    With respect to a logit, c is p (1 - p) times as large as with respect to p. Only parameters that require a gradient
    are counted and evaluated. The derivative with respect to the shape of a Gamma has no split into simple
    distributions. A MultivariateNormal must have a diagonal covariance, and is treated as independent Normal variables.
    For bits and classes this is :class:`LocalExpectation`.

    Args:
        samples: k, at least 1.

    Raises:
        ValueError: for a number of samples below 1, and when `combine` is not given the costs of the replaced points.
        TypeError: for another distribution, and for a trained parameter that is not in the table. Also for a
            MultivariateNormal with a covariance that is not diagonal, or with a trained matrix that was not built by
            `torch.diag_embed`, because its entries off the diagonal would have gradients too.

    Example, for a Normal with μ = 0 and σ = 1/√(2π), so that c = 1: x = 1 and x± = ±3/2 give 27/8 - (-27/8) for f = x³:

        >>> import math, torch, sampleprop as sp
        >>> mean = torch.zeros((), requires_grad=True)
        >>> q = torch.distributions.Normal(mean, 1 / math.sqrt(2 * math.pi))
        >>> draw = Draw(torch.tensor([1.0]), torch.tensor([1.5, -1.5]), ("loc",))
        >>> loss = sp.MeasureValued().combine(q, draw, draw.points**3, probe_costs=draw.probes**3)
        >>> loss.backward()
        >>> loss.detach(), mean.grad
        (tensor(1.), tensor(6.7500))
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    family = "coupled samples"
    aliases = ("weak derivatives",)
    source = cited("mohamed2020monte", "sec. 6")

    def __init__(self, samples: int = 1) -> None:
        super().__init__()
        checks.samples("MeasureValued", samples)
        self.samples = samples

    def calls(self, variables: Variables) -> tuple[int, int]:
        coordinates = weak_derivatives.coordinates(variables)
        return self.draws * (1 + coordinates.probes(coordinates.asked())), 0

    def refuses(self, variables: Variables) -> str | None:
        return weak_derivatives.refusal(self.name, variables)

    def draw(self, variables: Variables, generator: Generator | None) -> Draw:
        coordinates = weak_derivatives.coordinates(variables)
        names, splits, sites = coordinates.asked(), coordinates.splits, coordinates.sites
        if not torch.compiler.is_dynamo_compiling() and coordinates.probes(names) > MANY:
            self._warn_of_cost(variables)
        points = coordinates.variables.sample(self.draws, generator)
        if variables.is_discrete:
            checks.countable(self.name, variables, points)
        with torch.set_grad_enabled(False):
            others = [splits[name].others(coordinates.holder, points, generator) for name in names]
            changed = noise.cast(others[0] if len(others) == 1 else torch.cat(others), points.dtype)
            probes = changes.one_at_a_time(points, changed, sites, len(variables.batch_shape))
        return Draw(points, probes, names)

    def _warn_of_cost(self, variables: Variables) -> None:
        """Say what one estimate takes, where that is very much: nothing else would before the memory is full."""
        evaluations = self.calls(variables)[0]
        numbers = evaluations * math.prod(variables.batch_shape) * math.prod(variables.event_shape)
        gigabytes = numbers * variables.dtype.itemsize / 2**30
        warnings.warn(
            f"{self.name} evaluates f {evaluations} times for one estimate of each batch element here, at points that "
            f"take {gigabytes:.2g} GB. ScoreFunction and RaoBlackwellized take as few evaluations as you say.",
            stacklevel=4,
        )

    def estimate(self, variables: Variables, draw: Draw, costs: Costs) -> Tensor:
        coordinates = weak_derivatives.coordinates(variables)
        if missing := coordinates.missing(draw.names):
            raise ValueError(
                f"{self.name} needs probes for each parameter with a gradient; got a draw for {list(draw.names)}, "
                f"without {missing}. Propose with a distribution whose parameters require the same gradients."
            )
        number = [coordinates.number(name) for name in draw.names]
        rises = changes.rises(costs.fixed, costs.probes, coordinates.sites, sum(number))  # [others, k, *batch, *sites]
        with torch.set_grad_enabled(False):
            gradients = tuple(
                costs.average(coordinates.splits[name].derivative(coordinates.holder, draw.points, rise))
                for name, rise in zip(draw.names, rises.split(number), strict=True)
            )
        named = coordinates.variables.parameters
        return surrogate(self.name, costs.mean(), tuple(named[name] for name in draw.names), gradients)
