"""What the library knows of `torch.distributions`: parameters, samples and scores, through `Independent`.

Three discrete families are known in full (`sampleprop.discrete`); every other distribution is sampled and scored by its
own methods, with its noise drawn here where its own `rsample` would not take a generator or not work under `vmap`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributions as td
from torch import Generator, Size, Tensor
from torch.distributions import Distribution

from sampleprop import continuous, counts, noise
from sampleprop.discrete import Bernoullis as Bernoullis
from sampleprop.discrete import Discrete as Discrete
from sampleprop.discrete import Integers as Integers
from sampleprop.discrete import OneHots as OneHots
from sampleprop.discrete import one_hot as one_hot
from sampleprop.reparameterized import Reparameterized
from sampleprop.surrogate import value_and_grad


def discrete(dist: Distribution) -> Discrete | None:
    """The discrete variables of `dist`, or None for a distribution of another kind, or with a `sample` of its own.

    Raises:
        ValueError: for a probability of exactly 0 or 1 whose gradient is asked for.
    """
    base, event_ndim = unwrap(dist)
    if isinstance(base, td.Bernoulli) and type(base).sample is td.Bernoulli.sample:
        return Bernoullis(_bernoulli_logits(base), event_ndim, noise.floating(base._param))
    if isinstance(base, td.OneHotCategorical) and type(base).sample is td.OneHotCategorical.sample:
        return OneHots(_categorical_logits(base._categorical), event_ndim + 1, noise.floating(base._categorical._param))
    if isinstance(base, td.Categorical) and type(base).sample is td.Categorical.sample:
        return Integers(_categorical_logits(base), event_ndim + 1, torch.int64)
    return None


def variables(dist: Distribution) -> Discrete:
    """The discrete variables of `dist`, for estimators that take no other distribution.

    Raises:
        TypeError: for a distribution of another kind.
    """
    known = discrete(dist)
    if known is None:
        raise TypeError(
            "This estimator needs Bernoulli, OneHotCategorical or Categorical variables; got "
            f"{type(unwrap(dist)[0]).__name__}. Use ScoreFunction for any distribution."
        )
    return known


def unwrap(dist: Distribution) -> tuple[Distribution, int]:
    """The distribution inside (nested) `Independent`, and how many of its batch dimensions are event dimensions."""
    event_ndim = 0
    while isinstance(dist, td.Independent):
        event_ndim += dist.reinterpreted_batch_ndims
        dist = dist.base_dist
    return dist, event_ndim


def is_discrete(dist: Distribution) -> bool:
    """Whether samples of `dist` take values in a countable set, whatever `dist.has_rsample` says."""
    base, _ = unwrap(dist)
    if isinstance(base, td.TransformedDistribution):
        return is_discrete(base.base_dist)
    if isinstance(base, td.MixtureSameFamily):
        return is_discrete(base.component_distribution)
    return bool(getattr(_support(base), "is_discrete", False))


def _support(dist: Distribution) -> Any:
    """The support, or None for a distribution that does not state it."""
    try:
        return dist.support
    except NotImplementedError:
        return None


def sample(dist: Distribution, k: int, generator: Generator | None = None) -> Tensor:
    """Draw [k, *batch, *event], detached."""
    variables = discrete(dist)
    if variables is not None:
        return variables.sample(k, generator)
    with torch.no_grad():
        base, _ = unwrap(dist)
        if _own_rsample(base) is not None and _samples_by_rsample(base):
            return rsample(dist, k, generator)
        own = counts.SAMPLE.get(type(base).sample)
        if own is not None:
            return own(base, k, generator)
        with noise.borrowed(generator):
            return dist.sample(Size((k,))).detach()


def rsample(dist: Distribution, k: int | None, generator: Generator | None = None) -> Tensor:
    """Draw [k, *batch, *event], attached to φ by the distribution's reparameterization; [*batch, *event] for None."""
    return _rsample(dist, _ONE if k is None else Size((k,)), generator)


def _rsample(dist: Distribution, shape: Size, generator: Generator | None) -> Tensor:
    base, _ = unwrap(dist)
    own = _own_rsample(base)
    if own is not None:
        return own(base, shape, generator)
    with noise.borrowed(generator):
        return dist.rsample(shape)


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


def gradient_asked(x: Tensor) -> bool:
    """Whether `x` requires a gradient, also for a `torch.func` transform around the innermost one."""
    while not inspectable(x) and not torch.compiler.is_compiling() and not x.requires_grad:
        x = torch._C._functorch.get_unwrapped(x)
    return x.requires_grad


