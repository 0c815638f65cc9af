"""Objects in a file of the user's, written as FILE.py:NAME: problems and estimators."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch

from sampleprop.lab.measure.mistakes import explain_file


class Place(NamedTuple):
    """Where an object stands: the file, and its name in it."""

    path: Path
    name: str

    def __str__(self) -> str:
        return f"{self.path.name}:{self.name}"

    def load(self) -> Any:
        """Run the file anew and return the object; None where the file has none of this name.

        Raises:
            BrokenFileError: for whatever the file raises.
        """
        with explain_file(self.path):
            return getattr(_run(self.path), self.name, None)

    def digest(self) -> str:
        """A digest of the file: results of another version of it are not kept."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]


def find_place(text: str, needed_by: str) -> Place | None:
    """Take FILE.py:NAME apart; None where the text is something else.

    Raises:
        ValueError: where there is no such file.
    """
    path, colon, name = text.rpartition(":")
    if not colon:
        return None
    if not Path(path).is_file():
        raise ValueError(f"{needed_by} {text} needs the file {path}; there is none in {Path.cwd()}.")
    return Place(Path(path).resolve(), name)


@contextmanager
def seed_noise(seed: int) -> Iterator[None]:
    """Let what a file draws while it runs depend on this seed alone; restore the random state at the end."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"sampleprop_file_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and pickle look for it
    sys.path.insert(0, str(path.parent))  # so that the file can import the modules beside it, as a script does
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
