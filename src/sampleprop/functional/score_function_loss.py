"""The score-function gradient from log-probabilities and costs that are already there.

Source: [williams1992simple]; any order by the box of [foerster2018dice], sec. 4; the baseline in it by
[farquhar2019loaded]; the lengths that divide by [shao2024deepseekmath] (GRPO), the tokens by [yu2025dapo] (DAPO).
Differences from the papers: costs without a step, draws of different lengths, steps that the policy did not draw, and
groups that leave one out.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sampleprop import noise
from sampleprop.functional import arguments
from sampleprop.functional.aggregate import NORMALIZE, Normalize, divides
from sampleprop.functional.leave_one_out import company, over_group
from sampleprop.functional.reward_to_go import scan
from sampleprop.surrogate import surrogate
from sampleprop.tracing import inspectable

NAME = "score_function_loss"


def score_function_loss(
    log_prob: Tensor,
    cost: Tensor,
    *,
    time_dim: int | None,
    baseline: Tensor | Literal["leave-one-out"] | None = None,
    group_dim: int | None = None,
    mask: Tensor | None = None,
    drawn: Tensor | None = None,
    normalize: Normalize = "draws",
    divisor: Tensor | float | None = None,
    as_weights: bool = False,
) -> Tensor:
    r"""Return the mean cost, with the score-function gradient. Minimize it.

    For draws i with log-probabilities ℓ, costs c and baselines b, the gradient is

    .. math::

        \nabla\,\text{loss} = \frac1n \sum_i \Bigl[ \nabla c_i
            + \sum_{t \text{ drawn}} (C_{it} - b_{it})\,\nabla \ell_{it} \Bigr],
            \qquad C_{it} = \sum_{s \ge t,\ s \text{ exists}} c_{is}

    If each draw has one cost, :math:`C_{it}` is this cost. If each step has a cost, :math:`C_{it}` is the sum of the
    costs from step t on. The loss for one draw is :math:`\sum_t c_t \square_t - b_t (\square_t - \square_{t-1})`, with
    :math:`\square_t = \exp \sum_{s \le t} (\ell_s - \operatorname{stop} \ell_s)`. Each :math:`\square_t` has the value
    1, because stop removes the gradient and keeps the number.

    There are two masks. `mask` says which steps exist, and `drawn` says which of them the policy drew. Tool output,
    prompts and forced tokens exist, but are not drawn. A cost at such a step is charged to all earlier steps that were
    drawn. A draw whose mask is all False does not exist, and n does not count it.

    The gradient is unbiased, to any order, under two conditions: the draws come from the distribution that `log_prob`
    describes, and a baseline does not depend on its own step or on later steps. θ in the cost gets its own gradient.
    For draws from another distribution see :func:`importance_ratio`. A cost is a reward with a minus sign. A KL penalty
    is a part of the cost.

    `normalize` says by what the gradient is divided. Without a `divisor`, the value is the mean cost in each case:

    - "draws": the number of draws, as in the formula. Unbiased. A long draw has the same weight as a short one, as in
      "Dr. GRPO", which divides by a constant.
    - "tokens": the number of steps that were drawn. Biased if lengths are random, because this number depends on the
      draws. Up to a constant factor, the bias vanishes as the batch grows.
    - "length": each draw's own length, and then the number of draws, as in GRPO. Biased, whatever the number of draws.
      With one cost for each draw, it is the gradient of E[(c - b) / length], with b held fixed. Long draws are charged
      less for their errors.

    With a `divisor`, value and gradient are sums divided by it. Compute it by :func:`count` for the whole step of the
    optimizer. The parts of a step, such as micro-batches and ranks, then add up to the result of one call for all
    draws. With a divisor, "draws" and "tokens" differ only in this number.

    Args:
        log_prob: the log-probabilities of the draws, with the policy's graph: [*draws], or with one more dimension for
            the steps of one draw.
        cost: [*draws], the cost of each draw; or the cost of each step, of the shape of `log_prob`.
        time_dim: the dimension of `log_prob` that holds the steps of one draw; None if each entry is a whole draw.
            It has no default, because every delayed cost would be lost if steps were taken for draws.
        baseline: [*draws], or of the shape of `log_prob`, detached; None for 0. "leave-one-out" is the mean of the
            other costs in the group. If each step has a cost, this mean is taken at each step, over the draws that have
            not ended.
        group_dim: the dimension of `log_prob` that holds the draws of one group, for "leave-one-out".
        mask: booleans of the shape of `log_prob`, False for entries that do not exist: padding, steps after the end of
            an episode, whole draws. A cost there must be 0 or not finite, and is ignored.
        drawn: booleans of the shape of `log_prob`, True for the steps that the policy drew; None for `mask`. Elsewhere
            log-probability and baseline are ignored.
        normalize: "draws", "tokens" or "length". The last two need `time_dim`, and have first derivatives only.
        divisor: above 0; replaces the number of draws ("draws", "length") or tokens of this call.
        as_weights: whether `cost` holds the factors of ∇ℓ themselves, such as an advantage or `reward_to_go`. They are
            then not summed over the steps. There are first derivatives only, and no gradient for θ. The value is the
            sum of the factors over the drawn steps, averaged over the draws. It says little, so log the cost itself.

    Returns:
        A number, in float32 at least.

    Raises:
        TypeError: for an argument that is not a tensor of real numbers, and without `time_dim`.
        ValueError: for shapes that would be broadcast; a baseline or weight that has a graph; a group of one; no draw
            that exists; a cost where nothing exists; a drawn step that does not exist; a NaN or an infinity that is not
            masked. Values are not checked under `torch.compile` and `torch.func`.
        RuntimeError: for a `log_prob` without graph, because the gradient would be zero (use `torch.no_grad()` if you
            need the value only); and for a second derivative, if there are first derivatives only.

    Example:
        >>> import torch, sampleprop as sp
        >>> policy = torch.distributions.Categorical(logits=torch.zeros(6, 5, 3, requires_grad=True))
        >>> tokens = policy.sample((4,))  # 4 draws for each of 6 prompts, 5 tokens each
        >>> cost = (tokens == 0).sum(-1)
        >>> loss = sp.score_function_loss(
        ...     policy.log_prob(tokens), cost, baseline="leave-one-out", group_dim=0, time_dim=-1
        ... )
        >>> loss.backward()
    """
    arguments.floating(NAME, "log_prob", log_prob)
    log_prob, cost = noise.promote(log_prob), arguments.real(NAME, "cost", cost)
    time = None if time_dim is None else arguments.dimension(NAME, "time_dim", time_dim, log_prob.shape)
    _refuse_shapes(log_prob, cost, time)
    _refuse_options(log_prob, cost, time, normalize, as_weights)
    divides(NAME, divisor)
    arguments.two_masks(NAME, mask, drawn, "log_prob", log_prob.shape)
    drawn = mask if drawn is None else drawn
    alive = mask if mask is None or time is None else mask.any(time)  # [*draws]
    per_step = time is not None and cost.shape == log_prob.shape
    _refuse_values(
        log_prob, cost, baseline, mask if per_step else alive, alive, drawn, as_weights, _draws(log_prob, time)
    )
    group = _group(log_prob, baseline, group_dim, time, alive)
    if normalize == "tokens" and divisor is not None:
        normalize = "draws"  # the same but for the number

    # From here on the steps come last; a draw without steps is one of a single step.
    exists, chosen = (None if x is None else _steps_last(x, time) for x in (mask, drawn))  # [*draws, time]
    log_prob = _where(chosen, _steps_last(log_prob, time))
    if per_step:
        cost = _where(chosen if as_weights else exists, _steps_last(cost, time))
    else:
        cost = _where(alive, cost).unsqueeze(-1)  # [*draws, 1]
    count: Tensor | float = log_prob[..., 0].numel() if alive is None else alive.sum().clamp_min(1)
    if divisor is not None:
        count = divisor
    charged = cost.detach()
    if per_step and not as_weights:
        charged = scan(charged, 1.0)  # C
    b = None
    if isinstance(baseline, Tensor):
        b = baseline.detach().to(charged.dtype)
        b = _where(chosen, _steps_last(b, time) if time is None or b.dim() == log_prob.dim() else b.unsqueeze(-1))
    elif group is not None:
        b = over_group(charged, group, exists if per_step or alive is None else alive.unsqueeze(-1))

    if as_weights or normalize != "draws":
        weights = _where(chosen, (charged if b is None else charged - b).expand_as(log_prob))
        how = "as_weights=True" if as_weights else f'normalize="{normalize}"'
        by = _divisor(normalize, log_prob, chosen, count)
        return surrogate(f"{NAME}({how})", cost.sum() / count, (log_prob,), (weights / by,))
    return _boxed(log_prob, cost, b).sum() / count


def _boxed(log_prob: Tensor, cost: Tensor, b: Tensor | None) -> Tensor:
    """Each draw's cost, with derivatives of every order, from [*draws, time] (or [*draws, 1] for one a draw)."""
    score = log_prob.cumsum(-1)
    box = (score - score.detach()).exp()  # [*draws, time]
    result = cost * (box if cost.shape == box.shape else box[..., -1:])
    if b is None:
        return result.sum(-1)
    change = torch.diff(box, dim=-1, prepend=torch.ones_like(box[..., :1]))
    return result.sum(-1) - (b * change).sum(-1)


