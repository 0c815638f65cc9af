"""The largest memory that the token functions take, in a process of its own, against log_softmax and gather."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs the peak memory of Linux")

SCRIPT = """
import sys, torch, sampleprop as sp

what, dtype = sys.argv[1], getattr(torch, sys.argv[2])
torch.set_num_threads(1)
x = torch.randn(512, 50_000).to(dtype).view(2, 256, -1).requires_grad_()
tokens = torch.randint(50_000, (2, 256))

def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))

def call():
    if what == "gather":
        return x.float().log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).sum()
    if what == "token_log_prob":
        return sp.token_log_prob(x, tokens).sum()
    return sum(y.sum() for y in sp.token_terms(x, tokens)[:2])

small = torch.zeros(2, 3, requires_grad=True)
sp.token_log_prob(small, torch.zeros(2, dtype=torch.int64)).sum().backward()  # what is imported late is no memory of it
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = status("VmRSS")
call().backward()
print((status("VmHWM") - before) / 1024)
"""


def peak(what: str, dtype: str) -> float:
    """Megabytes, the gradient included."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, what, dtype], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_more_than_log_softmax_and_gather(dtype: str) -> None:
    bar = peak("gather", dtype)
    assert peak("token_log_prob", dtype) < bar
    assert peak("token_terms", dtype) < bar
