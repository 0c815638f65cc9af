"""The script for a GPU runs in its small form where there is none, and its judgement can fail."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sampleprop import checks

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import gpu  # noqa: E402


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="its long form takes eight minutes")
def test_the_small_form_runs_everything_but_graphs(tmp_path: Path) -> None:
    written = tmp_path / "run.json"
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--json", str(written)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "## Right on CPU\n\n6 of 6 estimators." in done.stdout
    found = json.loads(written.read_text())
    assert found["left out"] == []
    assert {row["estimator"] for row in found["waits"]} == {"ScoreFunction(2)", "Pathwise"}
    assert all(row["ours"] > 0 and row["naive"] == 0 for row in found["waits"])  # the check of the costs reads one
    for row in found["steps"]:
        assert row["says"] == {}
        assert {"eager: over naive", "eager: over tight", "compiled: over naive"} == set(row["ratios"])
    assert found["versions"]["device"] == "CPU"


def test_what_has_no_time_is_named() -> None:
    left = gpu.Left(5)
    assert left.takes("short", 1)
    assert not left.takes("long", 10)
    assert left.out == ["long"]


def test_a_number_that_the_host_reads_is_counted() -> None:
    x = torch.ones(3)
    assert gpu.waited(lambda: (x.sum().item(), x.sum().item())) == 2
    assert gpu.waited(lambda: x.sum()) == 0


def test_an_error_is_told() -> None:
    assert gpu.told(lambda: 3) == (3, "")
    assert gpu.told(lambda: 1 // 0) == (None, "ZeroDivisionError: integer division or modulo by zero")


def test_nothing_is_looked_at_while_a_graph_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """No flag is sent to the host, and none that is on its way is asked for."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    waiting = checks._Deferred(torch.tensor(False), lambda: pytest.fail("asked"), "")
    monkeypatch.setattr(checks, "_DEFERRED", checks.deque([waiting]))
    checks._raise_later(torch.tensor(False), "message")
    assert list(checks._DEFERRED) == [waiting]
