"""Whether a distribution is what its class says: its methods belong to one law, and `rsample` reparameterizes it.

A subclass that overrides `probs` and inherits `log_prob` is sampled as one distribution and scored as another. The
methods of torch's own classes belong together, and so do those of ours and of the classes of Pyro that only wrap
torch's. Every other class must define what it changes as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributions as td
from torch import Tensor
from torch.distributions import Distribution, Independent
from torch.distributions.constraints import Constraint

from sampleprop.families.reparameterized import Reparameterized
from sampleprop.tracing import constant_when_compiled, inspectable

# The methods that say what a distribution is. `draw` is the sampler of our own distributions.
METHODS = frozenset({"sample", "rsample", "draw", "log_prob", "probs", "logits"})
_REPLACED = METHODS - {"probs", "logits"}  # those that no object holds as an attribute of its own
_ROOTS = (Distribution, td.ExponentialFamily, Reparameterized)
_WRAPPERS = (Independent, td.TransformedDistribution, td.MixtureSameFamily)
_ONE_HAND = ("torch.distributions.", "sampleprop.distributions.", "sampleprop.families.reparameterized")
_PYRO = ("pyro.distributions.torch", "pyro.distributions.torch_distribution")
# Further modules of Pyro whose classes inherit a part of what torch wrote, and were found right by the sweep of laws.
_PYRO_RIGHT = tuple(f"pyro.distributions.{name}" for name in ("extended", "folded", "nanmasked", "zero_inflated"))
# Its modules with a backward pass of their own that was found wrong, or that no test here has looked at.
_PYRO_WRONG = tuple(
    f"pyro.distributions.{name}"
    for name in (
        "diag_normal_mixture",
        "diag_normal_mixture_shared_cov",
        "gaussian_scale_mixture",
        "omt_mvn",
        "avf_mvn",
    )
)


class Law(NamedTuple):
    """What a class says about itself.

    Attributes:
        contradiction: which methods it overrides and which it inherits, where they may be of another distribution.
        no_path: why its `rsample` is not known to be a reparameterization; None where it is.
        plain: whether it is torch's or our own class, or a subclass that overrides none of `METHODS`.
        leaf: whether its objects hold no further distributions that could have been given to them.
        discrete: whether its samples take values in a countable set; None where only its objects know.
    """

    contradiction: str | None
    no_path: str | None
    plain: bool
    leaf: bool
    discrete: bool | None = None


@constant_when_compiled
def of_class(kind: type[Distribution]) -> Law:
    """What the class says, found once."""
    law = _FOUND.get(kind)
    if law is None:
        law = _FOUND[kind] = _read(kind)
    return law


def plain(base: Distribution) -> bool:
    """Whether all methods of this object are those of torch's class."""
    return of_object(base).plain


def of_object(base: Distribution) -> Law:
    """What the class says, unless a method was replaced on the object itself."""
    if torch.compiler.is_dynamo_compiling():
        return of_class(type(base))
    law = _FOUND.get(type(base)) or of_class(type(base))
    return law if _REPLACED.isdisjoint(vars(base)) else law._replace(plain=False, leaf=False)


def unwrap(dist: Distribution) -> tuple[Distribution, int]:
    """The distribution inside (nested) `Independent`, and how many of its batch dimensions are event dimensions.

    A subclass of `Independent` with methods of its own is a distribution of its own.
    """
    base, event_ndim, _ = inside(dist)
    return base, event_ndim


def inside(dist: Distribution) -> tuple[Distribution, int, Law]:
    """What `unwrap` returns, and what the class of the distribution inside says."""
    event_ndim, law = 0, of_object(dist)
    while isinstance(dist, Independent) and law.plain:
        event_ndim += dist.reinterpreted_batch_ndims
        dist = dist.base_dist
        law = of_object(dist)
    return dist, event_ndim, law


def contradiction(dist: Distribution) -> str | None:
    """How the methods of a distribution, or of one inside it, contradict each other; None if they do not."""
    if torch.compiler.is_dynamo_compiling():
        return of_class(type(dist)).contradiction
    for part in parts(dist):
        kind = type(part).__name__
        found = of_class(type(part)).contradiction
        if found is not None:
            return found
        if not _REPLACED.isdisjoint(vars(part)):
            names = ", ".join(sorted(_REPLACED & vars(part).keys()))
            return f"{kind} whose {names} was replaced on the object. Write a subclass with sample and log_prob instead"
        mask = vars(part).get("_mask", True)
        if kind == "MaskedDistribution" and mask is not True and not _all(mask):
            return (
                "MaskedDistribution, which draws what it masks and gives it no log_prob. Pass the distribution under "
                "the mask, and let f leave out what is masked"
            )
    return None


