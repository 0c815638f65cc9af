"""Sources of noise for code that is run again: torch's own state put back, and one stream for each variable."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

ODD = 0x9E3779B97F4A7C15  # torch's CPU generator takes the low 32 bits of a seed; odd multiples keep those different


class Saved(NamedTuple):
    """The state of torch's default generators, on the CPU and, where it is in use, on the current CUDA device.

    Also that of the program's own generator, if it has one: programs that are called inside draw from it.
    """

    cpu: Tensor
    cuda: Tensor | None
    generator: Generator | None = None
    own: Tensor | None = None

    def put_back(self) -> None:
        """Make it the state again."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda)
        if self.generator is not None and self.own is not None:
            self.generator.set_state(self.own)

    def same(self, other: Saved) -> bool:
        """Whether the two would give the same numbers."""
        if self.cuda is not None and (other.cuda is None or not torch.equal(self.cuda, other.cuda)):
            return False
        if self.own is not None and (other.own is None or not torch.equal(self.own, other.own)):
            return False
        return torch.equal(self.cpu, other.cpu)


def saved(generator: Generator | None = None) -> Saved:
    """The state as it is now, with that of the program's generator."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return Saved(torch.get_rng_state(), cuda, generator, None if generator is None else generator.get_state())


def seed_from(generator: Generator | None) -> Tensor:
    """One random seed, from the program's source of noise."""
    device = "cpu" if generator is None else generator.device
    return torch.randint(2**62, (), generator=generator, device=device)


def stream(seed: int, index: int, device: torch.device) -> Generator:
    """The source of noise with this number, from -1 on: another for each number, the same at each call."""
    return Generator(device).manual_seed((seed + ODD * (index + 1)) % 2**63)
