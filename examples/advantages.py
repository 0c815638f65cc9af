"""The usual advantages and losses for sequences, written out, to be audited.

    sampleprop audit examples/advantages.py:leave_one_out
    sampleprop audit examples/advantages.py:group_std --groups 2,4,8
    sampleprop audit examples/advantages.py:group_std --prompts 2 --groups 2
    sampleprop audit examples/advantages.py:leave_one_out --reduce length
    sampleprop audit examples/advantages.py:ppo --off-policy
    python examples/advantages.py            # all tables, in some minutes

Each function gets tensors by the names that trainers use, and returns advantages of the rewards, [B] or [B, T], or a
loss. The last table is about divergences, entropies and discounts, whose usual forms are listed below.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import sampleprop as sp
import training

# --- advantages of whole draws ----------------------------------------------------------------------------------------


def leave_one_out(rewards: Tensor, groups: Tensor) -> Tensor:
    """RLOO."""
    return rewards - sp.leave_one_out(rewards, groups=groups)


def lengths(rewards: Tensor, groups: Tensor, drawn: Tensor) -> Tensor:
    """OPO, with the own draw left out."""
    return rewards - sp.leave_one_out(rewards, groups=groups, weight=drawn.sum(1).double())


def opo(rewards: Tensor, groups: Tensor, drawn: Tensor) -> Tensor:
    """OPO as published: a mean weighted by the lengths, with the own draw in it."""
    n = drawn.sum(1).double()
    return rewards - _sums(n * rewards, groups) / _sums(n, groups)


def remax(rewards: Tensor, greedy: Tensor) -> Tensor:
    """ReMax: less the reward of the likeliest draw."""
    return rewards - greedy


def group_mean(rewards: Tensor, groups: Tensor) -> Tensor:
    """Dr. GRPO: less the mean of the group, the own draw included."""
    return rewards - _mean(rewards, groups)


def group_std(rewards: Tensor, groups: Tensor) -> Tensor:
    """GRPO: the same, over the standard deviation of the group."""
    centered = rewards - _mean(rewards, groups)
    variance = _sums(centered.square(), groups) / (_sums(torch.ones_like(rewards), groups) - 1)
    return centered / (variance.sqrt() + 1e-4)


def batch_std(rewards: Tensor, groups: Tensor) -> Tensor:
    """Leave-one-out over the standard deviation of the batch."""
    return sp.whiten(leave_one_out(rewards, groups))


def reinforce_plus_plus(step_rewards: Tensor, mask: Tensor, drawn: Tensor) -> Tensor:
    """REINFORCE++: rewards to go, standardized over all tokens."""
    return sp.whiten(sp.reward_to_go(step_rewards, dim=1, mask=mask), drawn)


def masked_early(step_rewards: Tensor, drawn: Tensor) -> Tensor:
    """The same without a deviation, but rewards count where the policy drew only: those on observations are lost."""
    return sp.reward_to_go(torch.where(drawn, step_rewards, 0), dim=1)


def overlong(rewards: Tensor, groups: Tensor, drawn: Tensor) -> Tensor:
    """Leave-one-out over the draws that are shorter than the limit; the others are left out, as if not drawn."""
    kept = drawn.sum(1) < drawn.shape[1]
    count = _sums(kept.double(), groups)
    others = (_sums(rewards * kept, groups) - rewards) / (count - 1).clamp_min(1)
    advantage = torch.where(kept & (count > 1), rewards - others, 0)
    return advantage * len(rewards) / kept.sum().clamp_min(1)


# --- advantages of steps ----------------------------------------------------------------------------------------------


def to_go(step_rewards: Tensor, mask: Tensor, groups: Tensor) -> Tensor:
    """Rewards to go, less those of the others at the same step."""
    rest = sp.reward_to_go(step_rewards, dim=1, mask=mask)
    return rest - sp.leave_one_out(rest, groups=groups)


def gae(step_rewards: Tensor, values: Tensor, mask: Tensor, drawn: Tensor) -> Tensor:
    """GAE of a wrong critic, λ = 0.95."""
    return sp.generalized_advantage(step_rewards, values, dim=1, trace=0.95, mask=mask, drawn=drawn).advantage


# --- losses, for draws of another policy: costs are rewards with a minus sign -----------------------------------------


def whole_ratio(rewards: Tensor, groups: Tensor, log_prob: Tensor, old_log_prob: Tensor, drawn: Tensor) -> Tensor:
    """The ratio of whole draws."""
    ratio = sp.importance_ratio(log_prob, old_log_prob, time_dim=1, mask=drawn)
    return (ratio * -leave_one_out(rewards, groups)).mean()


def prefix_ratio(step_rewards: Tensor, log_prob: Tensor, old_log_prob: Tensor, mask: Tensor, drawn: Tensor) -> Tensor:
    """The ratio of the steps up to each reward, without a baseline."""
    ratio = sp.importance_ratio(log_prob, old_log_prob, time_dim=1, level="prefix", mask=drawn)
    return sp.aggregate(-ratio * step_rewards, mask, time_dim=1)


def step_ratio(rewards: Tensor, groups: Tensor, log_prob: Tensor, old_log_prob: Tensor, drawn: Tensor) -> Tensor:
    """The ratio of each step alone, with the whole reward."""
    ratio = sp.importance_ratio(log_prob, old_log_prob, mask=drawn)
    return sp.aggregate(ratio * -leave_one_out(rewards, groups).unsqueeze(1), drawn, time_dim=1)


def ppo(rewards: Tensor, groups: Tensor, log_prob: Tensor, old_log_prob: Tensor, drawn: Tensor) -> Tensor:
    """PPO's clipped loss for each step, ε = 0.2 and 0.28, over the draws."""
    ratio, cost = sp.importance_ratio(log_prob, old_log_prob, mask=drawn), -leave_one_out(rewards, groups).unsqueeze(1)
    return sp.aggregate(torch.maximum(ratio * cost, ratio.clamp(0.8, 1.28) * cost), drawn, time_dim=1)