def _divisor(normalize: Normalize, log_prob: Tensor, keep: Tensor | None, count: Tensor | float) -> Tensor | float:
    if normalize == "draws":
        return count
    lengths = torch.ones_like(log_prob).sum(-1, keepdim=True) if keep is None else keep.sum(-1, keepdim=True)
    return lengths.sum().clamp_min(1) if normalize == "tokens" else lengths.clamp_min(1) * count


def _where(keep: Tensor | None, x: Tensor) -> Tensor:
    return x if keep is None else torch.where(keep, x, 0)


def _steps_last(x: Tensor, time: int | None) -> Tensor:
    return x.unsqueeze(-1) if time is None else x.movedim(time, -1)


def _draws(log_prob: Tensor, time: int | None) -> torch.Size:
    shape = log_prob.shape
    return shape if time is None else shape[:time] + shape[time + 1 :]


def _refuse_shapes(log_prob: Tensor, cost: Tensor, time: int | None) -> None:
    if log_prob.numel() == 0:
        raise ValueError(
            f"{NAME} needs a draw, and a step in it; got shape {list(log_prob.shape)}. Skip the empty batch."
        )
    if time is None:
        if cost.dim() == log_prob.dim() - 1:
            raise ValueError(
                f"{NAME} needs one cost for each log-probability, {list(log_prob.shape)}, with time_dim=None; got "
                f"{list(cost.shape)}. If log_prob holds the steps of each draw, name their dimension: time_dim=-1, say."
            )
        arguments.same_shape(NAME, "cost", cost, "log_prob", log_prob.shape)
    elif cost.shape not in (log_prob.shape, _draws(log_prob, time)):
        raise ValueError(
            f"{NAME} needs a cost for each draw, {list(_draws(log_prob, time))}, or for each step, "
            f"{list(log_prob.shape)}, nothing is broadcast; got {list(cost.shape)}. Sum over what is one draw, or "
            f"expand."
        )


