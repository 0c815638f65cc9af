"""The log-probability of tokens from hidden states, for a vocabulary too large to keep the logits.

Source: [chen2016training], for the recomputation.
Differences from the paper: the derivative is written out, in pieces.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sampleprop import checks, noise
from sampleprop.functional import arguments
from sampleprop.functional.token_log_prob import certain, checked, kept, log_prob, slope
from sampleprop.tracing import Function


def sequence_log_prob(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    chunk: int = 512,
) -> Tensor:
    r"""The log-probability of each token under a linear head, without the logits of all positions at once.

    .. math:: \log \pi(x_t) = \frac{\phi_{t, x_t}}{\tau} - \log \sum_c e^{\phi_{tc} / \tau}, \qquad \phi_t = W h_t + a

    The logits exist for `chunk` positions at a time, and the backward pass computes them again. The memory is therefore
    that of chunk · vocabulary numbers, however long the sequences are. The price is one more product with the head,
    beside the three of an ordinary forward and backward pass. The product has the precision of `hidden` and `weight`,
    or of autocast. All later numbers, and the sum of the gradients of the head, are in float32 at least. Derivatives
    are right to any order, but a second derivative needs the full memory.

    The hidden states at step t must be those from which token t was drawn. In a causal model, they stand one step
    earlier: `hidden[:, :-1]` with `tokens[:, 1:]`. For the gradient of an expectation, pass the temperature with which
    the tokens were drawn.

    Args:
        hidden: [batch, time, width], or any [..., width].
        weight: W, [vocabulary, width], that of the language model's head.
        tokens: [batch, time], int64, from 0 to the size of the vocabulary.
        bias: a, [vocabulary]; -inf for tokens that are never drawn.
        temperature: τ, above 0.
        mask: booleans, [batch, time], False for padding. There the result is 0, no gradient flows, and the token may
            have any value, such as -100.
        chunk: how many positions at a time, at least 1.

    Returns:
        [batch, time], in float32 at least.

    Raises:
        TypeError: for numbers that are not floating point, and tokens that are not int64.
        ValueError: for shapes that do not fit; a token outside the vocabulary; a row without a possible token, or with
            NaN (values are not checked under `torch.compile` and `torch.func`); a temperature or chunk out of range.

    Example:
        >>> import torch, sampleprop as sp
        >>> head = torch.nn.Linear(8, 1000)
        >>> hidden, tokens = torch.zeros(2, 5, 8), torch.zeros(2, 5, dtype=torch.int64)
        >>> sp.sequence_log_prob(hidden, head.weight, tokens, bias=head.bias, chunk=4).shape
        torch.Size([2, 5])
    """
    name = "sequence_log_prob"
    checks.samples(name, chunk, argument="positions to a chunk")
    arguments.floating(name, "hidden", hidden)
    arguments.floating(name, "weight", weight)
    if weight.dim() != 2 or hidden.dim() < 1 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"{name} needs hidden [..., width] and weight [vocabulary, width]; got {list(hidden.shape)} and "
            f"{list(weight.shape)}. Pass the weight of the head as torch.nn.Linear holds it."
        )
    vocabulary, width = weight.shape
    if bias is not None:
        arguments.floating(name, "bias", bias)
        arguments.same_shape(name, "bias", bias, "the vocabulary", weight.shape[:1])
    tokens = checked(name, "hidden", hidden, vocabulary, tokens, temperature, mask)
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    flat = hidden.reshape(-1, width), weight, bias, tokens.reshape(-1), None if mask is None else mask.reshape(-1)
    value: Tensor = _SequenceLogProb.apply(*flat, temperature, chunk)
    return certain(name, "hidden", value.reshape(tokens.shape))


class _SequenceLogProb(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        mask: Tensor | None,
        temperature: float,
        chunk: int,
    ) -> Tensor:
        pieces = _pieces(chunk, hidden, tokens)
        found = [log_prob(functional.linear(h, weight, bias), t, temperature)[0] for h, t in pieces]
        return kept(torch.cat(found), mask)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.temperature, ctx.chunk = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, tokens, mask = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        by_hidden, by_weight, by_bias = [], None, None
        for h, t, m, w in _pieces(ctx.chunk, hidden, tokens, mask, grad_output):
            h = kept(h, m)  # because 0 times NaN is NaN
            by_logits = slope(functional.linear(h, weight, bias), t, m, ctx.temperature, w)  # [chunk, vocabulary]
            if wanted[2]:
                by_bias = _plus(by_bias, by_logits.sum(0))
            by_logits = by_logits.to(h.dtype)
            if wanted[0]:
                by_hidden.append(by_logits @ weight)
            if wanted[1]:
                by_weight = _plus(by_weight, noise.promote(by_logits.mT @ h))
        return (
            torch.cat(by_hidden) if wanted[0] else None,
            None if by_weight is None else by_weight.to(weight.dtype),
            None if by_bias is None or bias is None else by_bias.to(bias.dtype),
            *(None,) * 4,
        )


def _pieces(chunk: int, *tensors: Tensor | None) -> list[tuple[Any, ...]]:
    """The tensors in pieces of `chunk` rows; None in each piece for None."""
    rows = next(x.shape[0] for x in tensors if x is not None)
    starts = range(0, max(rows, 1), chunk)
    return [tuple(None if x is None else x[start : start + chunk] for x in tensors) for start in starts]


def _plus(total: Tensor | None, x: Tensor) -> Tensor:
    return x if total is None else total.add_(x)
