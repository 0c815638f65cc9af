"""Programs run along every path of outcomes: their exact value and gradient.

The rows of a batch take the same path together, so that control flow on samples keeps its contract. Each path's cost is
multiplied by its probability, [*batch], and autograd goes through both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Generator, Size, Tensor

from sampleprop import noise
from sampleprop.estimator import Estimator
from sampleprop.estimators.coupled.jumps import COUNTS
from sampleprop.families import Enumerable, Variables
from sampleprop.programs.folding import Chosen, chosen_at, no_cost, require_cost
from sampleprop.programs.site import PATHWISE, Again, Run
from sampleprop.programs.streams import saved

if TYPE_CHECKING:
    from sampleprop.programs.program import program

LEAST = 1e-12  # paths of a smaller probability are cut
PATHS = 4096  # as many as `Enumerate` takes of states

Noise = Callable[[str | None], Generator]


class Path(NamedTuple):
    """One path of a program.

    Attributes:
        outcomes: for each site the number of its outcome.
        probability: [*batch].
        drawn: [*batch], the probability of the outcomes at those sites whose estimator does not evaluate them all.
        cost: [*batch].
    """

    outcomes: tuple[int, ...]
    probability: Tensor
    drawn: Tensor
    cost: Tensor


class Exact(NamedTuple):
    """What forced replay found.

    Attributes:
        value: [*batch], the expected cost.
        gradients: of the sum of the value with respect to each leaf.
        paths: how many were run.
        missing: the probability of those that were cut, in the row where it is largest.
        met: the paths that were not cut.
    """

    value: Tensor
    gradients: tuple[Tensor, ...]
    paths: int
    missing: float
    met: list[Path]


class Forced(Run):
    """Takes the outcomes of a path, and the first outcome of each site beyond it.

    Attributes:
        path: for each site the number of its outcome.
        counts: how many outcomes each site has.
        log_prob: of the path, [*batch].
        drawn: the part of it that is due to sites whose estimator does not evaluate every outcome.
        cost: [*batch].
    """

    def __init__(self, path: list[int], chosen: Chosen = None, noise: Noise | None = None) -> None:
        self.path, self.chosen, self.noise = path, chosen, noise
        self.counts: list[int] = []
        self.batch: Size | None = None
        self.log_prob: Tensor | None = None
        self.drawn: Tensor | None = None
        self.cost: Tensor | None = None

    def sample(
        self, variables: Variables, estimator: Estimator[Any, Any] | None, context: Tensor | None, name: str | None
    ) -> Tensor:
        estimator = chosen_at(self.chosen, variables, estimator, name)
        dimension = estimator.adds_dimension(variables)
        if self.batch is None:
            self.batch = variables.batch_shape
        if self.noise is not None:
            generator = self.noise(name)
            if PATHWISE.refusal_of(variables) is None:
                value = PATHWISE.one(variables, generator)
                return value.unsqueeze(0) if dimension else value
        outcomes = countable(variables)  # [outcomes, *event]
        position = len(self.counts)
        if position == len(self.path):
            self.path.append(0)
        self.counts.append(len(outcomes))
        shape = variables.batch_shape + variables.event_shape
        value = outcomes[self.path[position]].expand(1, *shape).clone()
        log_prob = variables.log_prob(value).reshape(self.batch)
        self.log_prob = log_prob if self.log_prob is None else self.log_prob + log_prob
        if "samples" in vars(estimator) or estimator.calls(variables)[0] < len(outcomes):
            self.drawn = log_prob.detach() if self.drawn is None else self.drawn + log_prob.detach()
        if bool((self.log_prob < math.log(LEAST)).all()):
            raise Impossible
        return value if dimension else value.squeeze(0)

    def charge(self, cost: Any) -> None:
        require_cost(cost)
        cost = cost if self.batch is None else cost.reshape(self.batch)  # the dimensions that sites add are of size 1
        self.cost = cost if self.cost is None else self.cost + cost

    def recorded(
        self, variables: Variables, estimator: Estimator[Any, Any] | None, context: Tensor | None, name: str | None
    ) -> tuple[Tensor, Again]:
        raise RuntimeError("Forced replay needs a program without checkpointed sites; got one with sp.checkpointed.")


class Impossible(BaseException):
    """A path of probability 0, or nearly. Not an Exception, which a program might catch."""


def countable(variables: Variables) -> Tensor:
    """The outcomes of a site, [outcomes, *event].

    Raises:
        TypeError: for a distribution whose outcomes cannot be counted, or are too many.
    """
    if isinstance(variables, Enumerable) and variables.support_size <= PATHS:
        return variables.support()
    base: Any = variables.base
    if type(base) in COUNTS and not variables.event_shape:
        count = 32
        while count <= PATHS:
            outcomes = torch.arange(count, dtype=noise.working_dtype(variables.dtype))
            if type(base) is torch.distributions.Binomial:
                return torch.arange(float(base.total_count.max()) + 1, dtype=outcomes.dtype)
            wide = outcomes.reshape(-1, *(1 for _ in variables.batch_shape)).expand(-1, *variables.batch_shape)
            with torch.no_grad():
                missing = 1 - variables.log_prob(wide).exp().sum(0)
            if bool((missing < LEAST).all()):
                return outcomes
            count *= 2
    raise TypeError(
        f"The exact gradient needs sites whose outcomes can be counted, at most {PATHS}; got {variables.kind} with the "
        f"event {list(variables.event_shape)}. Make the example smaller."
    )


def exact(
    model: program[...],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    leaves: Sequence[Tensor],
    *,
    chosen: Chosen = None,
    noise: Callable[[], Noise] | None = None,
    limit: int = PATHS,
) -> Exact:
    """The expected cost of a program and its gradient, by every path.

    Args:
        model: the program.
        args: its arguments.
        kwargs: its further arguments.
        leaves: tensors that require a gradient.
        chosen: estimators in place of those that the program names; they only decide which sites have a dimension.
        noise: gives, for each run, the source of noise of each site: continuous sites then have this noise.
        limit: the most paths.

    Raises:
        TypeError: for a site whose outcomes cannot be counted.
        RuntimeError: for more paths than the limit, and for a program with noise besides its sites.
    """
    path: list[int] = []
    value: Tensor | None = None
    mass: Tensor | None = None
    gradients = [torch.zeros_like(leaf) for leaf in leaves]
    paths, met = 0, []
    before = saved()
    while True:
        run = Forced(path, chosen, None if noise is None else noise())
        try:
            model.under(run, tuple(args), kwargs)
        except Impossible:
            pass
        else:
            if run.cost is None:
                raise no_cost()
            one = torch.ones_like(run.cost).detach()
            p = one if run.log_prob is None else run.log_prob.exp()
            drawn = one if run.drawn is None else run.drawn.exp()
            met.append(Path(tuple(run.path[: len(run.counts)]), p.detach(), drawn, run.cost.detach()))
            term = torch.where(p > 0, p * run.cost, 0.0)
            if term.requires_grad:
                found = torch.autograd.grad(term.sum(), list(leaves), allow_unused=True)
                for total, gradient in zip(gradients, found, strict=True):
                    if gradient is not None:
                        total += gradient
            value = term.detach() if value is None else value + term.detach()
            mass = p.detach() if mass is None else mass + p.detach()
        paths += 1
        if not saved().same(before):
            raise RuntimeError(
                "The exact gradient needs a program whose only noise is that of sp.sample; got one that draws from "
                "torch's generator besides, by dropout, dist.sample() or an inner program. Switch that off, or pass a "
                "number of replicates instead."
            )
        if paths > limit:
            raise RuntimeError(f"The exact gradient needs at most {limit} paths; got more. Make the example smaller.")
        path = run.path[: len(run.counts)]
        while path and path[-1] + 1 >= run.counts[len(path) - 1]:
            path.pop()
        if not path:
            break
        path[-1] += 1
    if value is None or mass is None:
        raise RuntimeError("The exact gradient needs a path of positive probability; got none.")
    return Exact(value, tuple(gradients), paths, float((1 - mass).abs().max()), met)
