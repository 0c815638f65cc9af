"""The laws of the sweep: how each is built, what f sees of it, and its survival function without torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributions as td
from numpy.typing import NDArray
from scipy import special, stats
from torch import Tensor
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

Array = NDArray[np.float64]
REGIMES = ("smallest", "small", "ordinary", "large", "largest")
TINY = 2.0**-126  # the smallest normal number of float32
HUGE = 3e37  # near the largest: samples reach some times as far


@dataclass(frozen=True)
class Law:
    """A distribution with its parameters as columns.

    Attributes:
        name: the class, and what is special about it.
        kind: the class, of which the sweep makes subclasses.
        build: from the class and the parameters, [rows] each, to the distribution.
        survival: P(t > x), from x and the parameters, in float64, of the statistic t.
        parameters: by regime, the value of each parameter.
        statistic: from points [..., *event] to one number that f sees.
        units: from the parameters to the size of one step of each; the parameter itself where it is None.
        whole: whether the statistic takes whole numbers only.
        mean: the mean of the statistic, for laws that are too narrow for the survival function in float64.
        fixed: how many of the first parameters are the same for all rows and have no gradient.
    """

    name: str
    kind: type[td.Distribution]
    build: Callable[..., td.Distribution]
    survival: Callable[..., Array]
    parameters: tuple[tuple[float, ...], ...]
    statistic: Callable[[Tensor], Tensor] = lambda x: x
    units: Callable[..., tuple[float, ...]] | None = None
    whole: bool = False
    fixed: int = 0
    mean: Callable[..., float] | None = None

    def __str__(self) -> str:
        return self.name

    def steps(self, parameters: tuple[float, ...]) -> tuple[float, ...]:
        """The size of one step of each parameter."""
        return parameters if self.units is None else self.units(*parameters)


def first(x: Tensor) -> Tensor:
    """The first coordinate."""
    return x[..., 0]


def number(x: Tensor) -> Tensor:
    """The number of the class of a one-hot vector."""
    return (x * torch.arange(x.shape[-1])).sum(-1)


def _scale(*parameters: float) -> tuple[float, ...]:
    """One unit for all: the last parameter, which is a scale."""
    return (parameters[-1],) * len(parameters)


def _ones(*parameters: float) -> tuple[float, ...]:
    return (1.0,) * len(parameters)


def _softmax(*logits: float) -> Array:
    return np.asarray(special.softmax(np.array(logits)))


def _classes(x: Array, *logits: float) -> Array:
    p = _softmax(*logits)
    return np.asarray(sum(p[i] * (x < i) for i in range(len(p))))


def _normal(x: Array, loc: float, scale: float) -> Array:
    return np.asarray(stats.norm.sf((x - loc) / scale))


def _standard(name: str) -> Callable[..., Array]:
    return lambda x, loc, scale: np.asarray(getattr(stats, name).sf((x - loc) / scale))


def _continuous_bernoulli(x: Array, logit: float) -> Array:
    x = np.clip(x, 0, 1)
    if logit > 0:
        return 1 - _continuous_bernoulli(1 - x, -logit)
    if logit == 0:
        return 1 - x
    return np.asarray((np.exp(logit * x) - np.exp(logit)) / -np.expm1(logit))


def _relaxed(x: Array, temperature: float, logit: float) -> Array:
    """The survival function of the logit of a relaxed bit."""
    return np.asarray(special.expit(logit - temperature * x))


def _logits_of(x: Array) -> Array:
    """The logit of a number between 0 and 1, infinite beyond."""
    return np.asarray(special.logit(np.clip(x, 0, 1)))


def _gamma(x: Array, concentration: float, rate: float) -> Array:
    return np.asarray(special.gammaincc(concentration, np.maximum(x, 0) * rate))


def _beta(x: Array, a: float, b: float) -> Array:
    x = np.clip(x, 0, 1)
    return np.asarray(special.betaincc(a, b, x))


def _gumbel(x: Array, loc: float, scale: float) -> Array:
    return np.asarray(-np.expm1(-np.exp(-(x - loc) / scale)))


def _pareto(x: Array, scale: float, alpha: float) -> Array:
    return np.asarray(np.where(x > scale, np.exp(-alpha * np.log(np.maximum(x, scale) / scale)), 1.0))


def _generalized_pareto(x: Array, loc: float, scale: float, shape: float) -> Array:
    return np.asarray(np.exp(-np.log1p(shape * np.maximum(x - loc, 0) / scale) / shape))


def _counts(sf: Callable[..., Any]) -> Callable[..., Array]:
    return lambda x, *parameters: np.asarray(sf(np.floor(x), *parameters))


def _von_mises(x: Array, loc: float, concentration: float) -> Array:
    """By quadrature over [x, π], where the mass is; scipy's own has four digits where it changes its formula."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    reach = 15 / np.sqrt(concentration) if concentration > 25 else 4.0
    low, high = max(-np.pi, loc - reach), min(np.pi, loc + reach)

    def mass(start: Any) -> Any:
        start = np.clip(np.asarray(start, dtype=float), low, high)
        t = start[..., None] + (high - start)[..., None] * (nodes + 1) / 2
        return (np.exp(-2 * concentration * np.sin((t - loc) / 2) ** 2) * weights).sum(-1) * (high - start)

    return np.asarray(mass(x) / mass(low))


