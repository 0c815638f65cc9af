"""Small expectations whose value and gradients are known exactly, and which estimators they apply to."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    Distribution,
    Exponential,
    Gamma,
    Geometric,
    Independent,
    NegativeBinomial,
    Normal,
    OneHotCategorical,
    Poisson,
)

from sampleprop import families
from sampleprop.distributions.beta import Beta
from sampleprop.distributions.dirichlet import Dirichlet
from sampleprop.distributions.gamma import Gamma as SmallGamma
from sampleprop.distributions.generalized_extreme_value import GeneralizedExtremeValue
from sampleprop.distributions.k_subset import KSubset
from sampleprop.distributions.linear_chain import LinearChain
from sampleprop.distributions.matching import Matching
from sampleprop.distributions.mixture_same_family import MixtureSameFamily
from sampleprop.distributions.perturb_and_map import PerturbAndMAP
from sampleprop.distributions.plackett_luce import PlackettLuce
from sampleprop.distributions.quadrature import gauss_legendre
from sampleprop.distributions.spanning_tree import SpanningTree
from sampleprop.distributions.truncated_normal import TruncatedNormal
from sampleprop.distributions.von_mises import VonMises
from sampleprop.distributions.von_mises_fisher import VonMisesFisher
from sampleprop.estimator import Estimator

MOST_STATES = 2**21


def _support(dist: Distribution) -> tuple[Tensor, Tensor]:
    """Every state of discrete variables, with weight 1."""
    variables = families.recognize(dist)
    assert isinstance(variables, families.Enumerable)
    states = variables.support()
    states = states.reshape(-1, *(1,) * len(variables.batch_shape), *states.shape[1:])
    states = states.expand(-1, *variables.batch_shape, *states.shape[1 + len(variables.batch_shape) :])
    return states, torch.ones(states.shape[0], dtype=torch.float64)


@dataclass(frozen=True)
class Problem:
    r"""An expectation :math:`\mathbb{E}_{x \sim p_\phi}[f_\theta(x)]`, or several side by side, in float64.

    Attributes:
        name: as the table of certificates shows it.
        phi: [problems, ...], the parameters.
        theta: [problems, ...], the parameters of f.
        dist: from φ, [rows, ...], to a distribution with batch shape [rows].
        f: from points [k, rows, *event], φ and θ (each [rows, ...]) to costs [k, rows]; also defined between the
            points.
        nodes: from the distribution to points [nodes, rows, *event] and weights [nodes], or [nodes, rows], such that
            E[h(x)] is the sum of weight * p(x) * h(x): all states, or the nodes of a quadrature. Where the support
            moves with φ, both move along, attached.
        rare: whether outcomes that matter are too rare to be drawn: the draws are then weighted (see `tails`), and φ
            must be logits.
        bound: whether f is log p(x, z), for estimators of a bound only.
        slow: whether a draw takes long: a distribution's own samples and scores are then certified by estimators of
            E[f] that have no baseline, which the other problems certify.
        law: from φ to the same distribution in a form that knows its log-probability, where `dist` does not.
    """

    name: str
    phi: Tensor
    theta: Tensor
    dist: Callable[[Tensor], Distribution]
    f: Callable[[Tensor, Tensor, Tensor], Tensor]
    nodes: Callable[[Distribution], tuple[Tensor, Tensor]] = _support
    rare: bool = False
    bound: bool = False
    slow: bool = False
    law: Callable[[Tensor], Distribution] | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def count(self) -> int:
        """How many problems are side by side."""
        return self.phi.shape[0]

    def rows(self, replicates: int) -> tuple[Tensor, Tensor]:
        """Leaves φ and θ with one row for each replicate of each problem: [replicates * count, ...]."""
        phi, theta = (
            x.expand(replicates, *x.shape).flatten(0, 1).clone().requires_grad_() for x in (self.phi, self.theta)
        )
        return phi, theta

    def exact(self, estimator: Estimator[Any, Any], phi: Tensor, theta: Tensor) -> Tensor:
        """The exact L by the estimator's objective, [count], differentiable to any order."""
        dist = (self.law or self.dist)(phi)
        points, weights = self.nodes(dist)
        log_p = families.recognize(dist).log_prob(points)  # [nodes, count]
        possible = log_p.detach().isfinite().any(1)  # a masked class has no logarithm
        points, log_p = points[possible], log_p[possible]
        probs = weights.reshape(len(weights), -1)[possible] * log_p.exp()
        costs = self.f(points, phi, theta)
        if estimator.objective == "mean":
            return (probs * costs).sum(0)
        if estimator.objective == "elbo":
            return (probs * (costs - log_p)).sum(0)
        # The bound E[log 1/K Σ_k exp(f(x_k) - log p(x_k))], by summing over all K-tuples of nodes.
        terms, joint = costs - log_p, probs
        bound = terms
        for _ in range(estimator.draws - 1):
            bound = torch.logaddexp(bound.unsqueeze(1), terms).flatten(0, 1)
            joint = (joint.unsqueeze(1) * probs).flatten(0, 1)
        count = torch.tensor(estimator.draws, dtype=torch.float64)
        return (joint * (bound - count.log())).sum(0)

    def refusal(self, estimator: Estimator[Any, Any]) -> str | None:
        """Why the estimator cannot be certified on this problem; None if it can."""
        dist = self.dist(self.rows(1)[0])
        refusal = estimator.refusal(dist)
        if refusal is not None:
            return refusal
        if self.bound and estimator.objective == "mean":
            return f"{estimator.name} estimates E[f]; the problem is for estimators of a bound."
        if estimator.objective == "log-mean-exp" and len(self.nodes(dist)[0]) ** estimator.draws > MOST_STATES:
            return (
                f"The exact bound of {estimator.draws} samples has more than {MOST_STATES} terms. Take fewer samples."
            )
        return None

    def supports(self, estimator: Estimator[Any, Any]) -> bool:
        """Whether the estimator takes the distribution, the exact value can be computed, and the time is well spent."""
        if self.slow and (estimator.objective != "mean" or getattr(estimator, "baseline", None) is not None):
            return False
        return self.refusal(estimator) is None


