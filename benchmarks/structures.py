"""Structures: time of log-normalizer, marginals and an estimate, as ratios to plain code that is written here."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

import sampleprop as sp
from sampleprop.families.structured import LogLinear

ROWS = 32


def plain_subsets(logits: Tensor, k: int) -> Tensor:
    """log Σ over the subsets of k items, by one item after the other in logarithms, as most people write it."""
    sums = torch.cat((logits.new_zeros(len(logits), 1), logits.new_full((len(logits), k), -1e30)), -1)
    for logit in logits.unbind(-1):
        sums = torch.cat((sums[:, :1], torch.logaddexp(sums[:, 1:], sums[:, :-1] + logit.unsqueeze(-1))), -1)
    return sums[:, k]


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """The least, warmed up: what other programs on the machine take away is not ours."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def three_times(normalizer: Callable[[Tensor], Tensor], logits: Tensor, repeats: int) -> tuple[float, float, float]:
    """Of A, of its gradient μ, and of μ with a product by ∂μ/∂θ."""
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

    first, second, third = (milliseconds(call, repeats) for call in (value, marginals, through))
    return first, second, third


def subsets(n: int, k: int, repeats: int) -> None:
    logits = torch.randn(ROWS, n)
    dist = sp.KSubset(logits, k)
    ours = three_times(lambda theta: dist.log_normalizer(logits=theta), logits, repeats)
    plain = three_times(lambda theta: plain_subsets(theta, k), logits, max(2, repeats // 5))
    print(f"KSubset n = {n}, k = {k}, {ROWS} rows")
    for what, a, b in zip(("A", "μ", "μ and ∂μ/∂θ"), ours, plain, strict=True):
        print(f"  {what:14} {a:8.1f} ms, plain {b:8.1f} ms: {b / a:5.1f} times faster")

    def step() -> None:
        theta = logits.clone().requires_grad_()
        q = sp.KSubset(theta, k, validate_args=False)
        sp.expect(lambda x: x[..., 0], q, sp.ScoreFunction(4)).sum().backward()

    sampling = milliseconds(lambda: dist.sample((4,)), repeats)
    whole = milliseconds(step, repeats)
    print(f"  ScoreFunction(4) {whole:6.1f} ms: {whole / (sampling + ours[1]):.2f} of sampling and one gradient of A")


def others(repeats: int) -> None:
    cases: dict[str, LogLinear] = {
        "LinearChain T = 100, C = 10": sp.LinearChain(torch.randn(ROWS, 100, 10), torch.randn(ROWS, 99, 10, 10)),
        "SpanningTree n = 10": sp.SpanningTree(torch.randn(ROWS, 45)),
        "Matching n = 10": sp.Matching(torch.randn(ROWS, 10, 10)),
    }
    for name, dist in cases.items():
        gradient = milliseconds(lambda dist=dist: dist.moments(**dist.natural), repeats)  # type: ignore[misc]
        sample = milliseconds(dist.sample, repeats)
        print(f"{name}: marginals {gradient:.1f} ms, a sample of each row {sample:.1f} ms")
    for k in (10, 1000):
        theta = torch.randn(ROWS, 1000, requires_grad=True)
        ranking = sp.PlackettLuce(theta, k, validate_args=False)
        points = ranking.sample((4,))
        took = milliseconds(lambda q=ranking, x=points, t=theta: torch.autograd.grad(q.log_prob(x).sum(), t), repeats)  # type: ignore[misc]
        print(f"PlackettLuce n = 1000, k = {k}, 4 samples: log p and its gradient {took:.1f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    subsets(1000, 100, arguments.repeats)
    subsets(64, 10, arguments.repeats)
    others(arguments.repeats)
