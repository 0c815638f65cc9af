"""The entry point of the `sampleprop` command."""

from __future__ import annotations

import signal
import sys
from io import TextIOWrapper

# The extra that installs a package which the command may miss.
EXTRA = dict.fromkeys(("typer", "rich", "matplotlib", "sklearn", "joblib"), "lab")
EXTRA |= {"distributed": "dask", "dask": "dask"}


def main() -> None:
    """Run the command; say what to install where an extra is missing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without φ shows a question mark
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what is finished is kept, workers end
    try:
        from sampleprop.lab.command.app import app

        app()
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in EXTRA:
            raise
        raise SystemExit(
            f"sampleprop needs {name} for this command; it is not installed. Run: pip install "
            f"'sampleprop[{EXTRA[name]}]'"
        ) from None
