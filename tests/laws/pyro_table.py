"""The laws of the sweep that Pyro adds to torch's, and those that are left out, with the reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro.distributions as pd
import torch
from pyro.distributions.testing.rejection_exponential import RejectionExponential
from pyro.distributions.testing.rejection_gamma import RejectionGamma
from scipy import special, stats
from torch import Tensor

from laws.table import (
    HUGE,
    TINY,
    Array,
    Law,
    _beta,
    _counts,
    _gamma,
    _normal,
    _ones,
    _scale,
    _softmax,
    first,
    location_scale,
)

SCALES = (4 * TINY, 1e-3, 1.3, 1e4, HUGE / 30)


def _asymmetric_laplace(x: Array, loc: float, asymmetry: float, scale: float) -> Array:
    left, right = scale * asymmetry, scale / asymmetry
    above = right / (left + right) * np.exp(-np.maximum(x - loc, 0) / right)
    below = 1 - left / (left + right) * np.exp(np.minimum(x - loc, 0) / left)
    return np.asarray(np.where(x > loc, above, below))


def _soft_asymmetric(x: Array, loc: float, asymmetry: float, scale: float) -> Array:
    """The sum of an asymmetric Laplace variable and of a Normal one of `softness` 1 times the scale."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    parts = _asymmetric_laplace(np.asarray(x)[..., None] - scale * nodes, loc, asymmetry, scale)
    return np.asarray((parts * weights).sum(-1) / weights.sum())


def _mixture(x: Array, *p: float) -> Array:
    w = _softmax(*p[:2])
    return np.asarray(w[0] * _normal(x, p[2], p[4]) + w[1] * _normal(x, p[3], p[4]))


def _sine_skewed(x: Array, skewness: float, concentration: float) -> Array:
    nodes, weights = np.polynomial.legendre.leggauss(300)

    def mass(start: Any) -> Any:
        start = np.clip(np.asarray(start, dtype=float), -np.pi, np.pi)
        t = start[..., None] + (np.pi - start)[..., None] * (nodes + 1) / 2
        density = np.exp(concentration * (np.cos(t) - 1)) * (1 + skewness * np.sin(t))
        return (density * weights).sum(-1) * (np.pi - start)

    return np.asarray(mass(x) / mass(-np.pi))