def smooth_rsample(dist: Distribution) -> bool:
    """Whether `rsample` is an explicit formula that autograd differentiates to any order.

    torch's Gamma has no second derivative, and its Beta and Dirichlet lose it silently; what is not known here counts
    as such.
    """
    base, _ = unwrap(dist)
    if type(base).rsample in continuous.RSAMPLE:
        return True
    if isinstance(base, td.TransformedDistribution) and type(base).rsample is td.TransformedDistribution.rsample:
        return smooth_rsample(base.base_dist)
    return isinstance(base, Reparameterized) and base.smooth


def score(dist: Distribution, points: Tensor) -> tuple[Tensor, ...]:
    """The derivative of log p_φ at each point by each of `parameters(dist)`: [k, *batch, ...] each, without graph."""
    variables = discrete(dist)
    if variables is not None:
        return (variables.score(points),)
    base, _ = unwrap(dist)
    if type(base) is td.Normal:  # written out: it is asked for most
        scale = base.scale.detach()
        steps = (noise.raised(points) - base.loc.detach()) / scale
        return steps / scale, (steps.square() - 1) / scale
    named = parameters(dist)
    # Each point gets its own copy of the parameters, so that one backward pass gives every score.
    copies = tuple(p.detach().expand(points.shape[0], *p.shape) for p in named.values())

    def total(*tensors: Tensor) -> Tensor:
        return log_prob(with_parameters(dist, dict(zip(named, tensors, strict=True))), points).sum()

    with torch.no_grad():
        return value_and_grad(total, *copies)[1]


def log_prob(dist: Distribution, points: Tensor) -> Tensor:
    """log p_φ(points), [k, *batch], attached to φ; float32 at least."""
    variables = discrete(dist)
    if variables is not None:
        return variables.log_prob(points)
    base, event_ndim = unwrap(dist)
    _refuse_rounded(base, points)
    # Another tensor object: a transform with a cache knows its own results again, and would leave φ out.
    points = points.view_as(points)
    if isinstance(base, td.Geometric) and type(base).log_prob is td.Geometric.log_prob and not base._validate_args:
        result = counts.geometric_log_prob(base, points)
    else:
        result = base.log_prob(points)
    # Summed here: Independent reshapes on the way, which an empty batch does not survive.
    return noise.raised(result.sum(tuple(range(-event_ndim, 0))) if event_ndim else result)


def _refuse_rounded(dist: Distribution, points: Tensor) -> None:
    """Refuse samples of which torch kept only that they are next to an edge: their score is lost.

    A stray one does no harm that could be seen; more than one in a hundred (and at least two) are a bias. On a GPU this waits
    for the device, as torch's own validation of these families does.
    """
    above = type(dist) in (td.Beta, td.Kumaraswamy, td.Dirichlet, td.RelaxedBernoulli)
    if not (above or type(dist) in (td.Gamma, td.RelaxedOneHotCategorical)) or not inspectable(points):
        return
    least, step = torch.finfo(points.dtype).tiny, torch.finfo(points.dtype).eps
    rounded = points.detach() <= least
    if above:
        rounded = rounded | (points.detach() >= 1 - step)
    count = int(rounded.sum())
    if count > max(1, points.numel() / 100):
        raise ValueError(
            f"The score of {type(dist).__name__} needs samples that floating point can tell from the edge of the support; "
            f"got {count} of {points.numel()} rounded to it in {points.dtype}. Use Pathwise, a milder temperature or "
            "concentration, or the distribution of the logarithm or the logit."
        )


def mode(dist: Distribution) -> Tensor:
    """The most probable point, [*batch, *event], detached."""
    variables = discrete(dist)
    return variables.mode() if variables is not None else dist.mode.detach()


def parameters(dist: Distribution) -> dict[str, Tensor]:
    """The tensors φ acts through, by name: the logits of a discrete family, else what the distribution was built with.

    Raises:
        TypeError: for a distribution that does not keep its parameters under their names (a transformed one, say).
    """
    variables = discrete(dist)
    if variables is not None:
        return {"logits": variables.logits}
    base, _ = unwrap(dist)
    if isinstance(base, td.MixtureSameFamily) and not base.arg_constraints:
        return {"weights": _categorical_logits(base.mixture_distribution)} | parameters(base.component_distribution)
    found: dict[str, Tensor] = {}
    for name, constraint in base.arg_constraints.items():
        value = base.__dict__.get(name)
        if isinstance(value, Tensor) and not getattr(constraint, "is_discrete", False):
            found[name] = value
    # One of several spellings of the same parameter: the others may have been computed from it since, and so came later.
    for spellings in ({"probs", "logits"}, {"scale_tril", "covariance_matrix", "precision_matrix"}):
        for other in [name for name in base.__dict__ if name in found and name in spellings][1:]:
            del found[other]
    if not found:
        raise TypeError(
            f"The gradient by the parameters of {type(base).__name__} needs a distribution that keeps them under the "
            "names in its arg_constraints; got none. Pass a distribution such as Normal(loc, scale)."
        )
    return found


