"""What the log-probabilities, entropies and divergences of tokens cost, beside those by hand.

    python benchmarks/tokens.py [--rounds N]

2 x 256 positions, 50,000 tokens, the backward pass included, one thread. Peak memory: by how much the call raises the
resident memory of a process at most, each in a process of its own (Linux only). Time: the median of the ratios to
log_softmax and gather within a round; the order rotates.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import sampleprop as sp

POSITIONS, VOCABULARY = (2, 256), 50_000
DTYPES = ("float32", "bfloat16")
# Each large block comes from the system and goes back, so that the peak is what is alive at once.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def gather(x: Tensor, tokens: Tensor, reference: Tensor) -> Tensor:
    return x.float().log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).sum()


def token_log_prob(x: Tensor, tokens: Tensor, reference: Tensor) -> Tensor:
    return sp.token_log_prob(x, tokens).sum()


def by_hand(x: Tensor, tokens: Tensor, reference: Tensor) -> Tensor:
    log_p, log_q = x.float().log_softmax(-1), reference.float().log_softmax(-1)
    p = log_p.exp()
    entropy, kl = -(p * log_p).sum(-1), (p * (log_p - log_q)).sum(-1)
    return log_p.gather(-1, tokens.unsqueeze(-1)).sum() + entropy.sum() + kl.sum()


def entropy(x: Tensor, tokens: Tensor, reference: Tensor) -> Tensor:
    log_prob, entropy, _ = sp.token_terms(x, tokens)
    return log_prob.sum() + entropy.sum()


def token_terms(x: Tensor, tokens: Tensor, reference: Tensor) -> Tensor:
    log_prob, entropy, kl = sp.token_terms(x, tokens, reference=reference)
    return log_prob.sum() + entropy.sum() + kl.sum()


CASES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "gather": gather,
    "token_log_prob": token_log_prob,
    "by hand": by_hand,
    "token_terms, no reference": entropy,
    "token_terms": token_terms,
}


def inputs(dtype: str, size: int = VOCABULARY) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, reference = (torch.randn(*POSITIONS, size, generator=generator).to(getattr(torch, dtype)) for _ in range(2))
    return x.requires_grad_(), torch.randint(size, POSITIONS, generator=generator), reference


def step(name: str, given: tuple[Tensor, Tensor, Tensor]) -> None:
    given[0].grad = None
    CASES[name](*given).backward()


def peak(name: str, dtype: str) -> float:
    """Megabytes, in a process of its own."""
    command = [sys.executable, __file__, "--peak", name, dtype]
    output = subprocess.run(command, env=os.environ | ALLOCATOR, capture_output=True, text=True, check=True).stdout
    return float(output)


def own_peak(name: str, dtype: str) -> float:
    """Megabytes by which one call raises the memory of this process."""

    def kilobytes(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))

    step(name, inputs(dtype, 10))  # what is loaded at the first call is not the call's
    given = inputs(dtype)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is from here on
    before = kilobytes("VmRSS")
    step(name, given)
    return (kilobytes("VmHWM") - before) / 1024


def times(dtype: str, rounds: int) -> dict[str, float]:
    """The median over the rounds of the time over that of log_softmax and gather."""
    given, names = inputs(dtype), list(CASES)
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds + 1):
        seconds = {}
        for name in names[i % len(names) :] + names[: i % len(names)]:
            start = time.perf_counter()
            step(name, given)
            seconds[name] = time.perf_counter() - start
        if i:  # the first round warms up
            for name in names:
                ratios[name].append(seconds[name] / seconds["gather"])
    return {name: statistics.median(found) for name, found in ratios.items()}


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--peak", nargs=2, metavar=("NAME", "DTYPE"), help="print the megabytes of one of them")
    arguments = parser.parse_args()
    if arguments.peak:
        print(own_peak(*arguments.peak))
        return
    print("| | dtype | peak memory, MB | time over gather |\n|---|---|--:|--:|")
    for dtype in DTYPES:
        found = times(dtype, arguments.rounds)
        for name in CASES:
            print(f"| {name} | {dtype} | {peak(name, dtype):.0f} | {found[name]:.2f} |")


if __name__ == "__main__":
    main()
