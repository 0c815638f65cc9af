"""Every estimator beside the same one written by hand, twice: as most people write it (naive), and as tight as it gets.

    python benchmarks/run.py [--workloads toy-1 vae ...] [--only NAME ...] [--rounds N] [--compile] [--against CHECKOUT]
                             [--check-bars] [--json FILE]

One thread. A round times one step, forward and backward, of the library and of both yardsticks, in random order; a
ratio is the median over the rounds of the ratios within a round, with the quartiles. `object` is what building the
torch.distributions object takes, which the library needs and the tight yardstick does not. With --against, `before` is
the library of another checkout, timed in the same rounds. The program starts itself again with fixed thresholds of the
C library's allocator.
"""

import argparse
import gc
import itertools
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import against
import bars
import chain
import importing
import memory
import report
import sampleprop as sp
from cases import CASES, KINDS, estimates
from workloads import WORKLOADS

# Freed blocks stay in the process, so that no run pays the page faults of another; memory.py wants the opposite.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**34)}
SAMPLES = (1, 16, 128)
TURN = 2.5e-4  # seconds; on a loaded machine, four short turns vary half as much as one that is four times as long
# The thread's own time: on a shared machine it leaves out what others take. A GPU is waited for, which counts.
clock = time.perf_counter if torch.cuda.is_available() else time.thread_time
LARGEST = 64e6  # numbers in all points of one step: beyond, what is measured is the memory's bandwidth
COMPILED = ("ScoreFunction(2)", "DisARM", "GumbelSoftmax", "REBAR", "REBAR(coupled)", "RELAX")


