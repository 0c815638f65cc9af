"""Advantages from a critic: generalized advantage estimates, and V-trace for draws of an older policy.

Source: [schulman2016high], eq. 16; V-trace by [espeholt2018impala], eq. 1 and sec. 4.2. Differences from the papers:
termination and truncation are told apart, and no time passes at steps that the policy did not draw.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sampleprop.functional import arguments
from sampleprop.functional.reward_to_go import scan
from sampleprop.tracing import inspectable

NAME = "generalized_advantage"


class Advantage(NamedTuple):
    """The result of :func:`generalized_advantage`.

    Attributes:
        advantage: of the shape of the rewards; the weight of each score.
        target: of the same shape; the value that the critic should learn.
    """

    advantage: Tensor
    target: Tensor


def generalized_advantage(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor | None = None,
    *,
    dim: int,
    discount: float = 1.0,
    trace: float = 1.0,
    terminated: Tensor | None = None,
    truncated: Tensor | None = None,
    mask: Tensor | None = None,
    drawn: Tensor | None = None,
    ratio: Tensor | None = None,
    clip: tuple[float, float] = (1.0, 1.0),
) -> Advantage:
    r"""Return advantages, and targets for the critic, from rewards and the critic's values.

    .. math::

        A_t = \rho_t \delta_t + \gamma \lambda\, (1 - \text{end}_t)\, \kappa_t\, A_{t+1}, \qquad
        \text{target}_t = V_t + A_t

        \delta_t = r_t + \gamma\, (1 - \text{terminated}_t)\, V'_t - V_t

    An episode *terminates* if nothing follows: the value of the next state is 0. It is *truncated* if a time limit cut
    it off. Then it would have gone on, and the value :math:`V'_t` of the next state counts. Both are ends of the trace
    (:math:`\text{end}_t = 1`). If you mix them up, the gradient is biased.

    Without `ratio` this is GAE, with ρ = κ = 1. With the ratios π / μ of each step it is V-trace. Then ρ and κ are the
    ratios, limited by `clip`, and the advantage is
    :math:`\rho_t (\delta_t + \gamma (1 - \text{end}_t) (\text{target} - V)_{t+1})`.

    With `trace=1`, on-policy and without discount, the advantage is the return minus a baseline. It is then unbiased as
    a weight of the score. With a smaller trace, the critic's error causes a bias. The factor :math:`\gamma^t` is left
    out, as most implementations do; see :func:`reward_to_go`.

    In a language model, only the tokens that the policy drew are steps of time. Rewards and ends at the observations
    after a token belong to this token. Such rewards are not discounted.

    Args:
        rewards: any shape with the steps along `dim`; finite where they exist.
        values: V of the state before each step, of the shape of `rewards`, detached.
        next_values: V' of the state after each step, of the same shape, detached. After a truncation, this is the value
            of the final observation, which environments that reset themselves return separately. None for the value of
            the next step; with `mask` or `drawn`, that of the next drawn step, and 0 after the last one. None is
            refused with `truncated`. Without `mask` and `drawn`, all episodes must then terminate at the last step.
        dim: the dimension of the steps.
        discount: γ, from 0 to 1.
        trace: λ, from 0 to 1.
        terminated: booleans of the shape of `rewards`, True if nothing follows the step; None for no such step.
        truncated: booleans of the same shape, True if the episode was cut off after the step; None for no such step.
        mask: booleans of the same shape, False for padding. The rewards there must be 0 or not finite.
        drawn: booleans of the same shape, the steps that the policy drew; None for `mask`.
        ratio: π / μ of each step, of the same shape, detached.
        clip: the upper limits of ρ and κ, above 0.

    Returns:
        The advantage and the target, without graph, in float32 at least; 0 where nothing was drawn.

    Raises:
        TypeError: for an argument that is not a tensor of real numbers, and flags that are not boolean.
        ValueError: for other shapes, values with a graph, numbers out of range, a truncation without `next_values`, NaN
            and infinities (values are not checked under `torch.compile` and `torch.func`).

    Example:
        >>> import torch, sampleprop as sp
        >>> reward, value = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.5, 1.0, 0.0])
        >>> end = torch.tensor([False, False, True])
        >>> sp.generalized_advantage(reward, value, dim=0, discount=0.5, trace=0.5, terminated=end).advantage
        tensor([ 0.8750, -0.5000,  2.0000])
    """
    rewards, values = arguments.real(NAME, "rewards", rewards), arguments.real(NAME, "values", values)
    dim = arguments.dimension(NAME, "dim", dim, rewards.shape)
    arguments.fraction(NAME, "discount", discount)
    arguments.fraction(NAME, "trace", trace)
    if not (isinstance(clip, tuple) and len(clip) == 2 and min(clip) > 0):
        raise ValueError(f"{NAME} needs clip as two limits above 0, of ρ and of κ; got {clip}.")
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if flag is not None:
            arguments.flags(NAME, name, flag, "rewards", rewards.shape)
    arguments.two_masks(NAME, mask, drawn, "rewards", rewards.shape)
    drawn = mask if drawn is None else drawn
    _refuse_numbers(rewards, values, next_values, ratio, mask, drawn)
    if next_values is None:
        _refuse_cut_off(terminated, truncated, drawn, dim)

    # From here on the steps come last, and what does not exist is 0.
    rewards, values = (_last(x, dim, keep) for x, keep in ((rewards, mask), (values, drawn)))
    chosen = torch.ones_like(rewards, dtype=torch.bool) if drawn is None else drawn.movedim(dim, -1)
    after = _next(values, chosen) if next_values is None else _last(next_values, dim, drawn).to(rewards.dtype)
    passes = _passes(chosen)
    flags = [torch.zeros_like(chosen) if x is None else x.movedim(dim, -1) for x in (terminated, truncated)]
    within = passes & ~(flags[0] | flags[1])  # what follows an end belongs to another episode
    goes_on, uncut = (1 - _gathered(x.to(rewards.dtype), within).clamp(max=1) for x in flags)
    traced = goes_on * uncut
    rho = kappa = torch.ones_like(rewards)
    if ratio is not None:
        rho, kappa = (_last(ratio, dim, drawn).to(rewards.dtype).clamp(max=limit) for limit in clip)

    rewards = _gathered(rewards, within)
    delta = rewards + discount * goes_on * after - values
    decay = torch.where(chosen, discount * trace * traced * kappa, 1)
    beyond = torch.where(chosen, scan(torch.where(chosen, rho * delta, 0), decay), 0)  # target - V
    advantage = beyond
    if ratio is not None:
        advantage = torch.where(chosen, rho * (delta + discount * traced * _next(beyond, chosen)), 0)
    return Advantage(advantage.movedim(-1, dim), (values + beyond).movedim(-1, dim))


def _last(x: Tensor, dim: int, keep: Tensor | None) -> Tensor:
    """[..., time], detached, with 0 where nothing is kept."""
    x = x.detach() if keep is None else torch.where(keep, x.detach(), 0)
    return x.movedim(dim, -1)


def _passes(chosen: Tensor) -> Tensor:
    """1 where the next step was not drawn: what belongs to it is handed on to this one."""
    return functional.pad(~chosen[..., 1:], (0, 1))


def _gathered(x: Tensor, passes: Tensor) -> Tensor:
    """x of each step, with that of the observations that follow it."""
    return scan(x, passes.to(x.dtype))


def _next(x: Tensor, chosen: Tensor) -> Tensor:
    """At each step x of the next one that was drawn, 0 after the last one; x is 0 where nothing was drawn."""
    return _gathered(functional.pad(x[..., 1:], (0, 1)), _passes(chosen))


def _refuse_numbers(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor | None,
    ratio: Tensor | None,
    mask: Tensor | None,
    drawn: Tensor | None,
) -> None:
    if mask is not None:
        arguments.nothing_lost(NAME, "reward", rewards, mask)
    arguments.finite(NAME, "rewards", rewards, mask, fix="Fix the reward: it would reach every earlier step.")
    why = "advantages are numbers; the critic learns by its own loss, from the target"
    for name, x, reason in (
        ("values", values, why),
        ("next_values", next_values, why),
        ("ratio", ratio, "its gradient belongs to the loss"),
    ):
        if x is None:
            continue
        arguments.real(NAME, name, x)
        arguments.same_shape(NAME, name, x, "rewards", rewards.shape)
        arguments.detached(NAME, name, x, reason)
        arguments.finite(NAME, name, x, drawn, fix="Fix it, or mask the step.")


def _refuse_cut_off(terminated: Tensor | None, truncated: Tensor | None, drawn: Tensor | None, dim: int) -> None:
    """Refuse an episode that goes on after its last step, where the value of what follows is not given."""
    if truncated is not None:
        raise ValueError(
            f"{NAME} needs next_values where episodes are truncated: the value of the state that was cut off is in no "
            "other place; got None. Evaluate the critic on the final observations."
        )
    if drawn is not None:
        return
    ended = terminated is not None
    if terminated is not None and inspectable(terminated):
        ended = bool(terminated.select(dim, -1).all())
    if not ended:
        raise ValueError(
            f"{NAME} needs next_values where the last step does not terminate: the value of the state after it; got "
            "None. Pass next_values, or terminated=True there."
        )
