"""The sum of the rewards from each step on.

Source: [sutton2018reinforcement], eq. 3.8 (the return); the scan is that of [hillis1986data]; what the discount does to
the gradient is from [nota2020policy]. Differences from them: none.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sampleprop.functional import arguments


def reward_to_go(
    rewards: Tensor,
    discount: float | Tensor = 1.0,
    *,
    dim: int,
    done: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""For each step, return the discounted sum of the rewards from this step to the end of its episode.

    .. math:: R_t = r_t + \gamma\,(1 - d_t)\,R_{t+1} = \sum_{s \ge t} \gamma^{s - t} r_s

    where :math:`d_t` is 1 at the last step of an episode, and 0 elsewhere. You can pass costs instead of rewards. The
    result is linear and differentiable in the rewards. Steps are joined in pairs, then in fours, and so on. The number
    of tensor operations therefore grows with the logarithm of the length, nothing is divided by a power of γ, and
    rounding errors do not accumulate along the episode. With a tensor of discounts this computes any recurrence
    :math:`R_t = r_t + \gamma_t R_{t+1}`.

    :math:`R_t` is the right weight of a score if the objective is not discounted. For the objective
    :math:`\mathbb{E}[\sum_t \gamma^t r_t]` the right weight is :math:`\gamma^t R_t`. Most implementations leave out the
    factor :math:`\gamma^t`. Their gradient is then biased, and it is the gradient of no objective (Nota and Thomas,
    2020, "Is the policy gradient a gradient?").

    If a time limit cuts an episode short, the episode is not done. You have two choices. Either add γ times the value
    of the next state to the last reward, and mark the episode done there. Or use :func:`generalized_advantage`, which
    takes both kinds of ends.

    Args:
        rewards: [time, batch], or any shape with the steps along `dim`; finite.
        discount: γ, from 0 to 1; or one discount for each step, a tensor of the shape of `rewards` with any values.
        dim: the dimension of the steps.
        done: booleans of the shape of `rewards`, True at the last step of an episode; None for one episode.
        mask: booleans of the shape of `rewards`, False for padding. The rewards there must be 0 or not finite, and
            count as 0. Observations that the policy did not draw are not padding, so their rewards count.

    Returns:
        R, of the shape of `rewards`; in float32 at least.

    Raises:
        TypeError: for an argument that is not a tensor of real numbers, and a `done` or `mask` that is not boolean.
        ValueError: for other shapes, no such dimension, a discount out of range, NaN or infinite rewards, and a reward
            where the mask is False (values are not checked under `torch.compile` and `torch.func`).

    Example:
        >>> import torch, sampleprop as sp
        >>> sp.reward_to_go(torch.tensor([1.0, 2.0, 4.0]), discount=0.5, dim=0)
        tensor([3., 4., 4.])
    """
    name = "reward_to_go"
    result = arguments.real(name, "rewards", rewards)
    if isinstance(discount, Tensor):
        arguments.same_shape(name, "discount", discount, "rewards", result.shape)
    else:
        arguments.fraction(name, "discount", discount)
    dim = arguments.dimension(name, "dim", dim, result.shape)
    if done is not None:
        arguments.flags(name, "done", done, "rewards", result.shape)
    if mask is not None:
        arguments.flags(name, "mask", mask, "rewards", result.shape)
        arguments.nothing_lost(name, "reward", result, mask)
    arguments.finite(name, "rewards", result, mask, fix="Fix the reward: it would reach every earlier step.")
    if mask is not None:
        result = torch.where(mask, result, 0)
    factor = arguments.real(name, "discount", discount) if isinstance(discount, Tensor) else discount
    if done is not None:
        factor = factor * (~done).to(result.dtype)
    along = factor.movedim(dim, -1).to(result.dtype) if isinstance(factor, Tensor) else factor
    return scan(result.movedim(dim, -1), along).movedim(-1, dim)


def scan(x: Tensor, factor: float | Tensor) -> Tensor:
    """R_t = x_t + factor_t R_{t+1} along the last dimension."""
    step = 1
    while step < x.shape[-1]:
        x = x + factor * _later(x, step)
        factor = factor * (_later(factor, step) if isinstance(factor, Tensor) else factor)
        step *= 2
    return x


def _later(x: Tensor, step: int) -> Tensor:
    """x at `step` steps later, 0 beyond the end."""
    return functional.pad(x[..., step:], (0, step))
