"""The package of another checkout of the project, beside ours in the same process.

The package imports itself by its name, so a copy is made in which every `sampleprop` reads `sampleprop_before`: in
imports, and in strings and docstrings too. Then neither package can reach the other, also not by an import inside a
function.
"""

import atexit
import importlib
import re
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType

OURS, BEFORE = "sampleprop", "sampleprop_before"


def load(checkout: Path) -> ModuleType:
    """The package of `checkout`, imported as `sampleprop_before`."""
    source = checkout / "src" / OURS
    if not source.is_dir():
        raise FileNotFoundError(
            f"--against needs a checkout of the project, with the package in src/{OURS}; {checkout} has none. "
            "Make one with `git worktree add`."
        )
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)  # to the end: modules are imported late, and torch.compile reads sources
    copy = Path(shutil.copytree(source, Path(folder) / BEFORE, ignore=shutil.ignore_patterns("__pycache__")))
    for file in copy.rglob("*.py"):
        _rename(file, file)
    sys.path.append(folder)
    return importlib.import_module(BEFORE)


def load_benchmark(before: ModuleType, checkout: Path, name: str) -> ModuleType:
    """A module of the benchmarks of `checkout`, which uses its own package, `before`."""
    copy = Path(before.__path__[0]).parent / f"{name}_before.py"
    _rename(checkout / "benchmarks" / f"{name}.py", copy)
    return importlib.import_module(copy.stem)


def _rename(file: Path, copy: Path) -> None:
    copy.write_text(re.sub(rf"\b{OURS}\b", BEFORE, file.read_text()))
