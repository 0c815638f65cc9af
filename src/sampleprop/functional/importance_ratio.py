"""Weights for draws from another policy than the one that is trained.

Source: [precup2000eligibility] (of whole draws, of each decision, and self-normalized); clipping by
[schulman2017proximal], eq. 7; the geometric mean by [zheng2025group], eq. 7; clipped and detached ratios by
[minimax2025scaling] (CISPO) and [yao2025efficient] (truncated importance sampling); weight 0 outside of the limits by
[ling2025every] (IcePop). Differences from the papers: a ratio is compared with its limits before the exponential, in
log space.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from sampleprop import noise
from sampleprop.functional import arguments
from sampleprop.functional.leave_one_out import company

NAME = "importance_ratio"
Level = Literal["step", "prefix", "draw", "geometric"]
Clip = tuple[float | None, float | None]


def importance_ratio(
    log_prob: Tensor,
    behaviour_log_prob: Tensor,
    *,
    time_dim: int | None = None,
    level: Level | None = None,
    mask: Tensor | None = None,
    clip: Clip | None = None,
    outside: Literal["clip", "drop"] = "clip",
    self_normalize: int | None = None,
) -> Tensor:
    r"""How much likelier each draw is under the policy than under the one that drew it, with its gradient.

    .. math:: \rho(x) = \frac{\pi_\phi(x)}{\mu(x)}, \qquad
        \mathbb{E}_\mu[\rho\,(c - b)] = \mathbb{E}_\pi[c] - b, \qquad \nabla \rho = \rho \nabla \log \pi_\phi

    Therefore `(ratio * (cost - b)).mean()` is an unbiased loss, to any order, for a detached b that does not depend on
    the draw. Its value is the mean cost minus b. It needs μ > 0 wherever π > 0. Its variance grows exponentially with
    the length of a draw. For draws with steps t, there are four levels:

    - "draw": :math:`\prod_t \pi_t / \mu_t`. Unbiased for any cost.
    - "prefix": the product of the ratios up to each step, itself included. Unbiased if each step has a cost that does
      not depend on later steps.
    - "step": :math:`\pi_t / \mu_t` alone, as in PPO and GRPO. Biased off-policy on sequences, because it ignores how
      the policies differ in earlier and later steps.
    - "geometric": :math:`(\prod_t \pi_t / \mu_t)^{1/T}`, as in GSPO. Biased off-policy.

    Two options reduce the variance, at the price of a bias:

    - `clip`: a ratio outside the limits is replaced by the limit, or by 0 with `outside="drop"`, and has no gradient.
      PPO's loss for a cost c is `torch.maximum(ratio * c, clipped * c)`, which is biased too. CISPO and truncated
      importance sampling detach the clipped ratio.
    - `self_normalize`: the ratios are divided by their mean. The bias is O(1 / n) for n draws, whatever b is.

    Args:
        log_prob: log π of the draws, with the policy's graph; -inf is allowed, and gives the ratio 0.
        behaviour_log_prob: log μ of the same draws, of the same shape, detached and finite.
        time_dim: the dimension of the steps of one draw; None if each entry is one ratio.
        level: as above; None is "draw" with a `time_dim` and "step" without.
        mask: booleans of the shape of `log_prob`, False for steps that were not drawn (padding, observations). Their
            ratio is 1. With `self_normalize`, a draw that is masked completely does not exist and has weight 0.
        clip: (low, high), limits of the ratio with 0 ≤ low ≤ 1 ≤ high; each may be None. Biased. Logarithms are
            compared, so nothing overflows.
        outside: "clip" to use the limit, "drop" to use 0.
        self_normalize: the dimension of `log_prob` of the draws over which the ratios are divided by their mean;
            biased.

    Returns:
        The ratio, without the dimension `time_dim` at the levels "draw" and "geometric"; in float32 at least.

    Raises:
        TypeError: for an argument that is not a tensor of floating-point numbers, and a `clip` that is not two limits.
        ValueError: for different shapes; a `behaviour_log_prob` with a graph; limits that do not contain 1; `clip` and
            `self_normalize` together; NaN, and without `clip` ratios that are infinite or too large (not checked under
            `torch.compile` and `torch.func`).

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.tensor([0.0, 1.0], requires_grad=True)
        >>> log_prob = logits.log_softmax(0)[torch.tensor([0, 1, 1])]
        >>> ratio = sp.importance_ratio(log_prob, torch.full((3,), 0.5).log())
        >>> (ratio * torch.tensor([3.0, 1.0, 1.0])).mean().backward()
    """
    arguments.floating(NAME, "log_prob", log_prob)
    arguments.floating(NAME, "behaviour_log_prob", behaviour_log_prob)
    log_prob, behaviour = noise.promote(log_prob), noise.promote(behaviour_log_prob)
    arguments.same_shape(NAME, "behaviour_log_prob", behaviour, "log_prob", log_prob.shape)
    arguments.detached(
        NAME, "behaviour_log_prob", behaviour, "the policy that drew is fixed, and its gradient would cancel"
    )
    time = None if time_dim is None else arguments.dimension(NAME, "time_dim", time_dim, log_prob.shape)
    level = _level(time, level)
    arguments.choice(NAME, "outside", outside, ("clip", "drop"))
    limits = _limits(clip)
    if mask is not None:
        arguments.flags(NAME, "mask", mask, "log_prob", log_prob.shape)
    group = None if self_normalize is None else _group(log_prob.shape, self_normalize, time, clip)
    arguments.finite(NAME, "behaviour_log_prob", behaviour, mask, fix="What was drawn had a probability; mask padding.")
    ratio = _joined(log_prob - behaviour, time, level, mask)  # in log space
    if group is not None:
        shift = int(time is not None and group > time and ratio.dim() < log_prob.dim())
        result = _self_normalized(ratio, _alive(mask, time, ratio.shape), group - shift)
    elif limits is not None:
        result = _clipped(ratio, limits, (0.0, 0.0) if outside == "drop" else limits)
    else:
        result = ratio.exp()
    fix = (
        "The policies are too far apart for ratios (or a log-probability is NaN): look at sampleprop.mismatch, clip, "
        "take shorter draws, or fresher ones."
    )
    arguments.finite(NAME, "the ratio", result, fix=fix)
    return result


def _joined(log_ratio: Tensor, time: int | None, level: Level, mask: Tensor | None) -> Tensor:
    """The logarithm of the ratio at that level."""
    if mask is not None:
        log_ratio = torch.where(mask, log_ratio, 0)
    if time is None or level == "step":
        return log_ratio
    if level == "prefix":
        return log_ratio.cumsum(time)
    total = log_ratio.sum(time)
    if level == "draw":
        return total
    return total / (log_ratio.shape[time] if mask is None else mask.sum(time).clamp_min(1))


def _clipped(log_ratio: Tensor, limits: tuple[float, float], weights: tuple[float, float]) -> Tensor:
    """exp(log_ratio) between the limits; outside a weight, and no gradient."""
    below = log_ratio < (math.log(limits[0]) if limits[0] else -math.inf)
    above = log_ratio > math.log(limits[1])
    inside = torch.where(below | above, 0, log_ratio).exp()  # what is outside never meets the exponential
    return torch.where(above, weights[1], torch.where(below, weights[0], inside))


def _self_normalized(log_ratio: Tensor, alive: Tensor | None, group: int) -> Tensor:
    """The ratios over their mean in each group; a draw that does not exist enters no mean, and has weight 0."""
    if alive is None:
        return log_ratio.softmax(group) * log_ratio.shape[group]
    weights = torch.where(alive, log_ratio, -torch.inf).softmax(group) * alive.sum(group, keepdim=True)
    return torch.where(alive, weights, 0)


def _alive(mask: Tensor | None, time: int | None, shape: torch.Size) -> Tensor | None:
    """Which ratios are those of a draw that exists: one with a step that the mask keeps."""
    if mask is None or time is None:
        return mask
    return mask.any(time, keepdim=len(shape) == mask.dim()).expand(shape)


def _level(time: int | None, level: Level | None) -> Level:
    if level is None:
        return "step" if time is None else "draw"
    arguments.choice(NAME, "level", level, ("step", "prefix", "draw", "geometric"))
    if level != "step" and time is None:
        raise ValueError(f"{NAME} needs the dimension of the steps for level={level!r}; got time_dim=None. Name it.")
    return level


def _limits(clip: Any) -> tuple[float, float] | None:
    """The limits of the ratio."""
    if clip is None:
        return None
    if not isinstance(clip, tuple) or len(clip) != 2:
        raise TypeError(
            f"{NAME} needs clip=(low, high), ratios or None; got {clip!r}. PPO's ε = 0.2 is clip=(0.8, 1.2)."
        )
    low, high = clip
    if not (low is None or 0 <= low <= 1) or not (high is None or high >= 1):
        raise ValueError(
            f"{NAME} needs 0 <= low <= 1 <= high, because equal policies have ratio 1; got clip={clip}. Epsilons "
            "(0.2, 0.28) are clip=(0.8, 1.28)."
        )
    return (0.0 if low is None else low), (math.inf if high is None else high)


def _group(shape: torch.Size, dim: int, time: int | None, clip: Clip | None) -> int:
    """The dimension of the draws that share a mean."""
    if clip is not None:
        raise ValueError(f"{NAME} needs clip or self_normalize, not both; got both. Choose one bias.")
    group = arguments.dimension(NAME, "self_normalize", dim, shape)
    if group == time:
        raise ValueError(f"{NAME} needs to normalize over draws; got self_normalize and time_dim both {group}.")
    company(NAME, "self_normalize", shape, group, None)
    return group
