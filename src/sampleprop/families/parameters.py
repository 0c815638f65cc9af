"""The parameters of a distribution: their names, the same distribution with others, and what they move."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributions as td
from torch import Tensor
from torch.distributions import Distribution

from sampleprop import noise
from sampleprop.families.solutions import Solved
from sampleprop.families.variables import unwrap
from sampleprop.tracing import inspectable


def named(base: Distribution) -> dict[str, Tensor]:
    """The tensors that a distribution (outside of the discrete families) was built with, by name.

    Raises:
        TypeError: for a distribution that does not keep its parameters under their names (a transformed one, say).
    """
    found: dict[str, Tensor] = {}
    for name, constraint in base.arg_constraints.items():
        value = base.__dict__.get(name)
        if isinstance(value, Tensor) and not getattr(constraint, "is_discrete", False):
            found[name] = value
    # Of several spellings of one parameter the first is kept: the others may have been computed from it later.
    for spellings in ({"probs", "logits"}, {"scale_tril", "covariance_matrix", "precision_matrix"}):
        for other in [name for name in base.__dict__ if name in found and name in spellings][1:]:
            del found[other]
    if not found:
        raise TypeError(
            f"The gradient with respect to the parameters of {type(base).__name__} needs a distribution that keeps "
            "them under the names in its arg_constraints; got none. Pass a distribution such as Normal(loc, scale)."
        )
    return found


def constraint_of(base: Distribution, name: str) -> td.constraints.Constraint:
    """The range of a parameter, by its name in `Variables.parameters`."""
    if isinstance(base, td.MixtureSameFamily) and name not in base.arg_constraints:
        return td.constraints.real if name == "weights" else constraint_of(unwrap(base.component_distribution)[0], name)
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
    elif isinstance(base, td.Bernoulli | td.OneHotCategorical | td.Categorical):
        made = kind(logits=tensors["logits"], validate_args=False)
    else:
        fixed = {
            name: base.__dict__[name]
            for name, constraint in base.arg_constraints.items()
            if name in base.__dict__ and getattr(constraint, "is_discrete", False)
        }
        try:
            made = kind(**fixed, **tensors, validate_args=False)
        except TypeError as error:
            raise _not_rebuilt(base, f"its constructor does not take {', '.join(tensors)} alone ({error})") from error
    _refuse_lost_state(base, made)
    return td.Independent(made, event_ndim, validate_args=False) if event_ndim else made


def attached(dist: Distribution) -> bool:
    """Whether any tensor of the distribution requires a gradient."""
    stack: list[Any] = [dist]
    seen: set[int] = set()  # a transform and its inverse hold each other
    while stack:
        part = stack.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        for value in vars(part).values():
            if isinstance(value, Tensor) and value.requires_grad:
                return True
            inner = value if isinstance(value, list) else [value]
            stack.extend(x for x in inner if isinstance(x, Distribution | td.Transform))
    return False


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
    if moving_support(inner):
        return True
    bounded = support(inner) not in _UNBOUNDED
    for transform in _flat(base.transforms):
        if not isinstance(transform, td.AffineTransform):
            bounded = bounded or transform.codomain not in _UNBOUNDED
        elif bounded and any(isinstance(v, Tensor) and v.requires_grad for v in (transform.loc, transform.scale)):
            return True
    return False


def bernoulli_logits(dist: td.Bernoulli) -> Tensor:
    """The logits as they were given, or of the probabilities as they were given; float32 at least."""
    given = dist._param
    raised = noise.promote(given)
    if given is not dist.__dict__.get("probs"):
        return raised
    _refuse_saturated(dist, raised)
    return torch.logit(raised)  # not dist.logits: torch clamps, which loses the gradient near 0 and 1


def categorical_logits(dist: td.Categorical) -> Tensor:
    """The normalized logits of what was given; float32 at least."""
    given = dist._param
    raised = noise.promote(given)
    if given is not dist.__dict__.get("probs"):
        # torch normalized them in the dtype that it was given; below float32 that is not exact enough.
        return raised if raised is given else raised.log_softmax(-1)
    _refuse_saturated(dist, raised)
    return raised.log()


_UNBOUNDED = (td.constraints.real, td.constraints.real_vector)
_FIXED_SUPPORT = (td.Bernoulli, td.Categorical, td.OneHotCategorical, td.Normal, td.Poisson)


def _flat(transforms: list[td.Transform]) -> Iterator[td.Transform]:
    for transform in transforms:
        if isinstance(transform, td.ComposeTransform):
            yield from _flat(transform.parts)
        elif isinstance(transform, td.IndependentTransform):
            yield from _flat([transform.base_transform])
        else:
            yield transform


def _refuse_saturated(dist: Distribution, probs: Tensor) -> None:
    if probs.requires_grad and inspectable(probs) and bool(((probs == 0) | (probs == 1)).any()):
        raise ValueError(
            f"The gradient with respect to the probs of {type(dist).__name__} needs probabilities inside (0, 1): the "
            "score of a saturated probability is lost; got exactly 0 or 1. Give the distribution by its logits, or "
            "detach probs."
        )


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
