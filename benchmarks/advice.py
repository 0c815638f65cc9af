"""What a user's own choices cost: pairs of steps that do the same, the slower form beside the faster one.

    python benchmarks/advice.py [--rounds N] [--seconds S] [--no-compile]

One thread, medians over interleaved rounds of the thread's own time, in µs, and the ratio of the first to the second.
The numbers are those of docs/speed.md.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Independent, Normal, OneHotCategorical

import sampleprop as sp
from run import ALLOCATOR, interleaved
from workloads import WORKLOADS, Workload

Step = Callable[[], object]
Pair = tuple[str, Step, Step]


def distance(x: Tensor) -> Tensor:
    return (x - 0.45).square().sum(-1)


def batches() -> Pair:
    """Sixty-four expectations of ten bits, one by one, or as one batch."""
    logits = torch.randn(64, 10, requires_grad=True)

    def one_by_one() -> None:
        parts = [
            sp.expect(distance, Independent(Bernoulli(logits=row), 1), sp.ScoreFunction(4)) for row in logits.unbind()
        ]
        torch.stack(parts).mean().backward()

    def together() -> None:
        sp.expect(distance, Independent(Bernoulli(logits=logits), 1), sp.ScoreFunction(4)).mean().backward()

    return "64 calls of `expect`, or one with a batch of 64", one_by_one, together


def samples() -> Pair:
    """Sixteen samples, two at a time, or at once."""
    logits, pair, all_at_once = torch.randn(8, 100, requires_grad=True), sp.ScoreFunction(2), sp.ScoreFunction(16)

    def estimate(estimator: sp.ScoreFunction) -> Tensor:
        return sp.expect(distance, Independent(Bernoulli(logits=logits), 1), estimator).mean()

    def in_pairs() -> None:
        (sum(estimate(pair) for _ in range(8)) / 8).backward()  # type: ignore[union-attr]

    return "8 calls with `samples=2`, or one with `samples=16`", in_pairs, lambda: estimate(all_at_once).backward()


def loops() -> Pair:
    """A cost that takes its points one after the other, or all."""
    logits, network = (
        torch.randn(8, 20, requires_grad=True),
        nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 1)),
    )
    estimator = sp.ScoreFunction(16)

    def step(cost: Callable[[Tensor], Tensor]) -> None:
        sp.expect(cost, Independent(Bernoulli(logits=logits), 1), estimator).mean().backward()

    def all_points(x: Tensor) -> Tensor:
        return network(x).squeeze(-1)

    return (
        "f loops over its 16 samples, or takes them as a batch",
        lambda: step(lambda points: torch.stack([all_points(x) for x in points])),
        lambda: step(all_points),
    )


def validations() -> Iterator[Pair]:
    """The distribution object with torch's check of its arguments, or without."""
    bits, classes = torch.randn(100, 200), torch.randn(16, 20, 10)
    kinds: dict[str, Callable[[bool], object]] = {
        "`Bernoulli`, 100 × 200": lambda check: Bernoulli(logits=bits, validate_args=check),
        "`Normal`, 100 × 200": lambda check: Normal(bits, 1.0, validate_args=check),
        "`Categorical`, 16 × 20 of 10 classes": lambda check: Categorical(logits=classes, validate_args=check),
        "`OneHotCategorical`, 16 × 20 of 10 classes": lambda check: OneHotCategorical(
            logits=classes, validate_args=check
        ),
    }
    for name, build in kinds.items():
        yield f"{name}: validated, or not", lambda b=build: b(True), lambda b=build: b(False)  # type: ignore[misc]


def validated_steps() -> Iterator[Pair]:
    """Whole steps with validated distributions, or without."""
    workloads: dict[str, tuple[Workload | None, Callable[[Tensor, bool], Any]]] = {
        "vae": (
            WORKLOADS["vae"]("bits"),
            lambda p, check: Independent(Bernoulli(logits=p, validate_args=check), 1, check),
        ),
        "categorical": (
            WORKLOADS["categorical"]("one-hots"),
            lambda p, check: Independent(OneHotCategorical(logits=p, validate_args=check), 1, check),
        ),
    }
    for name, (workload, build) in workloads.items():
        assert workload is not None
        estimator = sp.ScoreFunction(2)

        def step(check: bool, workload: Workload = workload, build: Any = build, estimator: Any = estimator) -> None:
            workload.step(lambda p: sp.expect(workload.cost, build(p, check), estimator))

        yield f"a step of `{name}`: validated, or not", lambda s=step: s(True), lambda s=step: s(False)  # type: ignore[misc]


