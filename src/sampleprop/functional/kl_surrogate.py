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

        S = \square\,(\log s - \log r - 1) + 1

        \mathbb{E}_s[\nabla S] = \mathbb{E}_s[(\log s - \log r) \nabla \log s - \nabla \log r]
            = \nabla\, \mathrm{KL}(s \| r)

    The -1 removes a term whose mean is zero. If a draw has several steps, pass the log-probabilities of each step and
    `time_dim`. The log-ratio of each step is then charged only to the draws up to this step, which has less variance:

    .. math:: S = \sum_t \square_t\,(\log s_t - \log r_t) - (\square_T - 1), \qquad
        \square_t = \prod_{u \le t} s_u / \operatorname{stop}(s_u)

    The 1 is subtracted once for each draw. If it were subtracted once for each step, the gradient would also charge for
    the length, which is random. If you call the function for each step without `time_dim` and sum the results, the
    gradient is not that of the divergence of whole draws.

    If you have the logits of the whole vocabulary, the exact divergence of each step inside the cost has even less
    variance: see :func:`token_terms`.

    Reparameterized samples already carry the gradient of s. Then log s - log r is enough, and the score must not be
    added. Log-probabilities do not show how the samples were drawn, so you have to say it with `reparameterized`.

    Why not differentiate an estimate of the value? This table shows what happens with samples of q and r = p / q:

    ====  ==============================  ==============  ==============================================================
    name  loss                            value           mean of its gradient with respect to q's parameters
    ====  ==============================  ==============  ==============================================================
    k1    log q - log p                   unbiased        E[∇log q] = 0: noise, and nothing else
    k2    (log q - log p)² / 2            biased          E[(log q - log p) ∇log q] = ∇KL(q ‖ p), the reverse one
    k3    r - 1 - log r                   unbiased        E[(1 - r) ∇log q] = -E_p[∇log q] = ∇KL(p ‖ q), the forward one
    ====  ==============================  ==============  ==============================================================

    With respect to p's parameters, k1 has the right gradient and k2 has not. Inside :func:`expect` you need none of
    this, because its estimator adds the score: put `log_q - log_p` into the cost, without detach. A penalty inside a
    cost that is detached must be k1, because k3 would give the difference of the two gradients.

    Args:
        log_q: log q(x) at each sample, with the graph of q's parameters. It is the sum over all parts of one draw, such
            as the tokens of a sequence; or, with `time_dim`, the log-probability of each step.
        log_p: log p(x) at the same samples, of the same shape; with or without a graph.
        direction: "reverse" for samples of q, "forward" for samples of p.
        time_dim: the dimension of the steps of one draw; None if each entry is a whole draw.
        mask: booleans of the same shape, False for entries that were not drawn; they are ignored.
        reparameterized: whether the samples carry the gradient of the distribution from which they were drawn.

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