def location_scale() -> tuple[tuple[float, ...], ...]:
    """A location of half a scale, in each regime."""
    return tuple((0.5 * s, s) for s in (4 * TINY, 1e-3, 1.3, 1e4, HUGE / 30))


def _logits(*first: float) -> tuple[tuple[float, ...], ...]:
    return ((-87.0, *first), (-7.0, *first), (0.4, *first), (7.0, *first), (87.0, *first))


def _mixture(kind: Any, *p: Tensor) -> td.Distribution:
    weights = td.Categorical(logits=torch.stack(p[:2], -1))
    made: td.Distribution = kind(weights, td.Normal(torch.stack(p[2:4], -1), torch.stack(p[4:6], -1)))
    return made


def _mixture_survival(x: Array, *p: float) -> Array:
    w = _softmax(*p[:2])
    return np.asarray(w[0] * _normal(x, p[2], p[4]) + w[1] * _normal(x, p[3], p[5]))


def _tril(s: Tensor) -> Tensor:
    return s[..., None, None] * torch.tensor([[1.0, 0.0], [0.5, 1.0]])


TORCH: list[Law] = [
    Law(
        "Bernoulli",
        td.Bernoulli,
        lambda k, z: k(logits=z),
        lambda x, z: special.expit(z) * ((x >= 0) & (x < 1)) + (x < 0),
        _logits(),
        units=_ones,
        whole=True,
    ),
    Law(
        "Beta",
        td.Beta,
        lambda k, a, b: k(a, b),
        _beta,
        ((TINY, TINY), (1e-3, 1e-3), (1.5, 0.7), (1.5, 1e5), (1e30, 1e30)),
        mean=lambda a, b: a / (a + b),
    ),
    Law(
        "Beta, small and large",
        td.Beta,
        lambda k, a, b: k(a, b),
        _beta,
        ((TINY, 1.0), (1e-2, 3.0), (1.5, 5e4), (8.0, 1e7), (2.0, 1e20)),
    ),
    Law(
        "Binomial",
        td.Binomial,
        lambda k, z: k(5, logits=z),
        _counts(lambda n, z: stats.binom.sf(n, 5, special.expit(z))),
        _logits(),
        units=_ones,
        whole=True,
    ),
    Law(
        "Categorical",
        td.Categorical,
        lambda k, *z: k(logits=torch.stack(z, -1)),
        _classes,
        _logits(0.0, 0.5),
        units=_ones,
        whole=True,
    ),
    Law("Cauchy", td.Cauchy, lambda k, m, s: k(m, s), _standard("cauchy"), location_scale(), units=_scale),
    Law(
        "Chi2",
        td.Chi2,
        lambda k, n: k(n),
        lambda x, n: _gamma(x, n / 2, 0.5),
        ((TINY * 2,), (1e-2,), (3.0,), (1e4,), (HUGE,)),
        mean=lambda n: n,
    ),
    Law(
        "ContinuousBernoulli",
        td.ContinuousBernoulli,
        lambda k, z: k(logits=z),
        _continuous_bernoulli,
        ((-80.0,), (-7.0,), (0.4,), (7.0,), (80.0,)),
        units=_ones,
    ),
    Law(
        "Dirichlet",
        td.Dirichlet,
        lambda k, *c: k(torch.stack(c, -1)),
        lambda x, a, b, c: _beta(x, a, b + c),
        ((TINY,) * 3, (1e-3,) * 3, (0.5, 2.0, 1.0), (1.5, 5e4, 3.0), (1e30,) * 3),
        statistic=first,
        mean=lambda a, b, c: a / (a + b + c),
    ),
    Law(
        "Exponential",
        td.Exponential,
        lambda k, r: k(r),
        lambda x, r: np.exp(-r * np.maximum(x, 0)),
        ((30 * TINY,), (1e-3,), (1.3,), (1e4,), (HUGE,)),
    ),
    Law(
        "ExpRelaxedCategorical",
        ExpRelaxedCategorical,
        lambda k, t, a, b: k(t.detach().flatten()[0], logits=torch.stack((a, b), -1)),
        lambda x, t, a, b: _relaxed(x, t, a - b),
        ((0.01, -60.0, 0.0), (0.05, -7.0, 0.0), (0.7, 0.4, 0.0), (20.0, 7.0, 0.0), (1e4, 60.0, 0.0)),
        statistic=lambda x: x[..., 0] - x[..., 1],
        units=_ones,
        fixed=1,
    ),
    Law(
        "FisherSnedecor",
        td.FisherSnedecor,
        lambda k, a, b: k(a, b),
        lambda x, a, b: special.betainc(b / 2, a / 2, 1 / (1 + np.maximum(x, 0) * (a / b))),
        ((TINY * 2, TINY * 2), (1e-2, 1e-2), (3.0, 5.0), (1e4, 1e4), (1e20, 1e20)),
        mean=lambda a, b: b / max(b - 2, 1e-9),
    ),
    Law(
        "Gamma",
        td.Gamma,
        lambda k, a, r: k(a, r),
        _gamma,
        ((TINY, TINY), (1e-3, 1e-3), (1.5, 0.7), (1e4, 1e4), (1e30, HUGE)),
        mean=lambda a, r: a / r,
    ),
    Law(
        "Geometric",
        td.Geometric,
        lambda k, z: k(logits=z),
        lambda x, z: np.exp((np.floor(x) + 1) * -np.logaddexp(0, z)) * (x >= 0) + (x < 0),
        ((-80.0,), (-7.0,), (0.4,), (7.0,), (80.0,)),
        units=_ones,
        whole=True,
    ),
    Law("Gumbel", td.Gumbel, lambda k, m, s: k(m, s), _gumbel, location_scale(), units=_scale),
    Law(
        "HalfCauchy",
        td.HalfCauchy,
        lambda k, s: k(s),
        lambda x, s: stats.halfcauchy.sf(np.maximum(x, 0) / s),
        ((4 * TINY,), (1e-3,), (1.3,), (1e4,), (HUGE / 30,)),
    ),
    Law(
        "HalfNormal",
        td.HalfNormal,
        lambda k, s: k(s),
        lambda x, s: stats.halfnorm.sf(np.maximum(x, 0) / s),
        ((4 * TINY,), (1e-3,), (1.3,), (1e4,), (HUGE / 30,)),
    ),
    Law(
        "Independent",
        td.Independent,
        lambda k, m, s: k(td.Normal(torch.stack((m, m), -1), torch.stack((s, s), -1)), 1),
        _normal,
        location_scale(),
        statistic=first,
        units=_scale,
    ),
    Law(
        "InverseGamma",
        td.InverseGamma,
        lambda k, a, r: k(a, r),
        lambda x, a, r: special.gammainc(a, r / np.maximum(x, 1e-300)),
        ((TINY, TINY), (1e-2, 1e-2), (1.5, 0.7), (1e4, 1e4), (1e30, 1e30)),
        mean=lambda a, r: r / max(a - 1, 1e-9),
    ),
    Law(
        "Kumaraswamy",
        td.Kumaraswamy,
        lambda k, a, b: k(a, b),
        lambda x, a, b: np.exp(b * np.log(-np.expm1(a * np.log(np.clip(x, 0, 1))))),
        ((TINY, TINY), (1e-2, 1e-2), (1.5, 0.7), (1e3, 1e3), (1e20, 1e20)),
        mean=lambda a, b: np.exp((np.log(1) - np.log(b)) / a),
    ),
    Law("Laplace", td.Laplace, lambda k, m, s: k(m, s), _standard("laplace"), location_scale(), units=_scale),
    Law(
        "LKJCholesky",
        td.LKJCholesky,
        lambda k, c: k(3, c),
        lambda x, c: _beta((x + 1) / 2, c + 0.5, c + 0.5),
        ((1e-6,), (1e-2,), (1.5,), (1e4,), (1e20,)),
        statistic=lambda x: x[..., 1, 0],
        mean=lambda c: 0.0,
    ),
    Law(
        "LogitRelaxedBernoulli",
        LogitRelaxedBernoulli,
        lambda k, t, z: k(t, logits=z),
        _relaxed,
        ((0.01, -80.0), (0.05, -7.0), (0.7, 0.4), (20.0, 7.0), (1e4, 80.0)),
        units=lambda t, z: (t, 1.0),
    ),
    Law(
        "LogNormal",
        td.LogNormal,
        lambda k, m, s: k(m, s),
        lambda x, m, s: stats.norm.sf((np.log(np.maximum(x, 1e-320)) - m) / s),
        ((-80.0, TINY), (-20.0, 0.05), (0.3, 0.9), (60.0, 2.0), (83.0, 0.9)),
        units=_scale,
    ),
    Law(
        "LogisticNormal",
        td.LogisticNormal,
        lambda k, m, s: k(m.unsqueeze(-1), s.unsqueeze(-1)),
        lambda x, m, s: stats.norm.sf((_logits_of(x) - m) / s),
        ((-80.0, 1e-3), (-7.0, 0.5), (0.3, 0.9), (12.0, 1.0), (80.0, 10.0)),
        statistic=first,
        units=_scale,
    ),
    Law(
        "LowRankMultivariateNormal",
        td.LowRankMultivariateNormal,
        lambda k, a, b, s: k(
            torch.stack((a, b), -1),
            s[..., None, None] * torch.tensor([[1.0], [0.5]]),
            (s * s)[..., None] * torch.ones(2),
        ),
        lambda x, a, b, s: _normal(x, a, s * 2**0.5),
        tuple((0.5 * s, -s, s) for s in (1e-18, 1e-3, 1.3, 1e4, 1e18)),
        statistic=first,
        units=_scale,
    ),
    Law(
        "MixtureSameFamily",
        td.MixtureSameFamily,
        _mixture,
        _mixture_survival,
        tuple((0.3, -0.2, -s, 2 * s, s, 0.5 * s) for s in (4 * TINY, 1e-3, 1.3, 1e4, HUGE / 30)),
        units=lambda a, b, c, d, s, t: (1.0, 1.0, s, s, s, s),
    ),
    Law(
        "Multinomial",
        td.Multinomial,
        lambda k, *z: k(5, logits=torch.stack(z, -1)),
        _counts(lambda n, *z: stats.binom.sf(n, 5, _softmax(*z)[0])),
        _logits(0.0, 0.5),
        statistic=first,
        units=_ones,
        whole=True,
    ),
    Law(
        "MultivariateNormal",
        td.MultivariateNormal,
        lambda k, a, b, s: k(torch.stack((a, b), -1), scale_tril=_tril(s)),
        lambda x, a, b, s: _normal(x, b, s * 1.25**0.5),
        tuple((0.5 * s, -s, s) for s in (4 * TINY, 1e-3, 1.3, 1e4, HUGE / 30)),
        statistic=lambda x: x[..., 1],
        units=_scale,
    ),
    Law(
        "NegativeBinomial",
        td.NegativeBinomial,
        lambda k, r, z: k(r, logits=z),
        _counts(lambda n, r, z: stats.nbinom.sf(n, r, special.expit(-z))),
        ((TINY, -80.0), (1e-2, -5.0), (2.5, 0.4), (30.0, 5.0), (1e3, 12.0)),
        units=lambda r, z: (r, 1.0),
        whole=True,
    ),
    Law("Normal", td.Normal, lambda k, m, s: k(m, s), _normal, location_scale(), units=_scale),
    Law(
        "OneHotCategorical",
        td.OneHotCategorical,
        lambda k, *z: k(logits=torch.stack(z, -1)),
        _classes,
        _logits(0.0, 0.5),
        statistic=number,
        units=_ones,
        whole=True,
    ),
    Law(
        "OneHotCategoricalStraightThrough",
        td.OneHotCategoricalStraightThrough,
        lambda k, *z: k(logits=torch.stack(z, -1)),
        _classes,
        _logits(0.0, 0.5),
        statistic=number,
        units=_ones,
        whole=True,
    ),
    Law(
        "Pareto",
        td.Pareto,
        lambda k, s, a: k(s, a),
        _pareto,
        ((4 * TINY, 0.05), (1e-3, 0.3), (1.3, 2.0), (1e4, 100.0), (HUGE / 30, 1e4)),
    ),
    Law(
        "Poisson",
        td.Poisson,
        lambda k, r: k(r),
        _counts(lambda n, r: special.gammainc(np.maximum(n, -1) + 1, r)),
        ((TINY,), (1e-3,), (3.5,), (1e4,), (1e18,)),
        whole=True,
        mean=lambda r: r,
    ),
    Law(
        "RelaxedBernoulli",
        td.RelaxedBernoulli,
        lambda k, t, z: k(t, logits=z),
        lambda x, t, z: _relaxed(_logits_of(x), t, z),
        ((0.01, -80.0), (0.05, -7.0), (0.7, 0.4), (20.0, 7.0), (1e4, 80.0)),
        units=lambda t, z: (t, 1.0),
    ),
    Law(
        "RelaxedOneHotCategorical",
        td.RelaxedOneHotCategorical,
        lambda k, t, a, b: k(t.detach().flatten()[0], logits=torch.stack((a, b), -1)),
        lambda x, t, a, b: _relaxed(_logits_of(x), t, a - b),
        ((0.01, -60.0, 0.0), (0.05, -7.0, 0.0), (0.7, 0.4, 0.0), (20.0, 7.0, 0.0), (1e4, 60.0, 0.0)),
        statistic=first,
        units=_ones,
        fixed=1,
    ),
    Law(
        "StudentT",
        td.StudentT,
        lambda k, n, m, s: k(n, m, s),
        lambda x, n, m, s: stats.t.sf((x - m) / s, n),
        tuple((n, 0.5 * s, s) for n, s in ((0.05, 4 * TINY), (0.5, 1e-3), (3.0, 1.3), (1e3, 1e4), (1e8, HUGE / 30))),
        units=lambda n, m, s: (n, s, s),
    ),
    Law(
        "TransformedDistribution, logistic",
        td.TransformedDistribution,
        lambda k, m, s: k(
            td.Uniform(torch.zeros_like(m), torch.ones_like(m)), [td.SigmoidTransform().inv, td.AffineTransform(m, s)]
        ),
        _standard("logistic"),
        location_scale(),
        units=_scale,
    ),
    Law(
        "TransformedDistribution, sigmoid",
        td.TransformedDistribution,
        lambda k, m, s: k(td.Normal(m, s), [td.SigmoidTransform()]),
        lambda x, m, s: stats.norm.sf((_logits_of(x) - m) / s),
        ((-80.0, 1e-3), (-7.0, 0.5), (0.3, 0.9), (12.0, 1.0), (16.0, 1.0)),
        units=_scale,
    ),
    Law(
        "TransformedDistribution, tanh",
        td.TransformedDistribution,
        lambda k, m, s: k(td.Normal(m, s), [td.TanhTransform(cache_size=1)]),
        lambda x, m, s: stats.norm.sf((np.arctanh(np.clip(x, -1, 1)) - m) / s),
        ((TINY, 4 * TINY), (1e-3, 1e-2), (0.3, 0.9), (4.0, 1.0), (6.5, 1.0)),
        units=_scale,
    ),
    Law(
        "Uniform",
        td.Uniform,
        lambda k, a, b: k(a, b),
        lambda x, a, b: np.clip((b - x) / (b - a), 0, 1),
        tuple((0.5 * s, 1.5 * s) for s in (4 * TINY, 1e-3, 1.3, 1e4, HUGE)),
    ),
    Law(
        "VonMises",
        td.VonMises,
        lambda k, m, c: k(m, c),
        _von_mises,
        ((0.3, 1e-3), (0.3, 0.1), (0.3, 1.5), (0.3, 1e3), (0.3, 1e6)),
        units=lambda m, c: (min(1.0, c**-0.5), c),
    ),
    Law(
        "Weibull",
        td.Weibull,
        lambda k, s, c: k(s, c),
        lambda x, s, c: np.exp(-np.exp(c * np.log(np.maximum(x, 1e-320) / s))),
        ((4 * TINY, 0.1), (1e-3, 0.3), (1.3, 2.0), (1e4, 100.0), (HUGE / 30, 1e4)),
    ),
    Law(
        "Wishart",
        td.Wishart,
        lambda k, n, s: k(n, scale_tril=s[..., None, None] * torch.eye(2)),
        lambda x, n, s: _gamma(x, n / 2, 0.5 / s**2),
        ((1.01, 1e-15), (1.5, 1e-3), (4.0, 1.3), (1e3, 1e3), (1e6, 1e12)),
        statistic=lambda x: x[..., 0, 0],
    ),
]
if hasattr(td, "GeneralizedPareto"):
    TORCH.append(
        Law(
            "GeneralizedPareto",
            td.GeneralizedPareto,
            lambda k, m, s, c: k(m, s, c),
            _generalized_pareto,
            tuple((0.5 * s, s, c) for s, c in ((4 * TINY, 0.01), (1e-3, 0.1), (1.3, 0.3), (1e4, 1.0), (1e20, 3.0))),
            units=lambda m, s, c: (s, s, c),
        )
    )
