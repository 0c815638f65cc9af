"""What `check` finds out about a user's solver."""

from __future__ import annotations

import torch
from torch import Generator

from sampleprop.diagnostics.checking.findings import Finding
from sampleprop.families import Solutions

TRIED = 16


def nondeterminism(variables: Solutions, generator: Generator) -> Finding | None:
    """Whether the solver gives different solutions for the same scores."""
    standard = variables.standard_noise(TRIED, generator)
    first, second = (variables.solutions(standard) for _ in range(2))
    differing = int((first != second).flatten(1).any(1).sum())
    if differing == 0:
        return None
    return Finding(
        "random solver",
        "error",
        f"the solver gave other solutions for the same scores, in {differing} of {TRIED} draws. The noise must be that "
        f"of PerturbAndMAP alone: seed the solver, break ties always in the same way, and let it run to its end.",
    )


def minimization(variables: Solutions, generator: Generator) -> tuple[Finding | None, bool]:
    """Whether the solver minimizes ⟨y, scores⟩, and whether this could be tested."""
    base = variables.base
    scores_shape = base.scores.shape[len(base.batch_shape) :]
    if base.event_shape != scores_shape:
        return None, False
    standard = variables.standard_noise(TRIED, generator)
    scores = (variables.scores_given.detach() + base.scale * standard).to(variables.dtype)
    best, worst = base.solve(scores), base.solve(-scores)
    gains = ((best - worst) * scores).flatten(len(scores.shape) - len(scores_shape)).sum(-1)
    lost = int((gains < 0).sum())
    if lost <= gains.numel() // 2 or not bool(torch.isfinite(gains).all()):
        return None, True
    return (
        Finding(
            "solver minimizes",
            "error",
            f"the solution at -scores has a larger ⟨y, scores⟩ than that at the scores, in {lost} of {gains.numel()} "
            "draws: the solver minimizes where it must maximize. Pass -costs as scores and let the solver maximize.",
        ),
        True,
    )