def interleaved(steps: dict[str, Callable[[], object]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """The time of each step in each round; fewer rounds, at least five, when they would take longer than `seconds`.

    A turn is as many steps as take `TURN`, after as many that are not timed: what another step left in the processor's
    caches is a sixth of a short step. The order is random, so that no step has the same one before it in every round.
    """
    shuffle = random.Random(0).shuffle
    repeats = {name: max(1, round(TURN / min(block(step, 1) for _ in range(5)))) for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    started = clock()
    while len(times[order[0]]) < rounds:
        shuffle(order)
        for name in order:
            block(steps[name], repeats[name])
            times[name].append(block(steps[name], repeats[name]))
        if len(times[name]) >= 5 and clock() - started > seconds:
            break
    return times


def block(step: Callable[[], object], repeats: int) -> float:
    """The time of one step, on average."""
    start = clock()
    for _ in range(repeats):
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (clock() - start) / repeats


def quartiles(ratios: list[float]) -> list[float]:
    return statistics.quantiles(ratios, n=4)


def row(name: str, workload: str, samples: int, times: dict[str, list[float]]) -> dict[str, Any]:
    ratios: dict[str, list[float]] = {
        yardstick: quartiles([a / b for a, b in zip(times["ours"], times[yardstick], strict=True)])
        for yardstick in ("naive", "tight", "before", "eager")
        if yardstick in times
    }
    if "object" in times:
        both = zip(times["ours"], times["tight"], times["object"], strict=True)
        ratios["tight and object"] = quartiles([a / (b + c) for a, b, c in both])
    micro = {key: 1e6 * statistics.median(values) for key, values in times.items()}
    return {"estimator": name, "workload": workload, "samples": samples, "ratios": ratios} | micro | {"unit": "µs"}


def eager(
    names: list[str], workloads: list[str], rounds: int, seconds: float, before: ModuleType | None
) -> Iterator[dict[str, Any]]:
    for workload_name in workloads:
        for name in names:
            case = CASES[name]
            for kind in case.kinds:
                workload = WORKLOADS[workload_name](kind)
                if workload is None or (workload_name.startswith("toy") and kind != case.kinds[0]):
                    continue
                wanted = SAMPLES if workload_name.startswith("toy") else ()
                for samples in case.numbers(wanted):
                    parameter = workload.parameter()
                    evaluations = case.build(samples).evaluations(KINDS[kind].dist(parameter))[0]
                    if evaluations * parameter.numel() > LARGEST:
                        continue
                    found = estimates(case, kind, samples, workload, before)
                    steps: dict[str, Callable[[], object]] = {
                        key: lambda e=e, w=workload: w.step(e) for key, e in found.items()
                    }
                    steps["object"] = lambda kind=kind, parameter=parameter: KINDS[kind].dist(parameter)
                    yield row(name, workload_name, samples, interleaved(steps, rounds, seconds))


def compiled(
    names: list[str], workloads: list[str], rounds: int, seconds: float, before: ModuleType | None
) -> Iterator[dict[str, Any]]:
    """The compiled step of the library beside the compiled yardsticks, where torch takes these in one graph."""
    for workload_name in workloads:
        for name in names:
            case, kind = CASES[name], CASES[name].kinds[0]
            workload = WORKLOADS[workload_name](kind)
            if workload is None:
                continue
            steps: dict[str, Callable[[], object]] = {}
            for key, estimate in estimates(case, kind, case.samples, workload, before, to_compile=True).items():
                torch.compiler.reset()
                taken = torch.compile(lambda p, estimate=estimate: estimate(p), fullgraph=True)
                steps[key] = lambda taken=taken, w=workload: w.step(taken)
                try:
                    steps[key]()
                except torch._dynamo.exc.Unsupported:
                    del steps[key]  # autograd.grad inside a yardstick does not trace
            plain = estimates(case, kind, case.samples, workload)["ours"]
            steps["eager"] = lambda plain=plain, w=workload: w.step(plain)
            yield row(name, f"{workload_name}, compiled", case.samples, interleaved(steps, rounds, seconds))


def versions() -> dict[str, str]:
    return {
        "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "sampleprop": sp.__version__,
        "python": platform.python_version(),
        "processor": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
    }


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = [*WORKLOADS, "chain", "memory", "import"]
    parser.add_argument("--workloads", nargs="+", choices=choices, default=choices, metavar="NAME")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=1200, help="the most rounds of each case")
    parser.add_argument("--seconds", type=float, default=4.0, help="about the most that each case may take")
    parser.add_argument("--compile", action="store_true", help="also compare compiled steps, where there is a compiler")
    parser.add_argument(
        "--against", type=Path, metavar="CHECKOUT", help="also time the library of this checkout of the project"
    )
    parser.add_argument("--check-bars", action="store_true", help="say which bars hold")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if torch.cuda.is_available():
        torch.set_default_device("cuda")
    gc.disable()
    before = None if arguments.against is None else against.load(arguments.against)
    plain = [name for name in arguments.workloads if name in WORKLOADS]
    parts = [eager(arguments.only, plain, arguments.rounds, arguments.seconds, before)]
    if "chain" in arguments.workloads:
        earlier = None if before is None else against.load_benchmark(before, arguments.against, "chain")
        parts.append(chain.measured(interleaved, row, arguments.rounds, arguments.seconds, earlier))
    if "memory" in arguments.workloads:
        parts.append(memory.measured(arguments.only))
    if "import" in arguments.workloads:
        parts.append(importing.measured())
    if arguments.compile:  # last, because torch.compile turns the argument checks of distributions off for good
        named = [name for name in COMPILED if name in arguments.only]
        parts.append(compiled(named, plain, arguments.rounds, arguments.seconds, before))
        if "chain" in arguments.workloads:
            parts.append(chain.compiled(interleaved, row, arguments.rounds, arguments.seconds))
    rows = []
    for found in itertools.chain(*parts):
        rows.append(found)
        medians = ", ".join(f"{ratio[1]:.2f} of {key}" for key, ratio in found["ratios"].items())
        print(f"{found['workload']}: {found['estimator']}, samples {found['samples']}: {medians}", file=sys.stderr)
        gc.collect()
    print(report.summary(rows) + "\n" + report.table(rows))
    if before is not None:
        print("\n" + report.against(rows))
    if arguments.check_bars:
        print("\n" + bars.report(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "versions": versions(), "command": sys.argv}, indent=1))


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
    main()
