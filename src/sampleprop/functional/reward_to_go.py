"""The sum of the rewards from each step on.

Source: Sutton and Barto (2018), "Reinforcement learning: an introduction", eq. 3.8 (the return); the scan is that of
Hillis and Steele (1986), "Data parallel algorithms".
Differences from them: none.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from sampleprop.functional import arguments


def reward_to_go(rewards: Tensor, discount: float = 1.0, dim: int = 0, done: Tensor | None = None) -> Tensor:
    r"""For each step, the discounted sum of the rewards from it to the end of its episode.

    .. math:: R_t = r_t + \gamma\,(1 - d_t)\,R_{t+1} = \sum_{s \ge t} \gamma^{s - t} r_s

    Linear and differentiable in the rewards; costs do as well as rewards. Steps are joined in pairs, then in fours, and
    so
    on: the number of operations grows with log2 of the length, nothing is divided by a power of γ, and rounding errors
    do not pile up along the episode.

    R_t weighs the scores of an undiscounted objective. The gradient of :math:`\mathbb{E}[\sum_t \gamma^t r_t]` has
    :math:`\gamma^t R_t` in the place of R_t; without that factor, as practice has it, it is biased, and the gradient of
    no objective (Nota and Thomas, 2020, "Is the policy gradient a gradient?").

    An episode that a time limit cut short is not done; it goes on. Add γ times the value of the state it would go on
    from to its last reward, and mark it done there.

    Args:
        rewards: [time, batch], or any shape with the steps along `dim`; finite.
        discount: γ, from 0 to 1.
        dim: the dimension of the steps.
        done: booleans of the shape of `rewards`, True at the last step of an episode; None for one episode.

    Returns:
        R, of the shape of `rewards`; in float32 at least.

    Raises:
        TypeError: for what is not a tensor of real numbers, and a `done` that is not boolean.
        ValueError: for another shape of `done`, no such dimension, a discount out of range, and NaN or infinite rewards
            (not looked at under `torch.compile` and `torch.func`).

    Example:
        >>> import torch, sampleprop as sp
        >>> sp.reward_to_go(torch.tensor([1.0, 2.0, 4.0]), discount=0.5)
        tensor([3., 4., 4.])
    """
    name = "reward_to_go"
    result = arguments.real(name, "rewards", rewards)
    if not 0 <= discount <= 1:
        raise ValueError(f"{name} needs a discount from 0 to 1; got {discount}. Beyond 1 the sum need not converge.")
    dim = arguments.dimension(name, "dim", dim, result.shape)
    if done is not None:
        arguments.flags(name, "done", done, "rewards", result.shape)
    arguments.finite(name, "rewards", result, fix="Fix the reward: it would reach every earlier step.")
    result = result.movedim(dim, -1)  # [..., time]
    # What R_{t+step} is multiplied with in R_t: one number, or 0 beyond the end of an episode.
    factor: float | Tensor = discount
    if done is not None:
        factor = discount * (~done).to(result.dtype).movedim(dim, -1)
    step = 1
    while step < result.shape[-1]:
        result = result + factor * _later(result, step)
        factor = factor * (_later(factor, step) if isinstance(factor, Tensor) else factor)
        step *= 2
    return result.movedim(-1, dim)


def _later(x: Tensor, step: int) -> Tensor:
    """x at `step` steps later, 0 beyond the end."""
    return functional.pad(x[..., step:], (0, step))