def _refuse_options(log_prob: Tensor, cost: Tensor, time: int | None, normalize: str, as_weights: bool) -> None:
    arguments.choice(NAME, "normalize", normalize, NORMALIZE)
    if normalize != "draws" and time is None:
        raise ValueError(
            f"{NAME} needs the dimension of the steps to normalize by {normalize}; got time_dim=None. Name it: "
            f"time_dim=-1, say."
        )
    if as_weights:
        arguments.detached(NAME, "cost", cost, "weights are numbers, and θ in them would get a wrong gradient")
    if torch.is_grad_enabled() and inspectable(log_prob) and not log_prob.requires_grad:
        raise RuntimeError(
            f"{NAME} needs a log_prob that is attached to the policy; got one without graph, so its gradient would be "
            f"zero. Compute it with gradients on, from what was drawn; for the value alone, call under torch.no_grad()."
        )


def _group(
    log_prob: Tensor, baseline: Tensor | str | None, group_dim: int | None, time: int | None, alive: Tensor | None
) -> int | None:
    """The dimension of a group among those of the draws; None where there are no groups."""
    if isinstance(baseline, Tensor) or baseline is None:
        if group_dim is not None:
            raise ValueError(
                f'{NAME} needs group_dim for baseline="leave-one-out" only; got group_dim={group_dim} with another. '
                "Leave it out."
            )
        return None
    if baseline != "leave-one-out":
        raise ValueError(
            f'{NAME} needs baseline=None, "leave-one-out" or a tensor; got {baseline!r}. Make a number one: '
            "torch.full_like(cost, number)."
        )
    if group_dim is None:
        raise ValueError(
            f'{NAME} needs the dimension of the draws of one group for baseline="leave-one-out"; got group_dim=None. '
            "Name that of the draws that share a prompt or a state."
        )
    group = arguments.dimension(NAME, "group_dim", group_dim, log_prob.shape)
    if group == time:
        raise ValueError(
            f"{NAME} needs groups of draws; got group_dim and time_dim both {group}: the steps of one draw are not "
            f"independent."
        )
    company(NAME, "group_dim", log_prob.shape, group, None)
    group = group - 1 if time is not None and group > time else group
    company(NAME, "group_dim", _draws(log_prob, time), group, alive)
    return group


def _refuse_values(
    log_prob: Tensor,
    cost: Tensor,
    baseline: Tensor | str | None,
    exists: Tensor | None,
    alive: Tensor | None,
    drawn: Tensor | None,
    as_weights: bool,
    draws: torch.Size,
) -> None:
    """`exists` and the cost have one shape; `alive` has that of the draws, `drawn` that of the log-probabilities."""
    if alive is not None and inspectable(alive) and not bool(alive.any()):
        raise ValueError(f"{NAME} needs a draw that the mask keeps; got none. Fix the mask, or skip the batch.")
    if exists is not None and not as_weights:
        arguments.nothing_lost(NAME, "cost", cost, exists)
    arguments.finite(
        NAME, "log_prob", log_prob, drawn, fix="What was drawn has a finite log-probability; mask padding."
    )
    counts = drawn if as_weights and cost.shape == log_prob.shape else exists
    arguments.finite(NAME, "cost", cost, counts, fix="Fix the cost, or mask it.")
    if isinstance(baseline, Tensor):
        if baseline.shape not in (draws, log_prob.shape):
            raise ValueError(
                f"{NAME} needs a baseline for each draw, {list(draws)}, or for each step, {list(log_prob.shape)}, "
                f"nothing is broadcast; got {list(baseline.shape)}. Expand it, or put its dimensions in that order."
            )
        arguments.real(NAME, "baseline", baseline)
        arguments.detached(
            NAME, "baseline", baseline, "it would change the gradient of the cost; it learns by its own loss"
        )
        where = drawn if baseline.shape == log_prob.shape else alive
        arguments.finite(NAME, "baseline", baseline, where, fix="Fix the baseline, or mask it.")
