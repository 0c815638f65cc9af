"""The protocol of a baseline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from sampleprop.costs import Costs
from sampleprop.families import Variables
from sampleprop.families.parameters import asked
from sampleprop.surrogate import train


class Baseline(nn.Module, ABC):
    """A number that is subtracted from the cost of a sample. It may depend on anything except this sample.

    Attributes:
        samples_least: how many samples of one batch element it needs. The samples of a group's other particles and
            ranks are counted.
        probe_count: how many further evaluations of f it asks for.
        moves: whether it changes in training mode without an optimizer.
    """

    samples_least: ClassVar[int] = 1
    probe_count: ClassVar[int] = 0
    moves: ClassVar[bool] = False

    def refusal(self, variables: Variables) -> str | None:
        """Why this baseline cannot be computed for these variables, with the fix; None if it can."""
        return None

    def probes(self, variables: Variables) -> Tensor | None:
        """Further points at which f is needed, [probe_count, *batch, *event], detached."""
        return None

    @abstractmethod
    def value(self, variables: Variables, points: Tensor, costs: Costs) -> Tensor:
        """Return b for each sample, [k, *batch], attached to nothing but the baseline's own parameters.

        Args:
            variables: p_φ.
            points: [k, *batch, *event].
            costs: the costs of the points, detached, with the costs of the probes, the context, the mask and the group.
        """

    def mean(self, variables: Variables) -> Tensor | None:
        """E[b(x)], [*batch], attached to φ, for a b that depends on the sample; None for a b that does not."""
        return None

    def learn(self, result: Tensor, variables: Variables, points: Tensor, b: Tensor, costs: Costs) -> Tensor:
        """Return `result`; its backward pass also changes this baseline. Called in training mode only.

        Parameters learn from ½ (f - b)² ‖∇_φ log p_φ(x)‖². Its mean is half the variance of one sample's gradient, plus
        a constant. The mean cost, which minimizes the mean of (f - b)², can be worse than no baseline at all. Where a
        distribution does not keep its parameters under their names, the squared error has no weight.

        Args:
            result: the estimate, [*batch].
            variables: p_φ, attached to φ.
            points: [k, *batch, *event].
            b: what `value` returned, [k, *batch].
            costs: as `value` got them.
        """
        if not self.learned:
            return result
        return train(result, costs.average((b - costs.points).square() * _weight(variables, points, b.dim()) / 2))

    @property
    def learned(self) -> bool:
        """Whether it has parameters to train."""
        return any(parameter.requires_grad for parameter in self.parameters())

    @property
    def label(self) -> str:
        """The name in tables and messages."""
        return type(self).__name__

    def __repr__(self) -> str:
        return self.label


def squared_length(scores: Sequence[Tensor], ndim: int) -> Tensor:
    """The squared length of all these together, of the first `ndim` dimensions: [*batch] or [k, *batch]."""
    first, *others = (s.square().unsqueeze(-1).flatten(ndim).sum(-1) for s in scores)
    return sum(others, first)


def _weight(variables: Variables, points: Tensor, ndim: int) -> Tensor | float:
    """The squared length of the scores with respect to those parameters whose gradient is asked for, [k, *batch]."""
    try:
        names = asked(variables.parameters)
    except TypeError:
        return 1.0
    return squared_length(variables.scores(points, names), ndim)
