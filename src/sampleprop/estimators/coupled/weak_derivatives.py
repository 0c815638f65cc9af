"""Weak derivatives: the distributions whose difference is the derivative of another one, and how to draw from them."""

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
from sampleprop.estimators.exact import changes
from sampleprop.families import Discrete, Variables, recognize
from sampleprop.tracing import inspectable


class Split(NamedTuple):
    """The weak derivative by one parameter, from a sample and other values for each coordinate."""

    parts: int | None  # values for each coordinate; None for one for each other class
    others: Callable[[Any, Tensor, Generator | None], Tensor]  # [parts, k, *batch, *event]
    derivative: Callable[[Any, Tensor, Tensor], Tensor]  # from f(other) - f(x), [parts, k, *batch, *sites]


class Parts(NamedTuple):
    """What a distribution is made of."""

    parameters: Any  # the distribution inside Independent, or the discrete variables: what holds the parameters
    splits: dict[str, Split]  # by parameter
    sites: tuple[int, ...]  # the shape of the event with one entry for each coordinate that is replaced

    def number(self, name: str) -> int:
        """How many values each coordinate gets for this parameter."""
        parts = self.splits[name].parts
        return changes.other_classes(self.parameters) if parts is None else parts


def parts_of(variables: Variables) -> Parts:
    """The coordinates of variables whose distribution has a derivative that splits, and how it splits."""
    if isinstance(variables, Discrete):
        return Parts(variables, {"logits": _LOGITS}, changes.sites(variables))
    base, named = variables.base, variables.parameters  # probs or logits, whichever it was given
    splits = {name: split for name, split in SPLITS[type(base)].items() if name in named}
    return Parts(base, splits, tuple(variables.event_shape))


def separate(variables: Variables) -> Variables:
    """The same variables, with a MultivariateNormal of diagonal covariance as independent Normal variables."""
    base: Any = variables.base
    if type(base) is not td.MultivariateNormal:
        return variables
    scale = base._unbroadcasted_scale_tril.diagonal(dim1=-2, dim2=-1)
    normals = td.Normal(base.loc, scale, validate_args=False)
    return recognize(td.Independent(normals, variables.event_ndim + 1, validate_args=False))


def dependence(variables: Variables) -> str | None:
    """In what way the coordinates of a MultivariateNormal depend on each other; None if they do not."""
    base: Any = variables.base
    if type(base) is not td.MultivariateNormal or not inspectable(base._unbroadcasted_scale_tril):
        return None
    if bool(base._unbroadcasted_scale_tril.tril(-1).any()):
        return "one with a covariance off the diagonal"
    for name, matrix in variables.parameters.items():
        node = matrix.grad_fn
        while node is not None and node.name().startswith("Expand"):
            node = node.next_functions[0][0]
        if name != "loc" and matrix.requires_grad and not (node is not None and node.name().startswith("DiagEmbed")):
            return f"one whose {name} may have a gradient off the diagonal"
    return None


_ROOT = math.sqrt(2 * math.pi)


def _normal_loc(dist: td.Normal, x: Tensor, generator: Generator | None) -> Tensor:
    w = (2 * noise.exponential(x.shape, dist.loc, generator)).sqrt()
    return torch.stack((dist.loc + dist.scale * w, dist.loc - dist.scale * w))


def _normal_scale(dist: td.Normal, x: Tensor, generator: Generator | None) -> Tensor:
    # If M is two-sided Maxwell and U uniform, ε = UM is normal; given ε, M² - ε² is exponential with mean 2.
    epsilon = (noise.promote(x) - dist.loc) / dist.scale
    m = (epsilon.square() + 2 * noise.exponential(x.shape, dist.loc, generator)).sqrt().copysign(epsilon)
    return (dist.loc + dist.scale * m).unsqueeze(0)


def _longer(dist: td.Gamma | td.Exponential, x: Tensor, generator: Generator | None) -> Tensor:
    return (x + noise.exponential(x.shape, dist.rate, generator) / dist.rate).unsqueeze(0)


def _neighbours(dist: td.Binomial, x: Tensor, generator: Generator | None) -> Tensor:
    # One trial fails in p⁻ and succeeds in p⁺; given x, it is one of the x successes or of the n - x failures.
    return torch.stack((torch.minimum(x + 1, dist.total_count), (x - 1).clamp_min(0)))


def _by_trial(dist: td.Binomial, x: Tensor, rise: Tensor) -> Tensor:
    return (dist.total_count - x) * rise[0] - x * rise[1]


def _one_more_run(dist: td.Geometric | td.NegativeBinomial, x: Tensor, generator: Generator | None) -> Tensor:
    # The trials up to one more end of a run, this one included: 1 + a geometric variable.
    logits = noise.promote(dist.logits if isinstance(dist, td.Geometric) else -dist.logits)  # that a run ends
    run = noise.exponential(x.shape, logits, generator) / functional.softplus(logits)
    return (x + 1 + run.floor()).unsqueeze(0)


# For bits and classes, c (p⁺ - p⁻) is the derivative by the logit: the change to each other class stands for all logits.
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
