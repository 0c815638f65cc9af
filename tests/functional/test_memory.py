"""The largest memory that the token functions take, in a process of its own, against log_softmax and gather."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs the peak memory of Linux")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "tokens.py"


def peak(name: str, dtype: str) -> float:
    """Megabytes, the gradient included."""
    command = [sys.executable, str(SCRIPT), "--peak", name, dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_more_than_log_softmax_and_gather(dtype: str) -> None:
    bar = peak("gather", dtype)
    for name in ("token_log_prob", "token_terms, no reference", "token_terms"):
        assert peak(name, dtype) < bar, name
