"""From the variables that were drawn, and what followed each, to one value with a gradient.

A program is a nested expectation: each variable's cost is what the rest of the program costs, so a cost that was
charged before a variable is never charged to it. The list is folded from the last variable to the first, without
recursion, so a chain may have any length. Score functions that follow one another without a dimension of their own are
folded together, by the form of [foerster2018dice], sec. 4: a cost times the box of all variables before it.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sampleprop import checks, noise
from sampleprop.costs import Costs, F, Group, others
from sampleprop.estimator import AnyDraw, Estimator
from sampleprop.estimators.score.dice import require_possible
from sampleprop.estimators.through_points import ThroughPoints
from sampleprop.families import Discrete, Variables
from sampleprop.tracing import inspectable


@dataclass(slots=True)
class Node:
    """One random variable that has been drawn, and the costs charged since."""

    estimator: Estimator[Any, Any]
    variables: Variables | None  # None when not needed later; fewer live objects make garbage collection cheaper
    draw: AnyDraw  # without a sample dimension for a ThroughPoints that draws one sample
    dimension: bool  # whether its samples are a dimension of what follows
    batch: torch.Size  # of what follows: [points, *batch], or [*batch] without a dimension
    chain: type[Estimator[Any, Any]] | None = None  # those of one kind that follow one another fold at once
    rest: F | None = None  # what follows as a function of the variable, for estimators that evaluate f themselves
    context: Tensor | None = None
    origins: tuple[Tensor, ...] = ()  # what transforms made the points from, as `checks.Path` has it
    together: int | None = None  # the particles that the samples of the first variable are, in a batch [K * rows, ...]
    costs: list[Tensor] = field(default_factory=list)

    def fold(self, after: Tensor | None, group: Group | None) -> Tensor:
        """The expected cost of this variable and all that follows it, [*batch]."""
        rows = self.total(after)
        if self.together is not None:
            rows = rows.unflatten(0, (self.together, rows.shape[0] // self.together))
        elif not self.dimension:
            rows = rows.unsqueeze(0)
        hard = self.draw.points.shape[0]
        probes = None if self.draw.probes is None else noise.promote(rows[hard:].detach())
        further = group if self.estimator.grouped and self.together is None else None
        costs = Costs(noise.promote(rows[:hard]), probes, self.rest, self.context, group=further)
        return self.estimator.estimate(self.variables, self.draw, costs)

    def total(self, after: Tensor | None) -> Tensor:
        """What is charged to this variable, given what follows."""
        costs = total(self.costs, after)
        if costs is None:
            raise no_cost_after(self.estimator.name)
        return costs

    @property
    def value(self) -> Tensor:
        """What the program got, detached."""
        points, probes = self.draw.points.detach(), self.draw.probes
        if self.dimension:
            return points if probes is None else torch.cat((points, probes))
        if self.together is not None:
            return points.flatten(0, 1)
        return points if self.variables is None else points.squeeze(0)


def fold(nodes: list[Node], group: Group | None = None, baselines: list[Tensor | None] | None = None) -> Tensor | None:
    """The expected cost of all variables, [*batch], or None where there are none. The list is empty afterwards.

    Args:
        nodes: the variables, the first one first.
        group: the particles and ranks over which score functions leave one out.
        baselines: for the score function of each variable what other runs cost from there on; None where there is none.
    """
    after: Tensor | None = None
    compiled = torch.compiler.is_dynamo_compiling()
    gathered: AbstractContextManager[list[checks.Path]] = nullcontext([]) if compiled else checks.gathered_paths()
    with gathered as paths:
        while nodes:
            run = [nodes.pop()]
            chain = run[0].chain
            while chain is not None and nodes and nodes[-1].chain is chain:
                run.append(nodes.pop())
            if len(run) == 1 and chain is not ThroughPoints and baselines is None:
                after = run[0].fold(after, group)
            else:
                given = None if baselines is None else baselines[len(nodes) : len(nodes) + len(run)]
                after = _fold_chain(run[::-1], after, group, given, paths)
    if after is not None and not compiled:
        checks.paths(after, paths)
    return after


def no_cost_after(name: str) -> ValueError:
    """What to raise where an estimator's variable is followed by no cost."""
    return ValueError(
        f"{name} needs a cost that is charged or returned after its variable; got none, so its gradient would be zero. "
        "Draw a variable that nothing depends on with dist.sample()."
    )


