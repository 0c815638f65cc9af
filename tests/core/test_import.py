"""The import of the library leaves the global state of torch alone."""

from __future__ import annotations

import subprocess
import sys

STATE = """
import warnings, torch

def state():
    return (
        torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(),
        torch.get_rng_state().tolist(), torch.distributions.Distribution._validate_args, torch.get_num_threads(),
        torch.get_float32_matmul_precision(), list(warnings.filters), torch.is_autocast_enabled("cpu"),
    )

before = state()
import sampleprop
assert state() == before
"""


def test_import_changes_nothing_in_torch() -> None:
    result = subprocess.run([sys.executable, "-c", STATE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
