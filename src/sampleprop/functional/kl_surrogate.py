"""The Kullback-Leibler divergence from log-probabilities at samples, with a gradient that is its own.

Source: [schulman2020approximating], for the names k1, k2 and k3. Differences from it: it is about values only; the
gradients are derived below.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sampleprop import noise
from sampleprop.functional import arguments

NAME = "kl_surrogate"
Direction = Literal["reverse", "forward"]


def kl_surrogate(
    log_q: Tensor,
    log_p: Tensor,
    direction: Direction = "reverse",
    *,
    time_dim: int | None = None,
    mask: Tensor | None = None,
    reparameterized: bool = False,
) -> Tensor:
    r"""Estimate a KL divergence at each sample, so that the average has the right value and the right gradient.

    "reverse" is :math:`\mathrm{KL}(q \| p)`, from samples of q; "forward" is :math:`\mathrm{KL}(p \| q)`, from samples
    of p. The gradient is right for the parameters of both distributions, to any order. With s the distribution that was
    sampled, r the other one, and :math:`\square = s / \operatorname{stop}(s)`,

    .. math::

        S = \square\,(\log s - \log r - 1) + 1, \qquad
        \mathbb{E}_s[\nabla S] = \mathbb{E}_s[(\log s - \log r) \nabla \log s - \nabla \log r]
            = \nabla\, \mathrm{KL}(s \| r)

    The -1 removes the score's own term, whose mean is zero. For draws of several steps, with the log-probabilities of
    each step and `time_dim`, each step's log-ratio is charged to the draws up to it only, which has less variance than
    the sum:

    .. math:: S = \sum_t \square_t\,(\log s_t - \log r_t) - (\square_T - 1), \qquad
        \square_t = \prod_{u \le t} s_u / \operatorname{stop}(s_u)

    The 1 is taken out once for the draw. Taken out once for each step, it would charge for the length, which is random.
    A sum over the steps of the value without `time_dim` is another gradient than that of the divergence of whole draws.

    Where the whole vocabulary is at hand, the exact divergence of each step, attached, inside the cost has less
    variance still: see :func:`token_terms`.

    Reparameterized samples already carry the gradient of s. Then log s - log r, attached through them, is enough, and
    the score must not be added. Log-probabilities do not show how the samples were drawn, therefore say it by
    `reparameterized`.

    Why not differentiate an estimate of the value? At samples of q, with r = p / q, whose numbers depend on q's
    parameters through log q only:

    ====  ==============================  ==============  ==============================================================
    name  loss                            value           mean of its gradient with respect to q's parameters
    ====  ==============================  ==============  ==============================================================
    k1    log q - log p                   unbiased        E[∇log q] = 0: noise, and nothing else
    k2    (log q - log p)² / 2            biased          E[(log q - log p) ∇log q] = ∇KL(q ‖ p), the reverse one
    k3    r - 1 - log r                   unbiased        E[(1 - r) ∇log q] = -E_p[∇log q] = ∇KL(p ‖ q), the forward one
    ====  ==============================  ==============  ==============================================================

    With respect to p's parameters, k1 has the right gradient and k2 has not. Inside :func:`expect` none of this is
    needed, because its estimator adds the score: there `log_q - log_p`, attached, is right. A penalty inside a cost
    that is detached must be k1: k3 would give the difference of the two gradients.

    Args:
        log_q: log q(x) at each sample, attached to q's parameters: summed over all that is one draw (the tokens of a
            sequence, say), or of each step, with `time_dim`.
        log_p: log p(x) at the same samples, of the same shape; detached or not.
        direction: "reverse" for samples of q, "forward" for samples of p.
        time_dim: the dimension of the steps of one draw; None where each entry is a whole draw.
        mask: booleans of the same shape, False for what was not drawn; it counts for nothing, and may be anything.
        reparameterized: whether the samples are attached to the parameters of the distribution they were drawn from.

    Returns:
        The shape of the log-probabilities, without `time_dim`; in float32 at least. Average it over the samples.

    Raises:
        TypeError: for an argument that is not a tensor of real floating-point numbers, and a mask that is not boolean.
        ValueError: for another direction, for different shapes, and no such dimension.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.Categorical(logits=logits)
        >>> p = torch.distributions.Categorical(logits=torch.tensor([1.0, 0.0, 0.0]))
        >>> x = q.sample((64,))
        >>> sp.kl_surrogate(q.log_prob(x), p.log_prob(x)).mean().backward()
    """
    arguments.choice(NAME, "direction", direction, ("reverse", "forward"))
    arguments.floating(NAME, "log_q", log_q)
    arguments.floating(NAME, "log_p", log_p)
    arguments.same_shape(NAME, "log_p", log_p, "log_q", log_q.shape)
    log_q, log_p = noise.promote(log_q), noise.promote(log_p)
    if mask is not None:
        arguments.flags(NAME, "mask", mask, "log_q", log_q.shape)
        log_q, log_p = torch.where(mask, log_q, 0), torch.where(mask, log_p, 0)
    sampled, other = (log_q, log_p) if direction == "reverse" else (log_p, log_q)
    ratio = sampled - other
    if time_dim is None:
        return ratio if reparameterized else _box(sampled) * (ratio - 1) + 1
    time = arguments.dimension(NAME, "time_dim", time_dim, ratio.shape)
    if reparameterized:
        return ratio.sum(time)
    return (_box(sampled.cumsum(time)) * ratio).sum(time) - (_box(sampled.sum(time)) - 1)


def _box(log_prob: Tensor) -> Tensor:
    """1, with the derivatives of every order that the score function needs."""
    return (log_prob - log_prob.detach()).exp()
