"""The parameters of a distribution: their names, the same distribution with others, and what they move."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from inspect import getattr_static
from typing import Any

import torch
import torch.distributions as td
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.utils import lazy_property

from sampleprop.families.laws import unwrap
from sampleprop.families.solutions import Solved
from sampleprop.noise import promote
from sampleprop.softmax import log_softmax
from sampleprop.tracing import CACHED, cached_inverse, gradient_asked, inspectable, lose_numerators_of_zero


def named(base: Distribution) -> dict[str, Tensor]:
    """The tensors that a distribution (outside of the discrete families) was built with, by name.

    Raises:
        TypeError: for a distribution that does not keep its parameters under their names (a transformed one, say).
    """
    found: dict[str, Tensor] = {}
    try:
        constraints = base.arg_constraints
    except NotImplementedError:
        constraints = {}
    for name, constraint in constraints.items():
        value = base.__dict__.get(name)
        if value is None and _kept_otherwise(base, name):
            value = getattr(base, name)
        if isinstance(value, Tensor) and not _counts(constraint):
            found[name] = value
    # Of several spellings of one parameter the first is kept: the others may have been computed from it later.
    for spellings in _SPELLINGS:
        for other in [name for name in base.__dict__ if name in found and name in spellings][1:]:
            del found[other]
    if not found:
        raise TypeError(
            f"The gradient with respect to the parameters of {type(base).__name__} needs a distribution that keeps "
            "them under the names in its arg_constraints; got none. Pass a distribution such as Normal(loc, scale)."
        )
    return found


_SPELLINGS = ({"probs", "logits"}, {"gate", "gate_logits"}, {"scale_tril", "covariance_matrix", "precision_matrix"})


def _kept_otherwise(base: Distribution, name: str) -> bool:
    """Whether a parameter is made on demand, and not from another spelling of it."""
    if any(name in spellings and not spellings.isdisjoint(base.__dict__) for spellings in _SPELLINGS):
        return False
    return isinstance(getattr_static(type(base), name, None), lazy_property)


def _counts(constraint: td.constraints.Constraint) -> bool:
    """Whether the parameter is a number of things, which has no gradient."""
    try:
        return bool(constraint.is_discrete)
    except NotImplementedError:  # it depends on the object
        return False


def constraint_of(base: Distribution, name: str) -> td.constraints.Constraint:
    """The range of a parameter, by its name in `Variables.parameters`."""
    if isinstance(base, td.MixtureSameFamily) and name not in base.arg_constraints:
        return td.constraints.real if name == "weights" else constraint_of(unwrap(base.component_distribution)[0], name)
    if name not in base.arg_constraints and isinstance(base, td.Bernoulli | td.OneHotCategorical | td.Categorical):
        return td.constraints.real  # a subclass with parameters of its own, of which the logits are made
    return base.arg_constraints[name]


def with_parameters(dist: Distribution, tensors: dict[str, Tensor]) -> Distribution:
    """A distribution like `dist` with other parameters, by the names in `Variables.parameters`.

    Args:
        dist: the model.
        tensors: the parameters; they may have more batch dimensions on the left.

    Raises:
        TypeError: for a subclass that holds more than its parameters, which a new object would not have.
    """
    base, event_ndim = unwrap(dist)
    kind: Any = type(base)
    if isinstance(base, td.MixtureSameFamily) and not base.arg_constraints:
        components = {name: tensor for name, tensor in tensors.items() if name != "weights"}
        made = kind(
            td.Categorical(logits=tensors["weights"], validate_args=False),
            with_parameters(base.component_distribution, components),
            validate_args=False,
        )
    elif isinstance(base, Solved):
        made = base.with_scores(tensors["scores"])
    elif isinstance(base, td.Bernoulli | td.OneHotCategorical | td.Categorical) and "logits" in tensors:
        made = kind(logits=tensors["logits"], validate_args=False)
    else:
        fixed = {
            name: base.__dict__[name]
            for name, constraint in base.arg_constraints.items()
            if name in base.__dict__ and _counts(constraint)
        }
        try:
            made = kind(**fixed, **tensors, validate_args=False)
        except TypeError as error:
            raise _not_rebuilt(base, f"its constructor does not take {', '.join(tensors)} alone ({error})") from error
    _refuse_lost_state(base, made)
    return td.Independent(made, event_ndim, validate_args=False) if event_ndim else made


def attached(dist: Distribution) -> bool:
    """Whether any tensor of the distribution requires a gradient."""
    return any(tensor.requires_grad for tensor in tensors(dist).values())


def device_of(dist: Distribution) -> torch.device:
    """Where samples of `dist` live."""
    return next((tensor.device for tensor in tensors(dist).values()), torch.get_default_device())


def tensors(dist: Distribution) -> dict[str, Tensor]:
    """Every tensor in the distribution, its transforms and its networks, each once, by the names that lead to it."""
    found: dict[str, Tensor] = {}
    stack: list[tuple[str, Any]] = [("", dist)]
    seen: set[int] = set()  # a transform and its inverse hold each other
    while stack:
        name, part = stack.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        inner: list[tuple[str, Any]] = []
        if isinstance(part, Tensor):
            found[name] = part
        elif isinstance(part, list | tuple):
            inner = [(str(i), x) for i, x in enumerate(part)]
        elif isinstance(part, dict):
            inner = [(str(key), x) for key, x in part.items()]
        elif isinstance(part, Distribution | td.Transform | nn.Module):
            inner = [("" if key in _REGISTERS else key, x) for key, x in vars(part).items() if key != CACHED]
        stack.extend((".".join(filter(None, (name, key))), x) for key, x in reversed(inner))
    return found


def asked(named: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The parameters that require a gradient; all of them, where that cannot be known yet."""
    found = tuple(name for name, parameter in named.items() if gradient_asked(parameter))
    return found if found and torch.is_grad_enabled() else tuple(named)


