"""Data parallel: noise of its own for each rank, and sums over ranks.

Ranks that work on different batch elements need nothing from here but noise of their own. Ranks that hold further
samples of the same batch elements may share one leave-one-out group: `expect(..., process_group=...)`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, distributed

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def rank_generator(
    seed: int, *, process_group: ProcessGroup | None = None, device: torch.device | str = "cpu"
) -> Generator:
    """Make this rank's source of noise, from a seed that all ranks share.

    Ranks of one seed never share a stream. The seed is hashed first, so that the ranks of seed 1 do not share streams
    with those of seed 0, as they would with `seed + rank`. Initialize parameters before, from the same global seed on
    each rank.

    Args:
        seed: any whole number.
        process_group: the ranks that need different noise; all of them if None. If some ranks must draw the same noise,
            such as those that hold parts of one tensor, give the group of ranks that must differ. Without
            `torch.distributed` set up, this is rank 0.
        device: where the noise is drawn.

    Example:
        >>> import torch, sampleprop as sp
        >>> generator = rank_generator(0)
        >>> q = torch.distributions.Bernoulli(logits=torch.zeros(3))
        >>> loss = sp.expect(lambda x: x, q, sp.ScoreFunction(2), generator=generator)
    """
    rank = distributed.get_rank(process_group) if distributed.is_available() and distributed.is_initialized() else 0
    base = int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=8).digest())
    # torch seeds its CPU generator with the lowest 32 bits only; adding the rank keeps those different.
    return Generator(device).manual_seed((base + rank) % 2**63)


def check_streams(
    generator: Generator | None = None,
    *,
    process_group: ProcessGroup | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Raise an error if two ranks are about to draw the same noise. Call it on every rank of the group.

    It compares the next random numbers of all ranks, from copies of their generators. `expect` does this for its
    `process_group`.

    Args:
        generator: this rank's source of noise; the default one of `device` if None.
        process_group: the ranks to compare; all of them if None.
        device: a device that the group can send from.

    Raises:
        RuntimeError: when two ranks share their noise.
    """
    if generator is not None:
        state, source = generator.get_state(), generator.device
    else:
        source = torch.device(device)
        module = torch if source.type == "cpu" else torch.get_device_module(source)
        state = module.get_rng_state() if source.type == "cpu" else module.get_rng_state(source)
    copy = Generator(source)
    copy.set_state(state)
    rank, size = distributed.get_rank(process_group), distributed.get_world_size(process_group)
    drawn = torch.zeros(size, dtype=torch.int64, device=device)
    drawn[rank] = torch.randint(2**62, (), generator=copy, device=source)
    distributed.all_reduce(drawn, group=process_group)
    first: dict[int, int] = {}
    for other, number in enumerate(drawn.tolist()):
        if number in first:
            raise RuntimeError(
                f"Each rank needs noise of its own; ranks share noise: {first[number]} and {other} are about to draw "
                "the same. Pass generator=rank_generator(seed), or seed each rank differently."
            )
        first[number] = other


def total(x: Tensor, process_group: ProcessGroup) -> Tensor:
    """The sum of `x` over the ranks, of its dtype, detached."""
    x = x.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(x, group=process_group)
    return x
