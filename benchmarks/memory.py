"""The peak of memory of one step of 1,000 variables, each in a process of its own.

    python benchmarks/memory.py ours|naive|tight NAME

prints the megabytes by which the step raised the process's resident memory at most. Linux only.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SIZE = 1000
# 4,096 samples; fewer where f gets a thousand further points for each sample.
SAMPLES = dict.fromkeys(("ScoreFunction(2)", "DisARM", "Pathwise", "GumbelSoftmax", "REBAR"), 4096) | {
    "LocalExpectation": 16
}
# Each large block comes from the system and goes back, so that the peak is what is alive at once.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def measured(names: list[str]) -> Iterator[dict[str, Any]]:
    for name, samples in SAMPLES.items():
        if name not in names:
            continue
        peaks = {which: peak(which, name) for which in ("ours", "naive", "tight")}
        # Memory does not vary from run to run: the three quartiles are one number.
        ratios = {which: [peaks["ours"] / peaks[which]] * 3 for which in ("naive", "tight")}
        found = {"estimator": name, "workload": "memory", "samples": samples, "ratios": ratios}
        yield found | peaks | {"unit": "MB"}


def peak(which: str, name: str) -> float:
    command = [sys.executable, str(Path(__file__).resolve()), which, name]
    output = subprocess.run(command, env=os.environ | ALLOCATOR, capture_output=True, text=True, check=True).stdout
    return float(output)


def main() -> None:
    import torch

    from cases import CASES, estimates
    from workloads import toy

    torch.set_num_threads(1)
    which, name = sys.argv[1:]
    case = CASES[name]
    workload = toy(case.kinds[0], SIZE)
    small = estimates(case, case.kinds[0], 2, workload)[which]
    workload.step(small)  # what is loaded at the first call is not the step's
    step = estimates(case, case.kinds[0], SAMPLES[name], workload)[which]
    Path("/proc/self/clear_refs").write_text("5")  # the peak is from here on; getrusage's is inherited from the parent
    before = kilobytes("VmRSS")
    workload.step(step)
    print((kilobytes("VmHWM") - before) / 1024)


def kilobytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