def missing(named: Mapping[str, Tensor], names: Collection[str]) -> list[str]:
    """The parameters that require a gradient and are not among `names`."""
    return [name for name, parameter in named.items() if name not in names and gradient_asked(parameter)]


def support(base: Distribution) -> Any:
    """The support, or None for a distribution that does not state it."""
    try:
        return base.support
    except NotImplementedError:
        return None


def moving_support(base: Distribution) -> bool:
    """Whether the support moves with parameters whose gradient could be asked for.

    Known: Uniform, Pareto, bounds that require a gradient, and an affine transform of a base that is bounded.
    """
    if isinstance(base, _FIXED_SUPPORT):
        return False
    if isinstance(base, td.Uniform | td.Pareto):
        return True
    if isinstance(base, td.MixtureSameFamily):
        return moving_support(unwrap(base.component_distribution)[0])
    edges = support(base)
    bounds = [getattr(edges, name, None) for name in ("lower_bound", "upper_bound")]
    if any(isinstance(bound, Tensor) and bound.requires_grad for bound in bounds):
        return True
    if type(base) is not td.TransformedDistribution:
        return False
    inner = unwrap(base.base_dist)[0]
    if moving_support(inner) and attached(inner):
        return True
    transforms = flat(base.transforms)
    if not any(map(_moves, transforms)):
        return False
    edges = support(inner)
    for transform in transforms:
        if isinstance(transform, td.AffineTransform):
            if edges not in UNBOUNDED and _moves(transform):
                return True
        elif edges in UNBOUNDED or _same_range(edges, transform.domain):
            edges = transform.codomain
        elif transform.codomain in UNBOUNDED:
            edges = None  # a part of the line, whose ends are not worked out
        else:
            edges = transform.codomain
    return False


def bernoulli_logits(dist: td.Bernoulli) -> Tensor:
    """The logits as they were given, or of the probabilities as they were given; float32 at least."""
    given = dist._param
    raised = promote(given)
    if given is not dist.__dict__.get("probs"):
        return raised
    logits = torch.logit(raised)  # not dist.logits: torch clamps, which loses the gradient near 0 and 1
    if raised.requires_grad and inspectable(raised):
        certain = logits.detach().isinf()
        if certain.is_cuda or bool(certain.any()):  # on CUDA without a look, for which the host would wait
            # Their derivative is lost, and becomes NaN: 0 divided by p (1 - p) = 0.
            logits.register_hook(lambda gradient: gradient.masked_fill(certain, 0.0))
    return logits


