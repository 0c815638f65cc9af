r"""A program run again with one outcome changed and all other noise kept.

The gradient of the expected cost with respect to the logits of one Bernoulli or categorical variable is

.. math:: \tfrac12 \sum_{x \ne x'} p(x)\, p(x') \, (h(x') - h(x)) \, (e_{x'} - e_x)

where h(x) is the mean cost given the past and the outcome x. The first run draws x and a cost of mean h(x). The second
run puts x' in its place, and draws a cost of mean h(x') from the same noise for all later variables. One pair of a
variable's coordinate and another outcome is chosen for each row, with probability proportional to its weight p(x') / 2.
Counts move to a neighbour, at the rate of `jumps.py`. Source: own; the coupling by common noise is that of
[arya2022automatic], the choice of one variable takes the place of its pruning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributions as td
from torch import Generator, Tensor

from sampleprop import checks, noise
from sampleprop.estimator import Estimator
from sampleprop.estimators.coupled import jumps
from sampleprop.estimators.coupled.jumps import COUNTS, Jumps
from sampleprop.estimators.through_points import ThroughPoints
from sampleprop.families import Bernoullis, Discrete, OneHots, Variables
from sampleprop.families.parameters import device_of
from sampleprop.programs.fold import refuse_nonfinite
from sampleprop.programs.folding import no_cost, require_cost
from sampleprop.programs.site import PATHWISE, Again, Inside, Run
from sampleprop.programs.streams import saved, seed_from, stream
from sampleprop.surrogate import surrogate, unsqueeze_to

BLOCK = 64  # counts whose probabilities are summed at a time


class CoupledReplay:
    """A setting for `program.using`: estimates the gradient from runs with one changed outcome and common noise.

    Unbiased for Bernoulli, categorical and count variables, and for continuous variables with `rsample`, which are
    differentiated through. After a changed outcome, the program may take another path. The cost may be a black box of
    the discrete variables. Each call runs the program once more for each alternative, without gradients. The number of
    runs does not depend on the number of parameters.

    For the same number of runs, it has less variance than score functions with baselines if few decisions depend on the
    parameters and much noise follows. It has more variance if every variable depends on them and the effect of one
    variable soon fades. If a batch of particles takes little more time than one run, score functions are better for
    equal time.

    If different paths have different sites, give the sites a `name`. The noise is kept by name, and by order of call
    among sites of the same name.

    Args:
        alternatives: how many outcomes are changed, one in each further run; at least 1.

    Raises:
        ValueError: for fewer alternatives than 1.

    Example:
        >>> import torch, sampleprop as sp
        >>> from torch.distributions import Bernoulli
        >>> @sp.program
        ... def race(logit):
        ...     n = 0
        ...     while n < 5 and bool(sp.sample(Bernoulli(logits=logit))):
        ...         n += 1
        ...     return torch.tensor(float(n))
        >>> logit = torch.tensor(0.3, requires_grad=True)
        >>> race.using(sp.CoupledReplay(2))(logit).backward()
    """

    def __init__(self, alternatives: int = 1) -> None:
        checks.samples("CoupledReplay", alternatives, argument="alternatives")
        self.alternatives = alternatives

    def __repr__(self) -> str:
        return f"CoupledReplay({self.alternatives})"

    def choose(self, upto: Tensor, u: Tensor) -> Tensor:
        """Which entry u falls on, [*batch, 1], for cumulative probabilities [*batch, entries] and u in (0, 1)."""
        # To the right of equal numbers, since an entry of probability 0 must never be chosen.
        return torch.searchsorted(upto, u * upto[..., -1:], right=True).clamp_max(upto.shape[-1] - 1)

    def estimate(self, call: Callable[[], Any], generator: Generator | None) -> Tensor:
        """[*batch], the cost of one run, with the gradient from the further runs."""
        if torch.compiler.is_dynamo_compiling():
            raise RuntimeError(
                "CoupledReplay runs the program again at other outcomes, which torch.compile does not trace; got a "
                "compiled program. Compile its modules instead."
            )
        streams = _Streams(int(seed_from(generator)), generator)
        start = saved(generator)
        factual = _Factual(streams)
        total = factual.run(call)
        end = saved(generator)
        refuse_nonfinite([total])
        checks.paths(total, factual.paths)
        known = [(i, site) for i, site in enumerate(factual.sites) if site is not None and site.parameter.requires_grad]
        if not known or not torch.is_grad_enabled():
            return total
        try:
            with torch.no_grad():
                table = _Table(known, total.dim())
                gradient = torch.zeros_like(table.weights)
                u = torch.rand(*total.shape, 1, dtype=table.weights.dtype, generator=streams.choice())
                for j in range(self.alternatives):
                    entry = self.choose(table.upto, (u + j) / self.alternatives)  # [*batch, 1]
                    start.put_back()
                    other = _Alternative(streams, factual.sites, table, entry.squeeze(-1)).run(call)
                    refuse_nonfinite([other])
                    if other.shape != total.shape:
                        raise ValueError(
                            f"CoupledReplay needs costs of one shape in all runs; got {list(total.shape)} and "
                            f"{list(other.shape)}."
                        )
                    weight, probability = table.weights.gather(-1, entry), table.probabilities.gather(-1, entry)
                    moved = weight / probability * (other - total).unsqueeze(-1).to(weight)
                    gradient.scatter_add_(-1, entry, moved / self.alternatives)
                gradients = table.gradients(gradient)
        finally:
            end.put_back()
        parameters = tuple(site.parameter for _, site in known)
        return surrogate("CoupledReplay", noise.promote(total), parameters, gradients)


class _Site(NamedTuple):
    """A discrete variable of the first run."""

    variables: Variables
    value: Tensor  # [*batch, *event]
    parameter: Tensor  # with respect to which the gradient is: logits, or what a count was built with


class _Streams:
    """A source of noise for each site, by its name and how often that has come before; the same in each run."""

    def __init__(self, seed: int, own: Generator | None) -> None:
        self.seed = seed
        self.own = own  # of the program, from which programs inside draw
        self.numbers: dict[tuple[str | None, int], int] = {}

    def begin(self) -> Callable[[str | None, torch.device], Generator]:
        """For one run: from names to sources, in the order of the calls."""
        seen: dict[str | None, int] = {}

        def generator(name: str | None, device: torch.device) -> Generator:
            count = seen[name] = seen.get(name, -1) + 1
            number = self.numbers.setdefault((name, count), len(self.numbers))
            return stream(self.seed, number, device)

        return generator

    def choice(self) -> Generator:
        return stream(self.seed, -1, torch.device("cpu"))


class _Coupled(Run):
    """One of the runs."""

    def __init__(self, streams: _Streams) -> None:
        self.source = streams.begin()
        self.generator = streams.own
        self.costs: list[Tensor] = []

    def run(self, call: Callable[[], Any]) -> Tensor:
        with Inside(self):
            self.finish(call())
        if not self.costs:
            raise no_cost()
        return torch.stack(self.costs).sum(0)

    def charge(self, cost: Any) -> None:
        require_cost(cost)
        if self.costs and cost.shape != self.costs[0].shape:
            raise ValueError(
                f"CoupledReplay needs costs of one shape; got {list(self.costs[0].shape)} and {list(cost.shape)}. "
                "Nothing is broadcast."
            )
        self.costs.append(cost)

    def recorded(
        self, variables: Variables, estimator: Estimator[Any, Any] | None, context: Tensor | None, name: str | None
    ) -> tuple[Tensor, Again]:
        raise RuntimeError("CoupledReplay needs a program without checkpointed sites; got one with sp.checkpointed.")

    def drawn(self, variables: Variables, name: str | None) -> tuple[Tensor, bool]:
        """A value without a dimension, and whether it is attached to φ; the same noise for the same name."""
        generator = self.source(name, device_of(variables.dist))
        if PATHWISE.refusal_of(variables) is None:
            return PATHWISE.one(variables, generator), True
        if type(variables.base) in COUNTS:
            return _inverted(variables, generator), False
        return variables.sample(1, generator).squeeze(0), False


class _Factual(_Coupled):
    """The first run, which notes its sites."""

    def __init__(self, streams: _Streams) -> None:
        super().__init__(streams)
        self.sites: list[_Site | None] = []  # None for what is differentiated through, and for what has no parameters
        self.paths: list[checks.Path] = []

    def sample(
        self, variables: Variables, estimator: Estimator[Any, Any] | None, context: Tensor | None, name: str | None
    ) -> Tensor:
        if estimator is not None and estimator.adds_dimension(variables):
            raise ValueError(
                f"CoupledReplay needs sites without a dimension; got {estimator.label}. Give samples=None, or no "
                "estimator."
            )
        value, attached = self.drawn(variables, name)
        if attached:
            if not (estimator is None or isinstance(estimator, ThroughPoints)):
                raise TypeError(
                    f"CoupledReplay differentiates through continuous variables; got {estimator.label} for "
                    f"{variables.kind}. Use Pathwise there, if what follows is differentiable."
                )
            self.paths.append(checks.Path("CoupledReplay", value, origins=checks.origins(variables.base, value)))
            self.sites.append(None)
            return value
        if not variables.attached:
            self.sites.append(None)
            return value
        if not isinstance(variables, Discrete):
            refusal = jumps.refusal("CoupledReplay", variables)
            if refusal is not None:
                raise TypeError(refusal)
            parameter = jumps.parameter_of(variables)[1]
        else:
            parameter = variables.logits
        self.sites.append(_Site(variables, value, parameter))
        return value.clone()  # the program may write into it


class _Alternative(_Coupled):
    """A further run: the past as it was, one outcome of each row changed, what follows from the same noise."""

    def __init__(self, streams: _Streams, sites: list[_Site | None], table: _Table, entry: Tensor) -> None:
        super().__init__(streams)
        self.sites, self.table, self.entry = sites, table, entry
        self.chosen = table.site_of(entry)  # [*batch]
        self.position = 0

    def sample(
        self, variables: Variables, estimator: Estimator[Any, Any] | None, context: Tensor | None, name: str | None
    ) -> Tensor:
        value, attached = self.drawn(variables, name)
        index = self.position
        self.position += 1
        site = self.sites[index] if index < len(self.sites) else None
        if attached or site is None:
            return value
        past, here = self.chosen > index, self.chosen.eq(index)
        if not bool((past | here).any()):
            return value
        # Rows whose choice is still to come, or is this one, are on the path of the first run.
        value = torch.where(unsqueeze_to(past, value.dim()), site.value, value)
        if bool(here.any()):
            changed = self.table.changed(index, site, self.entry)
            value = torch.where(unsqueeze_to(here, value.dim()), changed, value)
        return value


class _Table:
    """Every change that may be chosen: each coordinate of each site, to each side.

    Attributes:
        weights: [*batch, entries], of each change in the gradient.
        probabilities: [*batch, entries], of its choice.
        upto: [*batch, entries], their cumulative sums.
    """

    def __init__(self, known: list[tuple[int, _Site]], batch_ndim: int) -> None:
        self.moves = {i: moves(site.variables, site.value.unsqueeze(0)) for i, site in known}
        parts = [m.weights.squeeze(0).flatten(batch_ndim) for m in self.moves.values()]  # [*batch, entries of the site]
        self.sizes = [part.shape[-1] for part in parts]
        ends = torch.tensor(self.sizes, device=parts[0].device).cumsum(0)
        self.starts = dict(zip(self.moves, (ends - torch.tensor(self.sizes, device=ends.device)).tolist(), strict=True))
        self._starts = torch.tensor(list(self.starts.values()), device=ends.device)
        self._numbers = torch.tensor(list(self.moves), device=ends.device)
        self.weights = torch.cat(parts, -1)
        mass = self.weights.sum(-1, keepdim=True)
        self.probabilities = torch.where(mass > 0, self.weights / mass, 1 / self.weights.shape[-1])
        self.upto = self.probabilities.cumsum(-1)

    def site_of(self, entry: Tensor) -> Tensor:
        """The number of the site that each entry belongs to."""
        return self._numbers[torch.searchsorted(self._starts, entry.contiguous(), right=True) - 1]

    def changed(self, index: int, site: _Site, entry: Tensor) -> Tensor:
        """The value of a site with the chosen coordinate moved, [*batch, *event]; for rows that chose it."""
        found = self.moves[index]
        shape = found.weights.shape[1:]  # [*batch, *coordinates, sides]
        own = torch.arange(shape[entry.dim() :].numel(), device=entry.device) + self.starts[index]
        hot = (entry.unsqueeze(-1) == own).reshape(shape)  # none, in rows that chose another site
        # An entry of weight 0 is chosen only where all have none; its outcome may be impossible, so nothing moves.
        hot = hot & (found.weights.squeeze(0) > 0)
        if isinstance(site.variables, OneHots):
            return torch.where(hot.any(-1, keepdim=True), hot.to(site.value.dtype), site.value)
        target = (hot * found.neighbours.squeeze(0)).sum(-1).to(site.value.dtype)
        return torch.where(hot.any(-1), target, site.value)

    def gradients(self, moved: Tensor) -> tuple[Tensor, ...]:
        """From [*batch, entries] to the gradient of each site's parameter."""
        pieces = moved.split(self.sizes, -1)
        found = zip(self.moves.values(), pieces, strict=True)
        return tuple(jumps.gradient(p.reshape(m.weights.shape[1:]), m.directions.squeeze(0)) for m, p in found)


