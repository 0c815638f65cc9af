"""Policies whose draws can be listed: a few states, three tokens, of which the third ends the draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

TOKENS, STOP = 3, 2
Rewards = Literal["terminal", "binary", "dense"]


@dataclass(frozen=True, eq=False)
class World:
    """A policy and its rewards; S draws of at most T steps. float64 throughout.

    Attributes:
        name: for the report.
        logits: [states, V], the policy's parameters.
        state: [S, T], the row of the logits from which each step is drawn.
        token: [S, T], what was drawn.
        mask: [S, T], which steps exist.
        drawn: [S, T], which of them the policy drew; the others are observations.
        rewards: [S, T], which depend on nothing later.
        shift: [states, V], the sampler's logits minus the policy's, for draws of another policy.
    """

    name: str
    logits: Tensor
    state: Tensor
    token: Tensor
    mask: Tensor
    drawn: Tensor
    rewards: Tensor
    shift: Tensor


def world(
    name: str, *, seed: int, rewards: Rewards = "terminal", steps: int = 2, sharp: float = 1.0, observe: bool = False
) -> World:
    """A random policy over sequences of at most `steps` tokens.

    Args:
        name: for the report.
        seed: of its logits and rewards.
        rewards: "terminal" (at the last step), "binary" (the same, 0 or 1), or "dense" (at each step).
        steps: tokens of the longest draw.
        sharp: a factor of the logits.
        observe: put an observation after each token 0; with terminal rewards the reward may then arrive with it.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    draws = _sequences((), steps)
    prefixes = sorted({draw[:t] for draw in draws for t in range(len(draw))}, key=lambda p: (len(p), p))
    row = {prefix: i for i, prefix in enumerate(prefixes)}
    logits, shift = (torch.randn(len(row), TOKENS, generator=generator, dtype=torch.float64) for _ in range(2))
    whole = uniform(len(draws))
    if rewards == "binary":
        whole = (whole > 0.5).double()
        whole[0], whole[-1] = 1.0, 0.0
    by_prefix: dict[tuple[int, ...], Tensor] = {}
    for draw in draws:
        for t in range(len(draw)):
            by_prefix.setdefault(draw[: t + 1], uniform(2))
    width = 2 * steps if observe else steps
    state, token = torch.zeros(2, len(draws), width, dtype=torch.int64)
    mask, drawn = torch.zeros(2, len(draws), width, dtype=torch.bool)
    reward = torch.zeros(len(draws), width, dtype=torch.float64)
    for i, draw in enumerate(draws):
        t = 0
        for n, x in enumerate(draw):
            state[i, t], token[i, t], mask[i, t], drawn[i, t] = row[draw[:n]], x, True, True
            reward[i, t] = by_prefix[draw[: n + 1]][0]
            t += 1
            if observe and x == 0:
                mask[i, t], reward[i, t] = True, by_prefix[draw[: n + 1]][1]
                t += 1
        if rewards != "dense":
            reward[i] = 0
            reward[i, t - 1] = whole[i]
    return World(name, sharp * logits, state, token, mask, drawn, reward, 0.5 * shift)


def success(p: float) -> World:
    """One step: token 0 gives 1 with probability p, token 1 gives 0, token 2 is never drawn."""
    logits = torch.tensor([[p, 1 - p, 1e-26]], dtype=torch.float64).log()
    one = torch.ones(2, 1, dtype=torch.bool)
    reward = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    token = torch.tensor([[0], [1]])
    return World(f"success {p:g}", logits, torch.zeros_like(token), token, one, one, reward, torch.zeros_like(logits))


def joined(worlds: Sequence[World]) -> World:
    """One prompt for each world, with parameters of its own; the draws of prompt p are numbered from p * S on.

    The worlds need to have equally many draws and steps.
    """
    if len(worlds) == 1:
        return worlds[0]
    starts = torch.tensor([len(w.logits) for w in worlds]).cumsum(0) - len(worlds[0].logits)
    return World(
        " + ".join(w.name for w in worlds),
        torch.cat([w.logits for w in worlds]),
        torch.cat([w.state + start for w, start in zip(worlds, starts, strict=True)]),
        torch.cat([w.token for w in worlds]),
        torch.cat([w.mask for w in worlds]),
        torch.cat([w.drawn for w in worlds]),
        torch.cat([w.rewards for w in worlds]),
        torch.cat([w.shift for w in worlds]),
    )


def _sequences(prefix: tuple[int, ...], steps: int) -> list[tuple[int, ...]]:
    """All draws that begin with the prefix."""
    if len(prefix) == steps or STOP in prefix:
        return [prefix]
    return [draw for x in range(TOKENS) for draw in _sequences((*prefix, x), steps)]


WORLDS = (
    world("terminal", seed=0),
    world("terminal, sharp", seed=1, sharp=2.0),
    world("0/1", seed=2, rewards="binary"),
    world("dense", seed=3, rewards="dense"),
)
TOOLS = (
    world("tools, terminal", seed=4, observe=True),
    world("tools, dense", seed=5, rewards="dense", observe=True),
)