def _float64(*numbers: Any) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64, device="cpu")


def _grid(least: float, most: float, step: float) -> Callable[[Distribution], tuple[Tensor, Tensor]]:
    """The trapezoid rule: for a smooth density over the whole line, it converges faster than any power of the step."""
    points = torch.arange(least, most + step / 2, step, dtype=torch.float64, device="cpu")
    return lambda dist: (_spread(points, dist), torch.full_like(points, step))


def _positive(dist: Distribution) -> tuple[Tensor, Tensor]:
    """The trapezoid rule for the logarithm of a positive variable."""
    points = torch.arange(-110, 4.6, 0.1, dtype=torch.float64).exp()
    return _spread(points, dist), 0.1 * points


def _unit(dist: Distribution) -> tuple[Tensor, Tensor]:
    """The trapezoid rule for the logit of a number between 0 and 1."""
    points = torch.arange(-60, 34, 0.2, dtype=torch.float64).sigmoid()
    return _spread(points, dist), 0.2 * points * (1 - points)


def _triangle(dist: Distribution) -> tuple[Tensor, Tensor]:
    """The trapezoid rule for two logits: of the first share, and of the second one in what is left."""
    logits = torch.arange(-40, 40, 0.5, dtype=torch.float64)
    first, second = (x.flatten() for x in torch.meshgrid(logits, logits, indexing="ij"))
    rest = (-first).sigmoid()
    shares = torch.stack((first.sigmoid(), rest * second.sigmoid(), rest * (-second).sigmoid()), -1)  # [nodes, 3]
    return shares.unsqueeze(1).expand(-1, *dist.batch_shape, -1), 0.25 * shares.prod(-1)


