"""Mistakes that the command explains in a sentence, without a traceback; and its exit statuses."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sampleprop
from sampleprop.diagnostics.measuring.replicates import describe_error

FAILED = 1  # the exit status where something could not be measured or written
INTERRUPTED = 130  # the exit status after Ctrl-C


class Mistake(ValueError):
    """A mistake that the user can correct; its text says how."""


class BrokenFileError(Mistake):
    """What a file of the user's raised; its text is one line with the file, the line in it, and what."""


class FailedError(Exception):
    """What ended a run that was asked for correctly; its text says what is lost and what to do."""


@contextmanager
def explain_refusals() -> Iterator[None]:
    """Turn errors that sampleprop raises into a `Mistake`."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if isinstance(error, Mistake) or Path(sampleprop.__file__).parent not in Path(frame.f_code.co_filename).parents:
            raise
        raise Mistake(describe_error(error)) from error


@contextmanager
def explain_file(path: Path) -> Iterator[None]:
    """Turn whatever the user's file raises, and `sys.exit`, into a `BrokenFileError`; its prints go to standard error.

    Raises:
        BrokenFileError: with the innermost line of this file.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except Mistake:
        raise
    except (Exception, SystemExit) as error:
        lines = [n for frame, n in traceback.walk_tb(error.__traceback__) if Path(frame.f_code.co_filename) == path]
        name, line, text = path.name, lines[-1] if lines else 1, " ".join(str(error).split())
        if isinstance(error, SyntaxError):
            name, line, text = Path(error.filename or path).name, error.lineno or line, error.msg
        what = "sys.exit was called with" if isinstance(error, SystemExit) else type(error).__name__ + ":"
        raise BrokenFileError(f"{name}:{line}: {what} {text or 'no message'}") from error
