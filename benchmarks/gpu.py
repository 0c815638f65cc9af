"""What only a GPU can tell: is each estimator right there, does the host wait for it, and what does a step take.

    python benchmarks/gpu.py [--seconds 480] [--json FILE]

1. *right*: the condition "CUDA" of the robustness matrix, for every estimator of the register.
2. *waits*: how often one step makes the host wait for the device, as the profiler counts it, beside the same step by
   hand; and where, if it does. The validation of distributions is off here and below, for it waits by itself.
3. *steps*: the time of a step, forward and backward, beside the naive and the tight yardstick: eager, compiled, and as
   a CUDA graph that is replayed. Of a graph also whether each replay draws new noise, and how far the mean of its
   gradient is from the eager one.

It ends after `--seconds` and names what it left out. The results go to `benchmarks/gpu/`, under the device's name.
Without a GPU a small form of the same runs on the CPU, without graphs, in which *waits* are the numbers that Python
reads from tensors.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.profiler import ProfilerActivity, profile

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "tests"))

from cases import CASES, estimates  # noqa: E402
from robustness.matrix import RIGHT  # noqa: E402
from robustness.subject import subjects  # noqa: E402
from robustness.transforms import elsewhere  # noqa: E402
from run import interleaved, versions  # noqa: E402
from workloads import WORKLOADS, Workload  # noqa: E402

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
BACKEND = "inductor" if GPU else "aot_eager"
NAMES = ("ScoreFunction(2)", "Pathwise", "DisARM", "GumbelSoftmax", "StraightThrough", "REBAR", "VIMCO")
NAMES = NAMES if GPU else NAMES[:2]
TIMED_ON = ("toy-1000", "vae") if GPU else ("toy-1000",)
SUBJECTS = None if GPU else 6  # how many of the register
WAITING = (
    "cudaStreamSynchronize",
    "cudaDeviceSynchronize",
    "cudaEventSynchronize",
    "cudaMemcpy",
    "aten::_local_scalar_dense",
)
REPLAYS, LIMIT = 200, 5.0  # of a graph's z
Row = dict[str, Any]
Step = Callable[[], object]


class Left:
    """How much time is left, and what had none."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        self.out: list[str] = []

    def takes(self, what: str, seconds: float) -> bool:
        """Whether there are so many seconds for it."""
        enough = time.monotonic() + seconds < self.end
        if not enough:
            self.out.append(what)
        return enough


def right(left: Left) -> Iterator[Row]:
    for subject in subjects()[:SUBJECTS]:
        if left.takes(f"right, {subject.name}", 10):
            torch.manual_seed(0)
            verdict, says = told(partial(elsewhere, subject, DEVICE))
            yield {"estimator": subject.name, "right": verdict == RIGHT, "says": says}


def waits(left: Left) -> Iterator[Row]:
    for name in CASES if GPU else NAMES:
        if left.takes(f"waits, {name}", 10):
            row: Row = {"estimator": name}
            workload, found = problem(name, "toy-1000")
            for key in ("ours", "naive"):
                row[key], row[f"{key} says"] = told(partial(waited, partial(workload.step, found[key])))
            if GPU and row["ours"]:
                row["where"] = first_wait(partial(workload.step, found["ours"]))
            yield row


def waited(step: Step) -> float:
    """How often one step waits: six less one, for the profiler waits at its end."""

    def counted(steps: int) -> int:
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if GPU else [])]
        with profile(activities=activities) as found:
            for _ in range(steps):
                step()
        return sum(event.count for event in found.key_averages() if event.key in WAITING)

    step()
    one = counted(1)
    return (counted(6) - one) / 5


