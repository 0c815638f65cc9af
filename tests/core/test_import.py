"""The import of the library leaves the global state of torch alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

STATE = """
import warnings, torch
import torch.utils.checkpoint  # torch 2.6 imports sympy here, which adds a filter of warnings

def state():
    return (
        torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(),
        torch.get_rng_state().tolist(), torch.distributions.Distribution._validate_args, torch.get_num_threads(),
        torch.get_float32_matmul_precision(), list(warnings.filters), torch.is_autocast_enabled("cpu"),
    )

before = state()
import sampleprop
sampleprop.expect, sampleprop.check
assert state() == before
"""

LAZY = """
import sys
import sampleprop as sp
assert "torch" not in sys.modules
import sampleprop.programs
from sampleprop import checks, expect, program
assert program is sp.program and callable(program)
assert sp.distributions.Gamma and sp.estimators.REGISTER is sp.REGISTER
assert {"expect", "check", "certify", "Monitor", "DisARM", "program"} <= set(dir(sp))
assert not hasattr(sp, "nothing")
from sampleprop import *
assert expect and DisARM and callable(program)
"""

COMPILED = """
import torch
import sampleprop as sp
from torch.distributions import Bernoulli, Independent

@torch.compile(fullgraph=True, backend="eager")
def step(logits):
    return sp.expect(lambda x: x.sum(-1), Independent(Bernoulli(logits=logits, validate_args=False), 1))

assert step(torch.zeros(3, requires_grad=True)).item() == 1.5
"""


@pytest.mark.parametrize("code", [STATE, LAZY, COMPILED], ids=["state", "lazy", "compiled"])
def test_an_import(code: str) -> None:
    """It changes nothing in torch, imports torch late, and gives every name in every way, also while compiling."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
