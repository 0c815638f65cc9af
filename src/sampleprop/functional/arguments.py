"""What the functions of this folder ask of their arguments, and the wording of their refusals."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sampleprop import noise
from sampleprop.checks import first_nonfinite
from sampleprop.tracing import inspectable


def real(name: str, argument: str, x: Any) -> Tensor:
    """Require a tensor of real numbers; return it in float32 at least."""
    if not isinstance(x, Tensor) or x.is_complex():
        raise TypeError(f"{name} needs {argument} as a tensor of real numbers; got {_kind(x)}. Convert it first.")
    return noise.promote(x)


def floating(name: str, argument: str, x: Any) -> None:
    """Require a tensor of real floating-point numbers."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"{name} needs {argument} as a tensor of real floating-point numbers; got {_kind(x)}.")


def dimension(name: str, argument: str, dim: int, shape: torch.Size) -> int:
    """Require a dimension of `shape`; return it counted from the front."""
    if isinstance(dim, bool) or not isinstance(dim, int) or not -len(shape) <= dim < len(shape):
        raise ValueError(
            f"{name} needs {argument} to be a dimension of shape {list(shape)}; got {dim!r}. Count from 0, or back "
            f"from -1."
        )
    return dim % len(shape)


def same_shape(name: str, argument: str, x: Tensor, other: str, shape: torch.Size) -> None:
    """Refuse what would have to be broadcast."""
    if x.shape != shape:
        raise ValueError(
            f"{name} needs {argument} in the shape of {other}, {list(shape)}, nothing is broadcast; got "
            f"{list(x.shape)}. Expand it, or put its dimensions in that order."
        )


def flags(name: str, argument: str, x: Any, other: str, shape: torch.Size) -> None:
    """Require a tensor of booleans."""
    if not isinstance(x, Tensor) or x.dtype != torch.bool:
        raise TypeError(f"{name} needs {argument} as a tensor of booleans; got {_kind(x)}. Pass {argument}.bool().")
    same_shape(name, argument, x, other, shape)


def detached(name: str, argument: str, x: Tensor, why: str) -> None:
    """Refuse numbers whose gradient would be lost, or would leak."""
    if x.requires_grad:
        raise ValueError(
            f"{name} needs {argument} without a gradient: {why}; got one attached. Pass {argument}.detach()."
        )


def finite(name: str, argument: str, x: Tensor, keep: Tensor | None = None, *, fix: str) -> None:
    """Refuse NaN and infinity where `keep` is True. On a GPU this waits for the device."""
    if not inspectable(x) or (keep is not None and not inspectable(keep)):
        return
    index = first_nonfinite(x.detach(), keep)
    if index is not None:
        raise ValueError(f"{name} needs finite numbers in {argument}; got {x[tuple(index)].item()} at {index}. {fix}")


def nothing_lost(name: str, what: str, x: Tensor, mask: Tensor) -> None:
    """Refuse a number where `mask` says that nothing exists: it would vanish. NaN, infinity and 0 are padding."""
    if not inspectable(x) or not inspectable(mask):
        return
    lost = ~mask & x.isfinite() & (x != 0)
    if bool(lost.any()):
        index = lost.nonzero()[0].tolist()
        raise ValueError(
            f"{name} needs every {what} at a step (or draw) that exists; got {x[tuple(index)].item():.4g} at {index}, "
            "where mask is False. If it is an observation that the policy did not draw, keep it in mask and leave it "
            "out of drawn=; else put 0 there."
        )


def two_masks(name: str, mask: Tensor | None, drawn: Tensor | None, other: str, shape: torch.Size) -> None:
    """Require booleans: `mask` for what exists, `drawn` for what the policy chose of it."""
    if mask is not None:
        flags(name, "mask", mask, other, shape)
    if drawn is None:
        return
    flags(name, "drawn", drawn, other, shape)
    if mask is None or not inspectable(mask) or not inspectable(drawn):
        return
    wrong = drawn & ~mask
    if bool(wrong.any()):
        raise ValueError(
            f"{name} needs drawn steps to exist; got one that mask leaves out at {wrong.nonzero()[0].tolist()}. mask "
            "is what exists, drawn what the policy chose of it."
        )


def fraction(name: str, argument: str, value: float) -> None:
    """Require a number from 0 to 1."""
    if isinstance(value, Tensor):
        raise TypeError(f"{name} needs {argument} as one number from 0 to 1; got a tensor.")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} needs {argument} from 0 to 1; got {value}.")


def choice(name: str, argument: str, value: Any, options: tuple[str, ...]) -> None:
    """Require one of some words."""
    if value not in options:
        raise ValueError(f"{name} needs {argument} as one of {', '.join(map(repr, options))}; got {value!r}.")


def _kind(x: Any) -> str:
    return str(x.dtype) if isinstance(x, Tensor) else type(x).__name__
