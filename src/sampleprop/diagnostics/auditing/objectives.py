"""The gradients that a mean update is compared with, and what it makes of a prompt's success rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sampleprop.diagnostics.auditing.batch import Call, Policy, Reduce, policy
from sampleprop.diagnostics.auditing.moments import moments
from sampleprop.diagnostics.auditing.worlds import World, success

RATES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
STEP = 1e-5  # of the central differences
NOTHING = 1e-12

UTILITIES: dict[str, Callable[[float], float]] = {
    "p, the mean reward": lambda p: 1.0,
    "log p, maximum likelihood": lambda p: 1 / p,
    "arcsin √p": lambda p: (p * (1 - p)) ** -0.5,
    "log p / (1 - p), the log-odds": lambda p: 1 / (p * (1 - p)),
}


def gradients(policy: Policy, group: int) -> dict[str, Tensor]:
    """The gradient of each objective that is known, [D], by its name; the first is that of the mean reward."""
    length = policy.world.drawn.sum(1)
    own = policy.own.view(policy.prompts, -1)
    r, n = policy.rewards.view(policy.prompts, -1), length.view(policy.prompts, -1)
    means = (own * r).sum(1)
    spread = (own * (r - means.unsqueeze(1)).square()).sum(1).sqrt()
    objectives = {
        "E[reward]": means.sum(),
        "E[reward / length]": (own * r / n).sum(),
        "E[(reward - b) / length], b held fixed": (own * (r - means.detach().unsqueeze(1)) / n).sum(),
        "E[reward] / E[length]": (means / (own * n).sum(1)).sum(),
        "E[reward] / its standard deviation": (means / spread).sum(),
        "E[reward] / its standard deviation, held fixed": (means / spread.detach()).sum(),
        f"E[the best of {group}]": sum((_best(p, x, group) for p, x in zip(own, r, strict=True)), means.new_zeros(())),
        "E[reward²]": (own * r.square()).sum(),
    }
    return {
        name: torch.autograd.grad(x, policy.logits, retain_graph=True)[0].flatten() / policy.prompts
        for name, x in objectives.items()
    }


def curl(call: Call, world: World, reduce: Reduce) -> float:
    """|J - J'| / |J + J'| for the Jacobian J of the mean update of two draws: 0 where it is the gradient of something."""
    size = world.logits.numel()
    jacobian = torch.zeros(size, size, dtype=torch.float64)
    for i in range(size):
        step = torch.zeros(size, dtype=torch.float64)
        step[i] = STEP
        up, down = (
            moments(call, policy(world, logits=world.logits + s * step.view_as(world.logits)), 2, reduce).mean
            for s in (1, -1)
        )
        jacobian[i] = (up - down) / (2 * STEP)
    return float((jacobian - jacobian.T).norm() / (jacobian + jacobian.T).norm().clamp_min(NOTHING))


def success_weights(call: Call, group: int, reduce: Reduce) -> tuple[tuple[float, float], ...]:
    """(p, h(p)): with 0/1 rewards of one step the mean update is h(p) ∇p; relative to h(½)."""
    found = []
    for p in RATES:
        mean = moments(call, policy(success(p)), group, reduce).mean
        found.append(float(mean[0]) / (p * (1 - p)))
    middle = found[RATES.index(0.5)]
    scale = middle if abs(middle) > NOTHING else math.nan
    return tuple((p, h / scale) for p, h in zip(RATES, found, strict=True))


def utility(weights: Sequence[tuple[float, float]], group: int) -> str:
    """Which function u of the success rate has u' nearest to h."""
    if any(math.isnan(h) for _, h in weights):
        return "none: nothing is learned at p = 0.5"
    choices = UTILITIES | {f"1 - (1 - p)^{group}, the best of {group}": lambda p: (1 - p) ** (group - 1)}

    def off(slope: Callable[[float], float]) -> float:
        return max(abs(math.log(max(h, NOTHING) * slope(0.5) / slope(p))) for p, h in weights)

    name = min(choices, key=lambda n: off(choices[n]))
    distance = math.expm1(off(choices[name]))
    return name if distance < 1e-9 else f"{name} (h within a factor of {1 + distance:.2f})"


def _best(probs: Tensor, rewards: Tensor, group: int) -> Tensor:
    """The mean of the largest of `group` rewards."""
    order = rewards.argsort()
    below = probs[order].cumsum(0) ** group
    return torch.diff(below, prepend=below.new_zeros(1)) @ rewards[order]
