"""The protocol: an estimator proposes points, is told their costs, and combines them into a value with a gradient."""

from __future__ import annotations

import copy
import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, Protocol, Self, TypeVar, get_args

import torch
from torch import Generator, Tensor, distributed, nn
from torch.distributions import Distribution

from sampleprop import checks, families, parallel
from sampleprop.surrogate import unsqueeze_to

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Needs = Literal["black box", "differentiable", "relaxed"]
Objective = Literal["mean", "log-mean-exp", "elbo"]
F = Callable[[Tensor], Tensor]


class AnyDraw(Protocol):
    """What every Draw has; each estimator adds the noise that its `combine` needs."""

    @property
    def points(self) -> Tensor:
        """[k, *batch, *event]: true samples (or relaxed ones, where the facts say so) whose costs carry θ's gradient."""

    @property
    def probes(self) -> Tensor | None:
        """[m, *batch, *event]: further points, evaluated without gradient; None where there are none."""


D = TypeVar("D", bound=AnyDraw)


@dataclass(frozen=True)
class Source:
    """Where an estimator comes from.

    Attributes:
        key: the name of the entry in a bibliography.
        authors: all of them, separated by "and".
        year: of the publication.
        title: as published.
        venue: the proceedings, or the journal with its volume, or where else to find it.
        where: the section, equation or algorithm.
        arxiv: the number on arXiv, if there is one.
        kind: "inproceedings" for a conference, "article" for a journal, "misc" for what is on arXiv only.
    """

    key: str
    authors: str
    year: int
    title: str
    venue: str
    where: str = ""
    arxiv: str = ""
    kind: Literal["inproceedings", "article", "misc"] = "inproceedings"

    def bibtex(self) -> str:
        """The entry for a bibliography."""
        fields = {"author": self.authors, "year": str(self.year), "title": f"{{{self.title}}}"}
        fields[_VENUE_FIELDS[self.kind]] = self.venue
        if self.arxiv:
            fields |= {"eprint": self.arxiv, "archivePrefix": "arXiv"}
        body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
        return f"@{self.kind}{{{self.key},\n{body}\n}}"

    def __str__(self) -> str:
        where = f", {self.where}" if self.where else ""
        arxiv = f", arXiv:{self.arxiv}" if self.arxiv else ""
        return f"{self.authors} ({self.year}), “{self.title}”, {self.venue}{arxiv}{where}"


_VENUE_FIELDS = {"inproceedings": "booktitle", "article": "journal", "misc": "howpublished"}


@dataclass(frozen=True)
class Worked:
    """One example worked out by hand: what `combine` must return for given numbers.

    Attributes:
        estimator: the configuration.
        parameter: the leaf φ.
        dist: from the parameter to the distribution.
        draw: from the distribution to the points, and the noise if any, as numbers.
        f: the cost.
        value: [*batch], the value that `combine` must give.
        gradient: the gradient of the summed value by `parameter`.
    """

    estimator: Estimator[Any]
    parameter: Tensor
    dist: Callable[[Tensor], Distribution]
    draw: Callable[[Any], AnyDraw]
    f: F
    value: Tensor
    gradient: Tensor


