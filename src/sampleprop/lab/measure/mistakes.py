"""Mistakes, which the command tells in a sentence and not by a traceback."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sampleprop
from sampleprop.diagnostics.comparing.compare import reason


class Mistake(ValueError):
    """What the user can mend; its text says how."""


@contextmanager
def told() -> Iterator[None]:
    """Make a `Mistake` of what sampleprop refuses; what breaks in a file of the user's keeps its traceback, which they need."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if Path(sampleprop.__file__).parent not in Path(frame.f_code.co_filename).parents:
            raise
        raise Mistake(reason(error)) from error
