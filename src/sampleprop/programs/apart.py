"""Runs one after the other, each on a path of its own, for control flow that depends on samples.

The baseline of a run's site is the mean of what the other runs cost from their site of the same number on, and 0 where
they have ended. No draw of this run has touched it, so any control flow is allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from sampleprop import noise
from sampleprop.estimator import Estimator
from sampleprop.families import Variables
from sampleprop.programs.fold import Node, fold, refuse_nonfinite, total
from sampleprop.programs.folding import Chosen, Folding, in_all
from sampleprop.programs.site import Inside


class _OneOfMany(Folding):
    """One of the runs: it refuses estimators that would fold without a word of the other runs."""

    def _drawn(
        self, variables: Variables, estimator: Estimator[Any, Any], dimension: bool, batch: torch.Size
    ) -> tuple[Node, Tensor]:
        node, value = super()._drawn(variables, estimator, dimension, batch)
        if node.chain is None:
            raise ValueError(
                f"A program that runs apart needs sites without a dimension and without control variates, such as "
                f"ScoreFunction(None) and Pathwise(None); got {estimator.label}. Use particles, or another estimator: "
                "using(sp.ScoreFunction(None), apart=...)."
            )
        return node, value


def apart_runs(
    call: Callable[[], Any], count: int, chosen: Chosen, generator: Generator | None
) -> tuple[Tensor, set[str]]:
    """[*batch], the mean over this number of runs; and the names of the variables, where `chosen` goes by name."""
    runs = [_OneOfMany(call, chosen, generator) for _ in range(count)]
    for run in runs:
        with Inside(run):
            run.finish(call())
        refuse_nonfinite([*run.before, *(cost for node in run.nodes for cost in node.costs)])
    to_go = [_to_go(run.nodes) for run in runs]
    results = [_result(run, _baselines(to_go, i)) for i, run in enumerate(runs)]
    shapes = {result.shape for result in results}
    if len(shapes) > 1:
        raise ValueError(
            f"A program that runs apart needs costs of one shape in all runs; got {sorted(map(list, shapes))}."
        )
    return torch.stack(results).mean(0), set().union(*(run.names for run in runs))


def _to_go(nodes: list[Node]) -> list[Tensor | None]:
    """What each variable of a run and all that follows cost, detached; None while nothing has been charged."""
    after: Tensor | None = None
    found: list[Tensor | None] = []
    for node in reversed(nodes):
        own = total(node.costs)
        if own is not None:
            after = own.detach() if after is None else after + own.detach()
        found.append(after)
    return found[::-1]


def _baselines(to_go: list[list[Tensor | None]], own: int) -> list[Tensor | None]:
    """For each variable of one run the mean of what the other runs cost from there on."""
    rest = [other for i, other in enumerate(to_go) if i != own]
    known: list[Tensor | None] = []
    for t in range(len(to_go[own])):
        found = [cost for other in rest if t < len(other) and (cost := other[t]) is not None]
        together = total(found)
        known.append(None if together is None else noise.promote(together) / len(rest))
    return known


def _result(run: Folding, baselines: list[Tensor | None]) -> Tensor:
    return in_all(run.before, fold(run.nodes, baselines=baselines))