def _between(dist: Distribution) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre quadrature between two bounds, which may move."""
    base: Any = families.unwrap(dist)[0]
    nodes, weights = gauss_legendre(60)
    length = base.high - base.low  # [rows, 1]
    return base.low + _spread(nodes, dist) * length, _spread(weights, dist).squeeze(-1) * length.squeeze(-1)


def _beyond(dist: Distribution) -> tuple[Tensor, Tensor]:
    """The trapezoid rule for the logarithm of the distance from the one bound, which may move."""
    support: Any = families.unwrap(dist)[0].support
    distance = torch.arange(-12, 24, 0.03, dtype=torch.float64).exp()
    low, high = support.lower_bound, support.upper_bound
    points = torch.where(low.isfinite(), low + _spread(distance, dist), high - _spread(distance, dist))
    return points, 0.03 * distance


def _circle(dist: Distribution) -> tuple[Tensor, Tensor]:
    """The trapezoid rule on the circle."""
    points = torch.arange(64, dtype=torch.float64) * (2 * math.pi / 64) - math.pi
    return _spread(points, dist), torch.full_like(points, 2 * math.pi / 64)


def _sphere(dist: Distribution) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre quadrature in the height, the trapezoid rule around."""
    share, weights = gauss_legendre(24)
    height, weights = 2 * share - 1, 2 * weights
    azimuth = torch.arange(40, dtype=torch.float64) * (2 * math.pi / 40)
    radius = (1 - height.square()).sqrt()[:, None]
    points = torch.stack((radius * azimuth.cos(), radius * azimuth.sin(), height[:, None].expand(-1, 40)), -1)
    points = points.reshape(-1, 1, 3).expand(-1, *dist.batch_shape, -1)
    return points, (weights * (2 * math.pi / 40)).repeat_interleave(40)


def _spread(points: Tensor, dist: Distribution) -> Tensor:
    shape = dist.batch_shape + dist.event_shape
    return points.reshape(-1, *(1,) * len(shape)).expand(-1, *shape)


def _bits(logits: Tensor) -> Distribution:
    return Independent(Bernoulli(logits=logits), 1)


def _coins(probs: Tensor) -> Distribution:
    return Independent(Bernoulli(probs=probs), 1)


def _one_hots(logits: Tensor) -> Distribution:
    return Independent(OneHotCategorical(logits=logits), 1)


def _integers(logits: Tensor) -> Distribution:
    return Independent(Categorical(logits=logits), 1)


def _normal(phi: Tensor) -> Distribution:
    return Independent(Normal(phi[..., :1], phi[..., 1:].exp()), 1)


def _gamma(phi: Tensor) -> Distribution:
    return Independent(Gamma(phi[..., :1].exp(), phi[..., 1:].exp()), 1)


def _gamma_rate(phi: Tensor) -> Distribution:
    return Independent(Gamma(torch.full_like(phi, 2.5), phi.exp()), 1)


def _exponential(phi: Tensor) -> Distribution:
    return Independent(Exponential(phi.exp()), 1)


def _poisson(phi: Tensor) -> Distribution:
    return Independent(Poisson(phi.exp()), 1)


def _binomial(phi: Tensor) -> Distribution:
    return Independent(Binomial(5, logits=phi), 1)


def _geometric(phi: Tensor) -> Distribution:
    return Independent(Geometric(logits=phi), 1)


def _binomial_of_probs(phi: Tensor) -> Distribution:
    return Independent(Binomial(5, probs=phi), 1)


def _geometric_of_probs(phi: Tensor) -> Distribution:
    return Independent(Geometric(probs=phi), 1)


def _negative_binomial(phi: Tensor) -> Distribution:
    return Independent(NegativeBinomial(3, logits=phi), 1)


def _negative_binomial_of_probs(phi: Tensor) -> Distribution:
    return Independent(NegativeBinomial(3, probs=phi), 1)


def _masked(logits: Tensor) -> Distribution:
    """Four classes, the second of which is impossible."""
    first, *others = logits.unsqueeze(-2).split(1, -1)  # [rows, 1, 1] each
    return _integers(torch.cat((first, torch.full_like(first, -torch.inf), *others), -1))


def _truncated(phi: Tensor) -> Distribution:
    return Independent(TruncatedNormal(phi[..., :1], phi[..., 1:].exp(), -0.8, 1.5), 1)


def _truncated_at(phi: Tensor) -> Distribution:
    loc, log_scale, low, high = phi.split(1, -1)
    return Independent(TruncatedNormal(loc, log_scale.exp(), low, high), 1)


def _extreme_value(phi: Tensor) -> Distribution:
    loc, log_scale, shape = phi.split(1, -1)
    return Independent(GeneralizedExtremeValue(loc, log_scale.exp(), shape), 1)


def _von_mises(phi: Tensor) -> Distribution:
    return Independent(VonMises(phi[..., :1], phi[..., 1:].exp()), 1)


