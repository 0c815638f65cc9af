"""Log-probability, entropy and Kullback-Leibler divergence of each step, from one pass over the vocabulary.

Source: the definitions; the derivatives are written out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sampleprop.functional import arguments
from sampleprop.functional.token_log_prob import by_pieces, certain, checked, classes, kept, pieces, rows, scaled
from sampleprop.tracing import Function, differentiable_backward, inspectable

NAME = "token_terms"


class TokenTerms(NamedTuple):
    """The result of :func:`token_terms`.

    Attributes:
        log_prob: [...], log π of the token.
        entropy: [...], of the distribution of the step.
        kl: [...], KL(π ‖ reference) of the step; None without a reference.
    """

    log_prob: Tensor
    entropy: Tensor
    kl: Tensor | None


def token_terms(
    logits: Tensor,
    tokens: Tensor,
    *,
    reference: Tensor | None = None,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> TokenTerms:
    r"""Return the log-probability of each token, and the exact entropy and KL divergence of each step.

    .. math::

        \log \pi_t(x_t), \qquad H_t = -\sum_v \pi_t(v) \log \pi_t(v), \qquad
        \mathrm{KL}_t = \sum_v \pi_t(v) \log \frac{\pi_t(v)}{\pi^{\text{ref}}_t(v)}

    All three have a gradient for the logits, to any order. The backward pass keeps only the logits and those of the
    reference, in their own precision. Float32 copies exist for a few rows at a time.

    Put a KL penalty into the cost of each step, without detach: `cost + beta * terms.kl`. The gradient is then that of
    the KL divergence of whole sequences. The same holds for an entropy bonus, `cost - alpha * terms.entropy`. If they
    are added to the loss instead, their gradient is biased, because a step also decides which states follow.

    The logits at step t must be those from which token t was drawn. With a temperature, entropy and divergence are
    those of the distributions at that temperature; this includes the reference.

    Args:
        logits: [..., vocabulary]; -inf is allowed.
        tokens: [...], int64, from 0 to the size of the vocabulary.
        reference: [..., vocabulary], detached; -inf only where the logits have it too.
        temperature: τ, above 0.
        mask: booleans, [...], False for tokens that were not drawn. There all results are 0, no gradient flows, and the
            token may have any value, such as -100.

    Returns:
        `TokenTerms` of shape [...], in float32 at least.

    Raises:
        TypeError: for logits that are not floating point, and tokens that are not int64.
        ValueError: for another shape; a reference with a graph; a token outside the vocabulary; a row that is all -inf
            or has a NaN, and an infinite divergence (values are not checked under `torch.compile` and `torch.func`); a
            temperature that is not above 0.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.tensor([[0.0, 2.0, 3.0]]).log().requires_grad_()
        >>> terms = sp.token_terms(logits, torch.tensor([1]), reference=torch.zeros(1, 3))
        >>> [round(x.item(), 4) for x in terms]
        [-0.9163, 0.673, 0.4256]
    """
    tokens = checked(NAME, "logits", logits, classes(NAME, "logits", logits), tokens, temperature, mask)
    if reference is not None:
        arguments.floating(NAME, "reference", reference)
        arguments.same_shape(NAME, "reference", reference, "logits", logits.shape)
        arguments.detached(NAME, "reference", reference, "the reference is fixed")
    log_prob, entropy, kl, _ = _TokenTerms.apply(logits, tokens, reference, mask, temperature)
    certain(NAME, "logits", log_prob)
    if reference is None:
        return TokenTerms(log_prob, entropy, None)
    arguments.finite(
        NAME, "the divergence", kl, fix="The reference has probability 0 for a token that the policy may draw, or NaN."
    )
    return TokenTerms(log_prob, entropy, kl)


def _terms(
    logits: Tensor, tokens: Tensor, reference: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probability, entropy, divergence (0 without a reference), and the logarithm of the sum of exponentials."""
    z = scaled(logits, temperature)
    norm = z.logsumexp(-1, keepdim=True)
    log_p = z - norm
    p = log_p.exp()
    value = log_p.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    entropy = -_expected(p, log_p)
    kl = torch.zeros_like(entropy)
    if reference is not None:
        q = scaled(reference, temperature)
        kl = -entropy - _expected(p, q - q.logsumexp(-1, keepdim=True))
    return value, entropy, kl, norm.squeeze(-1)