def first_wait(step: Step) -> str:
    """Where torch itself sees the host wait; it does not see all that the profiler sees."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        return told(step)[1]
    finally:
        torch.cuda.set_sync_debug_mode("default")


def steps(left: Left) -> Iterator[Row]:
    for workload_name in TIMED_ON:
        for name in NAMES:
            if WORKLOADS[workload_name](CASES[name].kinds[0]) is None:
                continue
            if left.takes(f"steps, {name}, {workload_name}", 30):
                yield timed(name, workload_name)
                gc.collect()


def timed(name: str, workload_name: str) -> Row:
    """All forms of a step in the same rounds."""
    workload, found = problem(name, workload_name)
    row: Row = {"estimator": name, "workload": workload_name, "samples": CASES[name].samples, "says": {}}
    forms: dict[str, Step] = {}
    for key, estimate in found.items():
        eager = forms[f"{key}, eager"] = partial(workload.step, estimate)
        if key != "tight":
            forms[f"{key}, compiled"] = partial(workload.step, compiled(estimate))
        if GPU:
            forms[f"{key}, graph"], row["says"][f"{key}, graph"] = told(partial(Graph, eager, workload))
    for form, step in list(forms.items()):
        says = "" if step is None else told(step)[1]
        if step is None or says:  # torch.compile does not take autograd.grad inside a yardstick
            del forms[form]
            row["says"][form] = row["says"].get(form) or says
    if "ours, graph" in forms:
        row["graph"] = faithful(forms["ours, graph"], forms["ours, eager"], workload)
    times = interleaved(forms, 400, 3.0 if GPU else 0.5)
    row["µs"] = {form: 1e6 * statistics.median(values) for form, values in times.items()}
    row["ratios"] = {
        f"{form}: over {other}": statistics.median(a / b for a, b in zip(times[mine], times[theirs], strict=True))
        for form in ("eager", "compiled", "graph")
        for other in ("naive", "tight")
        if (mine := f"ours, {form}") in times and (theirs := f"{other}, {form}") in times
    }
    row["says"] = {form: says for form, says in row["says"].items() if says}
    return row


def problem(name: str, workload_name: str) -> tuple[Workload, dict[str, Any]]:
    case, kind = CASES[name], CASES[name].kinds[0]
    workload = WORKLOADS[workload_name](kind)
    assert workload is not None
    return workload, estimates(case, kind, case.samples, workload)


def compiled(estimate: Callable[..., Any]) -> Callable[..., Any]:
    torch.compiler.reset()
    return torch.compile(lambda parameter: estimate(parameter), fullgraph=True, backend=BACKEND)


class Graph:
    """A step that has been captured as a CUDA graph, after three on a stream of their own; calling it replays it."""

    def __init__(self, step: Step, workload: Workload) -> None:
        self.step = step  # the graph works on what the step holds
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            step()
        self.gradients = [tensor.grad for tensor in workload.trained]  # each replay writes here

    def __call__(self) -> None:
        self.graph.replay()


def faithful(graph: Graph, eager: Step, workload: Workload) -> Row:
    """Whether replays differ, and z of the difference between the mean gradients, summed over all numbers."""

    def sums(step: Step, gradients: Callable[[], list[Tensor | None]]) -> Tensor:
        found = []
        for _ in range(REPLAYS):
            step()
            found.append(torch.stack([x.double().sum() for x in gradients() if x is not None]).sum())
        return torch.stack(found)

    one = sums(graph, lambda: graph.gradients)
    other = sums(eager, lambda: [tensor.grad for tensor in workload.trained])
    error = ((one.var() + other.var()) / REPLAYS).sqrt()
    return {"new noise": bool(one.var() > 0), "z": float((one.mean() - other.mean()).abs() / error)}


def told(call: Callable[[], Any]) -> tuple[Any, str]:
    """What a call gives, and the first line of its error."""
    try:
        return call(), ""
    except Exception as error:  # any: the others are wanted too
        return None, f"{type(error).__name__}: {error}".splitlines()[0]


def table(rows: list[Row], columns: list[str]) -> str:
    """Markdown; an empty cell where a row has nothing there."""
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(shown(row.get(column)) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(number)}" for key, number in value.items())
    return f"{value:.2f}" if isinstance(value, float) else "" if value is None else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=480.0, help="when to stop")
    parser.add_argument("--json", type=Path, help="where the results go, instead of benchmarks/gpu/")
    arguments = parser.parse_args()
    left = Left(arguments.seconds)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found: dict[str, list[Row]] = {"right": list(right(left))}
    Distribution.set_default_validate_args(False)
    torch.set_default_device(DEVICE)
    found["waits"] = list(waits(left))
    found["steps"] = list(steps(left))
    wrong = [row["estimator"] for row in found["right"] if not row["right"]]
    frozen = [
        f"the graph of {row['estimator']}, {row['workload']}"
        for row in found["steps"]
        if "graph" in row and not (row["graph"]["new noise"] and row["graph"]["z"] <= LIMIT)
    ]
    device, number = versions()["device"], len(found["right"])
    print(f"## Right on {device}\n\n{number - len(wrong)} of {number} estimators.")
    print(table([row for row in found["right"] if not row["right"]], ["estimator", "says"]) if wrong else "")
    print("## Waits in a step\n\n" + table(found["waits"], ["estimator", "ours", "naive", "where"]))
    print("\n## Steps\n\n" + table(found["steps"], ["estimator", "workload", "µs", "ratios", "graph", "says"]))
    if left.out:
        print(f"\nNo time was left for: {'; '.join(left.out)}")
    path = arguments.json
    if path is None and GPU:
        path = HERE / "gpu" / (re.sub(r"\W+", "-", device.lower()) + ".json")
        path.parent.mkdir(exist_ok=True)
    if path is not None:
        path.write_text(json.dumps(found | {"left out": left.out, "versions": versions()}, indent=1))
    if wrong or frozen:
        sys.exit(f"not right on {DEVICE}: {', '.join(wrong + frozen)}")


if __name__ == "__main__":
    main()
