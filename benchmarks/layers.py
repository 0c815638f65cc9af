"""Where the time of a step goes: from the tight yardstick to the library, one promise after another.

    python benchmarks/layers.py [NAME[@SAMPLES] ...] [--workload toy-1|toy-1000|categorical|vae] [--rounds N]

The default number of samples unless another one is named, and one variable unless another workload is asked for. Each
column adds something to the column before it, in one flat function; `recognition` is the last of these, and so the
least that a step with all checks takes. One thread, medians over interleaved rounds, in µs of the thread's own time.
"""

import argparse
import copy
import functools
import importlib.util
import math
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tight
from cases import CASES, KINDS, Case, Estimate, estimates
from naive import Cost
from run import ALLOCATOR, interleaved
from sampleprop import graph
from sampleprop.families import recognize
from sampleprop.surrogate import guarded, straight_through, surrogate
from workloads import WORKLOADS, Workload

# Those that take more than 1.3 of the naive step, in the table of docs/benchmarks.md or in a run near to it.
SLOWEST = (
    *("Pathwise", "StraightThrough", "HardConcrete", "GumbelRao", "DisARM", "ARM", "UGC", "BitFlip", "GOGradient"),
    *("MeasureValued", "EvolutionStrategies", "SPSA", "DoublyReparameterized", "GappedStraightThrough"),
    *("LocalExpectation", "CARMS@2", "ReinMax"),
)


def layers(name: str, workload: Workload) -> dict[str, Estimate]:
    """From the parameter to the estimate, with more of what the library does in each."""
    case, k = named(name)
    kind = case.kinds[0]
    build = KINDS[kind].dist
    f, known, estimator = workload.cost, estimates(case, kind, k, workload), case.build(k)
    q = build(workload.parameter())
    straight = getattr(estimator, "once", False)  # its points come from `straight_through`, which refuses by itself
    once = estimator.order(q) == 1 and not straight and estimator.propose(q).points.requires_grad
    copy = estimator.reads_points
    plain, family = case.tight(workload.size), KINDS[kind].tight
    repeatable = REPEATABLE.get(name.partition("@")[0], plain)
    refusing, same_family = refusing_second_derivatives(repeatable, family)

    def with_object(phi: Tensor) -> Tensor:
        build(phi)
        return plain(family, phi, f, k)

    def with_checks(phi: Tensor) -> Tensor:
        build(phi)
        return repeatable(family, phi, checked(f, copy=copy, path=False), k)

    def with_path(phi: Tensor) -> Tensor:
        build(phi)
        return repeatable(family, phi, checked(f, copy=copy, path=True), k)

    def with_refusal(phi: Tensor) -> Tensor:
        build(phi)
        return refusing(same_family, phi, checked(f, copy=copy, path=True, once=phi if once else None), k)

    def with_recognition(phi: Tensor) -> Tensor:
        refusal = estimator.refusal_of(recognize(build(phi)))
        assert refusal is None
        return refusing(same_family, phi, checked(f, copy=copy, path=True, once=phi if once else None), k)

    return {
        "tight": known["tight"],
        "object": with_object,
        "checks": with_checks,
        "path": with_path,
        "once": with_refusal,
        "recognition": with_recognition,
        "library": known["ours"],
        "naive": known["naive"],
    }


def named(name: str) -> tuple[Case, int]:
    """The case of a name, and the number of samples."""
    name, _, samples = name.partition("@")
    return CASES[name], int(samples or CASES[name].samples)


def checked(f: Cost, *, copy: bool, path: bool, once: Tensor | None = None) -> Cost:
    """f that may write into what it gets and into what it returned, whose costs are finite and of the right shape.

    Args:
        f: the cost.
        copy: whether the points are read again.
        path: whether the costs must lead back to the points.
        once: what the points are made from, if the second derivative through them raises.
    """

    def call(x: Tensor) -> Tensor:
        if x.requires_grad:
            x = x if once is None or x.is_leaf else guarded("", x, once)
        elif copy and torch.is_grad_enabled():  # not for probes
            x = x.clone()
        version = x._version
        costs = f(x)
        assert x._version == version
        assert costs.shape == x.shape[:2]
        if not costs.requires_grad and torch.is_grad_enabled():
            costs = costs.clone()
        fixed = costs.detach() if costs.requires_grad and costs.numel() > 1 else costs
        assert math.isfinite((fixed if fixed.numel() == 1 else fixed.sum()).item())
        assert not path or x.grad_fn is None or graph.clear(costs, x.grad_fn)
        return costs

    return call


def refusing_second_derivatives(function: Any, family: tight.Family) -> tuple[Any, tight.Family]:
    """A tight yardstick whose gradient is attached by the library's functions, which refuse the derivative of it."""
    spec = importlib.util.spec_from_file_location("tight_refusing", Path(tight.__file__))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def attach(value: Tensor, parameter: Tensor, gradient: Tensor, family: Any = None) -> Tensor:
        return surrogate("", value, (parameter,), (gradient,))

    def through(family: Any, hard: Tensor, soft: Tensor, f: Cost) -> Tensor:
        return f(straight_through("", hard, soft)).mean(0)

    vars(module).update(attach=attach, _through=through)
    same = next(name for name, value in vars(tight).items() if value is family)
    if function in REPEATABLE.values():
        return functools.partial(function, attach=attach), getattr(module, same)
    if hasattr(function, "__name__"):
        return getattr(module, function.__name__), getattr(module, same)
    refusing = copy.copy(function)  # what learns is an object
    refusing.__class__ = getattr(module, type(function).__name__)
    return refusing, getattr(module, same)


def doubly_reparameterized(
    family: tight.Family, mean: Tensor, f: Cost, k: int = 8, attach: Any = tight.attach
) -> Tensor:
    """The tight yardstick with a second backward pass in place of its hook on the points.

    The hook holds for one use of the costs: combined twice, they would get both weights.
    """
    epsilon, z, log_q = tight._normal(mean, k)
    costs = f(z)
    log_weights = costs - log_q
    share = log_weights.detach().softmax(0)
    squared = share.square()
    (slopes,) = torch.autograd.grad(costs.sum(), z, retain_graph=True)
    gradient = tight._weighed(squared, epsilon, family) + tight._weighed(squared - share, slopes, family)
    return attach(log_weights.logsumexp(0) - math.log(k), mean, gradient)


# What the yardsticks of these do is right once only; from the column `checks` on, this is done in its place.
REPEATABLE = {"DoublyReparameterized": doubly_reparameterized}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=SLOWEST, metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--workload", choices=WORKLOADS, default="toy-1")
    parser.add_argument("--rounds", type=int, default=400)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for number, name in enumerate(arguments.names):
        workload = WORKLOADS[arguments.workload](named(name)[0].kinds[0])
        if workload is None:
            parser.error(f"{arguments.workload} has no variables for {name}")
        steps: dict[str, Callable[[], object]] = {
            key: functools.partial(workload.step, estimate) for key, estimate in layers(name, workload).items()
        }
        times = interleaved(steps, arguments.rounds, math.inf)
        if not number:
            compared = [
                f"{which} over {yardstick}" for yardstick in ("naive", "tight") for which in ("flat", "library")
            ]
            print(f"| | {' | '.join((*times, *compared))} |")
            print("|---|" + "--:|" * (len(times) + len(compared)))
        cells = [f"{1e6 * statistics.median(found):.0f}" for found in times.values()]
        for yardstick in ("naive", "tight"):
            for key in ("recognition", "library"):
                ratios = (ours / theirs for ours, theirs in zip(times[key], times[yardstick], strict=True))
                cells.append(f"{statistics.median(ratios):.2f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
    main()