def finiteness() -> Pair:
    """Costs that are looked at, or not."""
    workload, estimator = WORKLOADS["vae"]("bits"), sp.ScoreFunction(2)
    assert workload is not None

    def step(nonfinite: Any) -> None:
        workload.step(
            lambda p: sp.expect(workload.cost, Independent(Bernoulli(logits=p), 1), estimator, nonfinite=nonfinite)
        )

    return 'a step of `vae`: `nonfinite="raise"`, or `"propagate"`', lambda: step("raise"), lambda: step("propagate")


def chunks() -> Pair:
    """A cost in pieces, which is evaluated again in the backward pass, or at once."""
    workload, estimator = WORKLOADS["vae"]("bits"), sp.ScoreFunction(64)
    assert workload is not None

    def step(chunk: int | None) -> None:
        workload.step(lambda p: sp.expect(workload.cost, Independent(Bernoulli(logits=p), 1), estimator, chunk=chunk))

    return "64 samples of `vae`: `chunk=8`, or all at once", lambda: step(8), lambda: step(None)


def compiled() -> Iterator[Pair]:
    """An eager step, or a compiled one."""
    estimators = (sp.ScoreFunction(2), sp.DisARM(), sp.GumbelSoftmax(), sp.REBAR())
    for name in ("toy-1", "vae"):
        for estimator in estimators:
            workload = WORKLOADS[name]("bits")
            assert workload is not None

            def estimate(p: Tensor, workload: Workload = workload, estimator: Any = estimator) -> Tensor:
                return sp.expect(workload.cost, Independent(Bernoulli(logits=p), 1), estimator)

            torch.compiler.reset()
            taken = torch.compile(estimate, fullgraph=True)
            workload.step(taken)
            yield (
                f"a step of `{name}` with `{estimator.label}`: eager, or compiled",
                lambda w=workload, e=estimate: w.step(e),  # type: ignore[misc]
                lambda w=workload, t=taken: w.step(t),  # type: ignore[misc]
            )


def guards() -> Iterator[Pair]:
    """A compiled step with all guards, or without those on the library's own code."""

    def rest(entries: Any) -> list[bool]:
        return ["__import_sampleprop_dot_" not in entry.name for entry in entries]

    workload = WORKLOADS["toy-1"]("bits")
    assert workload is not None
    for estimator in (sp.ScoreFunction(2), sp.DisARM(), sp.GumbelSoftmax()):

        def estimate(p: Tensor, workload: Workload = workload, estimator: Any = estimator) -> Tensor:
            return sp.expect(workload.cost, Independent(Bernoulli(logits=p), 1), estimator)

        torch.compiler.reset()
        # Two functions, because what is compiled is kept with the code.
        all_guards = torch.compile(lambda p, e=estimate: e(p), fullgraph=True)
        some = torch.compile(lambda p, e=estimate: e(p), fullgraph=True, options={"guard_filter_fn": rest})
        for taken in (all_guards, some):
            workload.step(taken)
        yield (
            f"a compiled step of `toy-1` with `{estimator.label}`: all guards, or none on the library's code",
            lambda t=all_guards: workload.step(t),  # type: ignore[misc]
            lambda t=some: workload.step(t),  # type: ignore[misc]
        )


def pairs(compile_too: bool) -> Iterator[Pair]:
    yield batches()
    yield samples()
    yield loops()
    yield from validations()
    yield from validated_steps()
    yield finiteness()
    yield chunks()
    if compile_too:  # last, because torch.compile turns the argument checks of distributions off for good
        yield from compiled()
        yield from guards()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5.0, help="about the most that each pair may take")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| | the first (µs) | the second (µs) | ratio |")
    print("|---|--:|--:|--:|")
    for name, slow, fast in pairs(arguments.compile):
        times = interleaved({"first": slow, "second": fast}, arguments.rounds, arguments.seconds)
        ratio = statistics.median(a / b for a, b in zip(times["first"], times["second"], strict=True))
        first, second = (1e6 * statistics.median(found) for found in times.values())
        print(f"| {name} | {first:,.0f} | {second:,.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
    main()