def no_path(dist: Distribution) -> str | None:
    """Why `rsample` of a distribution, or of one inside it, is not known to reparameterize it; None if it is."""
    if torch.compiler.is_dynamo_compiling():
        return of_class(type(dist)).no_path
    return next((found for part in parts(dist) if (found := of_class(type(part)).no_path) is not None), None)


_FOUND: dict[type[Distribution], Law] = {}


def _read(kind: type[Distribution]) -> Law:
    author = next(owner for owner in kind.__mro__ if not METHODS.isdisjoint(vars(owner)))
    if _one_hand(author):
        leaf = not issubclass(kind, _WRAPPERS) and author.__module__.startswith(("torch.", "pyro.distributions.torch"))
        return Law(None, None, True, leaf and author.__module__ != _PYRO[1], _discrete(kind))
    own = METHODS & vars(author).keys()
    above = kind.__mro__[kind.__mro__.index(author) + 1 :]
    inherits = {}  # by method: the class whose law it is
    sampler = _owner("sample", above)
    if sampler in _ROOTS or sampler is None:  # they call rsample, or draw
        sampler = None if own & {"rsample", "draw"} else _owner("draw", above) or _owner("rsample", above)
    if "sample" not in own and sampler not in (None, *_ROOTS):
        inherits["sample"] = sampler
    if "log_prob" not in own and _owner("log_prob", above) not in (None, *_ROOTS):
        inherits["log_prob"] = _owner("log_prob", above)
    return Law(
        _contradiction(kind.__name__, own, inherits), _no_path(kind, author, own, above), plain=False, leaf=False
    )


def _discrete(kind: type[Distribution]) -> bool | None:
    support: Any = kind.support  # a constraint, or a property; torch's own say this for all objects of the class
    try:
        return bool(support.is_discrete) if isinstance(support, Constraint) else None
    except NotImplementedError:
        return None


def _contradiction(kind: str, own: frozenset[str], inherits: dict[str, Any]) -> str | None:
    if not inherits:
        return None
    owner = next(iter(inherits.values())).__name__
    lacks = " and ".join(inherits)
    return (
        f"{kind}, which overrides {' and '.join(sorted(own))} and inherits {lacks} from {owner}: that may be another "
        f"distribution. Define {lacks} in {kind} too; one that only calls super() says that the inherited one is right"
    )


def _no_path(kind: type[Distribution], author: type, own: frozenset[str], above: tuple[type, ...]) -> str | None:
    name = kind.__name__
    if author.__module__ in _PYRO_WRONG:
        return f"{name}, whose own backward pass is not right for all of its parameters"
    scored = _owner("score_parts", kind.__mro__)
    if scored is not None and scored.__module__ not in ("pyro.distributions.distribution", _PYRO[1]):
        return f"{name}, whose samples are reparameterized only in part: the rest is in its score_parts"
    if not own & {"rsample", "draw"}:
        owner = _owner("rsample", above)
        if not own & {"sample", "log_prob"} or owner in (None, *_ROOTS):
            return None
        return f"{name}, which inherits rsample from {owner.__name__} and overrides {' and '.join(sorted(own))}"
    if "draw" in own and _owner("draw", above) is Reparameterized:
        return None  # the contract of that class
    stated = _owner("has_rsample", kind.__mro__)
    if stated is author or (stated is not None and METHODS.isdisjoint(vars(stated)) and not _one_hand(stated)):
        return None
    return (
        f"{name}, which overrides rsample and does not say that it reparameterizes the distribution. If it does (a "
        f"straight-through sample does not), write has_rsample = True beside it"
    )


def _owner(name: str, mro: tuple[type, ...]) -> Any:
    """The class that defines a method, in the order of resolution; None where there is none."""
    return next((owner for owner in mro if name in vars(owner)), None)


def _one_hand(owner: type) -> bool:
    return f"{owner.__module__}.".startswith(_ONE_HAND) or owner.__module__ in (*_PYRO, *_PYRO_RIGHT)


def parts(dist: Distribution) -> Iterator[Distribution]:
    """The distribution and all those inside it."""
    yield dist
    if not of_class(type(dist)).leaf:
        for value in vars(dist).values():
            if isinstance(value, Distribution):
                yield from parts(value)


def _all(mask: Tensor | bool) -> bool:
    """Whether nothing is masked, as far as this can be seen."""
    return isinstance(mask, Tensor) and inspectable(mask) and bool(mask.all())