def _von_mises_fisher(phi: Tensor) -> Distribution:
    return VonMisesFisher(phi[..., :3], phi[..., 3].exp())


def _mixture(phi: Tensor) -> Distribution:
    logits, loc, log_scale = phi.unsqueeze(-2).split(3, -1)  # [rows, 1, 3] each
    return Independent(MixtureSameFamily(Categorical(logits=logits), Normal(loc, log_scale.exp())), 1)


def _small_gamma(phi: Tensor) -> Distribution:
    return Independent(SmallGamma(phi[..., :1].exp(), phi[..., 1:].exp()), 1)


def _beta(phi: Tensor) -> Distribution:
    return Independent(Beta(phi[..., :1].exp(), phi[..., 1:].exp()), 1)


def _dirichlet(phi: Tensor) -> Distribution:
    return Dirichlet(phi.exp())


def _subset(logits: Tensor) -> Distribution:
    return KSubset(logits, 3)


def _masked_subset(logits: Tensor) -> Distribution:
    """Two of six items, the second of which is impossible."""
    return KSubset(torch.cat((logits[..., :1], torch.full_like(logits[..., :1], -torch.inf), logits[..., 1:]), -1), 2)


def _ranking(logits: Tensor) -> Distribution:
    return PlackettLuce(logits)


def _two_ranks(logits: Tensor) -> Distribution:
    return PlackettLuce(logits, 2)


def _chain(phi: Tensor) -> Distribution:
    """Four places and three labels; label 2 never follows label 0."""
    unary, transitions = phi.split([12, 9], -1)
    forbidden = torch.zeros(3, 3, dtype=phi.dtype)
    forbidden[0, 2] = -torch.inf
    return LinearChain(unary.unflatten(-1, (4, 3)), transitions.unflatten(-1, (1, 3, 3)) + forbidden)


def _best(scores: Tensor) -> Tensor:
    """The solver that picks the largest score."""
    return (scores.argmax(-1, keepdim=True) == torch.arange(scores.shape[-1])).to(scores.dtype)


def _largest_with_gumbel(scores: Tensor) -> Distribution:
    return PerturbAndMAP(scores, _best, noise="gumbel", scale=0.8)


def _largest_with_normal(scores: Tensor) -> Distribution:
    return PerturbAndMAP(scores, _best, scale=1.5)


def _normal_argmax(scores: Tensor) -> Distribution:
    """P(i is the largest) = ∫ φ(z) Π_(j ≠ i) Φ((θ_i - θ_j) / σ + z) dz, by the trapezoid rule."""
    z = torch.arange(-9, 9, 0.1, dtype=scores.dtype)
    gaps = (scores.unsqueeze(-1) - scores.unsqueeze(-2)) / 1.5 + torch.diag(torch.full_like(scores[0], torch.inf))
    below = torch.special.ndtr(gaps.unsqueeze(-1) + z).prod(-2)  # [rows, i, nodes]
    density = (-z.square() / 2).exp() / math.sqrt(2 * math.pi)
    return OneHotCategorical(probs=0.1 * (below * density).sum(-1))


def _coupled(x: Tensor, phi: Tensor, theta: Tensor) -> Tensor:
    """Of bits: neither additive nor a polynomial of low degree, with an offset."""
    angle = (x * theta[..., 1:]).sum(-1)
    return theta[..., 0] + 2 * angle.sin() + x.prod(-1) - 0.4 * x[..., 0] * x[..., -1]


def _direct(x: Tensor, phi: Tensor, theta: Tensor) -> Tensor:
    """Of bits: depends on φ also besides x."""
    angle = (x * phi.tanh() * theta[..., 1:]).sum(-1)
    return theta[..., 0] + 2 * angle.sin() + 0.5 * phi.square().sum(-1) * x[..., 0]


def _classes(x: Tensor, phi: Tensor, theta: Tensor) -> Tensor:
    """Of one-hot variables: θ holds the offset and one number for each class of each variable."""
    angle = (x * theta[..., 1:].reshape(phi.shape)).flatten(phi.dim() - phi[0].dim() + 1).sum(-1)
    return theta[..., 0] + 2 * angle.sin() + 0.3 * angle.square()


