"""Solutions of a solver at perturbed scores: the base of their distribution, and what `recognize` makes of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from torch import Generator, Size, Tensor
from torch.distributions import Distribution

from sampleprop import noise
from sampleprop.families.variables import Variables


class Solved(Distribution, ABC):
    """The distribution of solver(θ + σ Z), for noise Z with a density proportional to e^-ν(Z)."""

    scores: Tensor
    scale: float

    @abstractmethod
    def standard_noise(self, shape: Size, generator: Generator | None) -> Tensor:
        r"""Draw Z, [\*shape, \*batch, \*scores], in float32 at least."""

    @abstractmethod
    def slope(self, standard: Tensor) -> Tensor:
        """∇ν at Z, of its shape."""

    @abstractmethod
    def solve(self, scores: Tensor) -> Tensor:
        """The solutions at these scores: [..., *scores] -> [..., *event], detached."""

    @abstractmethod
    def with_scores(self, scores: Tensor) -> Self:
        """The same distribution with other scores, which may have more batch dimensions on the left."""


class Solutions(Variables):
    """The solutions of a solver, or several independent ones that are one draw. They have no log-probability."""

    is_discrete = True

    def __init__(self, dist: Distribution, base: Solved, copies_ndim: int) -> None:
        self.dist = dist
        self.base: Solved = base
        self.event_ndim = copies_ndim + base.scores.dim() - len(base.batch_shape)
        self.dtype = base.scores.dtype
        self.scores_given = noise.promote(base.scores)

    @property
    def attached(self) -> bool:
        return self.base.scores.requires_grad

    @property
    def parameters(self) -> dict[str, Tensor]:
        return {"scores": self.scores_given}

    def sample(self, k: int, generator: Generator | None = None) -> Tensor:
        return self.solutions(self.standard_noise(k, generator))

    def standard_noise(self, k: int, generator: Generator | None = None) -> Tensor:
        """Draw Z, [k, *batch, *scores]."""
        return self.base.standard_noise(Size((k,)), generator)

    def solutions(self, standard: Tensor, shift: Tensor | float = 0.0) -> Tensor:
        """The solutions at θ + σ Z + shift, [k, *batch, *event], detached."""
        perturbed = self.scores_given.detach() + self.base.scale * standard + shift
        return self.base.solve(perturbed.to(self.dtype))

    def mode(self) -> Tensor:
        """The solution without noise, which need not be the most probable one."""
        return self.base.solve(self.base.scores.detach())

    def rsample(self, k: int | None, generator: Generator | None = None) -> Tensor:
        raise TypeError("The solution of a solver has no derivative.")

    def log_prob(self, points: Tensor) -> Tensor:
        raise TypeError("The solution of a solver has no log-probability that is known.")

    def scores(self, points: Tensor, names: Sequence[str] | None = None) -> tuple[Tensor, ...]:
        raise TypeError("The solution of a solver has no log-probability that is known.")

    @property
    def knows_mode(self) -> bool:
        return True
