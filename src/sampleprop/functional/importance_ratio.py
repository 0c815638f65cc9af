"""Weights for draws from another policy than the one that is trained.

Source: Precup, Sutton and Singh (2000), "Eligibility traces for off-policy policy evaluation" (of whole draws, of each
decision, and self-normalized); clipping by Schulman, Wolski, Dhariwal, Radford and Klimov (2017), "Proximal
policy optimization algorithms", eq. 7.
Differences from the papers: none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sampleprop import noise
from sampleprop.functional import arguments
from sampleprop.functional.leave_one_out import company

NAME = "importance_ratio"


def importance_ratio(
    log_prob: Tensor,
    behaviour_log_prob: Tensor,
    *,
    time_dim: int | None = None,
    cumulative: bool = False,
    mask: Tensor | None = None,
    clip: tuple[float, float] | None = None,
    self_normalize: int | None = None,
) -> Tensor:
    r"""How much likelier each draw is under the policy than under the one that drew it, with its gradient.

    .. math:: \rho(x) = \frac{\pi_\phi(x)}{\mu(x)}, \qquad
        \mathbb{E}_\mu[\rho\,(c - b)] = \mathbb{E}_\pi[c] - b, \qquad \nabla \rho = \rho \nabla \log \pi_\phi

    So `(ratio * (cost - b)).mean()` is an unbiased loss, to any order, for a detached b that does not depend on the
    draw (its value is short of the mean cost by b). It needs μ > 0 wherever π > 0; its variance grows exponentially
    with the length of a draw. What lowers it is biased:

    - `clip`: a ratio outside gets the limit's weight, and no gradient. Biased off-policy. PPO's loss for a cost c is
      `torch.maximum(ratio * c, clipped * c)`, biased likewise.
    - `self_normalize`: biased by O(1 / n) for n draws, with any b (even none); its weights average to 1.
    - the ratio of each step alone (no `time_dim`) on sequences, as PPO and GRPO have it: biased off-policy, for it
      forgets how the policies differ in what led there and in what follows. `cumulative` is right for a cost at each
      step, which depends on nothing later; the whole draw's ratio for any cost.

    Args:
        log_prob: log π of what was drawn, attached to the policy; -inf is legal, and gives 0.
        behaviour_log_prob: log μ of the same, of the same shape, detached, and finite.
        time_dim: the dimension of the steps of one draw, whose ratios are multiplied; None for none.
        cumulative: keep the steps: the product of the ratios up to each of them, itself included.
        mask: booleans of the shape of `log_prob`, False for what was not drawn (padding); the ratio there is 1.
        clip: (low, high) with 0 ≤ low < high; biased. (0, high) is truncation from above.
        self_normalize: the dimension of `log_prob` of the draws over which the ratios are divided by their mean;
            biased.

    Returns:
        The ratio, without the dimension `time_dim` unless it is cumulative; in float32 at least.

    Raises:
        TypeError: for what is not a tensor of floating-point numbers.
        ValueError: for different shapes; an attached behaviour; `clip` and `self_normalize` together; NaN, and ratios
            that are infinite or too large for the dtype (not looked at under `torch.compile` and `torch.func`).

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
    group = (
        None if self_normalize is None else arguments.dimension(NAME, "self_normalize", self_normalize, log_prob.shape)
    )
    _refuse_options(time, cumulative, clip, group)
    if group is not None:
        company(NAME, "self_normalize", log_prob.shape, group, None)
    if mask is not None:
        arguments.flags(NAME, "mask", mask, "log_prob", log_prob.shape)
    arguments.finite(NAME, "behaviour_log_prob", behaviour, mask, fix="What was drawn had a probability; mask padding.")
    log_ratio = log_prob - behaviour
    if mask is not None:
        log_ratio = torch.where(mask, log_ratio, 0)
    if time is not None:
        log_ratio = log_ratio.cumsum(time) if cumulative else log_ratio.sum(time)
    if group is not None:
        if time is not None and not cumulative and group > time:
            group -= 1
        result = log_ratio.softmax(group) * log_ratio.shape[group]
    else:
        result = log_ratio.exp()
    fix = (
        "The policies are too far apart for ratios (or a log-probability is NaN): take shorter draws, or fresher ones."
    )
    arguments.finite(NAME, "the ratio", result, fix=fix)
    return result if clip is None else result.clamp(*clip)


def _refuse_options(time: int | None, cumulative: bool, clip: tuple[float, float] | None, group: int | None) -> None:
    if cumulative and time is None:
        raise ValueError(f"{NAME} needs the dimension of the steps to be cumulative; got time_dim=None. Name it.")
    if clip is not None and not 0 <= clip[0] < clip[1]:
        raise ValueError(f"{NAME} needs clip=(low, high) with 0 <= low < high; got {clip}. PPO's is (1 - ε, 1 + ε).")
    if clip is not None and group is not None:
        raise ValueError(f"{NAME} needs clip or self_normalize, not both; got both. Choose one bias.")
    if group is not None and group == time:
        raise ValueError(f"{NAME} needs to normalize over draws; got self_normalize and time_dim both {group}.")