def gspo(rewards: Tensor, groups: Tensor, log_prob: Tensor, old_log_prob: Tensor, drawn: Tensor) -> Tensor:
    """GSPO: the geometric mean of the ratios, clipped."""
    cost = -leave_one_out(rewards, groups)
    ratio = sp.importance_ratio(log_prob, old_log_prob, time_dim=1, level="geometric", mask=drawn)
    return torch.maximum(ratio * cost, ratio.clamp(0.97, 1.04) * cost).mean()


def cispo(rewards: Tensor, groups: Tensor, log_prob: Tensor, old_log_prob: Tensor, drawn: Tensor) -> Tensor:
    """CISPO: the clipped ratio of each step, detached, as a weight of its score."""
    ratio = sp.importance_ratio(log_prob, old_log_prob, mask=drawn, clip=(None, 1.28)).detach()
    weights = ratio * -leave_one_out(rewards, groups).unsqueeze(1)
    return sp.score_function_loss(log_prob, weights, time_dim=1, mask=drawn, as_weights=True)


def truncated(rewards: Tensor, groups: Tensor, log_prob: Tensor, old_log_prob: Tensor, drawn: Tensor) -> Tensor:
    """Truncated importance sampling: the ratio of whole draws, at most 2, detached."""
    ratio = sp.importance_ratio(log_prob, old_log_prob, time_dim=1, mask=drawn, clip=(None, 2.0)).detach()
    weights = ratio * -leave_one_out(rewards, groups)
    return sp.score_function_loss(log_prob, weights, time_dim=1, mask=drawn, as_weights=True)


def icepop(rewards: Tensor, groups: Tensor, log_prob: Tensor, old_log_prob: Tensor, drawn: Tensor) -> Tensor:
    """IcePop: the ratio of each step, which counts between 1/2 and 2 only."""
    ratio = sp.importance_ratio(log_prob, old_log_prob, mask=drawn, clip=(0.5, 2.0), outside="drop")
    return sp.aggregate(ratio * -leave_one_out(rewards, groups).unsqueeze(1), drawn, time_dim=1)


def self_normalized(rewards: Tensor, log_prob: Tensor, old_log_prob: Tensor, drawn: Tensor) -> Tensor:
    """The ratios of whole draws over their mean."""
    ratio = sp.importance_ratio(log_prob, old_log_prob, time_dim=1, mask=drawn, self_normalize=0)
    return (ratio * -rewards).mean()


def no_ratio(rewards: Tensor, groups: Tensor) -> Tensor:
    """Draws of another policy taken for the policy's own."""
    return leave_one_out(rewards, groups)


