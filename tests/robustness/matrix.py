"""What a cell of the matrix is: a condition, a subject, and the verdict that a comparison has established."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from robustness.subject import Subject


class Verdict(NamedTuple):
    """What came of a cell; a cell that is neither of these raises, for it would be silent."""

    kind: Literal["right", "refused", "n/a", "skipped"]
    says: str = ""  # the refusal's message, or why the cell is meaningless or skipped


@dataclass(frozen=True)
class Condition:
    """A row of the issue, a column of the table: its docstring says how "right" or "refused" is established."""

    name: str
    group: str
    established: str
    run: Callable[[Subject], Verdict]

    def __str__(self) -> str:
        return self.name


CONDITIONS: list[Condition] = []
RIGHT = Verdict("right")


def condition(name: str) -> Callable[[Callable[[Subject], Verdict]], Callable[[Subject], Verdict]]:
    """Enter a function of a subject into the matrix; its module's docstring names the group."""

    def enter(run: Callable[[Subject], Verdict]) -> Callable[[Subject], Verdict]:
        group = (__import__(run.__module__, fromlist=["__doc__"]).__doc__ or "").split(":")[0]
        CONDITIONS.append(Condition(name, group, " ".join((run.__doc__ or "").split()), run))
        return run

    return enter


def meaningless(reason: str) -> Verdict:
    """A cell that asks nothing of this estimator."""
    return Verdict("n/a", reason)


def refusal(call: Callable[[], object], wanted: str) -> Verdict:
    """The verdict of a call that must raise with a message, notes included, that matches `wanted`.

    Raises:
        AssertionError: when it does not raise, or says something else.
    """
    try:
        call()
    except (TypeError, ValueError, RuntimeError) as error:
        return said(error, wanted)
    raise AssertionError(f"silent: nothing was raised that matches {wanted!r}")


def said(error: Exception, wanted: str) -> Verdict:
    """The verdict of an error whose message, notes included, must match `wanted`."""
    text = " ".join([str(error), *getattr(error, "__notes__", ())])
    assert re.search(wanted, text, re.DOTALL), f"refused, but {text!r} does not match {wanted!r}"
    return Verdict("refused", text)
