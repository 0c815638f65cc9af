"""What f answered for a draw, and averages over the samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, distributed

from sampleprop import parallel
from sampleprop.surrogate import unsqueeze_to

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

F = Callable[[Tensor], Tensor]


class Softening(NamedTuple):
    """How points were relaxed, for an f that relaxes further variables likewise: the rest of a program.

    Attributes:
        log_temperature: log τ, a number or [*batch].
        mean_field: whether the logits τ / (τ + 1) are added to the noisy logits over τ.
    """

    log_temperature: Tensor
    mean_field: bool = False

    def temperature(self, noisy: Tensor, event_ndim: int) -> Tensor:
        """τ, a number or [*batch, 1 for each event dimension], as the noisy logits want it."""
        temperature = self.log_temperature.to(noisy).exp()
        return unsqueeze_to(temperature, temperature.dim() + event_ndim) if temperature.dim() else temperature

    def scores(self, logits: Tensor, noisy: Tensor, temperature: Tensor) -> Tensor:
        """The logits of the relaxed points: noisy logits [m, *batch, *event] over the temperature.

        With `mean_field` they become the logits as τ grows, and not 0 (Tucker et al., 2017, appendix on MuProp).
        """
        scores = noisy * temperature.reciprocal()  # whose derivative takes half as many passes as that of a quotient
        return scores + logits * (temperature / (temperature + 1)) if self.mean_field else scores


class Soft(ABC):
    """An f that asks how its points were relaxed."""

    @abstractmethod
    def __call__(self, points: Tensor, softening: Softening | None = None) -> Tensor:
        """From points [m, *batch, *event] to costs [m, *batch]."""


@dataclass(eq=False)
class Costs:
    """What `combine` was told, checked: the costs of the points and of the probes of a draw.

    Attributes:
        points: [k, *batch], f(draw.points), attached to θ; float32 at least.
        probe_costs: [m, *batch], f(draw.probes), without graph; None where the draw has no probes.
        relaxed_f: f itself, for estimators that evaluate it at points of their own. The rest of a program also takes
            how they were relaxed, as `Softening`.
        context: [*batch, ...], for learned baselines and critics.
        keep: [k, *batch], False for samples that are left out, for estimators that `can_drop`; None for all.
        group: further samples of the same distribution; None where there are none.
    """

    points: Tensor
    probe_costs: Tensor | None = None
    relaxed_f: F | None = None
    context: Tensor | None = None
    keep: Tensor | None = None
    group: Group | None = None

    @property
    def fixed(self) -> Tensor:
        """The costs of the points without graph."""
        return self.points.detach()

    @property
    def probes(self) -> Tensor:
        """The costs of the probes, for estimators whose draws have some."""
        assert self.probe_costs is not None
        return self.probe_costs

    @property
    def f(self) -> F:
        """f itself, where `calls_f`."""
        assert self.relaxed_f is not None
        return self.relaxed_f

    def shared(self, x: Tensor) -> Tensor:
        """Each number divided by the number of samples, [k, *batch]: the sum over the samples is then the average."""
        return x if x.shape[0] == 1 else x / x.shape[0]

    def beyond_others(self) -> Tensor:
        """[k, *batch], how much each cost exceeds the mean of the others, times its share; without graph."""
        x = self.points.detach()
        k = x.shape[0]
        if self.group is not None:  # whose ranks have no cost in common that could be subtracted first
            return self.shared(x - others(x.double(), group=self.group)).to(x.dtype)
        # Differences are small numbers: the result sums to 0 up to their rounding, not up to that of the costs.
        x = x - x[:1]
        beyond = x.sub(x.sum(0), alpha=1 / k)
        return beyond if k == 2 else beyond.div_(k - 1)

    def detach(self) -> Costs:
        """The same without graph."""
        # Not dataclasses.replace, which torch 2.6 does not compile.
        return Costs(self.fixed, self.probe_costs, self.relaxed_f, self.context, self.keep, self.group)

    def mean(self) -> Tensor:
        """[*batch], the mean cost: what most estimators return as the value."""
        return self.average(self.points)

    def average(self, x: Tensor) -> Tensor:
        """The mean over the samples: [k, *batch, ...] -> [*batch, ...]."""
        if x.shape[0] == 1 and not torch.compiler.is_dynamo_compiling():
            return x.squeeze(0)  # half the time of a mean; but a compiled step takes longer to return a view
        return x.mean(0)


class Group(NamedTuple):
    """Which further samples of the same distribution there are, besides those of the costs' dimension 0.

    Attributes:
        dim: a batch dimension of the costs over which a program runs independent particles, counted from the right (-1
            is the last one), so that it holds for [k, *batch] and [*batch] alike.
        particles: how many particles that dimension holds one after the other, where each has several rows:
            [particles * rows]. None where the whole dimension is particles.
        process_group: the ranks that hold further samples of the same batch elements, as many each. The average over
            the ranks, of the values as of the gradients, is then what one process would have with all samples.
    """

    dim: int | None = None
    process_group: ProcessGroup | None = None
    particles: int | None = None

    def size(self, costs: Tensor) -> int:
        """The number of samples of one batch element, for costs [k, *batch] on this rank.

        Raises:
            ValueError: when `dim` is not a batch dimension of the costs.
        """
        if self.dim is not None and not 0 < -self.dim < costs.dim():
            raise ValueError(
                f"A group needs Group(dim=...) from {1 - costs.dim()} to -1, a batch dimension counted from the right; "
                f"got {self.dim} for costs {list(costs.shape)}."
            )
        ranks = 1 if self.process_group is None else distributed.get_world_size(self.process_group)
        if self.dim is None:
            return costs.shape[0] * ranks
        return costs.shape[0] * ranks * (self.particles or costs.shape[self.dim])


def others(x: Tensor, keep: Tensor | None = None, group: Group | None = None) -> Tensor:
    """For each sample the mean over the others that are kept, 0 where there are none.

    Args:
        x: [k, *batch, ...] of two samples or more; [k, ..., *batch] with a group.
        keep: [k, *batch], or None for all.
        group: further samples; with ranks the result is detached.
    """
    if keep is None and group is None:
        return (x.sum(0) - x) / (x.shape[0] - 1)
    one = torch.ones_like(x) if keep is None else unsqueeze_to(keep, x.dim()).to(x.dtype)
    kept = x if keep is None else torch.where(unsqueeze_to(keep, x.dim()), x, 0.0)
    total, count = totals(kept, one.expand_as(x), group=group)
    return (total - kept) / (count - one).clamp_min(1)


def totals(*xs: Tensor, group: Group | None = None) -> tuple[Tensor, ...]:
    """The sum of each tensor over all samples, in one collective: [k, *batch, ...] -> [1, *batch, ...].

    The size of the dimension `group.dim` becomes 1 as well; where it holds several rows of each particle, every row
    gets the sum over its particles.
    """
    sums = torch.stack(xs).sum(1, keepdim=True)
    if group is not None and group.dim is not None:
        if group.particles is None:
            sums = sums.sum(group.dim, keepdim=True)
        else:
            rows = sums.shape[group.dim] // group.particles
            apart = sums.unflatten(group.dim, (group.particles, rows))  # the particles are at dim - 1
            sums = apart.sum(group.dim - 1, keepdim=True).expand_as(apart).flatten(group.dim - 1, group.dim)
    if group is not None and group.process_group is not None:
        sums = parallel.total(sums, group.process_group)
    return sums.unbind(0)
