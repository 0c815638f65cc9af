"""`recognize`: the only place where the type of a distribution is looked at on its way to an estimator.

Three discrete families are known in full (`discrete.py`), and structures by what their base class asks of them
(`structured.py`). Every other distribution is sampled and scored by its own methods, except for the noise of those in
`samplers.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Size, Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    MixtureSameFamily,
    Normal,
    OneHotCategorical,
    TransformedDistribution,
)

from sampleprop.families import densities, laws, parameters, samplers
from sampleprop.families.discrete import Bernoullis, Integers, OneHots
from sampleprop.families.laws import inside
from sampleprop.families.parameters import bernoulli_logits, categorical_logits
from sampleprop.families.rounding import refuse_rounded
from sampleprop.families.solutions import Solutions, Solved
from sampleprop.families.structured import LogLinear, LogLinears, Structured, Structures
from sampleprop.families.variables import Variables
from sampleprop.noise import points_dtype, promote
from sampleprop.tracing import value_and_grad


def recognize(dist: Distribution) -> Variables:
    """One of the discrete families, `Structures`, `Solutions`, or `Other`, for one with methods of its own too."""
    base, event_ndim, law = inside(dist)
    plain = law.plain
    if plain and isinstance(base, Bernoulli):
        return Bernoullis(bernoulli_logits(base), event_ndim, points_dtype(base._param), dist, base)
    if plain and isinstance(base, OneHotCategorical):
        inner = base._categorical
        logits = categorical_logits(inner)
        return OneHots(logits, event_ndim + 1, points_dtype(inner._param), dist, base)
    if plain and isinstance(base, Categorical):
        return Integers(categorical_logits(base), event_ndim + 1, torch.int64, dist, base)
    if plain and law.leaf:
        return (Normals if type(base) is Normal else Plain)(dist, base, event_ndim, law.discrete)
    if isinstance(base, LogLinear):
        return LogLinears(dist, base, event_ndim)
    if isinstance(base, Structured):
        return Structures(dist, base, event_ndim)
    if isinstance(base, Solved):
        return Solutions(dist, base, event_ndim)
    return Other(dist, base, event_ndim)


class Other(Variables):
    """Any other distribution, sampled and scored by its own methods."""

    _named: dict[str, Tensor] | None = None  # what `parameters.named` has found

    def __init__(self, dist: Distribution, base: Distribution, event_ndim: int) -> None:
        self.dist = dist
        self.base = base
        self.event_ndim = event_ndim

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """The dtype of the points."""
        return points_dtype(next(iter(self.parameters.values())))

    @property
    def attached(self) -> bool:
        return parameters.attached(self.dist)

    @property
    def contradiction(self) -> str | None:  # type: ignore[override]
        """How the methods of the distribution contradict each other; None if they do not."""
        return laws.contradiction(self.dist)

    @property
    def plain(self) -> bool:  # type: ignore[override]
        return laws.plain(self.base)

    @property
    def no_path(self) -> str | None:  # type: ignore[override]
        """Why `rsample` does not reparameterize the distribution; None if it does."""
        return laws.no_path(self.dist)

    @property
    def is_discrete(self) -> bool:  # type: ignore[override]
        """Whether samples take values in a countable set."""
        if isinstance(self.base, TransformedDistribution):
            return recognize(self.base.base_dist).is_discrete
        if isinstance(self.base, MixtureSameFamily):
            return recognize(self.base.component_distribution).is_discrete
        return bool(getattr(parameters.support(self.base), "is_discrete", False))

    @property
    def smooth(self) -> bool:  # type: ignore[override]
        return samplers.smooth(self.base)

    @property
    def moving_support(self) -> bool:  # type: ignore[override]
        return parameters.moving_support(self.base)

    @property
    def parameters(self) -> dict[str, Tensor]:
        base = self.base
        if isinstance(base, MixtureSameFamily) and not base.arg_constraints:
            weights = categorical_logits(base.mixture_distribution)
            return {"weights": weights} | recognize(base.component_distribution).parameters
        if self._named is None:
            self._named = parameters.named(base)
        return self._named

    def sample(self, k: int, generator: Generator | None = None) -> Tensor:
        return samplers.sample(self.dist, self.base, k, generator)

    def rsample(self, k: int | None, generator: Generator | None = None) -> Tensor:
        return samplers.rsample(self.dist, self.base, _ONE if k is None else Size((k,)), generator)

    def mode(self) -> Tensor:
        return self.dist.mode.detach()

    def log_prob(self, points: Tensor) -> Tensor:
        base = self.base
        refuse_rounded(base, points)
        # Another tensor object: a transform with a cache would recognize its own result and leave φ out.
        points = points.view_as(points)
        try:
            result = densities.log_prob(base, points)
        except KeyError as error:
            raise RuntimeError(
                f"The score of {self.kind} needs a log_prob for any points; it looked {error} up in a cache of its "
                "own samples, which do not know φ. Switch that cache off, or let the transforms have an inverse."
            ) from error
        except NotImplementedError as error:
            if not points.is_floating_point() or points.dtype.itemsize >= 4:
                raise
            raise TypeError(
                f"The score of {self.kind} needs parameters in float32 or float64: torch computes no log_prob in "
                f"{points.dtype} ({error}). Convert them first."
            ) from error
        # Summed here, because Independent reshapes first, which fails for an empty batch.
        return promote(self.sum(result))

    def scores(self, points: Tensor, names: Sequence[str] | None = None) -> tuple[Tensor, ...]:
        named = self.parameters
        names = tuple(named) if names is None else names
        # Each point gets its own copy of the parameters, so that one backward pass gives every score.
        copies = {name: p.detach().expand(points.shape[0], *p.shape) for name, p in named.items()}

        def total(*tensors: Tensor) -> Tensor:
            moved = parameters.with_parameters(self.dist, copies | dict(zip(names, tensors, strict=True)))
            return recognize(moved).log_prob(points).sum()

        with torch.no_grad():
            return value_and_grad(total, *(copies[name] for name in names))[1]


class Plain(Other):
    """One of which nothing is left to ask `laws`: its base is plain and holds no distribution that is not."""

    plain = True
    contradiction = None
    no_path = None
    is_discrete = False

    def __init__(self, dist: Distribution, base: Distribution, event_ndim: int, is_discrete: bool | None) -> None:
        super().__init__(dist, base, event_ndim)
        self.is_discrete = super().is_discrete if is_discrete is None else is_discrete


class Normals(Plain):
    """Normal variables, z = μ + σ ε, written out because they are the commonest."""

    base: Normal
    smooth = True
    moving_support = False
    _found: tuple[Tensor, Tensor] | None = None  # points, and what `noise_of` found for them

    @property
    def attached(self) -> bool:
        return self.base.loc.requires_grad or self.base.scale.requires_grad

    @property
    def parameters(self) -> dict[str, Tensor]:
        return {"loc": self.base.loc, "scale": self.base.scale}

    def rsample(self, k: int | None, generator: Generator | None = None) -> Tensor:
        return samplers.normal(self.base, _ONE if k is None else Size((k,)), generator)

    def noise_of(self, points: Tensor) -> Tensor:
        """The ε that makes these points as they were rounded, [k, *batch, *event], without graph; found once."""
        if self._found is None or self._found[0] is not points:
            with torch.set_grad_enabled(False):
                self._found = points, (promote(points) - self.base.loc) / self.base.scale
        return self._found[1]

    def scores(self, points: Tensor, names: Sequence[str] | None = None) -> tuple[Tensor, ...]:
        epsilon, scale = self.noise_of(points), self.base.scale.detach()
        names = tuple(self.parameters) if names is None else names
        return tuple((epsilon if name == "loc" else epsilon.square() - 1) / scale for name in names)


_ONE = Size(())
