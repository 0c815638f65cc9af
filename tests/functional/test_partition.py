"""However the draws of one step are cut into micro-batches and spread over ranks, the sum is the whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("partition_worker.py")
CASES = [
    f"{normalize}, {how}, {ranks}"
    for normalize in ("draws", "tokens", "length")
    for how in ("averaged", "summed")
    for ranks in ((5, 9), (14, 0))
]


@pytest.fixture(scope="module")
def differences(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    out = tmp_path_factory.mktemp("partition") / "found.json"
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(WORKER), str(out)]
    result = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    found: dict[str, float] = json.loads(out.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("case", CASES)
def test_torn_groups_micro_batches_and_a_dead_draw(differences: dict[str, float], case: str) -> None:
    assert differences[case] < 1e-12
