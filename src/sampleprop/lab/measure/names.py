"""The names that can stand on the command line, known without torch: for `--help` and the completion of the shell."""

from __future__ import annotations

import ast
from pathlib import Path

import sampleprop

PROBLEMS = ("digits", "digits-200", "toy", "categorical", "normal", "poisson", "mixture", "digital-option")


def estimators() -> list[str]:
    """The names of the register, read from its source."""
    path = Path(sampleprop.__file__).parent / "estimators" / "__init__.py"
    imports = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
    return [alias.name for node in imports for alias in node.names if alias.name == alias.asname]