def _table(x: Tensor, phi: Tensor, theta: Tensor) -> Tensor:
    """Of integers: θ holds the offset and one number for each class."""
    scores = theta[..., 1:].expand(*x.shape[:-1], -1).gather(-1, x)  # [k, rows, variables]
    return theta[..., 0] + 2 * scores.sum(-1).sin() + 0.5 * scores.prod(-1)


def _ranked(x: Tensor, phi: Tensor, theta: Tensor) -> Tensor:
    """Of integers whose order matters: θ holds the offset and one number for each item."""
    scores = theta[..., 1:].expand(*x.shape[:-1], -1).gather(-1, x)  # [k, rows, ranks]
    discounts = torch.arange(1, x.shape[-1] + 1, dtype=theta.dtype).rsqrt()
    return theta[..., 0] + 2 * (scores * discounts).sum(-1).sin()


def _flat(x: Tensor, phi: Tensor, theta: Tensor) -> Tensor:
    """Of a matrix: θ holds the offset and one number for each entry."""
    return _shares(x.flatten(-2), phi, theta)


def _square(x: Tensor, phi: Tensor, theta: Tensor) -> Tensor:
    return (theta[..., :1] + theta[..., 1:] * x.square()).sum(-1)


def _bump(x: Tensor, phi: Tensor, theta: Tensor) -> Tensor:
    return (theta[..., :1] + theta[..., 1:] * (-x.square()).exp()).sum(-1)


def _cosine(x: Tensor, phi: Tensor, theta: Tensor) -> Tensor:
    return (theta[..., :1] + theta[..., 1:] * x.cos()).sum(-1)


def _saturating(x: Tensor, phi: Tensor, theta: Tensor) -> Tensor:
    """Of a positive number or a count."""
    return (theta[..., :1] + 2 * (theta[..., 1:] * x).tanh()).sum(-1)


def _shares(x: Tensor, phi: Tensor, theta: Tensor) -> Tensor:
    """Of a vector: θ holds the offset and one number for each coordinate."""
    return theta[..., 0] + 2 * (theta[..., 1:] * x).sum(-1).sin()


def _turning(x: Tensor, phi: Tensor, theta: Tensor) -> Tensor:
    """Of an angle, with period 2π."""
    return (theta[..., :1] + theta[..., 1:] * (x.sin() + x.cos() / 2)).sum(-1)


def _log_joint(x: Tensor, phi: Tensor, theta: Tensor) -> Tensor:
    """Of a standard normal x and an observation 0.9 of θ₀ x + θ₁ with scale 0.8; depends on φ also besides x."""
    z = x.squeeze(-1)
    observed = Normal(theta[..., 0] * z + theta[..., 1], 0.8).log_prob(torch.full_like(z, 0.9))
    direct = 0.3 * phi[..., 0].tanh() * z + 0.2 * phi[..., 1]
    log_joint: Tensor = Normal(torch.zeros_like(z), 1.0).log_prob(z) + observed + direct
    return log_joint