def moves(variables: Variables, x: Tensor) -> Jumps:
    """Where each coordinate may move, at which weight, and the gradient for a weight of 1; for x [1, *batch, *event].

    A Bernoulli or categorical coordinate moves to every other outcome, with half of its probability: the second of two
    draws, given that it differs. A count moves to its neighbour.
    """
    if not isinstance(variables, Discrete):
        return jumps.jumps(variables, x)
    p = variables.fixed_probs
    if isinstance(variables, Bernoullis):
        other = torch.where(x > 0.5, (-variables.logits.detach()).sigmoid(), p) / 2
        return Jumps((1 - x).unsqueeze(-1), other.unsqueeze(-1), (1 - 2 * x).unsqueeze(-1))
    here = variables.one_hot(x)  # [1, *batch, *variables, C]
    weights = p * (1 - here) / 2
    classes = torch.arange(p.shape[-1], device=p.device).expand(weights.shape)
    return Jumps(classes, weights, torch.eye(p.shape[-1], dtype=p.dtype, device=p.device) - here.unsqueeze(-2))


def _inverted(variables: Variables, generator: Generator) -> Tensor:
    """A count by inversion, one uniform number for each coordinate: torch's samplers let rows disturb each other."""
    base: Any = variables.base
    u = noise.uniform(base.batch_shape, next(iter(variables.parameters.values())), generator).double()
    # Beyond this count only rounding of the distribution function can leave a number.
    most = int((base.mean + 50 * base.variance.sqrt() + 100).max())
    total = base.total_count if type(base) is td.Binomial else None
    found, below = torch.zeros_like(u), torch.zeros_like(u)
    with torch.no_grad():
        for first in range(0, most, BLOCK):
            counts = torch.arange(first, first + BLOCK, dtype=torch.float64, device=u.device)
            table = counts.reshape(-1, *(1 for _ in base.batch_shape)).expand(-1, *base.batch_shape)
            if total is None:
                p = base.log_prob(table).exp()
            else:
                p = torch.where(table <= total, base.log_prob(torch.minimum(table, total.to(table))).exp(), 0.0)
            upto = below + p.double().cumsum(0)  # [counts, *batch]
            found, below = found + (u >= upto).sum(0), upto[-1]
            if bool((u < below).all()):
                break
    return (found if total is None else torch.minimum(found, total.to(found))).to(variables.dtype)
