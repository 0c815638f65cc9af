"""Mistakes that the command explains in a sentence, without a traceback; and the exit status after Ctrl-C."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sampleprop
from sampleprop.diagnostics.measuring.replicates import describe_error

INTERRUPTED = 130  # the exit status after Ctrl-C


class Mistake(ValueError):
    """A mistake that the user can correct; its text says how."""


@contextmanager
def explain_refusals() -> Iterator[None]:
    """Turn errors that sampleprop raises into a `Mistake`. Errors in a file of the user's keep their traceback."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if Path(sampleprop.__file__).parent not in Path(frame.f_code.co_filename).parents:
            raise
        raise Mistake(describe_error(error)) from error