def _projected(x: Array, a: float, b: float) -> Array:
    """P(cos θ > x) of the direction of a Normal vector with mean (a, b) and unit covariance."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    half = np.arccos(np.clip(x, -1, 1))
    t = half[..., None] * nodes
    along = a * np.cos(t) + b * np.sin(t)
    ratio = np.sqrt(2 * np.pi) * along * special.ndtr(along) * np.exp(along**2 / 2)
    density = np.exp(-(a * a + b * b) / 2) / (2 * np.pi) * (1 + ratio)
    return np.asarray((density * weights).sum(-1) * half)


def stack(*columns: Tensor) -> Tensor:
    """[rows] each -> [rows, columns]."""
    return torch.stack(columns, -1)


def _with(asymmetry: float) -> tuple[tuple[float, ...], ...]:
    return tuple((0.5 * s, asymmetry, s) for s in SCALES)


def _of_scale(*p: float) -> tuple[float, ...]:
    """A location, a shape and a scale."""
    return (p[-1], p[1], p[-1])


COUNTS = ((-80.0,), (-7.0,), (0.4,), (7.0,), (80.0,))
SHAPES = (TINY, 1e-2, 1.5, 1e3, 1e6)
PYRO: list[Law] = [
    Law(
        "AffineBeta",
        pd.AffineBeta,
        lambda k, a, b, m, s: k(a, b, m, s),
        lambda x, a, b, m, s: _beta((x - m) / s, a, b),
        tuple((a, a, 0.5 * s, s) for a, s in zip(SHAPES, SCALES, strict=True)),
        units=lambda a, b, m, s: (a, b, s, s),
    ),
    Law(
        "AsymmetricLaplace",
        pd.AsymmetricLaplace,
        lambda k, m, a, s: k(m, s, a),
        _asymmetric_laplace,
        _with(1.7),
        units=_of_scale,
    ),
    Law(
        "BetaBinomial",
        pd.BetaBinomial,
        lambda k, a, b: k(a, b, 5),
        _counts(lambda n, a, b: stats.betabinom.sf(n, 5, a, b)),
        tuple((a, a) for a in SHAPES),
        whole=True,
    ),
    Law(
        "Delta", pd.Delta, lambda k, v: k(v), lambda x, v: (x < v) * 1.0, tuple((s,) for s in SCALES), mean=lambda v: v
    ),
    Law(
        "DirichletMultinomial",
        pd.DirichletMultinomial,
        lambda k, a, b: k(stack(a, b), 5),
        _counts(lambda n, a, b: stats.betabinom.sf(n, 5, a, b)),
        tuple((a, a) for a in SHAPES),
        statistic=first,
        whole=True,
    ),
    Law(
        "ExpandedDistribution",
        pd.ExpandedDistribution,
        lambda k, m, s: k(pd.Logistic(m, s), m.shape),
        lambda x, m, s: special.expit(-(x - m) / s),
        location_scale(),
        units=_scale,
    ),
    Law(
        "ExtendedBetaBinomial",
        pd.ExtendedBetaBinomial,
        lambda k, a, b: k(a, b, torch.tensor(5.0)),
        _counts(lambda n, a, b: stats.betabinom.sf(n, 5, a, b)),
        tuple((a, a) for a in SHAPES),
        whole=True,
    ),
    Law(
        "ExtendedBinomial",
        pd.ExtendedBinomial,
        lambda k, z: k(torch.tensor(5.0), logits=z),
        _counts(lambda n, z: stats.binom.sf(n, 5, special.expit(z))),
        COUNTS,
        units=_ones,
        whole=True,
    ),
    Law(
        "FoldedDistribution",
        pd.FoldedDistribution,
        lambda k, m, s: k(pd.Normal(m, s)),
        lambda x, m, s: _normal(x, m, s) + stats.norm.cdf((-x - m) / s),
        location_scale(),
        units=_scale,
    ),
    Law(
        "GammaPoisson",
        pd.GammaPoisson,
        lambda k, a, r: k(a, r),
        _counts(lambda n, a, r: stats.nbinom.sf(n, a, r / (1 + r))),
        ((TINY, 1.0), (1e-2, 0.1), (1.5, 0.7), (30.0, 0.01), (1e3, 1e-3)),
        whole=True,
    ),
    Law(
        "LKJ",
        pd.LKJ,
        lambda k, c: k(3, c),
        lambda x, c: _beta((x + 1) / 2, c + 0.5, c + 0.5),
        ((1e-6,), (1e-2,), (1.5,), (1e3,), (1e6,)),
        statistic=lambda x: x[..., 1, 0],
    ),
    Law(
        "Logistic",
        pd.Logistic,
        lambda k, m, s: k(m, s),
        lambda x, m, s: special.expit(-(x - m) / s),
        location_scale(),
        units=_scale,
    ),
    Law(
        "MaskedDistribution, nothing masked",
        pd.MaskedDistribution,
        lambda k, m, s: k(pd.Normal(m, s), torch.ones_like(m).bool()),
        _normal,
        location_scale(),
        units=_scale,
    ),
    Law(
        "MaskedDistribution",
        pd.MaskedDistribution,
        lambda k, m, s: k(pd.Normal(m, s), torch.arange(len(m)) % 2 == 0),
        _normal,
        location_scale(),
        units=_scale,
    ),
    Law(
        "MaskedMixture",
        pd.MaskedMixture,
        lambda k, m, s: k(torch.zeros_like(m).bool(), pd.Normal(m, s), pd.Normal(-m, s)),
        _normal,
        location_scale(),
        units=_scale,
    ),
    Law(
        "MixtureOfDiagNormals",
        pd.MixtureOfDiagNormals,
        lambda k, a, b, m, n, s: k(stack(m, n).unsqueeze(-1), stack(s, s).unsqueeze(-1), stack(a, b)),
        _mixture,
        tuple((0.3, -0.2, -0.5 * s, s, s) for s in SCALES),
        statistic=first,
        units=lambda a, b, m, n, s: (1.0, 1.0, s, s, s),
    ),
    Law(
        "MixtureOfDiagNormalsSharedCovariance",
        pd.MixtureOfDiagNormalsSharedCovariance,
        lambda k, a, b, m, n, s: k(stack(stack(m, m), stack(n, n)).mT, stack(s, s), stack(a, b)),
        _mixture,
        tuple((0.3, -0.2, -0.5 * s, s, s) for s in SCALES),
        statistic=first,
        units=lambda a, b, m, n, s: (1.0, 1.0, s, s, s),
    ),
    Law(
        "MultivariateStudentT",
        pd.MultivariateStudentT,
        lambda k, n, m, s: k(n, m.unsqueeze(-1), s[..., None, None]),
        lambda x, n, m, s: stats.t.sf((x - m) / s, n),
        tuple((n, 0.5 * s, s) for n, s in zip((0.05, 0.5, 3.0, 1e3, 1e8), SCALES, strict=True)),
        statistic=first,
        units=lambda n, m, s: (n, s, s),
    ),
    Law(
        "NanMaskedMultivariateNormal",
        pd.NanMaskedMultivariateNormal,
        lambda k, m, s: k(m.unsqueeze(-1), scale_tril=s[..., None, None]),
        _normal,
        location_scale(),
        statistic=first,
        units=_scale,
    ),
    Law("NanMaskedNormal", pd.NanMaskedNormal, lambda k, m, s: k(m, s), _normal, location_scale(), units=_scale),
    Law(
        "OrderedLogistic",
        pd.OrderedLogistic,
        lambda k, z: k(z, torch.tensor([-1.0, 1.0])),
        lambda x, z: special.expit(z + 1) * (x < 1) * (x >= 0) + special.expit(z - 1) * (x < 2) * (x >= 1) + (x < 0),
        ((-60.0,), (-5.0,), (0.4,), (5.0,), (60.0,)),
        units=_ones,
        whole=True,
    ),
    Law(
        "ProjectedNormal",
        pd.ProjectedNormal,
        lambda k, a, b: k(stack(a, b)),
        _projected,
        ((TINY, TINY), (1e-3, 1e-3), (0.7, -0.4), (3.0, -2.0), (10.0, -8.0)),
        statistic=first,
        units=_ones,
    ),
    Law(
        "RejectionExponential",
        RejectionExponential,
        lambda k, r, c: k(r, c),
        lambda x, r, c: np.exp(-r * np.maximum(x, 0)),
        tuple((r, 0.25) for r in (30 * TINY, 1e-3, 1.3, 1e4, HUGE / 30)),
    ),
    Law(
        "RejectionGamma",
        RejectionGamma,
        lambda k, a, r: k(a, r),
        _gamma,
        ((1.0, 30 * TINY), (1.1, 1e-3), (2.5, 0.7), (1e3, 1e4), (1e6, 1e20)),
    ),
    Law(
        "RelaxedBernoulliStraightThrough",
        pd.RelaxedBernoulliStraightThrough,
        lambda k, t, z: k(t.detach().flatten()[0], logits=z),
        lambda x, t, z: special.expit(z) * (x < 1),
        ((0.01, -80.0), (0.05, -7.0), (0.7, 0.4), (20.0, 7.0), (1e4, 80.0)),
        units=_ones,
        fixed=1,
    ),
    Law(
        "RelaxedOneHotCategoricalStraightThrough",
        pd.RelaxedOneHotCategoricalStraightThrough,
        lambda k, t, a, b: k(t.detach().flatten()[0], logits=stack(a, b)),
        lambda x, t, a, b: special.expit(a - b) * (x < 1),
        ((0.01, -60.0, 0.0), (0.05, -7.0, 0.0), (0.7, 0.4, 0.0), (20.0, 7.0, 0.0), (1e4, 60.0, 0.0)),
        statistic=first,
        units=_ones,
        fixed=1,
    ),
    Law(
        "SineSkewed",
        pd.SineSkewed,
        lambda k, a, c: k(pd.VonMises(torch.zeros_like(c).unsqueeze(-1), c.unsqueeze(-1)).to_event(1), a.unsqueeze(-1)),
        _sine_skewed,
        ((1e-3, 1e-3), (0.1, 0.1), (0.5, 1.5), (0.9, 10.0), (0.9, 40.0)),
        statistic=first,
    ),
    Law(
        "SkewLogistic",
        pd.SkewLogistic,
        lambda k, m, a, s: k(m, s, a),
        lambda x, m, a, s: -np.expm1(-a * np.logaddexp(0, -(x - m) / s)),
        _with(1.7),
        units=_of_scale,
    ),
    Law(
        "SoftAsymmetricLaplace",
        pd.SoftAsymmetricLaplace,
        lambda k, m, a, s: k(m, s, a),
        _soft_asymmetric,
        _with(1.7),
        units=_of_scale,
    ),
    Law(
        "SoftLaplace",
        pd.SoftLaplace,
        lambda k, m, s: k(m, s),
        lambda x, m, s: 2 / np.pi * np.arctan(np.exp(-(x - m) / s)),
        location_scale(),
        units=_scale,
    ),
    Law(
        "Stable",
        pd.Stable,
        lambda k, m, s: k(torch.ones_like(m), torch.zeros_like(m), s, m),
        lambda x, m, s: stats.cauchy.sf((x - m) / s),
        location_scale(),
        units=_scale,
    ),
    Law(
        "StableWithLogProb",
        pd.StableWithLogProb,
        lambda k, m, s: k(torch.ones_like(m), torch.zeros_like(m), s, m),
        lambda x, m, s: stats.cauchy.sf((x - m) / s),
        location_scale(),
        units=_scale,
    ),
    Law(
        "ZeroInflatedDistribution",
        pd.ZeroInflatedDistribution,
        lambda k, g, r: k(pd.Poisson(r), gate=g),
        _counts(lambda n, g, r: np.where(n < 0, 1.0, (1 - g) * special.gammainc(np.maximum(n, -0.5) + 1, r))),
        ((1e-3, TINY), (0.1, 1e-3), (0.3, 3.5), (0.6, 1e3), (0.9, 1e6)),
        whole=True,
    ),
    Law(
        "ZeroInflatedNegativeBinomial",
        pd.ZeroInflatedNegativeBinomial,
        lambda k, g, r, z: k(r, logits=z, gate=g),
        _counts(lambda n, g, r, z: np.where(n < 0, 1.0, (1 - g) * stats.nbinom.sf(n, r, special.expit(-z)))),
        ((1e-3, TINY, -80.0), (0.1, 1e-2, -5.0), (0.3, 2.5, 0.4), (0.6, 30.0, 3.0), (0.9, 1e3, 5.0)),
        units=lambda g, r, z: (g, r, 1.0),
        whole=True,
    ),
    Law(
        "ZeroInflatedPoisson",
        pd.ZeroInflatedPoisson,
        lambda k, g, r: k(r, gate=g),
        _counts(lambda n, g, r: np.where(n < 0, 1.0, (1 - g) * special.gammainc(np.maximum(n, -0.5) + 1, r))),
        ((1e-3, TINY), (0.1, 1e-3), (0.3, 3.5), (0.6, 1e3), (0.9, 1e6)),
        whole=True,
    ),
]
# Those of Pyro that are left out.
NO_GRADIENT = "has no parameter with a gradient, or no sampler"
STRUCTURE = "a structure without a marginal in closed form"
NO_BATCH = "takes no batch"
LEFT_OUT: dict[str, str] = {
    "AVFMultivariateNormal": NO_BATCH,
    "CoalescentTimes": STRUCTURE,
    "CoalescentTimesWithRate": NO_GRADIENT,
    "DiscreteHMM": STRUCTURE,
    "Empirical": NO_GRADIENT,
    "GammaGaussianHMM": STRUCTURE,
    "GaussianHMM": STRUCTURE,
    "GaussianMRF": NO_GRADIENT,
    "GaussianScaleMixture": NO_BATCH,
    "GroupedNormalNormal": NO_GRADIENT,
    "ImproperUniform": NO_GRADIENT,
    "IndependentHMM": STRUCTURE,
    "LinearHMM": STRUCTURE,
    "LKJCorrCholesky": "a deprecated name of LKJCholesky",
    "LogNormalNegativeBinomial": NO_GRADIENT,
    "OMTMultivariateNormal": NO_BATCH,
    "OneOneMatching": STRUCTURE,
    "OneTwoMatching": STRUCTURE,
    "Rejector": "abstract: RejectionExponential and RejectionGamma are in the sweep",
    "SineBivariateVonMises": STRUCTURE,
    "SpanningTree": STRUCTURE,
    "TruncatedPolyaGamma": NO_GRADIENT,
    "Unit": NO_GRADIENT,
    "VonMises3D": NO_GRADIENT,
    "ExponentialFamily": "abstract",
    "TorchDistribution": "abstract",
}
