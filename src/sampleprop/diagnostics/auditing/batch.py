"""What an audited function may ask for, by its usual names, and what becomes of what it returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from sampleprop.diagnostics.auditing.worlds import World

Reduce = Literal["draws", "length", "tokens"]


class Batch(NamedTuple):
    """Draws of one call: B of them (prompts times group), of T steps. float64.

    Attributes:
        rewards: [B], the whole reward of each draw.
        step_rewards: [B, T], where it arises.
        mask: [B, T], the steps that exist.
        drawn: [B, T], those that the policy drew.
        groups: [B] int64, which prompt each draw answers.
        log_prob: [B, T], 0 where nothing was drawn; a leaf that requires a gradient.
        old_log_prob: [B, T], of the policy that drew.
        ref_log_prob: [B, T], of a uniform reference.
        entropy: [B, T], of the policy's distribution at each step.
        sum_pi_squared: [B, T], the sum of its squared probabilities.
        greedy: [B], the reward of the likeliest draw of that prompt.
        values: [B, T], a critic that is wrong: 0.3 everywhere.
    """

    rewards: Tensor
    step_rewards: Tensor
    mask: Tensor
    drawn: Tensor
    groups: Tensor
    log_prob: Tensor
    old_log_prob: Tensor
    ref_log_prob: Tensor
    entropy: Tensor
    sum_pi_squared: Tensor
    greedy: Tensor
    values: Tensor


# The names under which trainers hand these over.
NAMES: dict[str, tuple[str, ...]] = {
    "rewards": ("rewards", "reward", "scores"),
    "step_rewards": ("step_rewards", "token_level_rewards", "token_level_scores"),
    "mask": ("mask", "exists"),
    "drawn": ("drawn", "response_mask", "completion_mask", "action_mask", "loss_mask", "tool_mask"),
    "groups": ("groups", "index", "group_ids", "uid", "uids"),
    "log_prob": ("log_prob", "log_probs", "logprob", "logprobs", "per_token_logps"),
    "old_log_prob": (
        "old_log_prob",
        "old_log_probs",
        "old_per_token_logps",
        "behaviour_log_prob",
        "rollout_log_probs",
        "sampling_per_token_logps",
    ),
    "ref_log_prob": ("ref_log_prob", "ref_log_probs", "ref_per_token_logps"),
    "entropy": ("entropy", "entropies", "entropys"),
    "sum_pi_squared": ("sum_pi_squared",),
    "greedy": ("greedy", "reward_baselines"),
    "values": ("values",),
}
ONES = ("gamma", "lam")  # discount and trace: 1, where they are asked for

Call = Callable[[Batch], Any]


def bound(function: Callable[..., Any], given: Mapping[str, Any]) -> Call:
    """The function of one `Batch` that calls `function` with what its arguments are named.

    Raises:
        ValueError: for an argument without a default whose name is unknown.
    """
    parameters = inspect.signature(function).parameters
    if list(parameters) == ["batch"] and "batch" not in given:
        return function
    known = {alias: field for field, aliases in NAMES.items() for alias in aliases}
    fields, fixed = {}, {}
    for name, parameter in parameters.items():
        if name in given:
            fixed[name] = given[name]
        elif name in known:
            fields[name] = known[name]
        elif name in ONES:
            fixed[name] = 1.0
        elif parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        ):
            raise ValueError(
                f"audit needs to know what {name_of(function)} wants as {name!r}; it knows {', '.join(sorted(known))}. "
                f"Pass arguments={{{name!r}: lambda batch: ...}}, or a function of one `batch`."
            )

    def call(batch: Batch) -> Any:
        values = {name: getattr(batch, field) for name, field in fields.items()}
        values |= {name: value(batch) if callable(value) else value for name, value in fixed.items()}
        return function(**values)

    return call


def name_of(function: Callable[..., Any]) -> str:
    """How the report calls the function."""
    return getattr(function, "__name__", type(function).__name__)


class Policy(NamedTuple):
    """All draws of a world under one setting of its parameters; D numbers are the parameters in one row."""

    world: World
    logits: Tensor  # [states, V], requires a gradient
    log_prob: Tensor  # [S, T], attached
    old: Tensor  # [S, T], of the policy that draws
    reference: Tensor  # [S, T]
    entropy: Tensor  # [S, T]
    squared: Tensor  # [S, T]
    scores: Tensor  # [S, T, D]
    rewards: Tensor  # [S], of the whole draw
    greedy: Tensor  # [prompts], the reward of the likeliest draw
    prompts: int

    @property
    def own(self) -> Tensor:
        """[S], the probability of each draw given its prompt, attached."""
        return self.log_prob.sum(1).exp()

    @property
    def probs(self) -> Tensor:
        """[S], the probability with which each is drawn."""
        return self.old.sum(1).exp()


def policy(world: World, *, prompts: int = 1, off_policy: bool = False, logits: Tensor | None = None) -> Policy:
    """List the draws; with `off_policy` they are those of a policy whose logits are shifted."""
    phi = (world.logits if logits is None else logits).detach().clone().requires_grad_()

    def of(logits: Tensor) -> Tensor:
        return torch.where(world.drawn, logits.log_softmax(-1)[world.state, world.token], 0)

    log_prob = of(phi)
    table = phi.detach().log_softmax(-1)
    p = table.exp()
    onehot = torch.zeros(*world.state.shape, *phi.shape, dtype=torch.float64)
    s, t = world.drawn.nonzero(as_tuple=True)
    state, token = world.state[s, t], world.token[s, t]
    onehot[s, t, state] = -p[state]
    onehot[s, t, state, token] += 1
    rewards = world.rewards.sum(1)
    likeliest = log_prob.detach().sum(1).view(prompts, -1).argmax(1, keepdim=True)
    return Policy(
        world,
        phi,
        log_prob,
        of(world.logits + world.shift) if off_policy else log_prob.detach(),
        of(torch.zeros_like(phi)).detach(),
        torch.where(world.drawn, -(p * table).sum(-1)[world.state], 0),
        torch.where(world.drawn, p.square().sum(-1)[world.state], 0),
        onehot.flatten(2),
        rewards,
        rewards.view(prompts, -1).gather(1, likeliest).squeeze(1),
        prompts,
    )


def weights(call: Call, policy: Policy, draws: Tensor, groups: Tensor, reduce: Reduce) -> Tensor:
    """[B, T]: what the score of each step is multiplied with, in the direction of more reward.

    Raises:
        ValueError: for what is neither advantages nor a loss.
    """
    world = policy.world
    drawn = world.drawn[draws]
    leaf = policy.log_prob.detach()[draws].requires_grad_()
    given = Batch(
        policy.rewards[draws],
        world.rewards[draws],
        world.mask[draws],
        drawn,
        groups,
        leaf,
        policy.old[draws],
        policy.reference[draws],
        policy.entropy[draws],
        policy.squared[draws],
        policy.greedy[groups],
        torch.full(leaf.shape, 0.3, dtype=torch.float64),
    )
    found = call(given)
    found = found[0] if isinstance(found, tuple | list) else found
    if not isinstance(found, Tensor) or found.shape not in ((), leaf.shape[:1], leaf.shape):
        got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"audit needs advantages, [B] = {list(leaf.shape[:1])} or [B, T] = {list(leaf.shape)}, or a loss, one "
            f"number attached to log_prob; got {got}."
        )
    if found.dim() == 0:
        if not found.requires_grad:
            raise ValueError(
                "audit needs a loss that is attached to log_prob, or advantages [B] or [B, T]; got a number without a "
                "graph."
            )
        (gradient,) = torch.autograd.grad(found, leaf, allow_unused=True, materialize_grads=True)
        return torch.where(drawn, -gradient.double(), 0)
    advantage = found.detach().double()
    advantage = advantage.unsqueeze(-1).expand_as(leaf) if advantage.dim() == 1 else advantage
    advantage = torch.where(drawn, advantage, 0)
    if reduce == "tokens":
        return advantage / drawn.sum()
    lengths = drawn.sum(1, keepdim=True).clamp_min(1) if reduce == "length" else 1
    return advantage / lengths / len(draws)
