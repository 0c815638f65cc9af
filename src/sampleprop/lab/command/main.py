"""The entry point of the `sampleprop` command."""

from __future__ import annotations

import sys
from io import TextIOWrapper

# What brings a package that the command may miss.
EXTRA = dict.fromkeys(("typer", "rich", "matplotlib", "sklearn", "joblib"), "lab")
EXTRA |= {"distributed": "dask", "dask": "dask"}


def main() -> None:
    """Run the command; say what to install where its extra is missing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # where there is no φ, a question mark is better than nothing
    try:
        from sampleprop.lab.command.app import app

        app()
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in EXTRA:
            raise
        raise SystemExit(
            f"sampleprop needs {name} for this command; it is not installed. Run: pip install 'sampleprop[{EXTRA[name]}]'"
        ) from None
