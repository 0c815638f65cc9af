"""A policy that calls a tool, whose draws can be listed: of three tokens one ends the draw and one asks the tool.

A draw has up to two tokens of the policy; each call of the tool puts an observation after it, at which a cost may
arise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

CALL, STOP = 0, 2  # tokens
PHI = torch.tensor([0.3, -0.8, 0.5, 1.1, -0.4, 0.2, -0.6, 0.9, 0.1], dtype=torch.float64)  # [state, token]


class World(NamedTuple):
    log_prob: Tensor  # [draws, 4], NaN where nothing was drawn
    mask: Tensor  # [draws, 4], what exists
    drawn: Tensor  # [draws, 4], what the policy chose
    costs: Tensor  # [draws, 4], NaN where nothing exists
    probs: Tensor  # [draws]
    phi: Tensor


def world(terminal: bool = False) -> World:
    """All draws. The costs are dense, or arise at the last step that exists, which may be an observation."""
    phi = PHI.clone().requires_grad_()
    table = phi.view(3, 3).log_softmax(1)
    noise = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    nothing = torch.tensor(torch.nan, dtype=torch.float64)
    steps = [_steps(table, noise, a, b) for a in range(3) for b in (range(3) if a != STOP else [None])]
    padded = [row + [(nothing, False, False, nothing)] * (4 - len(row)) for row in steps]
    log_prob = torch.stack([torch.stack([step[0] for step in row]) for row in padded])
    mask, drawn = (torch.tensor([[step[i] for step in row] for row in padded]) for i in (1, 2))
    costs = torch.stack([torch.stack([step[3] for step in row]) for row in padded])
    if terminal:
        last = torch.arange(4) == mask.sum(1, keepdim=True) - 1
        costs = torch.where(mask, torch.where(last, torch.where(mask, costs, 0).sum(1, keepdim=True), 0), nothing)
    probs = torch.where(drawn, log_prob, 0).sum(1).exp()
    return World(log_prob, mask, drawn, costs, probs, phi)


def _steps(table: Tensor, noise: Tensor, a: int, b: int | None) -> list[tuple[Tensor, bool, bool, Tensor]]:
    """The steps of one draw: log-probability, whether it exists, whether it was drawn, cost."""
    observed = torch.tensor(torch.nan, dtype=torch.float64)
    steps = [(table[0, a], True, True, noise[a, 0, 0])]
    if a == CALL:
        steps.append((observed, True, False, noise[a, 0, 1]))
    if b is not None:
        steps.append((table[1 + a, b], True, True, noise[a, b, 2]))
        if b == CALL:
            steps.append((observed, True, False, noise[a, b, 3]))
    return steps


def total(w: World) -> Tensor:
    """[draws], the whole cost."""
    return torch.where(w.mask, w.costs, 0).sum(1)


def exact(w: World) -> Tensor:
    return w.probs @ total(w)


def over_groups(w: World, size: int, loss: Callable[[World], Tensor]) -> Tensor:
    """The mean of a loss over all groups of `size` draws; the probabilities of the groups have no gradient."""
    index = torch.cartesian_prod(*[torch.arange(len(w.probs))] * size).reshape(-1, size)
    weights = w.probs.detach()[index].prod(1)
    picked = [x[index] for x in w[:5]]
    return weights @ torch.func.vmap(lambda *x: loss(World(x[0], x[1], x[2], x[3], x[4], w.phi)))(*picked)


def derivatives(value: Tensor, w: World) -> tuple[Tensor, Tensor]:
    """The gradient, and the Hessian."""
    (gradient,) = torch.autograd.grad(value, w.phi, create_graph=True)
    hessian = torch.stack([torch.autograd.grad(g, w.phi, retain_graph=True)[0] for g in gradient])
    return gradient.detach(), hessian


def error(found: Tensor, expected: Tensor) -> float:
    """What is left of a mean gradient after the best constant factor, relative to the exact one."""
    return float((expected - (expected @ found) / (found @ found) * found).norm() / expected.norm())


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
