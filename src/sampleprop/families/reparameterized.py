"""What every distribution of our own shares: samples that are attached to φ, with noise from a generator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Generator, Size, Tensor
from torch.distributions import Distribution


class Reparameterized(Distribution, ABC):
    """A distribution whose samples are a differentiable function of its parameters and of noise.

    Subclasses keep each parameter under the name that `arg_constraints` and `__init__` give it, and define `draw`.

    Attributes:
        smooth: whether derivatives of a sample of any order are right; otherwise the second one raises.
        periodic: whether samples are angles that jump at the end of their range. Then the gradient is right only for an
            f with the same period.
    """

    has_rsample = True
    smooth: ClassVar[bool]
    periodic: ClassVar[bool] = False

    @abstractmethod
    def draw(self, shape: Size, generator: Generator | None = None) -> Tensor:
        r"""Draw [\*shape, \*batch, \*event], attached to φ; without graph under `torch.no_grad()`.

        Args:
            shape: the sample dimensions.
            generator: the source of noise; the default one if None.
        """

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.draw(Size(sample_shape))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return self.draw(Size(sample_shape))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        dims = len(self.batch_shape)
        given = {name: getattr(self, name) for name in self.arg_constraints}
        expanded = {name: p.expand(*batch_shape, *p.shape[dims:]) for name, p in given.items()}
        kind: Any = type(self)
        new: Self = kind(**expanded, validate_args=False)
        new._validate_args = self._validate_args
        return new
