"""Settings of every test."""

import ctypes
import gc
import sys

import pytest
import torch

collect_ignore = ["graph/sweep.py"]  # no test, and it imports torch's own, which change settings of torch
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


def pytest_configure(config: pytest.Config) -> None:
    # Tests run side by side in processes; several threads in each would only wait for each other.
    torch.set_num_threads(1)
    # Freed blocks stay in the process: to get each chunk of a certificate from the system takes as long as to use it.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**30)


def pytest_collection_finish() -> None:
    # What is there by now stays, and torch.compile makes millions of objects that die at once: with the usual settings,
    # a fifth of its time is garbage collection.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True)
def _same_noise() -> None:
    """Each test begins with the same global random state, whatever ran before it."""
    torch.manual_seed(0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the certificates saw."""
    passed = terminalreporter.stats.get("passed", [])
    found = [dict(report.user_properties) for report in passed if "sees" in dict(report.user_properties)]
    if found:
        largest = max(found, key=lambda properties: properties["largest |z|"])
        terminalreporter.write_line(
            f"{len(found)} certificates: each sees a bias of {100 * max(p['sees'] for p in found):.2f} % or less; "
            f"the largest |z| is {largest['largest |z|']:.2f}, of {largest['certificate']}."
        )
