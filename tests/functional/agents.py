"""A policy that calls a tool, whose draws can be listed: three tokens, of which one ends the draw and one asks the tool.

A draw has up to two tokens of the policy; each call of the tool puts an observation after it, at which a cost may arise.
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
    first = table[0]
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(3, 3, 4, generator=generator, dtype=torch.float64)
    rows = []
    for a in range(3):
        for b in range(3) if a != STOP else [None]:
            log_prob, mask, drawn, cost = [first[a]], [True], [True], [noise[a, 0, 0]]
            if a == CALL:
                log_prob, mask, drawn, cost = (
                    [*log_prob, phi.new_tensor(0.0)],
                    [True] * 2,
                    [True, False],
                    [*cost, noise[a, 0, 1]],
                )
            if b is not None:
                log_prob, mask, drawn = [*log_prob, table[1 + a, b]], [*mask, True], [*drawn, True]
                cost = [*cost, noise[a, b, 2]]
                if b == CALL:
                    log_prob, mask, drawn = [*log_prob, phi.new_tensor(0.0)], [*mask, True], [*drawn, False]
                    cost = [*cost, noise[a, b, 3]]
            rows.append((log_prob, mask, drawn, cost))
    nan = phi.new_tensor(torch.nan)

    def padded(values: list[Tensor]) -> Tensor:
        return torch.stack([*values, *[nan] * (4 - len(values))])

    mask = torch.tensor([[*m, *[False] * (4 - len(m))] for _, m, _, _ in rows])
    drawn = torch.tensor([[*d, *[False] * (4 - len(d))] for _, _, d, _ in rows])
    log_prob = torch.where(drawn, torch.stack([padded(values) for values, _, _, _ in rows]), nan)
    costs = torch.stack([padded(c) for _, _, _, c in rows])
    if terminal:
        last = mask.sum(1) - 1
        total = torch.where(mask, costs, 0).sum(1)
        costs = torch.where(torch.arange(4) == last.unsqueeze(1), total.unsqueeze(1), torch.zeros_like(costs))
        costs = torch.where(mask, costs, nan)
    probs = torch.where(drawn, log_prob, 0).sum(1).exp()
    return World(log_prob, mask, drawn, costs, probs, phi)


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
    return weights @ torch.func.vmap(lambda *x: loss(World(*x, w.phi)))(*picked)


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