def _sums(x: Tensor, groups: Tensor) -> Tensor:
    """For each draw the sum over its group."""
    return torch.zeros_like(x).index_add(0, groups, x)[groups]


def _mean(x: Tensor, groups: Tensor) -> Tensor:
    return _sums(x, groups) / _sums(torch.ones_like(x), groups)


# Policies of 15 draws of one to three tokens.
THREE = tuple(
    sp.diagnostics.world(f"three steps, {rewards}", seed=seed, steps=3, rewards=rewards)
    for seed, rewards in enumerate(("terminal", "binary", "dense"), 6)
)
ON_POLICY: tuple[tuple[Callable[..., Any], dict[str, Any]], ...] = (
    (leave_one_out, {}),
    (lengths, {}),
    (remax, {}),
    (to_go, {}),
    (group_mean, {}),
    (group_std, {}),
    (group_std, {"reduce": "length"}),
    (group_std, {"prompts": 2, "group_sizes": [2]}),
    (batch_std, {"prompts": 2, "group_sizes": [2]}),
    (reinforce_plus_plus, {}),
    (opo, {}),
    (gae, {}),
    (leave_one_out, {"reduce": "length"}),
    (leave_one_out, {"reduce": "tokens"}),
    (masked_early, {"worlds": sp.diagnostics.TOOLS, "group_sizes": [2]}),
    (overlong, {"worlds": THREE}),
)
OFF_POLICY: tuple[Callable[..., Any], ...] = (
    whole_ratio,
    prefix_ratio,
    step_ratio,
    icepop,
    cispo,
    truncated,
    self_normalized,
    ppo,
    gspo,
    no_ratio,
)


# --- divergence, entropy and discount, for one draw at a time ---------------------------------------------------------


class Draws(NamedTuple):
    """All draws of a policy, each [S, T]."""

    log_prob: Tensor
    entropy: Tensor
    kl: Tensor  # the divergence from another policy, at each step
    log_ratio: Tensor  # to that policy, of what was drawn; detached
    drawn: Tensor
    rewards: Tensor

    def of(self, i: int) -> Draws:
        return Draws(*(x[i : i + 1] for x in self))


def as_cost(d: Draws, cost: Tensor, **options: Any) -> Tensor:
    return sp.score_function_loss(d.log_prob, cost, time_dim=1, mask=d.drawn, **options)


def as_term(d: Draws, term: Tensor) -> Tensor:
    return sp.aggregate(term, d.drawn, time_dim=1)


def reference(d: Draws) -> Tensor:
    return d.log_prob.detach() - d.log_ratio


def k3(d: Draws, log_prob: Tensor) -> Tensor:
    ratio = reference(d) - log_prob
    return ratio.exp() - 1 - ratio


def discounted(d: Draws, discount: float, late: bool) -> Tensor:
    to_go = sp.reward_to_go(d.rewards, discount, dim=1, mask=d.drawn)
    weights = discount ** torch.arange(to_go.shape[1]) * to_go if late else to_go
    return as_cost(d, weights, as_weights=True)


KL: dict[str, Callable[[Draws], Tensor]] = {
    "`kl` in the cost, attached, its own value as a baseline": lambda d: as_cost(d, d.kl, baseline=d.kl.detach()),
    "`kl` in the cost, attached": lambda d: as_cost(d, d.kl),
    "k1 in the cost, detached": lambda d: as_cost(d, d.log_ratio),
    "`kl_surrogate(time_dim=)`": lambda d: sp.kl_surrogate(d.log_prob, reference(d), time_dim=1, mask=d.drawn).sum(),
    "`kl_surrogate` of each token, summed": lambda d: as_term(d, sp.kl_surrogate(d.log_prob, reference(d))),
    "`kl` as a term of the loss": lambda d: as_term(d, d.kl),
    "k2 of each token as a term of the loss": lambda d: as_term(d, (d.log_prob - reference(d)).square() / 2),
    "k3 of each token as a term of the loss (GRPO)": lambda d: as_term(d, k3(d, d.log_prob)),
    "`kl` in the cost, detached": lambda d: as_cost(d, d.kl.detach()),
    "k3 in the cost, detached": lambda d: as_cost(d, k3(d, d.log_prob.detach())),
}
ENTROPY: dict[str, Callable[[Draws], Tensor]] = {
    "entropy in the cost, attached": lambda d: as_cost(d, d.entropy),
    "entropy as a term of the loss": lambda d: as_term(d, d.entropy),
}
DISCOUNTS = (0.9, 0.5)


