"""The log-probability of tokens under logits that are already there.

Source: the definition of the softmax.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sampleprop import checks, noise
from sampleprop.functional import arguments
from sampleprop.tracing import Function, differentiable_backward, inspectable

PIECE, DEVICE_PIECE = 1 << 18, 1 << 26  # numbers in float32 at a time: what a cache holds; what keeps a GPU busy


def token_log_prob(logits: Tensor, tokens: Tensor, *, temperature: float = 1.0, mask: Tensor | None = None) -> Tensor:
    r"""The log-probability of each token: its logit less the log of the sum of all exponentials.

    .. math:: \log \pi(x) = \frac{\phi_x}{\tau} - \log \sum_c e^{\phi_c / \tau}

    The result is computed in float32 at least; without compilation, a few rows at a time. The backward pass keeps only
    the logits themselves, in their own precision: no log-softmax and no float32 copy. Derivatives are right to any
    order. :func:`token_terms` also computes the entropy and a divergence in the same pass.

    The logits at step t must be those from which token t was drawn. In a causal model, they stand one step earlier than
    the token. For the gradient of an expectation, pass the temperature with which the tokens were drawn. If they were
    drawn by top-k or top-p, set the excluded logits to -inf. Otherwise the result belongs to another policy.

    Args:
        logits: [..., vocabulary]; -inf is allowed.
        tokens: [...], int64, from 0 to the size of the vocabulary.
        temperature: τ, above 0.
        mask: booleans, [...], False for padding. There the result is 0, no gradient flows, and the token may have any
            value, such as -100.

    Returns:
        [...], in float32 at least; -inf for a token whose logit is.

    Raises:
        TypeError: for logits that are not floating point, and tokens that are not int64.
        ValueError: for another shape; a token outside the vocabulary; a row that is all -inf or has a NaN (values are
            not checked under `torch.compile` and `torch.func`); a temperature that is not above 0.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(2, 5, 100, dtype=torch.bfloat16, requires_grad=True)
        >>> sp.token_log_prob(logits, torch.zeros(2, 5, dtype=torch.int64)).shape
        torch.Size([2, 5])
    """
    name = "token_log_prob"
    tokens = checked(name, "logits", logits, classes(name, "logits", logits), tokens, temperature, mask)
    value, _ = _TokenLogProb.apply(logits, tokens, mask, temperature)
    return certain(name, "logits", value)


def classes(name: str, argument: str, logits: Any) -> int:
    """The size of the vocabulary, of which logits need one token or more."""
    arguments.floating(name, argument, logits)
    if logits.dim() == 0 or logits.shape[-1] == 0:
        raise ValueError(
            f"{name} needs {argument} [..., vocabulary], of one token or more; got shape {list(logits.shape)}."
        )
    size: int = logits.shape[-1]
    return size


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


def log_prob(logits: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The log-probabilities, and the logarithm of the sum of all exponentials: [...], in float32 at least."""
    z = scaled(logits, temperature)
    norm = z.logsumexp(-1)
    return z.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - norm, norm


def slope(logits: Tensor, tokens: Tensor, mask: Tensor | None, temperature: float, weight: Tensor) -> Tensor:
    """The derivative of (weight * log_prob).sum() by the logits, [..., vocabulary]; differentiable itself."""
    weight = weight.unsqueeze(-1) / temperature
    result = (-weight * scaled(logits, temperature).softmax(-1)).scatter_add(-1, tokens.unsqueeze(-1), weight)
    return kept(result, mask)


def scaled(logits: Tensor, temperature: float) -> Tensor:
    """The logits over the temperature, in float32 at least; the same tensor where nothing changes."""
    return noise.promote(logits) / temperature if temperature != 1 else noise.promote(logits)


def kept(x: Tensor, mask: Tensor | None) -> Tensor:
    """x, [...] or [..., vocabulary], with 0 where the mask, [...], is False, whatever stands there."""
    if mask is None:
        return x
    return torch.where(mask if mask.dim() == x.dim() else mask.unsqueeze(-1), x, 0)


def rows(x: Tensor) -> Tensor:
    """[..., vocabulary] -> [rows, vocabulary]."""
    return x.reshape(-1, x.shape[-1])


def pieces(logits: Tensor) -> list[slice]:
    """Rows of logits [rows, vocabulary] that are worked on at a time: all of them where a compiler fuses the work."""
    count, vocabulary = logits.shape
    if not inspectable(logits):
        return [slice(0, count)]
    step = max(1, (PIECE if logits.device.type == "cpu" else DEVICE_PIECE) // max(vocabulary, 1))
    return [slice(start, start + step) for start in range(0, max(count, 1), step)]


def by_pieces(logits: Tensor, work: Callable[[slice], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The results of `work` for each piece of the rows, [rows].

    They are written into tensors that exist already: small ones that outlive the large ones of a piece would keep the
    allocator from using that memory again.
    """
    first, *rest = pieces(logits)
    found = work(first)
    if not rest:
        return found
    results = tuple(x.new_empty(len(logits)) for x in found)

    def keep(piece: slice, found: tuple[Tensor, ...]) -> None:
        for result, x in zip(results, found, strict=True):
            result[piece] = x

    keep(first, found)
    del found
    for piece in rest:
        keep(piece, work(piece))
    return results


class _TokenLogProb(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, tokens: Tensor, mask: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
        flat, numbers = rows(logits), tokens.reshape(-1)
        found = by_pieces(flat, lambda piece: log_prob(flat[piece], numbers[piece], temperature))
        value, norm = (x.view(tokens.shape) for x in found)
        return kept(value, mask), norm

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.temperature = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*tensors, output[1])

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        logits, tokens, mask, norm = ctx.saved_tensors
        if differentiable_backward() or not inspectable(logits):
            result = slope(logits, tokens, mask, ctx.temperature, grad_output).to(logits.dtype)
        else:
            result = _slope_in_pieces(logits, tokens, mask, norm, ctx.temperature, grad_output)
        return result, None, None, None


def _slope_in_pieces(
    logits: Tensor, tokens: Tensor, mask: Tensor | None, norm: Tensor, temperature: float, weight: Tensor
) -> Tensor:
    """As `slope`, without graph, with float32 numbers for a few rows at a time."""
    flat, numbers, weight = rows(logits), tokens.reshape(-1, 1), (weight / temperature).reshape(-1, 1)
    norm = norm.reshape(-1, 1)
    result = torch.empty_like(flat)
    for piece in pieces(flat):
        p = scaled(flat[piece], temperature).sub(norm[piece]).exp_()
        p.mul_(-weight[piece]).scatter_add_(-1, numbers[piece], weight[piece])
        if mask is not None:
            p.masked_fill_(~mask.reshape(-1, 1)[piece], 0)
        result[piece] = p
    return result.view(logits.shape)
