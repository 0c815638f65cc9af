"""Structures: time and memory, as ratios to plain code that is written here, and the bars that hold.

python benchmarks/structures.py --check-bars
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import sampleprop as sp
from memory import ALLOCATOR, kilobytes
from sampleprop.families.structured import LogLinear

ROWS = 32
N, K = 1000, 100
FASTER = {"A": 2.0, "μ": 4.0, "μ and ∂μ/∂θ": 15.0}  # times than the plain program, at N and K at least
STEP = 1.2  # of sampling and one gradient of A, at N and K at most
AT_MOST = {  # milliseconds on one thread
    "LinearChain T = 100, C = 10": 120.0,
    "SpanningTree n = 10": 30.0,
    "Matching n = 10": 30.0,
    "PlackettLuce n = 1000, k = 10": 5.0,
    "PlackettLuce n = 1000, k = 1000": 80.0,
}
GROWTH = 4.4  # of memory from N and K to their doubles, at most: n k grows by 4

Bars = list[tuple[str, bool]]


def plain_subsets(logits: Tensor, k: int) -> Tensor:
    """log Σ over the subsets of k items, by one item after the other in logarithms, as most people write it."""
    sums = torch.cat((logits.new_zeros(len(logits), 1), logits.new_full((len(logits), k), -1e30)), -1)
    for logit in logits.unbind(-1):
        sums = torch.cat((sums[:, :1], torch.logaddexp(sums[:, 1:], sums[:, :-1] + logit.unsqueeze(-1))), -1)
    return sums[:, k]


def milliseconds(calls: list[Callable[[], object]], repeats: int) -> list[float]:
    """Of each, in turn; the least, warmed up: what other programs on the machine take away is not ours."""
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, own in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            own.append(time.perf_counter() - start)
    return [1000 * min(own) for own in times]


def three(normalizer: Callable[[Tensor], Tensor], logits: Tensor) -> list[Callable[[], object]]:
    """A, its gradient μ, and μ with a product by ∂μ/∂θ."""
    direction = torch.randn_like(logits)

    def value() -> Tensor:
        with torch.no_grad():
            return normalizer(logits)

    def marginals() -> Tensor:
        leaf = logits.clone().requires_grad_()
        return torch.autograd.grad(normalizer(leaf).sum(), leaf)[0]

    def through() -> Tensor:
        leaf = logits.clone().requires_grad_()
        (mean,) = torch.autograd.grad(normalizer(leaf).sum(), leaf, create_graph=True)
        return torch.autograd.grad((mean * direction).sum(), leaf)[0]

    return [value, marginals, through]


def normalizers(logits: Tensor, k: int) -> dict[str, Callable[[Tensor], Tensor]]:
    dist = sp.KSubset(logits, k)
    return {"ours": lambda theta: dist.log_normalizer(logits=theta), "plain": lambda theta: plain_subsets(theta, k)}


def subsets(n: int, k: int, repeats: int) -> Bars:
    logits = torch.randn(ROWS, n)
    ours, plain = (three(normalizer, logits) for normalizer in normalizers(logits, k).values())
    print(f"KSubset n = {n}, k = {k}, {ROWS} rows")
    bars: Bars = []
    gradient = 0.0
    for what, own, theirs in zip(FASTER, ours, plain, strict=True):
        a, b = milliseconds([own, theirs], max(3, repeats // 3))
        gradient = a if what == "μ" else gradient
        print(f"  {what:14} {a:8.1f} ms, plain {b:8.1f} ms: {b / a:5.1f} times faster")
        bars.append(
            (f"KSubset, {what}: {FASTER[what]} times faster than the plain program, {b / a:.1f}", b / a >= FASTER[what])
        )

    def step() -> None:
        theta = logits.clone().requires_grad_()
        q = sp.KSubset(theta, k, validate_args=False)
        sp.expect(lambda x: x[..., 0], q, sp.ScoreFunction(4)).sum().backward()

    sample = sp.KSubset(logits, k).sample
    sampling, gradient, whole = milliseconds([lambda: sample((4,)), ours[1], step], repeats)
    ratio = whole / (sampling + gradient)
    print(f"  ScoreFunction(4) {whole:6.1f} ms: {ratio:.2f} of sampling and one gradient of A")
    bars.append(
        (f"KSubset, ScoreFunction(4): at most {STEP} of sampling and one gradient of A, {ratio:.2f}", ratio <= STEP)
    )
    return bars


def others(repeats: int) -> Bars:
    cases: dict[str, LogLinear] = {
        "LinearChain T = 100, C = 10": sp.LinearChain(torch.randn(ROWS, 100, 10), torch.randn(ROWS, 99, 10, 10)),
        "SpanningTree n = 10": sp.SpanningTree(torch.randn(ROWS, 45)),
        "Matching n = 10": sp.Matching(torch.randn(ROWS, 10, 10)),
    }
    found = {}
    for name, dist in cases.items():
        natural = dist.natural
        found[name], sample = milliseconds([lambda d=dist, x=natural: d.moments(**x), dist.sample], repeats)  # type: ignore[misc]
        print(f"{name}: A and marginals {found[name]:.1f} ms, a sample of each row {sample:.1f} ms")
    for k in (10, 1000):
        theta = torch.randn(ROWS, 1000, requires_grad=True)
        ranking = sp.PlackettLuce(theta, k, validate_args=False)
        points = ranking.sample((4,))
        name = f"PlackettLuce n = 1000, k = {k}"
        (found[name],) = milliseconds(
            [lambda q=ranking, x=points, t=theta: torch.autograd.grad(q.log_prob(x).sum(), t)],  # type: ignore[misc]
            repeats,
        )
        print(f"{name}, 4 samples: log p and its gradient {found[name]:.1f} ms")
    return [(f"{name}: at most {AT_MOST[name]:.0f} ms, {ms:.1f}", ms <= AT_MOST[name]) for name, ms in found.items()]


def memory() -> Bars:
    """Peaks of a gradient of A and of a sample, each in a process of its own. Linux only."""
    peaks = {}
    for what, n, k in (
        ("ours", N, K),
        ("plain", N, K),
        ("ours", 2 * N, 2 * K),
        ("sample", N, K),
        ("sample", 2 * N, 2 * K),
    ):
        command = [sys.executable, __file__, "--peak", what, "--size", str(n), str(k)]
        output = subprocess.run(command, env=os.environ | ALLOCATOR, capture_output=True, text=True, check=True).stdout
        peaks[what, n] = float(output)
        print(f"memory of {what}, n = {n}, k = {k}: {peaks[what, n]:.1f} MB")
    less = peaks["ours", N] <= peaks["plain", N]
    bars = [("KSubset: memory of a gradient at most that of the plain program", less)]
    for what in ("ours", "sample"):
        ratio = peaks[what, 2 * N] / peaks[what, N]
        bars.append((f"KSubset, {what}: memory O(n k), at most {GROWTH} times for 4 n k, {ratio:.1f}", ratio <= GROWTH))
    return bars


def peak(what: str, n: int, k: int) -> float:
    """Megabytes by which the resident memory rises at most."""
    logits = torch.randn(ROWS, n)

    def call(k: int) -> object:
        if what == "sample":
            return sp.KSubset(logits, k).sample()
        return three(normalizers(logits, k)[what], logits)[1]()

    call(2)  # what is loaded at the first call
    Path("/proc/self/clear_refs").write_text("5")
    before = kilobytes("VmRSS")
    call(k)
    return (kilobytes("VmHWM") - before) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--check-bars", action="store_true", help="say which bars hold; fail if one does not")
    parser.add_argument("--peak", choices=("ours", "plain", "sample"), help="print one peak of memory in MB, and end")
    parser.add_argument("--size", type=int, nargs=2, default=(N, K), metavar=("N", "K"), help="for --peak")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.peak:
        print(peak(arguments.peak, *arguments.size))
        return
    bars = subsets(N, K, arguments.repeats)
    subsets(64, 10, arguments.repeats)
    bars += others(arguments.repeats) + memory()
    if arguments.check_bars:
        print("\n".join(f"{'holds' if holds else 'MISSED'}: {what}" for what, holds in bars))
        sys.exit(not all(holds for _, holds in bars))


if __name__ == "__main__":
    main()
