"""Pieces measured by other processes: the same numbers, to the last bit, but for the times."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from lab.running import run
from sampleprop.lab.command import main
from sampleprop.lab.measure.mistakes import INTERRUPTED

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_module_without_pictures")]

QUICK = ("--replicates", "128", "--train-steps", "3", "--budgets", "2", "--estimators", "ScoreFunction,REBAR")
TIMED = {"milliseconds", "variance_time", "rank", "jobs"}
# They take longer than the numbers, and are those of one process whoever measured.
WITHOUT_PICTURES = "from sampleprop.lab.show import output; output.write = lambda problems, out: []"
ENDLESS = """
import time
import torch
from torch.distributions import Bernoulli

def f(x):
    if torch.initial_seed() > 1:
        time.sleep(60)
    return x

def problem():
    return f, Bernoulli(logits=torch.zeros((), requires_grad=True)), torch.tensor(0.25)
"""


def compare(out: Path, *arguments: object) -> Result:
    return run("compare", *arguments, *QUICK, "--out", out)


def numbers(out: Path) -> dict[tuple[object, ...], dict[str, Any]]:
    """What does not depend on the machine, by estimator and piece, of what is finished."""
    path = out / "results.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {
        (line["seed"], line["budget"], line["label"]): {key: value for key, value in line.items() if key not in TIMED}
        for line in lines
        if not line["interrupted"]
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A problem whose f sleeps for a minute at each call, but for the seeds 0 and 1."""
    path = tmp_path_factory.mktemp("model") / "model.py"
    path.write_text(ENDLESS)
    return f"{path}:problem"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, model: str) -> Path:
    """What this process measures, one piece after the other."""
    out = tmp_path_factory.mktemp("alone")
    result = compare(out, model, "--seeds", 2, "--threads", 1)
    assert result.exit_code == 0, result.output
    assert "at the same time" not in result.stdout
    assert len(numbers(out)) == 2 * 2 * 2  # estimators, budgets, seeds
    return out


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C cannot be sent to a process of its own there")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_several_processes_and_a_signal_that_ends_them_and_keeps_what_is_finished(
    tmp_path: Path, alone: Path, model: str, sent: signal.Signals
) -> None:
    arguments = ["compare", model, *QUICK, "--seeds", "4", "--jobs", "2", "--threads", "1", "--out", str(tmp_path)]
    # A process that was started in the background may ignore the signal.
    heed = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heed}; from sampleprop.lab.command.main import main; {WITHOUT_PICTURES}; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(numbers(tmp_path)) < len(numbers(alone)):
        time.sleep(0.2)
    if sent is signal.SIGINT:
        os.killpg(process.pid, sent)  # as a terminal does: to the process and its workers
    else:
        process.send_signal(sent)  # as `kill` does
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, stderr
    assert "2 of 4 left" in stderr
    assert "ScoreFunction" in stdout
    assert "while 2 pieces ran at the same time" in " ".join(stdout.split())
    assert numbers(tmp_path) == numbers(alone)
    assert not (members := _members(process.pid)), members


def _members(group: int) -> list[str]:
    """The processes of a group that are still there, after a moment to end."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return []
        time.sleep(0.2)
    found = subprocess.run(["ps", "-o", "pid,args", "-g", str(group)], capture_output=True, text=True)
    return found.stdout.splitlines()


def test_a_dask_cluster_of_two_workers(tmp_path: Path, alone: Path, model: str) -> None:
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed: the extra 'dask'")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        result = compare(tmp_path, model, "--seeds", 2, "--threads", 1, "--dask", cluster.scheduler_address)
        assert result.exit_code == 0, result.output
        with distributed.Client(cluster) as client:
            ran = client.run(lambda: "sampleprop.lab.measure.runs" in __import__("sys").modules)
    assert list(ran.values()) == [True, True]
    assert numbers(tmp_path) == numbers(alone)


def test_workers_with_threads_are_refused(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed: the extra 'dask'")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as cluster:
        result = compare(tmp_path, "toy", "--dask", cluster.scheduler_address)
    assert result.exit_code == 2
    assert "one thread each" in " ".join(result.stderr.replace("│", " ").split())


def test_an_address_that_is_none(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="dask.distributed is not installed: the extra 'dask'")
    result = compare(tmp_path, "toy", "--dask", "nowhere")
    assert result.exit_code == 2
    assert "address of a running scheduler" in " ".join(result.stderr.replace("│", " ").split())


def test_a_missing_dask_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        sys, "argv", ["sampleprop", "compare", "toy", *QUICK, "--dask", "tcp://127.0.0.1:1", "--out", str(tmp_path)]
    )
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SystemExit, match=r"needs distributed .*pip install 'sampleprop\[dask\]'"):
        main.main()
