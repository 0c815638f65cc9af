"""The protocol of a baseline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from sampleprop.costs import Costs
from sampleprop.families import Variables


class Baseline(nn.Module, ABC):
    """What is subtracted from the cost. It may depend on anything but the sample that it is subtracted for.

    Attributes:
        samples_least: how many samples of one batch element it needs. The samples of a group's other particles and
            ranks are counted.
        probe_count: how many further evaluations of f it asks for.
    """

    samples_least: ClassVar[int] = 1
    probe_count: ClassVar[int] = 0

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

    @property
    def learned(self) -> bool:
        """Whether it has parameters to train, on the squared error."""
        return any(parameter.requires_grad for parameter in self.parameters())

    @property
    def label(self) -> str:
        """The name in tables and messages."""
        return type(self).__name__

    def __repr__(self) -> str:
        return self.label
