"""Weak derivatives: c and the distributions p⁺ and p⁻ with ∇p = c (p⁺ - p⁻), and how to draw from these two.

Source: [pflug1989sampling] and [mohamed2020monte], sec. 6; for the scale of a Normal [heidergott2008sensitivity].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributions as td
from torch import Generator, Tensor
from torch.distributions import Distribution
from torch.nn import functional

from sampleprop import noise
from sampleprop.distributions.gamma import Gamma
from sampleprop.estimators.coupled import diagonal_normal
from sampleprop.estimators.exact import changes
from sampleprop.families import Discrete, Variables
from sampleprop.families.parameters import asked, missing


class Split(NamedTuple):
    """The weak derivative with respect to one parameter, from a sample and other values for each coordinate."""

    values: int | None  # how many other values each coordinate gets; None for one for each other class
    others: Callable[[Any, Tensor, Generator | None], Tensor]  # [values, k, *batch, *event]
    derivative: Callable[[Any, Tensor, Tensor], Tensor]  # from f(other) - f(x), [values, k, *batch, *sites]


class Coordinates(NamedTuple):
    """The coordinates of variables, which are replaced one at a time."""

    variables: Variables  # with a MultivariateNormal separated
    holder: Any  # what the functions of the splits get: the distribution inside Independent, or the discrete variables
    splits: dict[str, Split]  # by parameter
    sites: tuple[int, ...]  # the shape of the event with one entry for each coordinate

    def number(self, name: str) -> int:
        """How many other values each coordinate gets for this parameter."""
        values = self.splits[name].values
        return changes.other_classes(self.holder) if values is None else values

    def probes(self, names: tuple[str, ...]) -> int:
        """How many points differ from one sample by one coordinate, for these parameters."""
        return math.prod(self.sites) * sum(self.number(name) for name in names)

    def asked(self) -> tuple[str, ...]:
        """The parameters that require a gradient; all of them, where that cannot be known yet."""
        named = self.variables.parameters
        return asked({name: named[name] for name in self.splits})

    def missing(self, names: tuple[str, ...]) -> list[str]:
        """The parameters that require a gradient and are not among `names`."""
        return missing(self.variables.parameters, names)


def coordinates(variables: Variables) -> Coordinates:
    """The coordinates of variables that are not refused, and how their derivatives split."""
    variables = diagonal_normal.separate(variables)
    if isinstance(variables, Discrete):
        return Coordinates(variables, variables, {"logits": _LOGITS}, changes.sites(variables))
    base, named = variables.base, variables.parameters  # probs or logits, whichever was given
    splits = {name: split for name, split in SPLITS[type(base)].items() if name in named}
    return Coordinates(variables, base, splits, tuple(variables.event_shape))


def refusal(name: str, variables: Variables) -> str | None:
    """Why the derivatives of these variables do not split, with the fix; None if they do."""
    dependence = diagonal_normal.dependence(variables)
    if dependence is not None:
        return (
            f"{name} needs a MultivariateNormal with a diagonal covariance; got {dependence}. Build it by "
            "scale_tril=torch.diag_embed(scale), or take Independent(Normal(loc, scale), 1), if its coordinates are "
            "independent; else use Pathwise or ScoreFunction."
        )
    kind = type(variables.base)
    if not isinstance(variables, Discrete) and kind not in SPLITS and kind is not td.MultivariateNormal:
        known = ", ".join(dict.fromkeys(kind.__name__ for kind in SPLITS))
        return (
            f"{name} needs {known}, Bernoulli, OneHotCategorical, Categorical or MultivariateNormal; got "
            f"{variables.kind}. Use ScoreFunction for any distribution, or Pathwise for one with rsample."
        )
    if isinstance(variables, Discrete) or kind is td.MultivariateNormal:
        return None
    if lacking := missing(variables.parameters, SPLITS[kind]):
        return (
            f"{name} needs a {lacking[0]} without gradient for {variables.kind}; got one that requires it, and that "
            "derivative is not a multiple of the difference of two simple distributions. Use Pathwise or "
            f"ScoreFunction, or detach {lacking[0]}."
        )
    return None


_ROOT = math.sqrt(2 * math.pi)


def _normal_loc(dist: td.Normal, x: Tensor, generator: Generator | None) -> Tensor:
    distance = dist.scale * (2 * noise.exponential(x.shape, dist.loc, generator)).sqrt()
    return torch.stack((dist.loc + distance, dist.loc - distance))


def _normal_scale(dist: td.Normal, x: Tensor, generator: Generator | None) -> Tensor:
    # If M is two-sided Maxwell and U uniform, then ε = UM is normal. Given ε, M² - ε² is exponential with mean 2.
    epsilon = (noise.promote(x) - dist.loc) / dist.scale
    m = (epsilon.square() + 2 * noise.exponential(x.shape, dist.loc, generator)).sqrt().copysign(epsilon)
    return (dist.loc + dist.scale * m).unsqueeze(0)


def _longer(dist: td.Gamma | td.Exponential, x: Tensor, generator: Generator | None) -> Tensor:
    return (x + noise.exponential(x.shape, dist.rate, generator) / dist.rate).unsqueeze(0)


def _neighbours(dist: td.Binomial, x: Tensor, generator: Generator | None) -> Tensor:
    # One trial fails in p⁻ and succeeds in p⁺. Given x, it is one of the x successes or of the n - x failures.
    return torch.stack((torch.minimum(x + 1, dist.total_count), (x - 1).clamp_min(0)))


def _by_trial(dist: td.Binomial, x: Tensor, rise: Tensor) -> Tensor:
    return (dist.total_count - x) * rise[0] - x * rise[1]


def _one_more_run(dist: td.Geometric | td.NegativeBinomial, x: Tensor, generator: Generator | None) -> Tensor:
    # One more run of trials, including the trial that ends it: 1 + a geometric variable.
    logits = noise.promote(dist.logits if isinstance(dist, td.Geometric) else -dist.logits)  # of the end of a run
    run = noise.exponential(x.shape, logits, generator) / functional.softplus(logits)
    return (x + 1 + run.floor()).unsqueeze(0)


# For bits and classes the changes to every other class serve all logits at once.
_LOGITS = Split(None, lambda variables, x, generator: changes.all_changed(variables, x), changes.derivative)
# The keys are exact classes, because a subclass may be another distribution.
_GAMMA = {"rate": Split(1, _longer, lambda d, x, rise: -rise[0] * d.concentration / d.rate)}
SPLITS: dict[type[Distribution], dict[str, Split]] = {
    td.Normal: {
        "loc": Split(2, _normal_loc, lambda d, x, rise: (rise[0] - rise[1]) / (d.scale * _ROOT)),
        "scale": Split(1, _normal_scale, lambda d, x, rise: rise[0] / d.scale),
    },
    td.Gamma: _GAMMA,
    Gamma: _GAMMA,
    td.Exponential: {"rate": Split(1, _longer, lambda d, x, rise: -rise[0] / d.rate)},
    td.Poisson: {"rate": Split(1, lambda d, x, generator: (x + 1).unsqueeze(0), lambda d, x, rise: rise[0])},
    td.Binomial: {
        "probs": Split(2, _neighbours, _by_trial),
        "logits": Split(2, _neighbours, lambda d, x, rise: d.probs * (1 - d.probs) * _by_trial(d, x, rise)),
    },
    td.Geometric: {
        "probs": Split(1, _one_more_run, lambda d, x, rise: -rise[0] / d.probs),
        "logits": Split(1, _one_more_run, lambda d, x, rise: -rise[0] * (1 - d.probs)),
    },
    td.NegativeBinomial: {
        "probs": Split(1, _one_more_run, lambda d, x, rise: rise[0] * d.total_count / (1 - d.probs)),
        "logits": Split(1, _one_more_run, lambda d, x, rise: rise[0] * d.total_count * d.probs),
    },
}