def draws(world: sp.diagnostics.World) -> tuple[Tensor, Draws]:
    """The parameters of a policy, and its draws. The other policy has logits of its own."""
    phi = world.logits.clone().requires_grad_()
    other = (world.logits + 2 * world.shift)[world.state]
    terms = sp.token_terms(phi[world.state], world.token, reference=other, mask=world.drawn)
    log_ratio = terms.log_prob.detach() - sp.token_log_prob(other, world.token, mask=world.drawn)
    return phi, Draws(*terms, log_ratio, world.drawn, world.rewards)


def forms(world: sp.diagnostics.World) -> dict[str, tuple[float, float]]:
    """Of each form the error of its mean gradient, and the variance of one draw."""
    phi, d = draws(world)
    probs = d.log_prob.sum(1).exp()
    found = {}

    def gradient(x: Tensor) -> Tensor:
        return torch.autograd.grad(x, phi, retain_graph=True)[0].flatten()

    def measure(name: str, form: Callable[[Draws], Tensor], objective: Tensor) -> None:
        each = torch.stack([gradient(form(d.of(i))) for i in range(len(probs))])
        mean, exact = probs.detach() @ each, gradient(objective)
        variance = probs.detach() @ (each - mean).square().sum(1)
        rest = exact - (exact @ mean) / (mean @ mean) * mean
        found[name] = float(rest.norm() / exact.norm()), float(variance)

    for name, form in KL.items():
        measure(name, form, probs @ (d.log_prob - reference(d)).sum(1))
    for name, form in ENTROPY.items():
        measure(name, form, -probs @ d.log_prob.sum(1))
    for discount in DISCOUNTS:
        objective = probs @ (discount ** torch.arange(d.rewards.shape[1]) * d.rewards).sum(1)
        for late, what in ((True, "with"), (False, "without")):
            name = f"γ = {discount}, {what} γ^t"
            measure(name, functools.partial(discounted, discount=discount, late=late), objective)
    return found


def penalty_rows() -> list[list[str]]:
    """Errors, and variances over that of k1 in the cost (of the same objective), over four policies."""
    every = [forms(sp.diagnostics.world("three steps", seed=seed, steps=3, rewards="dense")) for seed in range(6, 10)]
    rows = []
    for name in every[0]:
        errors = [x if x > 1e-9 else 0.0 for x, _ in (found[name] for found in every)]
        ratios = [found[name][1] / found["k1 in the cost, detached"][1] for found in every]
        rows.append([name, cell(errors, ".0%"), cell(ratios, ".2f") if name in KL else "-"])
    return rows


def cell(values: list[float], form: str) -> str:
    """The range over the policies."""
    low, high = (format(x, form) for x in (min(values), max(values)))
    return low if low == high else f"{low} – {high}"


def row(function: Callable[..., Any], options: dict[str, Any]) -> list[str]:
    """One line of the table: errors and factors by group size, over the policies."""
    found = sp.audit(function, **({"group_sizes": [2, 4]} | options))
    cells = []
    for group in (2, 4):
        rows = [r for r in found.rows if r.group == group]
        cells += [cell([r.error if r.error > 1e-9 else 0.0 for r in rows], ".0%") if rows else "-"]
        cells += [cell([r.factor for r in rows], ".2f") if rows else "-"]
    said = ", ".join(f"{k} {v}" for k, v in options.items() if k in ("reduce", "prompts"))
    name = (
        function.__name__
        + (f" ({said})" if said else "")
        + (" (tools)" if options.get("worlds") is sp.diagnostics.TOOLS else "")
    )
    return [f"`{name}`", *cells, "-" if found.curl is None else f"{found.curl:.2f}"]


def main() -> None:
    head = ("function", "error, 2 draws", "factor", "error, 4 draws", "factor", "curl")
    print(training.table(head, [row(function, options) for function, options in ON_POLICY]))
    print()
    print(training.table(head, [row(function, {"off_policy": True}) for function in OFF_POLICY]))
    print()
    print(training.table(("form", "error", "variance, over that of k1 in the cost"), penalty_rows()))


if __name__ == "__main__":
    main()
