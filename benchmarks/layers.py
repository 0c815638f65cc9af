"""Where the time of a small step goes: `Pathwise` on one variable, built up from the bare arithmetic.

    python benchmarks/layers.py [--rounds N]

Each row adds something to the row before it, in one flat function; the last but one is the library itself. One thread,
medians over interleaved rounds, in µs of the thread's own time.
"""

import argparse
import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cases import CASES, KINDS, estimates
from run import interleaved
from sampleprop import graph
from sampleprop.families import recognize
from workloads import toy


def layers() -> dict[str, Callable[[Tensor], Tensor]]:
    """From the parameter to the estimate, with more of what the library does in each."""
    workload, build = toy("reals", 1), KINDS["reals"].dist
    f, known = workload.cost, estimates(CASES["Pathwise"], "reals", 1, workload)
    estimator = CASES["Pathwise"].build(1)

    def sample(base: Any) -> Tensor:
        noise = torch.randn((1, *base.loc.shape), dtype=torch.float32, device=base.loc.device)
        return torch.addcmul(base.loc, base.scale, noise)

    def checked(x: Tensor, batch: torch.Size) -> Tensor:
        version = x._version
        costs = f(x)
        assert x._version == version
        assert costs.shape == (1, *batch)
        assert math.isfinite(costs.detach().sum().item())
        return costs

    def arithmetic(phi: Tensor) -> Tensor:
        return f(sample(build(phi).base_dist)).squeeze(0)  # type: ignore[attr-defined]

    def with_checks(phi: Tensor) -> Tensor:
        dist: Any = build(phi)
        return checked(sample(dist.base_dist), dist.batch_shape).squeeze(0)

    def with_path(phi: Tensor) -> Tensor:
        dist: Any = build(phi)
        x = sample(dist.base_dist)
        costs = checked(x, dist.batch_shape)
        assert x.grad_fn is not None
        assert graph.clear(costs, x.grad_fn)
        return costs.squeeze(0)

    def with_recognition(phi: Tensor) -> Tensor:
        dist = build(phi)
        variables = recognize(dist)
        assert estimator.refusal_of(variables) is None
        x = sample(variables.base)
        costs = checked(x, dist.batch_shape)
        assert x.grad_fn is not None
        assert graph.clear(costs, x.grad_fn)
        return costs.squeeze(0)

    return {
        "tight: no distribution object": known["tight"],
        "its arithmetic, and the object": arithmetic,
        "f's shape, finite costs, no writing": with_checks,
        "a path from the costs to the points": with_path,
        "what the distribution is": with_recognition,
        "the library: one interface for all": known["ours"],
        "naive": known["naive"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=400)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    workload = toy("reals", 1)
    steps: dict[str, Callable[[], object]] = {
        name: lambda estimate=estimate: workload.step(estimate) for name, estimate in layers().items()
    }
    for name, times in interleaved(steps, rounds, math.inf).items():
        print(f"{name:<38}{1e6 * statistics.median(times):6.1f} µs")


if __name__ == "__main__":
    main()