PROBLEMS = (
    Problem("one bit", _float64([0.4]), _float64([0.5, 1.2]), _bits, _coupled),
    Problem(
        "six coupled bits",
        _float64([0.4, -0.9, 1.3, 0.1, -0.5, 0.8]),
        _float64([0.5, 0.6, -0.6, 0.5, 0.4, -0.6, 0.3]),
        _bits,
        _coupled,
    ),
    Problem(
        "three problems in a batch",
        _float64([0.4, -0.9], [1.3, 0.2], [-0.7, -0.1]),
        _float64([0.5, 1.2, 0.8], [-0.4, 0.6, -0.9], [0.3, -1.0, 0.7]),
        _bits,
        _coupled,
    ),
    Problem("f of φ", _float64([0.8, -0.9]), _float64([0.5, 1.2, 0.8]), _bits, _direct),
    Problem("bits by probabilities", _float64([0.6, 0.25]), _float64([0.5, 1.2, 0.8]), _coins, _coupled),
    Problem("rare bits", _float64([12.0, -12.0]), _float64([-1.4, 1.2, 0.8]), _bits, _coupled, rare=True),
    Problem(
        "five classes",
        _float64([0.5, -0.3, 0.1, -1.0, 0.8]),
        _float64([0.5, 0.9, -0.6, 0.2, 1.1, -0.9]),
        lambda logits: OneHotCategorical(logits=logits),
        _classes,
    ),
    Problem(
        "three times four classes",
        _float64([[0.5, -0.3, 0.1, -1.0], [0.0, 0.7, -0.4, 0.2], [-0.6, 0.3, 0.9, 0.0]]),
        _float64([0.5, 0.9, -0.6, 0.2, 0.5, -0.7, 0.3, 0.1, -0.2, 0.8, -0.5, 0.4, -0.3]),
        _one_hots,
        _classes,
    ),
    Problem(
        "rare classes",
        _float64([12.0, 0.0, 0.5]),
        _float64([-1.2, 0.0, -0.6, 0.9]),
        lambda logits: OneHotCategorical(logits=logits),
        _classes,
        rare=True,
    ),
    Problem(
        "two integers",
        _float64([[0.5, -0.3, 0.1], [0.0, 0.7, -0.4]]),
        _float64([0.5, 0.9, -0.6, 0.2]),
        _integers,
        _table,
    ),
    Problem("masked integer", _float64([0.5, -0.3, 0.1]), _float64([0.5, 0.9, 0.4, -0.6, 0.2]), _masked, _table),
    Problem(
        "three of six items",
        _float64([0.4, -0.9, 1.3, 0.1, -0.5, 0.8]),
        _float64([0.5, 0.6, -0.6, 0.5, 0.4, -0.6, 0.3]),
        _subset,
        _shares,
    ),
    Problem(
        "two of six items, one masked",
        _float64([0.4, -0.9, 1.3, 0.1, -0.5]),
        _float64([0.5, 0.6, -0.6, 0.5, 0.4, -0.6, 0.3]),
        _masked_subset,
        _shares,
    ),
    Problem(
        "ranking of four items",
        _float64([0.4, -0.9, 0.7, 0.1]),
        _float64([0.5, 0.6, -0.6, 0.9, -0.4]),
        _ranking,
        _ranked,
    ),
    Problem(
        "two ranks among five items",
        _float64([0.4, -0.9, 0.7, 0.1, -0.3]),
        _float64([0.5, 0.6, -0.6, 0.9, -0.4, 0.3]),
        _two_ranks,
        _ranked,
    ),
    Problem(
        "chain of four labels",
        _float64(
            [
                *(0.3, -0.4, 0.1, 0.6, 0.2, -0.5, -0.2, 0.5, 0.0, 0.4, -0.3, 0.2),
                *(0.5, 0.1, 0.0, -0.4, 0.7, 0.3, 0.2, -0.6, 0.4),
            ]
        ),
        _float64([0.5, 0.6, -0.6, 0.5, 0.4, -0.6, 0.3, 0.7, -0.2, -0.5, 0.1, 0.6, -0.4]),
        _chain,
        _flat,
    ),
    Problem(
        "spanning tree of four nodes",
        _float64([0.4, -0.9, 0.7, 0.1, -0.3, 0.5]),
        _float64([0.5, 0.6, -0.6, 0.9, -0.4, 0.3, -0.7]),
        lambda logits: SpanningTree(logits),
        _shares,
    ),
    Problem(
        "matching of three pairs",
        _float64([[0.4, -0.9, 0.7], [0.1, -0.3, 0.5], [-0.4, 0.6, 0.2]]),
        _float64([0.5, 0.6, -0.6, 0.9, -0.4, 0.3, -0.7, 0.2, 0.8, -0.3]),
        lambda scores: Matching(scores),
        _flat,
    ),
    Problem(
        "largest of four, Gumbel noise",
        _float64([0.4, -0.6, 0.7, 0.1]),
        _float64([0.5, 0.6, -0.6, 0.9, -0.4]),
        _largest_with_gumbel,
        _shares,
        law=lambda scores: OneHotCategorical(logits=scores / 0.8),
    ),
    Problem(
        "largest of four, normal noise",
        _float64([0.4, -0.6, 0.7, 0.1]),
        _float64([0.5, 0.6, -0.6, 0.9, -0.4]),
        _largest_with_normal,
        _shares,
        law=_normal_argmax,
    ),
    Problem("normal, square", _float64([0.6, -0.2]), _float64([-1.0, 1.0]), _normal, _square, _grid(-9, 10, 0.125)),
    Problem("normal, bump", _float64([0.6, -0.2]), _float64([-0.3, 1.0]), _normal, _bump, _grid(-9, 10, 0.125)),
    Problem("normal, cosine", _float64([0.6, -0.2]), _float64([-0.3, 1.0]), _normal, _cosine, _grid(-9, 10, 0.125)),
    Problem(
        "linear-Gaussian model",
        _float64([0.1, -0.3]),
        _float64([1.1, 0.2]),
        _normal,
        _log_joint,
        _grid(-9, 10, 0.125),
        bound=True,
    ),
    Problem("truncated normal", _float64([0.3, 0.18]), _float64([0.6, -1.4]), _truncated, _saturating, _between),
    Problem(
        "truncated normal, bounds",
        _float64([0.3, 0.18, -0.8, 1.5]),
        _float64([0.6, -1.4]),
        _truncated_at,
        _saturating,
        _between,
    ),
    Problem(
        "extreme value, heavy tail", _float64([0.4, 0.26, 0.3]), _float64([-0.3, 1.0]), _extreme_value, _bump, _beyond
    ),
    Problem(
        "extreme value, bounded", _float64([0.4, 0.26, -0.3]), _float64([-0.3, 1.0]), _extreme_value, _bump, _beyond
    ),
    Problem("von Mises", _float64([0.0, 0.7]), _float64([0.8, -2.0]), _von_mises, _turning, _circle, slow=True),
    Problem(
        "von Mises-Fisher",
        _float64([0.2, -0.15, 0.3, 0.7]),
        _float64([1.0, -0.5, 0.7, 0.6]),
        _von_mises_fisher,
        _shares,
        _sphere,
        slow=True,
    ),
    Problem(
        "mixture",
        _float64([0.2, -0.5, 0.1, -1.0, 0.4, 1.5, -0.3, 0.2, -0.6]),
        _float64([0.5, 1.0]),
        _mixture,
        _saturating,
        _grid(-12, 12, 0.0625),
    ),
    Problem("gamma near zero", _float64([-1.2, 0.3]), _float64([-0.5, 0.8]), _small_gamma, _saturating, _positive),
    Problem("beta", _float64([-0.5, 0.35]), _float64([-0.5, 1.8]), _beta, _saturating, _unit),
    Problem("dirichlet", _float64([-0.2, 0.4, 0.1]), _float64([-0.5, 0.9, -1.2, 0.5]), _dirichlet, _shares, _triangle),
    Problem("gamma", _float64([1.1, 1.0]), _float64([-1.0, 1.0]), _gamma, _saturating, _positive),
    Problem("gamma, rate", _float64([0.8]), _float64([-1.0, 1.0]), _gamma_rate, _saturating, _positive),
    Problem("exponential", _float64([0.3]), _float64([-0.5, 0.8]), _exponential, _saturating, _positive),
    Problem("poisson", _float64([0.5]), _float64([-0.8, 0.4]), _poisson, _saturating, _grid(0, 60, 1)),
    Problem("binomial", _float64([0.4]), _float64([-1.0, 0.3]), _binomial, _saturating, _grid(0, 5, 1)),
    Problem("binomial, likely", _float64([2.2]), _float64([-0.7, 0.2]), _binomial, _saturating, _grid(0, 5, 1)),
    Problem(
        "binomial by probabilities",
        _float64([0.6]),
        _float64([2.2, -0.3]),
        _binomial_of_probs,
        _saturating,
        _grid(0, 5, 1),
    ),
    Problem("geometric", _float64([0.4]), _float64([-0.5, 0.8]), _geometric, _saturating, _grid(0, 120, 1)),
    Problem(
        "geometric by probabilities",
        _float64([0.4]),
        _float64([-0.5, 0.8]),
        _geometric_of_probs,
        _saturating,
        _grid(0, 120, 1),
    ),
    Problem(
        "negative binomial", _float64([-0.4]), _float64([-0.5, 0.4]), _negative_binomial, _saturating, _grid(0, 120, 1)
    ),
    Problem(
        "negative binomial by probabilities",
        _float64([0.4]),
        _float64([-0.5, 0.4]),
        _negative_binomial_of_probs,
        _saturating,
        _grid(0, 120, 1),
    ),
)