def _own_draws(combine: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`combine`, refusing a draw that another kind of estimator proposed: its samples may be of another law."""

    @functools.wraps(combine)
    def checked(self: Estimator[Any], dist: Distribution, draw: Any, costs: Tensor, **arguments: Any) -> Tensor:
        if not isinstance(draw, self._draw_type):
            got = f"{type(draw).__module__.rpartition('.')[2]}.{type(draw).__name__}"
            raise TypeError(
                f"{self.name} needs a draw of its own, since other estimators draw by other laws; got {got}. Combine with "
                "the estimator that proposed the draw."
            )
        return combine(self, dist, draw, costs, **arguments)

    return checked


class Estimator(nn.Module, ABC, Generic[D]):
    """A gradient estimator of L(θ, φ) = E_{x ~ p_φ}[f_θ(x)].

    Subclasses state their facts, and define `propose` and `combine`; each argument of `__init__` is kept under its
    own name. Parameters of control variates are ordinary parameters of the module: give `estimator.parameters()` to
    an optimizer, and they learn from the same `loss.backward()` while the module is in training mode.

    Attributes:
        unbiased: whether the gradient's mean is ∇_φ L for every f that `needs` allows.
        exact_forward: whether f sees only true samples of p_φ (control variates apart).
        needs: what f must be: a "black box" will do; "differentiable" in x; "relaxed": defined and differentiable
            between the discrete points too.
        families: the discrete families supported, or None for any distribution.
        objective: "mean", E[f]; "log-mean-exp", the multi-sample bound, and "elbo", its one-sample form averaged, where
            f is log p(x, z).
        compiles: whether `torch.compile(fullgraph=True)` takes it; a string says why it does not.
        source: the paper.
    """

    unbiased: bool
    exact_forward: bool
    needs: Needs
    families: ClassVar[tuple[type[families.Discrete], ...] | None] = None
    objective: ClassVar[Objective] = "mean"
    compiles: ClassVar[Literal[True] | str] = True
    source: ClassVar[Source]
    samples_step: ClassVar[int] = 1

    samples: int | None

    _draw_type: ClassVar[type[tuple[Any, ...]]] = tuple

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Note the Draw that the class is an estimator of, and have its `combine` refuse those of others."""
        super().__init_subclass__(**arguments)
        for base in vars(cls).get("__orig_bases__", ()):
            for argument in get_args(base):
                if isinstance(argument, type) and issubclass(argument, tuple):
                    cls._draw_type = argument
        if "combine" in vars(cls):
            cls.combine = _own_draws(cls.combine)  # type: ignore[method-assign]

    @abstractmethod
    def propose(self, dist: Distribution, *, context: Tensor | None = None, generator: Generator | None = None) -> D:
        """Choose where f must be evaluated.

        Args:
            dist: p_φ with batch shape [*batch].
            context: [*batch, ...], for learned control variates.
            generator: the source of noise; the default one if None.
        """

    @abstractmethod
    def combine(
        self,
        dist: Distribution,
        draw: D,
        costs: Tensor,
        *,
        probe_costs: Tensor | None = None,
        relaxed_f: F | None = None,
        context: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Return [*batch]: its value estimates L, its gradient is the estimator's.

        Not random, and nothing is changed: the same numbers give the same result.

        Args:
            dist: p_φ, attached to φ; need not be the object that proposed.
            draw: what `propose` returned, possibly saved and loaded since.
            costs: f(draw.points), [k, *batch], attached to θ.
            probe_costs: f(draw.probes), [m, *batch], where the draw has probes.
            relaxed_f: f, for estimators whose `needs` is "relaxed" and that evaluate f themselves.
            context: [*batch, ...], for learned control variates.
            keep: [k, *batch], False where a cost is to be left out (it is then finite and otherwise ignored).
        """

    @property
    def learns(self) -> tuple[str, ...]:
        """The names of the trained parameters."""
        return tuple(name for name, parameter in self.named_parameters() if parameter.requires_grad)

    def evaluations(self, dist: Distribution) -> tuple[int, int]:
        """How often one estimate evaluates f (forward), and differentiates f for φ (backward), per batch element."""
        return self.draws, 0

    def order(self, dist: Distribution) -> float:
        """The highest derivative that is right; every derivative above it raises."""
        return 1

    @property
    def samples_least(self) -> int:
        """The fewest samples that one estimate can do with."""
        return self.samples_step

    @property
    def draws(self) -> int:
        """How many samples are drawn: `samples`, or one where that is None."""
        return 1 if self.samples is None else self.samples

    @property
    def adds_dimension(self) -> bool:
        """Whether a program's variable gets a sample dimension; without one, it is drawn once."""
        return self.samples is not None

    def refusal(self, dist: Distribution) -> str | None:
        """Why this estimator cannot take `dist`, with the fix; None if it can."""
        return checks.family_refusal(self.name, self.families, dist)

    def for_budget(self, dist: Distribution, evaluations: int) -> Self | None:
        """The configuration that spends the most forward evaluations within the budget, or None if none fits."""
        candidate = copy.deepcopy(self)
        for samples in range(evaluations, self.samples_least - 1, -1):
            candidate.samples = samples
            if samples % self.samples_step == 0 and candidate.evaluations(dist)[0] <= evaluations:
                return candidate
        return None

    @classmethod
    def variants(cls) -> Sequence[Self]:
        """The configurations that are certified."""
        return (cls(),)

    @classmethod
    @abstractmethod
    def worked(cls) -> Worked:
        """One example with numbers worked out by hand."""

    @property
    def name(self) -> str:
        """The name by which messages, tables and the command know this estimator."""
        return type(self).__name__

    @property
    def label(self) -> str:
        """The name with the arguments that are not the defaults: `REBAR(samples=2, coupled=True)`."""
        given = []
        for name, parameter in inspect.signature(type(self)).parameters.items():
            value = getattr(self, name)
            default = parameter.default
            if not _same(value, default):
                given.append(f"{name}={_short(value)}")
        return f"{self.name}({', '.join(given)})"

    def __repr__(self) -> str:
        return self.label

    def _repr_html_(self) -> str:
        from html import escape  # seldom wanted, and slow to import

        facts = {
            "unbiased": "yes" if self.unbiased else "no",
            "f": {"relaxed": "differentiable between the outcomes too"}.get(self.needs, self.needs),
            "f sees only true samples (control variates apart)": "yes" if self.exact_forward else "no",
            "families": ", ".join(kind.__name__ for kind in self.families) if self.families else "any",
            "objective": self.objective,
            "learns": ", ".join(self.learns) or "nothing",
            "source": str(self.source),
        }
        rows = "".join(f"<tr><th>{name}</th><td>{escape(fact)}</td></tr>" for name, fact in facts.items())
        return f"<table><caption>{escape(self.label)}</caption><tbody>{rows}</tbody></table>"


class Group(NamedTuple):
    """Which further samples of the same distribution there are, besides those of the costs' dimension 0.

    Attributes:
        dim: a batch dimension of the costs over which a program runs independent particles, counted from the right (-1
            is the last one), so that it holds for [k, *batch] and [*batch] alike.
        process_group: the ranks that hold further samples of the same batch elements, as many each. The average over
            the ranks, of the values as of the gradients, is then what one process would have with all samples.
    """

    dim: int | None = None
    process_group: ProcessGroup | None = None

    def size(self, costs: Tensor) -> int:
        """The number of samples of one batch element, for costs [k, *batch] on this rank.

        Raises:
            ValueError: when `dim` is not a batch dimension of the costs.
        """
        if self.dim is not None and not 0 < -self.dim < costs.dim():
            raise ValueError(
                f"A group needs Group(dim=...) from {1 - costs.dim()} to -1, a batch dimension counted from the right; got "
                f"{self.dim} for costs {list(costs.shape)}."
            )
        ranks = 1 if self.process_group is None else distributed.get_world_size(self.process_group)
        return costs.shape[0] * ranks * (1 if self.dim is None else costs.shape[self.dim])


class Grouped(Estimator[D]):
    """An estimator whose samples help each other also from other particles of a program and from other ranks.

    All other estimators do as well on each rank by themselves: the average over the ranks is right without a word.
    """

    @abstractmethod
    def combine(
        self,
        dist: Distribution,
        draw: D,
        costs: Tensor,
        *,
        probe_costs: Tensor | None = None,
        relaxed_f: F | None = None,
        context: Tensor | None = None,
        keep: Tensor | None = None,
        group: Group | None = None,
    ) -> Tensor:
        """As :meth:`Estimator.combine`, with the further samples there are.

        Args:
            dist: p_φ, attached to φ.
            draw: what `propose` returned.
            costs: [k, *batch].
            probe_costs: [m, *batch], where the draw has probes.
            relaxed_f: f, where `needs` is "relaxed".
            context: [*batch, ...].
            keep: [k, *batch], False where a cost is to be left out.
            group: None where there are no samples but these.
        """


def average(x: Tensor, keep: Tensor | None = None, group: Group | None = None) -> Tensor:
    """The mean over the samples that are kept: [k, *batch, ...] -> [*batch, ...].

    Args:
        x: [k, *batch, ...].
        keep: [k, *batch] or None for all.
        group: as for `kept_weights`.
    """
    if keep is None:
        return x.squeeze(0) if x.shape[0] == 1 else x.mean(0)
    kept = torch.where(unsqueeze_to(keep, x.dim()), x, 0.0)  # not a product: what is left out may be NaN
    return (unsqueeze_to(kept_weights(keep, x.dtype, group), x.dim()) * kept).sum(0)


def others(x: Tensor, keep: Tensor | None = None, group: Group | None = None) -> Tensor:
    """For each sample the mean over the others that are kept, 0 where there are none.

    Args:
        x: [k, *batch, ...] of two samples or more; [k, ..., *batch] with a group.
        keep: [k, *batch] or None for all.
        group: further samples; with ranks the result is detached.
    """
    if keep is None and group is None:
        return (x.sum(0) - x) / (x.shape[0] - 1)
    one = torch.ones_like(x) if keep is None else unsqueeze_to(keep, x.dim()).to(x.dtype)
    kept = x if keep is None else torch.where(unsqueeze_to(keep, x.dim()), x, 0.0)
    total, count = totals(kept, one.expand_as(x), group=group)
    return (total - kept) / (count - one).clamp_min(1)


def totals(*xs: Tensor, group: Group | None = None) -> tuple[Tensor, ...]:
    """The sum of each over all samples, in one collective: [k, *batch, ...] -> [1, *batch, ...], 1 also for `group.dim`."""
    sums = torch.stack(xs).sum(1, keepdim=True)
    if group is not None and group.dim is not None:
        sums = sums.sum(group.dim, keepdim=True)
    if group is not None and group.process_group is not None:
        sums = parallel.total(sums, group.process_group)
    return sums.unbind(0)


def kept_weights(keep: Tensor, dtype: torch.dtype, group: Group | None = None) -> Tensor:
    """Equal weights for the samples that are kept, 0 for the others: [k, *batch], summing to 1 over the samples.

    Where ranks hold further samples, they sum to 1 on the average over the ranks: one that keeps fewer counts less.
    """
    if group is None or group.process_group is None:
        return keep.to(dtype) / keep.sum(0)
    ranks = distributed.get_world_size(group.process_group)
    return keep.to(dtype) * (ranks / parallel.total(keep.sum(0).to(dtype), group.process_group))


def _same(value: object, default: object) -> bool:
    if isinstance(value, Tensor) and isinstance(default, float | int):
        return value.numel() == 1 and abs(value.item() - default) <= 1e-6 * abs(default)
    if isinstance(value, Tensor | nn.Module) or isinstance(default, Tensor | nn.Module):
        return value is default
    return value == default


def _short(value: object) -> str:
    if isinstance(value, nn.Module) and not hasattr(value, "label"):
        return type(value).__name__
    if isinstance(value, Tensor):
        return f"{value.item():.4g}" if value.numel() == 1 else f"Tensor{list(value.shape)}"
    return getattr(value, "__name__", None) or str(value)
