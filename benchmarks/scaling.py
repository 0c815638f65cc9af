"""How the time of a step grows: with samples, variables, classes, and the nodes of a structure.

    python benchmarks/scaling.py [samples variables classes nodes] [--rounds N] [--seconds N]

One thread, batch 1, f(x) = Σ (x - 0.45)², forward and backward; for structures ScoreFunction(2). `f alone` is f at as
many points as the first line of a table has, without a gradient. Medians over interleaved rounds, in µs of the
thread's own time. Beyond `LARGEST` numbers in all points of a step nothing is measured.
"""

import argparse
import functools
import gc
import math
import os
import statistics
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

import naive
import sampleprop as sp
from run import ALLOCATOR, interleaved

LARGEST = 64e6


class Line(NamedTuple):
    """What is timed at each size: an estimator, for a distribution with so many parameters."""

    estimator: Callable[[int], sp.Estimator[Any, Any]]
    dist: Callable[[Tensor], Distribution] = naive.bits
    parameters: Callable[[int], tuple[int, ...]] = lambda size: (1, size)


def of_each(estimator: Callable[[], sp.Estimator[Any, Any]], dist: Callable[[Tensor], Distribution]) -> Line:
    """The same estimator at every size."""
    return Line(lambda size: estimator(), dist)


def of_samples(estimator: Callable[[int], sp.Estimator[Any, Any]]) -> Line:
    """So many samples of 1,000 bits."""
    return Line(estimator, parameters=lambda size: (1, 1000))


def of_nodes(dist: Callable[[Tensor], Distribution], parameters: Callable[[int], tuple[int, ...]]) -> Line:
    """A structure with so many nodes."""
    return Line(lambda size: sp.ScoreFunction(2), dist, parameters)


def chain(phi: Tensor) -> Distribution:
    """Nodes of ten states: [1, nodes, 11, 10], whose first row is of the node itself, the others of its transition."""
    return sp.LinearChain(phi[:, :, 0], phi[:, 1:, 1:])


def lines(dist: Callable[[Tensor], Distribution]) -> dict[str, Line]:
    """Four estimators, of which the last one evaluates f once for each variable or class more."""
    return {
        "ScoreFunction(2)": of_each(lambda: sp.ScoreFunction(2), dist),
        "GumbelSoftmax": of_each(sp.GumbelSoftmax, dist),
        "REBAR": of_each(sp.REBAR, dist),
        "LocalExpectation": of_each(sp.LocalExpectation, dist),
    }


PANELS: dict[str, tuple[tuple[int, ...], dict[str, Line]]] = {
    "samples": (
        (2, 8, 32, 128, 512, 2048),
        {each.__name__: of_samples(each) for each in (sp.ScoreFunction, sp.DisARM, sp.GumbelSoftmax, sp.REBAR)},
    ),
    "variables": ((1, 10, 100, 1000, 10_000, 100_000), lines(naive.bits)),
    "classes": ((2, 10, 100, 1000, 10_000, 100_000), lines(naive.outcomes)),
    "nodes": (
        (4, 8, 16, 32, 64, 128, 256),
        {
            "PlackettLuce": of_nodes(sp.PlackettLuce, lambda size: (1, size)),
            "KSubset": of_nodes(lambda phi: sp.KSubset(phi, phi.shape[-1] // 2), lambda size: (1, size)),
            "LinearChain": of_nodes(chain, lambda size: (1, size, 11, 10)),
            "SpanningTree": of_nodes(sp.SpanningTree, lambda size: (1, size * (size - 1) // 2)),
        },
    ),
}


def steps(timed: dict[str, Line], size: int) -> dict[str, Callable[[], object]]:
    """A step of each line at this size, and f alone."""
    found: dict[str, Callable[[], object]] = {}
    for name, line in timed.items():
        phi, estimator = torch.randn(line.parameters(size)).requires_grad_(), line.estimator(size)
        dist = line.dist(phi)
        evaluations, event = estimator.evaluations(dist)[0], tuple(range(-len(dist.event_shape), 0))
        f = functools.partial(cost, event=event)
        if not found:
            found["f alone"] = functools.partial(f, dist.sample((evaluations,)))
        if evaluations * math.prod(dist.event_shape) <= LARGEST:
            found[name] = functools.partial(step, line, phi, estimator, f)
    return found


def cost(x: Tensor, event: tuple[int, ...]) -> Tensor:
    return (x - 0.45).square().sum(event)


def step(line: Line, phi: Tensor, estimator: sp.Estimator[Any, Any], f: Callable[[Tensor], Tensor]) -> None:
    phi.grad = None
    sp.expect(f, line.dist(phi), estimator).sum().backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("panels", nargs="*", default=list(PANELS), metavar="PANEL", help=", ".join(PANELS))
    parser.add_argument("--rounds", type=int, default=50, help="the most rounds of each size")
    parser.add_argument("--seconds", type=float, default=2.0, help="about the most that each size may take")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    gc.disable()
    for panel in arguments.panels:
        sizes, timed = PANELS[panel]
        print(f"\n| {panel} | f alone | {' | '.join(timed)} |\n|--:|" + "--:|" * (len(timed) + 1))
        for size in sizes:
            times = interleaved(steps(timed, size), arguments.rounds, arguments.seconds)
            medians = {name: f"{1e6 * statistics.median(found):,.0f}" for name, found in times.items()}
            print(f"| {size:,} | {' | '.join(medians.get(name, '') for name in ('f alone', *timed))} |", flush=True)
            gc.collect()


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
    main()