def with_parameters(dist: Distribution, tensors: dict[str, Tensor]) -> Distribution:
    """A distribution like `dist` with other parameters, as named by `parameters`; they may have more batch dimensions.

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
        f"The gradient by the parameters of {kind} needs a like distribution with other parameters; {why}. Give {kind} a "
        "constructor whose arguments are its parameters and that sets all else, or use ScoreFunction or Pathwise."
    )


def moving_support(dist: Distribution) -> bool:
    """Whether the support of `dist` moves with parameters whose gradient could be asked for.

    Known: Uniform, Pareto, bounds that require a gradient, and an affine transform of a base that is bounded.
    """
    base, _ = unwrap(dist)
    if isinstance(base, _FIXED_SUPPORT):
        return False
    if isinstance(base, td.Uniform | td.Pareto):
        return True
    if isinstance(base, td.MixtureSameFamily):
        return moving_support(base.component_distribution)
    support = _support(base)
    bounds = [getattr(support, name, None) for name in ("lower_bound", "upper_bound")]
    if any(isinstance(bound, Tensor) and bound.requires_grad for bound in bounds):
        return True
    if type(base) is not td.TransformedDistribution:
        return False
    inner = unwrap(base.base_dist)[0]
    if moving_support(inner):
        return True
    bounded = _support(inner) not in _UNBOUNDED
    for transform in _flat(base.transforms):
        if not isinstance(transform, td.AffineTransform):
            bounded = bounded or transform.codomain not in _UNBOUNDED
        elif bounded and any(isinstance(v, Tensor) and v.requires_grad for v in (transform.loc, transform.scale)):
            return True
    return False


_ONE = Size(())

_UNBOUNDED = (td.constraints.real, td.constraints.real_vector)


def _flat(transforms: list[td.Transform]) -> Iterator[td.Transform]:
    for transform in transforms:
        if isinstance(transform, td.ComposeTransform):
            yield from _flat(transform.parts)
        elif isinstance(transform, td.IndependentTransform):
            yield from _flat([transform.base_transform])
        else:
            yield transform


_FIXED_SUPPORT = (td.Bernoulli, td.Categorical, td.OneHotCategorical, td.Normal, td.Poisson)


def _bernoulli_logits(dist: td.Bernoulli) -> Tensor:
    given = dist._param
    raised = noise.raised(given)
    if given is not dist.__dict__.get("probs"):
        return raised
    _refuse_saturated(dist, raised)
    return torch.logit(raised)  # not dist.logits: torch clamps, which loses the gradient near 0 and 1


def _categorical_logits(dist: td.Categorical) -> Tensor:
    given = dist._param
    raised = noise.raised(given)
    if given is not dist.__dict__.get("probs"):
        # torch normalized in the dtype that it was given; below float32 that is not exact enough.
        return raised if raised is given else raised.log_softmax(-1)
    _refuse_saturated(dist, raised)
    return raised.log()


def _refuse_saturated(dist: Distribution, probs: Tensor) -> None:
    if probs.requires_grad and inspectable(probs) and bool(((probs == 0) | (probs == 1)).any()):
        raise ValueError(
            f"The gradient by the probs of {type(dist).__name__} needs probabilities inside (0, 1): the score of a "
            "saturated probability is lost; got exactly 0 or 1. Give the distribution by its logits, or detach probs."
        )


def inspectable(x: Tensor) -> bool:
    """Whether the values of `x` may steer Python: not while compiling, not under `torch.func`."""
    return not torch.compiler.is_compiling() and not torch._C._functorch.is_functorch_wrapped_tensor(x)


def _own_rsample(base: Distribution) -> continuous.Sampler | None:
    if isinstance(base, td.TransformedDistribution) and not base.has_rsample:
        return None
    return _RSAMPLE.get(type(base).rsample)


def _samples_by_rsample(base: Distribution) -> bool:
    """Whether no subclass has replaced `sample` below the class that brings `rsample`."""
    kind: Any = type(base)
    owner = next(base for base in kind.__mro__ if "rsample" in vars(base))
    return kind.sample is owner.sample


def _rsample_reparameterized(dist: Reparameterized, shape: Size, generator: Generator | None) -> Tensor:
    return dist.draw(shape, generator)


def _rsample_transformed(dist: td.TransformedDistribution, shape: Size, generator: Generator | None) -> Tensor:
    x = _rsample(dist.base_dist, shape, generator)
    for transform in dist.transforms:
        x = transform(x)
    return x


# By the method, not the class: a subclass that brings its own rsample is taken at its word.
_RSAMPLE: dict[Any, continuous.Sampler] = continuous.RSAMPLE | {
    td.TransformedDistribution.rsample: _rsample_transformed,
    Reparameterized.rsample: _rsample_reparameterized,
}