def _expected(p: Tensor, x: Tensor) -> Tensor:
    """The mean of x under p; what has probability 0 may be infinite."""
    return (p * torch.where(p > 0, x, 0)).sum(-1)


def _slope(
    log_p: Tensor,
    tokens: Tensor,
    log_ratio: Tensor | None,
    entropy: Tensor,
    kl: Tensor,
    weights: list[Tensor],
) -> Tensor:
    r"""The derivative of the three terms, times their weights, by the scaled logits, [..., vocabulary].

    ∂ log π = onehot - p,  ∂H = -p (log p + H),  ∂KL = p (log p - log q - KL).
    """
    by_value, by_entropy, by_kl = (w.unsqueeze(-1) for w in weights)
    p = log_p.exp()
    inner = -by_value - by_entropy * (torch.where(p > 0, log_p, 0) + entropy.unsqueeze(-1))
    if log_ratio is not None:
        inner = inner + by_kl * (torch.where(p > 0, log_ratio, 0) - kl.unsqueeze(-1))
    return (p * inner).scatter_add(-1, tokens.unsqueeze(-1), by_value)


class _TokenTerms(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        logits: Tensor, tokens: Tensor, reference: Tensor | None, mask: Tensor | None, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        flat, numbers = rows(logits), tokens.reshape(-1)
        other = None if reference is None else rows(reference)

        def work(piece: slice) -> tuple[Tensor, ...]:
            return _terms(flat[piece], numbers[piece], None if other is None else other[piece], temperature)

        value, entropy, kl, norm = (x.view(tokens.shape) for x in by_pieces(flat, work))
        return kept(value, mask), kept(entropy, mask), kept(kl, mask), norm

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.temperature = inputs
        ctx.mark_non_differentiable(output[3])
        ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx: Any, *weights: Any) -> tuple[Tensor | None, ...]:
        logits, tokens, reference, mask, *found = (
            ctx.saved_tensors
        )  # once: under checkpointing a second look is refused
        given = list(weights[:3])
        if not differentiable_backward() and inspectable(logits):
            result = _slope_in_pieces(logits, tokens, reference, mask, found, given, ctx.temperature)
            return result, None, None, None, None
        log_p = scaled(logits, ctx.temperature).log_softmax(-1)
        entropy, kl, _ = found
        if differentiable_backward():  # saved numbers have no graph
            _, entropy, kl, _ = _terms(logits, tokens, reference, ctx.temperature)
        ratio = None if reference is None else log_p - scaled(reference, ctx.temperature).log_softmax(-1)
        result = _slope(log_p, tokens, ratio, entropy, kl, given) / ctx.temperature
        return kept(result, mask).to(logits.dtype), None, None, None, None


def _slope_in_pieces(
    logits: Tensor,
    tokens: Tensor,
    reference: Tensor | None,
    mask: Tensor | None,
    found: list[Tensor],
    weights: list[Tensor],
    temperature: float,
) -> Tensor:
    """As `_slope` by the logits, without graph, with float32 numbers for a few rows at a time."""
    flat, numbers = rows(logits), tokens.reshape(-1, 1)
    other = None if reference is None else rows(reference)
    by_value, by_entropy, by_kl, entropy, kl, norm = (x.reshape(-1, 1) for x in (*weights, *found))
    result = torch.empty_like(flat)
    for piece in pieces(flat):
        log_p = scaled(flat[piece], temperature) - norm[piece]
        p = log_p.exp()
        log_p.masked_fill_(p == 0, 0)
        # The terms of `_slope` that are the same along the vocabulary are taken together.
        constant = -by_value[piece] - by_entropy[piece] * entropy[piece] - by_kl[piece] * kl[piece]
        inner = log_p.mul_(by_kl[piece] - by_entropy[piece]).add_(constant)
        if other is not None:
            q = scaled(other[piece], temperature)
            log_q = (q - q.logsumexp(-1, keepdim=True)).masked_fill_(p == 0, 0)
            inner.sub_(log_q.mul_(by_kl[piece]))
        p.mul_(inner).scatter_add_(-1, numbers[piece], by_value[piece])
        if mask is not None:
            p.masked_fill_(~mask.reshape(-1, 1)[piece], 0)
        result[piece] = p.div_(temperature)
    return result.view(logits.shape)