def total(costs: list[Tensor], after: Tensor | None = None) -> Tensor | None:
    """The sum, or None of nothing."""
    terms = costs if after is None else [*costs, after]
    if len(terms) == 1:
        return terms[0]
    return functools.reduce(torch.add, terms) if terms else None


def refuse_nonfinite(costs: list[Tensor]) -> None:
    """Refuse non-finite costs; those of one kind are looked at together."""
    kinds: dict[tuple[torch.Size, int], list[Tensor]] = {}
    for cost in costs:
        kinds.setdefault((cost.shape, cost.get_device()), []).append(cost)
    for alike in kinds.values():
        with torch.no_grad():
            together = torch.stack(alike)  # [t, *batch]
        if not inspectable(together) or together.is_cuda:
            checks.finite("A program", together, "raise")
            continue
        index = checks.first_nonfinite(together)
        if index is not None:
            checks.finite("A program", alike[index[0]], "raise")


def _fold_chain(
    nodes: list[Node],
    after: Tensor | None,
    group: Group | None,
    baselines: list[Tensor | None] | None,
    paths: list[checks.Path],
) -> Tensor:
    """Variables of one chain, the first one first; they have one batch shape."""
    last = nodes[-1].total(after)
    terms = [total(node.costs) for node in nodes[:-1]]
    costs = noise.promote(
        torch.stack([torch.zeros_like(last) if c is None else c for c in terms] + [last])
    )  # [t, *batch]
    if nodes[0].chain is ThroughPoints:
        for node in nodes:
            estimator: Any = node.estimator
            allow_unused, allow_steps = estimator.allow_unused, estimator.allow_steps
            paths.append(checks.Path(estimator.name, node.draw.points, allow_unused, allow_steps, node.origins))
        return costs.sum(0)
    # DiCE: each cost c_t times the box of x_1 ... x_t.
    log_probs = _log_probs(nodes).cumsum(0)
    boxes = (log_probs - log_probs.detach()).exp()
    if group is not None:
        to_go = costs.detach().flip(0).cumsum(0).flip(0)
        known = others(to_go.unsqueeze(0), None, group).squeeze(0)
    elif baselines is not None:
        known = torch.stack([torch.zeros_like(costs[0]) if b is None else b for b in baselines])
    else:
        return (costs * boxes).sum(0)
    boxes_before = torch.cat([torch.ones_like(boxes[:1]), boxes[:-1]])
    return (costs * boxes + known * (boxes_before - boxes)).sum(0)


def _log_probs(nodes: list[Node]) -> Tensor:
    """The log-probability of each variable, [t, *batch]; at once where they are of one kind."""
    variables = [node.variables for node in nodes if node.variables is not None]  # all: none of these is ThroughPoints
    known = [v for v in variables if isinstance(v, Discrete)]
    if len(known) == len(nodes) and len({(type(v), v.logits.shape, v.logits.dtype, v.dtype) for v in known}) == 1:
        kind, event_ndim, dtype = type(known[0]), known[0].event_ndim, known[0].dtype
        together = kind(torch.stack([v.logits for v in known]), event_ndim, dtype)
        return together.log_prob(torch.cat([node.draw.points for node in nodes]))
    found = [v.log_prob(node.draw.points).squeeze(0) for v, node in zip(variables, nodes, strict=True)]
    for v, log_prob in zip(variables, found, strict=True):
        if not isinstance(v, Discrete):
            checks.scored("ScoreFunction", v, log_prob)
            require_possible(log_prob.unsqueeze(0))
    return torch.stack(found)
