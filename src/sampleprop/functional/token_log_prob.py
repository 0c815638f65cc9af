"""The log-probability of tokens under logits that are already there.

Source: the definition of the softmax.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from sampleprop import checks, noise
from sampleprop.functional import arguments
from sampleprop.tracing import inspectable


def token_log_prob(logits: Tensor, tokens: Tensor, *, temperature: float = 1.0, mask: Tensor | None = None) -> Tensor:
    r"""The log-probability of each token: its logit less the log of the sum of all exponentials.

    .. math:: \log \pi(x) = \frac{\phi_x}{\tau} - \log \sum_c e^{\phi_c / \tau}

    Computed in float32 at least. The logits are all that the backward pass keeps, in the precision they came in: no
    log-softmax of their size, and no float32 copy. Right to any order.

    Logits at step t must be those from which token t was drawn; a causal model's come one step earlier than its inputs.
    For the gradient of an expectation, pass the temperature (and the mask of top-k or top-p, as logits of -inf) that
    the tokens were
    drawn with: other log-probabilities are those of another policy.

    Args:
        logits: [..., vocabulary]; -inf is legal.
        tokens: [...], int64, from 0 to the size of the vocabulary.
        temperature: τ, above 0.
        mask: booleans, [...], False for padding: there the result is 0, no gradient flows, and the token may be
            anything (-100, say).

    Returns:
        [...], in float32 at least; -inf for a token whose logit is.

    Raises:
        TypeError: for logits that are not floating point, and tokens that are not int64.
        ValueError: for another shape; a token outside the vocabulary; a row that is all -inf or has a NaN (values are
            not looked at under `torch.compile` and `torch.func`); a temperature that is not above 0.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(2, 5, 100, dtype=torch.bfloat16, requires_grad=True)
        >>> sp.token_log_prob(logits, torch.zeros(2, 5, dtype=torch.int64)).shape
        torch.Size([2, 5])
    """
    name = "token_log_prob"
    arguments.floating(name, "logits", logits)
    tokens = checked(name, "logits", logits, logits.shape[-1], tokens, temperature, mask)
    value: Tensor = _TokenLogProb.apply(logits, tokens, mask, temperature)  # type: ignore[no-untyped-call]
    return certain(name, "logits", value)


def checked(
    name: str, argument: str, x: Tensor, vocabulary: int, tokens: Tensor, temperature: float, mask: Tensor | None
) -> Tensor:
    """Refuse tokens that do not fit to `x`, [..., size]; return them with 0 in the place of padding."""
    checks.positive(name, "temperature", temperature)
    if not isinstance(tokens, Tensor) or tokens.dtype != torch.int64:
        got = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
        raise TypeError(f"{name} needs tokens as a tensor of int64; got {got}. Pass tokens.long().")
    arguments.same_shape(name, "tokens", tokens, f"{argument} but for the last dimension", x.shape[:-1])
    if mask is not None:
        arguments.flags(name, "mask", mask, "tokens", tokens.shape)
        tokens = torch.where(mask, tokens, 0)
    outside = (tokens < 0) | (tokens >= vocabulary)
    if inspectable(outside) and bool(outside.any()):
        index = tuple(outside.nonzero()[0].tolist())
        raise ValueError(
            f"{name} needs tokens from 0 to {vocabulary - 1}; got {tokens[index].item()} at {list(index)}. Name "
            f"padding by the mask: mask=tokens != -100, say."
        )
    return tokens


def certain(name: str, argument: str, value: Tensor) -> Tensor:
    """Refuse NaN, which is what a row without a possible token gives."""
    bad = value.detach().isnan()
    if inspectable(bad) and bool(bad.any()):
        raise ValueError(
            f"{name} needs a possible token in each row; got NaN, or -inf throughout, in the row "
            f"{bad.nonzero()[0].tolist()} of {argument}. Leave one unmasked, or name the row as padding by the mask."
        )
    return value


def log_prob(logits: Tensor, tokens: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
    """[...], from logits [..., vocabulary], in float32 at least."""
    scaled = noise.promote(logits) / temperature if temperature != 1 else noise.promote(logits)
    value = scaled.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - scaled.logsumexp(-1)
    return value if mask is None else torch.where(mask, value, 0)


def slope(logits: Tensor, tokens: Tensor, mask: Tensor | None, temperature: float, weight: Tensor) -> Tensor:
    """The derivative of (weight * log_prob).sum() by the logits, [..., vocabulary]; differentiable itself."""
    scaled = noise.promote(logits) / temperature if temperature != 1 else noise.promote(logits)
    weight = weight.unsqueeze(-1) / temperature
    result = (-weight * scaled.softmax(-1)).scatter_add(-1, tokens.unsqueeze(-1), weight)
    return result if mask is None else torch.where(mask.unsqueeze(-1), result, 0)


class _TokenLogProb(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, tokens: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
        return log_prob(logits, tokens, mask, temperature)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.temperature = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        logits, tokens, mask = ctx.saved_tensors
        return slope(logits, tokens, mask, ctx.temperature, grad_output).to(logits.dtype), None, None, None
