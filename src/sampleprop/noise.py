"""Noise from the open interval, in float32 at least, from a generator if one is given."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sampleprop.tracing import hooks_allowed


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which noise is drawn and costs are averaged: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def promote(x: Tensor) -> Tensor:
    """`x` in its working dtype."""
    return x if x.dtype in (torch.float32, torch.float64) else x.to(torch.float32)


def points_dtype(parameter: Tensor) -> torch.dtype:
    """The dtype of the points: that of the parameter, or the default one where the parameter is of integers."""
    return parameter.dtype if parameter.is_floating_point() else torch.get_default_dtype()


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in this dtype. Where it has it already, torch is not asked: its answer would take as long as an addition."""
    return x if x.dtype == dtype else x.to(dtype)


def cast_like(x: Tensor, parameter: Tensor) -> Tensor:
    """`x` in the dtype that the points have for this parameter."""
    return x if x.dtype == parameter.dtype else x.to(points_dtype(parameter))


def generator_option(generator: Generator | None) -> dict[str, Any]:
    """The generator as a keyword argument, or no argument: torch refuses None where a compiled size is symbolic."""
    return {} if generator is None else {"generator": generator}


def fractions(shape: Sequence[int], like: Tensor, generator: Generator | None = None) -> Tensor:
    """Draw U(0, 1) as torch does, on `like`'s device: 0 can come, 1 cannot. All uniform numbers come from here."""
    dtype = working_dtype(like.dtype)
    if generator is None:  # torch refuses it where a compiled size is symbolic
        return torch.rand(shape, dtype=dtype, device=like.device)
    return torch.rand(shape, dtype=dtype, device=like.device, generator=generator)


def smallest(u: Tensor) -> float:
    """What stands for a 0 among the `fractions`: half of the smallest positive one."""
    return 2.0**-54 if u.dtype == torch.float64 else 2.0**-25


def uniform(shape: Sequence[int], like: Tensor, generator: Generator | None = None) -> Tensor:
    """Draw U(0, 1) from the open interval, on `like`'s device, so that log u and log(1 - u) are finite."""
    u = fractions(shape, like, generator)
    return u.clamp_min_(smallest(u))


def coins(shape: Sequence[int], probs: Tensor, generator: Generator | None = None) -> Tensor:
    """Draw 1 with probability `probs`, else 0, in the working dtype."""
    u = fractions(shape, probs, generator)
    # Where u is 0, u < p must say whether `smallest` is below p. It does if each p that is not above `smallest` is
    # made 0, and no other u is below such a p. This takes one pass over the probabilities in place of one over u.
    if u.numel() > probs.numel():
        probs = torch.threshold(probs, smallest(u), 0.0)
    else:
        u = u.clamp_min_(smallest(u))
    if hooks_allowed():
        return u.lt_(probs)
    return (u < probs).to(u.dtype)  # u may be shared by the rows that vmap adds to probs


def above(x: Tensor, limit: Tensor | float, dtype: torch.dtype) -> Tensor:
    """1 where x exceeds the limit, else 0, in this dtype; both have no graph."""
    if hooks_allowed():  # at once, because booleans are slow to make and to convert
        return torch.gt(x, limit, out=x.new_empty(0) if x.dtype == dtype else x.new_empty(0, dtype=dtype))
    return (x > limit).to(dtype)


def logistic(shape: Sequence[int], like: Tensor, generator: Generator | None = None) -> Tensor:
    """Draw from the standard logistic distribution, log u - log(1 - u)."""
    return uniform(shape, like, generator).logit_()


def exponential(shape: Sequence[int], like: Tensor, generator: Generator | None = None) -> Tensor:
    """Draw from the exponential distribution with rate 1, -log u."""
    return uniform(shape, like, generator).log_().neg_()


def gumbel(shape: Sequence[int], like: Tensor, generator: Generator | None = None) -> Tensor:
    """Draw from the standard Gumbel distribution, -log(-log u)."""
    return exponential(shape, like, generator).log_().neg_()


def normal(shape: Sequence[int], like: Tensor, generator: Generator | None = None) -> Tensor:
    """Draw from the standard normal distribution."""
    dtype = working_dtype(like.dtype)
    if generator is None:
        return torch.randn(shape, dtype=dtype, device=like.device)
    return torch.randn(shape, dtype=dtype, device=like.device, generator=generator)


@contextmanager
def draw_from(generator: Generator | None) -> Iterator[None]:
    """Let every random operation of torch in the block draw from `generator`, in this thread alone.

    It is for code that cannot be given a generator, such as the samplers of `torch.distributions`. The global random
    state is neither read nor moved, so that threads with generators of their own do not disturb each other.
    """
    if generator is None:
        yield
        return
    with _DrawFrom(generator):
        yield


class _DrawFrom(TorchDispatchMode):
    """Gives a generator to each random operation."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generator = generator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags:
            func = _with_generator(func)
            kwargs = {**kwargs, "generator": self.generator}
        return func(*args, **kwargs)


@functools.cache
def _with_generator(func: Any) -> Any:
    """The overload of a random operation that takes a generator: `aten.rand.generator` for `aten.rand.default`."""
    if any(argument.name == "generator" for argument in func._schema.arguments):
        return func
    name = "generator" if func._overloadname == "default" else f"{func._overloadname}_generator"
    if name not in func.overloadpacket.overloads():
        raise TypeError(
            f"Noise from a generator needs random operations that take one; got {func}. Draw it by another operation, "
            f"or pass no generator."
        )
    return getattr(func.overloadpacket, name)
