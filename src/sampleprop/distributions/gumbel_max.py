"""Exact samples from logits: one class, or k without replacement.

Source: [maddison2014sampling]; [kool2019stochastic]. Differences from the papers: none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from sampleprop import noise
from sampleprop.families import one_hot
from sampleprop.tracing import Function, inspectable


def gumbel_max(logits: Tensor, *, generator: Generator | None = None) -> Tensor:
    r"""Draw one class for each row of logits, as a one-hot vector.

    .. math:: x = \operatorname{onehot}(\arg\max (\phi + G)), \qquad P(x = e_c) = \operatorname{softmax}(\phi)_c

    An exact sample, without gradient: the map is piecewise constant in φ. To differentiate E[f(x)], use `expect`.

    Args:
        logits: [..., classes], finite or -inf; a class with logit -inf is never drawn.
        generator: the source of noise; the default one if None.

    Returns:
        [..., classes], of the dtype of `logits`.

    Raises:
        TypeError: for logits that are not floating point.
        ValueError: for a row without a finite logit, or with NaN or +inf (not looked at under `torch.compile`).
        RuntimeError: in a backward pass that reaches the result.

    Example:
        >>> import torch, sampleprop as sp
        >>> sp.gumbel_max(torch.tensor([0.0, -torch.inf]))
        tensor([1., 0.])
    """
    _require("gumbel_max", logits, 1)
    return _one_hots("gumbel_max", logits, _scores(logits, generator).argmax(-1))


def gumbel_top_k(logits: Tensor, k: int, *, generator: Generator | None = None) -> Tensor:
    r"""Draw k classes without replacement for each row of logits, as one-hot vectors in the order drawn.

    .. math::

        P(c_1, \dots, c_k) = \prod_{i=1}^k
            \frac{e^{\phi_{c_i}}}{\sum_{c \notin \{c_1, \dots, c_{i-1}\}} e^{\phi_c}}

    An exact sample (of the Plackett-Luce distribution), without gradient: the map is piecewise constant in φ. The sum
    over k is the set that was drawn. To differentiate an expectation, use `expect` with the distribution
    :class:`PlackettLuce`. For subsets with a probability proportional to the product of the weights, see
    :class:`KSubset`.

    Args:
        logits: [..., classes], finite or -inf; a class with logit -inf is never drawn.
        k: from 1 to the number of classes.
        generator: the source of noise; the default one if None.

    Returns:
        [..., k, classes], of the dtype of `logits`.

    Raises:
        TypeError: for logits that are not floating point.
        ValueError: for a k out of range, and for a row with fewer than k finite logits, or with NaN or +inf (not looked
            at under `torch.compile`).
        RuntimeError: in a backward pass that reaches the result.

    Example:
        >>> import torch, sampleprop as sp
        >>> sp.gumbel_top_k(torch.tensor([0.0, -torch.inf, 0.0]), 2).sum(-2)
        tensor([1., 0., 1.])
    """
    _require("gumbel_top_k", logits, k)
    return _one_hots("gumbel_top_k", logits, _scores(logits, generator).topk(k, -1).indices)


def _scores(logits: Tensor, generator: Generator | None) -> Tensor:
    detached = logits.detach()
    return detached + noise.gumbel(logits.shape, detached, generator)


def _one_hots(name: str, logits: Tensor, classes: Tensor) -> Tensor:
    points = one_hot(classes, logits.shape[-1], logits.dtype)
    result: Tensor = _WithoutDerivative.apply(name, points, logits)
    return result


def _require(name: str, logits: Tensor, k: int) -> None:
    if not logits.is_floating_point():
        raise TypeError(f"{name} needs floating-point logits; got {logits.dtype}. Pass logits.float(), or log-weights.")
    classes = logits.shape[-1] if logits.dim() else 0
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= classes:
        raise ValueError(
            f"{name} needs k from 1 to the number of classes; got k={k!r} for logits of shape {list(logits.shape)}. "
            "The classes are the last dimension."
        )
    if not inspectable(logits):
        return
    finite = logits.isfinite()
    undefined = (~finite & (logits != -torch.inf)).any(-1)  # [...]
    if bool(undefined.any()):
        raise ValueError(
            f"{name} needs logits that are finite or -inf; row {_first(undefined)} has NaN or +inf. Fix the logits, or "
            "mask the classes that must not be drawn with -inf."
        )
    count = finite.sum(-1)  # [...]
    short = count < k
    if bool(short.any()):
        row = _first(short)
        raise ValueError(
            f"{name} needs at least {k} finite logits in each row; row {row} has {int(count[tuple(row)])}. Mask fewer "
            "classes there, or draw fewer."
        )


def _first(flags: Tensor) -> list[int]:
    """The index of the first True; [] for a flag without dimensions."""
    index: list[int] = flags.nonzero()[0].tolist()
    return index


class _WithoutDerivative(Function):
    """Identity on a sample, attached to its logits, so that a backward pass raises instead of ending here silently."""

    generate_vmap_rule = True

    @staticmethod
    def forward(name: str, points: Tensor, logits: Tensor) -> Tensor:
        return points.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name = inputs[0]

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        raise RuntimeError(
            f"{ctx.name} has no derivative: its sample is piecewise constant in the logits, so the derivative is 0 "
            "almost everywhere and not that of an expectation. Use expect(f, OneHotCategorical(logits=logits), "
            f"estimator) for a gradient, or {ctx.name}(logits.detach(), ...) if none is wanted."
        )
