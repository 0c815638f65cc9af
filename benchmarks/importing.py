"""What `import sampleprop` takes beyond torch, with bytecode written."""

import compileall
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sampleprop as sp

PROGRAM = """
import time
import torch, torch.distributions, torch.distributed, torch.func
start = time.process_time()
import sampleprop
print(time.process_time() - start)
"""
REPEATS = 5


def measured() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        # A copy, since the environment may forbid Python to write bytecode beside the source.
        copy = Path(shutil.copytree(Path(sp.__file__).parent, Path(folder) / "sampleprop"))
        compileall.compile_dir(copy, quiet=1)
        command = [sys.executable, "-c", PROGRAM]
        environment = os.environ | {"PYTHONPATH": folder}
        times = [
            float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
            for _ in range(REPEATS)
        ]
    milliseconds = 1e3 * statistics.median(times)
    yield {"estimator": "(all)", "workload": "import", "samples": 0, "ours": milliseconds, "unit": "ms", "ratios": {}}