def categorical_logits(dist: td.Categorical) -> Tensor:
    """The normalized logits of what was given; float32 at least."""
    given = dist._param
    raised = promote(given)
    if given is not dist.__dict__.get("probs"):
        # torch normalized them in the dtype that it was given; below float32 that is not exact enough.
        return raised if raised is given else log_softmax(raised)
    if raised.requires_grad and inspectable(raised):
        impossible = raised.detach() == 0
        if impossible.is_cuda or bool(impossible.any()):
            return _log_with_lost(raised, impossible)
    return raised.log()


def flat(transforms: Sequence[td.Transform]) -> list[td.Transform]:
    """The transforms, with those that are composed of others taken apart."""
    found: list[td.Transform] = []
    for transform in transforms:
        if isinstance(transform, td.ComposeTransform):
            found += flat(transform.parts)
        elif isinstance(transform, td.IndependentTransform):
            found += flat([transform.base_transform])
        else:
            found.append(transform)
    return found


def origins(dist: Distribution, points: Tensor) -> tuple[Tensor, ...]:
    """What the transforms of a distribution made these points from, as far as their caches keep it.

    A log_prob of the points looks them up there, and so its path to φ leads around the points.
    """
    found: list[Tensor] = []
    base, _ = unwrap(dist)
    while isinstance(base, td.TransformedDistribution):
        for transform in reversed(flat(base.transforms)):
            made_from = cached_inverse(transform, found[-1] if found else points)
            if made_from is None or not made_from.requires_grad:
                return tuple(found)
            found.append(made_from)
        base, _ = unwrap(base.base_dist)
    return tuple(found)


def bounds(edges: Any) -> tuple[float, float] | None:
    """The ends of the range of numbers that a constraint allows; None where they are not known, or not one number."""
    found = []
    for name, default in (("lower_bound", -math.inf), ("upper_bound", math.inf)):
        bound = getattr(edges, name, default)
        if isinstance(bound, Tensor):
            if not inspectable(bound) or bound.numel() == 0 or bool((bound != bound.flatten()[0]).any()):
                return None
            bound = bound.flatten()[0].item()
        found.append(float(bound))
    return None if found == [-math.inf, math.inf] else (found[0], found[1])


_REGISTERS = ("_modules", "_parameters", "_buffers")  # of a network, no part of a name

UNBOUNDED = (td.constraints.real, td.constraints.real_vector)


def _moves(transform: td.Transform) -> bool:
    """Whether an affine transform may be trained."""
    if not isinstance(transform, td.AffineTransform):
        return False
    return any(isinstance(value, Tensor) and value.requires_grad for value in (transform.loc, transform.scale))


def _same_range(one: Any, other: Any) -> bool:
    """Whether two constraints stand for the same part of the line, ends aside."""
    found = bounds(one)
    return found is not None and found == bounds(other)


_FIXED_SUPPORT = (td.Bernoulli, td.Categorical, td.OneHotCategorical, td.Normal, td.Poisson)


def _log_with_lost(probs: Tensor, impossible: Tensor) -> Tensor:
    """log p, where the gradient with respect to a probability of exactly 0 is NaN, and no other one.

    Such a class is never drawn, so its derivative is lost. All probabilities of a row were divided by their sum, so a
    NaN in the gradient of the quotients would spread over the row. It is put in for the numerator.
    """
    if not lose_numerators_of_zero(probs):
        return probs.log()
    return torch.where(impossible, 1.0, probs).log().masked_fill(impossible, -math.inf)


def _refuse_lost_state(base: Distribution, made: Distribution) -> None:
    for name, value in vars(base).items():
        if name == "_validate_args" or isinstance(getattr(type(base), name, None), td.utils.lazy_property):
            continue
        if name not in vars(made):
            raise _not_rebuilt(base, f"it would lack {name}")
        if isinstance(value, bool | int | float | str) and vars(made)[name] != value:
            raise _not_rebuilt(base, f"it would have {name}={vars(made)[name]!r}, not {value!r}")


def _not_rebuilt(base: Distribution, why: str) -> TypeError:
    kind = type(base).__name__
    return TypeError(
        f"The gradient with respect to the parameters of {kind} needs the same distribution with other parameters; "
        f"{why}. Give {kind} a constructor whose arguments are its parameters and that sets all else, or use "
        f"ScoreFunction or Pathwise."
    )
